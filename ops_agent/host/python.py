"""Modules that Debian's Python does not have: in another interpreter, or in a directory of libraries."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

_AIRFLOWS = Path("/opt/airflow/current/bin/python")


def require(module: str) -> None:
    """Start this command over in Airflow's environment, if the module is not to be found here and may be there."""
    if find_spec(module) is None and _AIRFLOWS.exists():
        os.execv(_AIRFLOWS, [str(_AIRFLOWS), *sys.argv])  # noqa: S606


def borrow(module: str, directory: Path) -> None:
    """Look into a directory of libraries too, if the module is not to be found here."""
    if find_spec(module) is None:
        # Last, so that nothing of it hides the standard library or ops_agent.
        sys.path.append(str(directory))
