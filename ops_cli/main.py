"""The `ops` command: which commands there are, options that all of them share, and what becomes of an error."""

import sys
import traceback

import click

from ops_cli.console.errors import ExitCode, OpsError
from ops_cli.console.lazy import LazyGroup
from ops_cli.console.options import Shared

_TRACEBACK_VERBOSITY = 2

# A new command is a file in ops_cli/commands and a line here.
COMMANDS = {
    "status": "Show what runs on every host, tier by tier, and what is wrong.",
    "validate": "Judge DAG files by the gate that every deploy passes through; nothing is deployed.",
    "deploy": "Put a directory of DAG files into service as a new release.",
    "rollback": "Put an earlier release back into service.",
    "releases": "List, compare and remove DAG releases.",
    "failover": "Move the scheduler to another host.",
    "vacuum": "Move old finished runs, and old rows that stand alone, out of the metadata database into an archive.",
    "archive": "List, read, check, restore and remove archives of metadata.",
    "db": "Look into the metadata database.",
}


@click.group(cls=LazyGroup, lazy={name: (f"ops_cli.commands.{name}", text) for name, text in COMMANDS.items()})
@click.option(
    "--env", envvar="OPS_ENV", default="lab", show_default=True, help="The environment: a folder of inventories/."
)
@click.option("-v", "--verbose", count=True, help="-vv shows tracebacks.")
@click.version_option(package_name="airfleet", prog_name="ops")
@click.pass_obj
def app(shared: Shared, env: str, verbose: int) -> None:
    """Run an Airflow fleet: ask how it is, and do the dangerous things safely."""
    shared.env, shared.verbose = env, verbose


def run(words: list[str] | None = None) -> int:
    """Run one command and return its exit code; an error becomes one clear line on stderr."""
    shared = Shared()
    try:
        return int(app(words, prog_name="ops", standalone_mode=False, obj=shared) or ExitCode.DONE)
    except (KeyboardInterrupt, click.Abort):
        return ExitCode.INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        sys.stderr.write(f"{error.format_message()}\n")
        return ExitCode.USAGE
    except OpsError as error:
        code, text, failure = error.exit_code, str(error), error.__traceback__
    except click.ClickException as error:
        hint = f"{error.format_message().rstrip('.')}; type: {_usage(error)} --help"
        code, text, failure = ExitCode(error.exit_code), hint, error.__traceback__
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        code, text, failure = ExitCode.FAILED, f"this machine: {what}; -vv shows where", error.__traceback__
    except Exception as error:  # noqa: BLE001
        # A bug, not an operating condition: its text alone may say nothing.
        hint = f"{type(error).__name__}: {error}; -vv shows where"
        code, text, failure = ExitCode.FAILED, hint, error.__traceback__
    if shared.verbose >= _TRACEBACK_VERBOSITY:
        traceback.print_tb(failure)
    sys.stderr.write(f"ops: {text}\n")
    return code


def _usage(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return context.command_path if context else "ops"
