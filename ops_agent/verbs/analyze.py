"""`ops-agent analyze`: what the metadata database spends its time and space on."""

import json
import sys
from argparse import Namespace
from typing import Any

from ops_agent.database import analyze
from ops_release.run import ProbeError


def add(verbs: Any) -> None:
    """Add the verb."""
    verb = verbs.add_parser("analyze", help="print what the metadata database spends its time and space on")
    verb.set_defaults(run=run)


def run(_arguments: Namespace) -> int:
    """Print the report as one JSON object; return the exit code: 0 done, 1 failed."""
    try:
        report = analyze.report()
    except ProbeError as error:
        sys.stderr.write(f"ops-agent: {error}\n")
        return 1
    sys.stdout.write(json.dumps(report) + "\n")
    return 0
