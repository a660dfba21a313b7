"""`ops-agent worker`: what this host's worker runs, and the wait before it stops."""

import sys
from argparse import Namespace
from collections.abc import Callable
from typing import Any

from ops_agent.maintenance import drain
from ops_release.run import ProbeError

_ACTIONS: dict[str, Callable[[float], int]] = {
    "drain": drain.drain,
    "ready": lambda _limit: drain.ready(),
    "tasks": lambda _limit: drain.tasks(),
}


def add(verbs: Any) -> None:
    """Add the verb."""
    verb = verbs.add_parser("worker", help="tell which tasks this host's worker runs, or wait for them")
    verb.add_argument("action", choices=sorted(_ACTIONS), help="drain is what systemd runs before the worker stops")
    verb.add_argument("--limit", type=float, default=3600.0, metavar="SECONDS", help="how long tasks are waited for")
    verb.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    """Run one action and return its exit code: 0 done, 1 not so or failed."""
    try:
        return _ACTIONS[arguments.action](arguments.limit)
    except ProbeError as error:
        sys.stderr.write(f"ops-agent: {error}\n")
        return 1
