"""An Airflow environment for the gate: the fleet's settings without its secrets, a home of its own, no database."""

from __future__ import annotations

import configparser
import importlib
import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_SECRET = re.compile(r"secret|password|_key$|_conn|_url$|backend|_kwargs$|token|dsn", re.IGNORECASE)
_SECRET_SECTIONS = frozenset({"celery_broker_transport_options", "secrets", "sentry"})


def harmless(text: str) -> str:
    """Return an airflow.cfg without the options that log in to something; code under test may read what is left."""
    config = configparser.ConfigParser(interpolation=None)
    config.read_string(text)
    lines = []
    for section in config.sections():
        if section in _SECRET_SECTIONS:
            continue
        lines.append(f"[{section}]")
        lines += [f"{name} = {value}" for name, value in config.items(section) if not _SECRET.search(name)]
    return "\n".join(lines) + "\n"


def prepare(home: Path, config: Path, default_queue: str | None) -> None:
    """Set the environment variables that Airflow reads at its first import; must come before it."""
    for name in [name for name in os.environ if name.startswith("AIRFLOW_")]:
        del os.environ[name]
    home.mkdir(exist_ok=True)
    target = home / "airflow.cfg"
    target.write_text(harmless(config.read_text(encoding="utf-8")) if _readable(config) else "", encoding="utf-8")
    os.environ |= {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW_CONFIG": str(target),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGBAG_IMPORT_ERROR_TRACEBACKS": "True",
        "AIRFLOW__CORE__DAGBAG_IMPORT_ERROR_TRACEBACK_DEPTH": "100",
        # The gate's own limit says which line it was; Airflow's would come first and say less.
        "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "0",
        "AIRFLOW__DAG_PROCESSOR__DAG_VERSION_INFLATION_CHECK_LEVEL": "warning",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "sqlite://",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "CRITICAL",
        "AIRFLOW__METRICS__OTEL_ON": "False",
        "AIRFLOW__METRICS__STATSD_ON": "False",
        "AIRFLOW__TRACES__OTEL_ON": "False",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    }
    if default_queue:
        os.environ["AIRFLOW__OPERATORS__DEFAULT_QUEUE"] = default_queue


def warm(files: Iterable[Path]) -> None:
    """Import what the import of a file needs, once, before the first fork."""
    from airflow.utils.file import iter_airflow_imports  # noqa: PLC0415

    wanted = {name for path in files if path.suffix == ".py" for name in iter_airflow_imports(str(path))}
    for name in sorted(wanted):
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001
            # The file that wants it will say so, with its line.
            logging.getLogger(__name__).debug("%s: %s", name, error)
    _rehearse()


def _rehearse() -> None:
    """Serialise a DAG and read it back: Airflow loads its plugins, providers and schemas with the first one."""
    import psycopg2  # noqa: F401, PLC0415
    from airflow.dag_processing.dagbag import DagBag, _validate_executor_fields  # noqa: PLC0415
    from airflow.sdk import DAG, task  # noqa: PLC0415
    from airflow.sdk.execution_time import supervisor, task_runner  # noqa: F401, PLC0415
    from airflow.serialization.serialized_objects import DagSerialization  # noqa: PLC0415
    from airflow.utils.dag_version_inflation_checker import check_dag_file_stability  # noqa: F401, PLC0415

    with DAG("rehearsal", schedule="@daily") as dag:
        task(_readable)(Path("x"))
    dag.fileloc = __file__
    dag.validate()
    _validate_executor_fields(dag)
    DagBag(collect_dags=False).bag_dag(dag)
    DagSerialization.from_dict(DagSerialization.to_dict(dag))


def _readable(path: Path) -> bool:
    # In this order: a file in a closed directory is not merely unreadable, to ask for its kind fails.
    return os.access(path, os.R_OK) and path.is_file()
