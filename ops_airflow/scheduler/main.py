"""`airfleet-keeper`: one keeper a host, until it is told to stop."""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import sys
import time
from pathlib import Path

from ops_airflow.scheduler import airflow_scheduler, config
from ops_airflow.scheduler.keeper import Keeper
from ops_airflow.scheduler.process import SchedulerProcess

CONFIG = Path("/etc/airflow/keeper.json")
log = logging.getLogger("ops_airflow.keeper")

# The unit's RuntimeDirectory: no converge replaces what is locked, as it does with the settings.
LOCK = Path("/run/airflow-scheduler/keeper.lock")


def run(path: Path, lock_file: Path = LOCK) -> int:
    """Preload, then keep; return the exit code: 0 told to stop, 1 failed."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        settings = config.load(path)
    except (OSError, ValueError, KeyError) as error:
        sys.stderr.write(f"airfleet-keeper: {path}: {error!r}; converge role airflow_scheduler\n")
        return 1
    # Another keeper of this host would share this one's logins, and no fence could tell the two apart.
    try:
        fcntl.flock(os.open(lock_file, os.O_RDWR | os.O_CREAT, 0o600), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.stderr.write(f"airfleet-keeper: another keeper holds {lock_file}: see systemctl status airflow-scheduler\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"airfleet-keeper: {lock_file}: {error.strerror}; type: systemctl start airflow-scheduler\n")
        return 1
    began = time.monotonic()
    preloaded = airflow_scheduler.preload()
    threads = "one thread" if preloaded else "more than one thread: each scheduler starts in a fresh interpreter"
    main = airflow_scheduler.run if preloaded else airflow_scheduler.run_afresh
    keeper = Keeper(settings, SchedulerProcess(main), preloaded=preloaded)
    log.info("Airflow imported in %.1f s, %s", time.monotonic() - began, threads)
    keeper.run()
    return 0


def main() -> int:
    """Be `airfleet-keeper`, which the wheel installs."""
    parser = argparse.ArgumentParser(prog="airfleet-keeper", description=__doc__)
    parser.add_argument("--config", type=Path, default=CONFIG, help="file that says how")
    return run(parser.parse_args().config)
