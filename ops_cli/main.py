"""The `ops` command: options that every command shares, and what becomes of an error."""

import sys
import traceback
from typing import Annotated

import typer

from ops_cli.commands import archive, db, deploy, failover, releases, rollback, status, vacuum, validate
from ops_cli.console.errors import ExitCode, OpsError

_TRACEBACK_VERBOSITY = 2

app = typer.Typer(
    name="ops",
    help="Run an Airflow fleet: ask how it is, and do the dangerous things safely.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("status")(status.status)
app.command("validate")(validate.validate)
app.command("deploy")(deploy.deploy)
app.command("rollback")(rollback.rollback)
app.add_typer(releases.app, name="releases")
app.command("failover")(failover.failover)
app.command("vacuum")(vacuum.vacuum)
app.add_typer(archive.app, name="archive")
app.add_typer(db.app, name="db")


@app.callback(invoke_without_command=True)
def main(
    ctx: typer.Context,
    env: Annotated[str, typer.Option(envvar="OPS_ENV", help="The environment: a folder of inventories/.")] = "lab",
    verbose: Annotated[int, typer.Option("-v", "--verbose", count=True, help="-vv shows tracebacks.")] = 0,
) -> None:
    """Run an Airflow fleet: ask how it is, and do the dangerous things safely."""
    ctx.obj |= {"env": env, "verbose": verbose}
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help(), err=True)
        raise typer.Exit(ExitCode.USAGE)


def run(words: list[str] | None = None) -> int:
    """Run one command and return its exit code; an error becomes one clear line on stderr."""
    shared: dict[str, int | str] = {"verbose": 0}
    try:
        return int(app(words, prog_name="ops", standalone_mode=False, obj=shared) or ExitCode.DONE)
    except (KeyboardInterrupt, typer.Abort):
        return ExitCode.INTERRUPTED
    except OpsError as error:
        code, text, failure = error.exit_code, str(error), error.__traceback__
    except typer.TyperException as error:
        hint = f"{error.format_message().rstrip('.')}; type: ops --help"
        code, text, failure = ExitCode(error.exit_code), hint, error.__traceback__
    except Exception as error:  # noqa: BLE001
        # A bug, not an operating condition: its text alone may say nothing.
        hint = f"{type(error).__name__}: {error}; -vv shows where"
        code, text, failure = ExitCode.FAILED, hint, error.__traceback__
    if int(shared["verbose"]) >= _TRACEBACK_VERBOSITY:
        traceback.print_tb(failure)
    sys.stderr.write(f"ops: {text}\n")
    return code
