"""The gate over a tree that arrives on standard input; what it lets through can be kept to be published."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from ops_agent.dags import judged
from ops_release import ReleaseError
from ops_release.manifest import DAGS

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

_DONE, _FAILED, _REFUSED = 0, 1, 4


def run(arguments: argparse.Namespace) -> int:
    """Print {"report": what the gate prints, "refused": bool}; return 0, 4 if it refuses the tree, 1 or 2."""
    os.umask(0o022)
    try:
        with judged.unpacked() as work:
            code, report = _judge(arguments, work / DAGS)
            if code not in {_DONE, _REFUSED}:
                return code
            if arguments.keep and code == _DONE:
                judged.keep(work, arguments.keep, json.loads(report))
    except (ReleaseError, OSError) as error:
        sys.stderr.write(f"ops-agent: {error}\n")
        return _FAILED
    sys.stdout.write(json.dumps({"report": report, "refused": code == _REFUSED}) + "\n")
    sys.stdout.flush()
    return code


def _judge(arguments: argparse.Namespace, tree: Path) -> tuple[int, str]:
    """Run the gate as whoever types it does; what it says of its own failure is on stderr."""
    words = [sys.executable, sys.argv[0], "validate", "--confined", "--format", arguments.format]
    words += ["--options", arguments.options, "--config", str(arguments.config), str(tree)]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False)
    return done.returncode, done.stdout
