"""`ops validate`: the gate over a directory of DAG files, on a scheduler host or in a Python that has Airflow."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path

import click

from ops_cli.console import options
from ops_cli.console.errors import ExitCode, OpsError, UsageError
from ops_cli.console.options import Shared
from ops_cli.console.steps import Steps
from ops_cli.dags import source
from ops_cli.dags.hosts import connected
from ops_cli.fleet import inventory

_LOCAL_SECONDS = 960


class ReportFormat(StrEnum):
    """How the gate's report is printed."""

    TABLE = "table"
    JSON = "json"
    JUNIT = "junit"


@click.command()
@click.argument(
    "path", type=click.Path(path_type=Path), default=Path("dags"), help="The directory of DAG files, as it stands."
)
@options.output("A table to read, JSON to parse, or JUnit for a CI system.", ReportFormat)
@options.flag("--local", "Here, without a fleet: in a CI job.")
@click.option(
    "--python",
    default="python3",
    show_default=True,
    help="With --local: the interpreter whose environment has the fleet's Airflow.",
)
@options.env
@click.pass_obj
def validate(shared: Shared, path: Path, *, output: ReportFormat, local: bool, python: str) -> int:
    """Judge DAG files by the gate that every deploy passes through; nothing is deployed.

    Each file is imported in a process of its own, in the fleet's own Airflow environment on a scheduler host, without
    privilege or network and with bounded time and memory. Found are: files that cannot be imported, duplicate ids,
    cycles, unknown pools and queues, invalid schedules, network or database access and slow code outside of tasks, and
    what dag-policy.yml at the top of the directory asks for. A finding names file, line, rule and how to fix it.
    Exits with 0 if a deploy would be let through (there may be warnings), 4 if not.
    """
    if not path.is_dir():
        raise UsageError(f"{path} is no directory of DAG files: name the one that holds them")
    if local:
        return _local(path, output, python)
    fleet = inventory.load(shared.env, inventory.find_home())
    with connected(fleet) as hosts, tempfile.TemporaryDirectory() as work, Steps().shown() as steps:
        steps.now(f"validating {path} on {hosts.publisher.name}")
        archive = source.as_it_stands(path, Path(work))
        report, refused = hosts.validate(archive, hosts.health(1), output)
    sys.stdout.write(report)
    return ExitCode.CHECK_FAILED if refused else ExitCode.DONE


def _local(path: Path, output: ReportFormat, python: str) -> int:
    with _importable() as directory:
        command = [python, "-m", "ops_agent.verbs.validate", str(path), "--format", output]
        try:
            done = subprocess.run(
                command, env=os.environ | {"PYTHONPATH": directory}, check=False, timeout=_LOCAL_SECONDS
            )
        except OSError as error:
            reason = f"{python} cannot be run ({error.strerror})"
            raise UsageError(f"{reason}; name an interpreter that has Airflow with --python") from error
        except subprocess.TimeoutExpired:
            raise OpsError(f"the gate has not ended within {_LOCAL_SECONDS} s; name fewer files") from None
    if done.returncode not in {ExitCode.DONE, ExitCode.USAGE, ExitCode.CHECK_FAILED}:
        raise OpsError("the gate itself failed; give --python one with the packages of locks/airflow.txt")
    return done.returncode


@contextmanager
def _importable() -> Iterator[str]:
    """Give the gate to another interpreter, and of what is installed beside it nothing."""
    with tempfile.TemporaryDirectory() as directory:
        for name in ("ops_agent", "ops_release"):
            found = find_spec(name)
            if not found or not found.submodule_search_locations:
                raise OpsError(f"the package {name} is not installed beside ops_cli; type: bin/bootstrap")
            Path(directory, name).symlink_to(found.submodule_search_locations[0])
        yield directory
