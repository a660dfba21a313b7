"""Changes over to Airflow's own interpreter: `ops-agent` starts with the host's Python, which knows no Airflow."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

_PYTHON = Path("/opt/airflow/current/bin/python")


def require(module: str) -> None:
    """Start this command over in Airflow's environment, if the module is not to be found here and may be there."""
    if find_spec(module) is None and _PYTHON.exists():
        os.execv(_PYTHON, [str(_PYTHON), *sys.argv])  # noqa: S606
