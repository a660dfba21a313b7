"""`ops-agent lease`: what `ops` asks about the scheduler lease, and how it moves it."""

import json
import sys
from collections.abc import Mapping
from typing import Any

from ops_agent.host.psql import DatabaseDownError
from ops_agent.scheduler import change, probe
from ops_release.run import ProbeError

ACTIONS = ("status", "history", "keeper", "change")
_QUESTIONS = {"status": probe.status, "history": probe.history, "keeper": probe.keeper}
_DOWN = 3


def add(verbs: Any) -> None:
    """Add the verb."""
    verb = verbs.add_parser("lease", help="ask about the scheduler lease, or move it")
    verb.add_argument("action", choices=ACTIONS, help="change reads what to do from standard input")
    verb.set_defaults(run=lambda arguments: run(arguments.action))


def run(action: str) -> int:
    """Run one action and return its exit code: 0 done, 1 failed, 3 the database does not answer.

    A question is answered by one JSON object. `change` reads what to do as one JSON object, prints one for each step
    and, as the last, `{"result": {...}}`.
    """
    try:
        if action == "change":
            _say({"result": change.change(json.load(sys.stdin), _say)})
        else:
            _say(_QUESTIONS[action]())
    except ProbeError as error:
        sys.stderr.write(f"{error}\n")
        return _DOWN if isinstance(error, DatabaseDownError) else 1
    return 0


def _say(answer: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
