"""Which head of a branch was tried last, so that a timer deploys each commit once, whatever became of it.

Without this memory a release that was rolled back, or that the gate refused, would be tried again every minute.
"""

import json
import os
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ops_cli.console.errors import OpsError, UsageError
from ops_cli.dags import git, source

# In front of it, the name of the environment; role airflow_dags names the units.
UNIT = "airfleet-deploy-{env}.service"
_ASK_SECONDS = 5


class NotTriedAgainError(OpsError):
    """The head that failed before is still the head."""


@dataclass(frozen=True)
class Memory:
    """A file that names the head that was tried last; `url` and `ref` are what is followed."""

    path: Path
    url: str
    ref: str

    def moved(self) -> bool:
        """Whether the head is another than the one tried last. Raises NotTriedAgainError if that one failed.

        Asks the repository alone, not the fleet. Raises OpsError if it does not answer.
        """
        last = self._last()
        if last.get("url") != git.without_login(self.url) or last.get("ref") != self.ref:
            return True
        if last.get("commit") != source.head(self.url, self.ref):
            return True
        if last.get("error"):
            raise NotTriedAgainError(
                f"{last['commit'][:12]} of {self.ref or 'the default branch'} failed at {last['at']} and is not tried "
                f"again: {last['error']}; push a commit that mends it, or remove {self.path} to try once more"
            )
        return False

    def note(self, commit: str, error: str = "") -> None:
        """Remember what became of a commit."""
        known = {
            "url": git.without_login(self.url),
            "ref": self.ref,
            "commit": commit,
            "error": error,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            temporary.write_text(json.dumps(known) + "\n", encoding="utf-8")
            temporary.replace(self.path)
        except OSError as failure:
            raise OpsError(f"{self.path} cannot be written: {failure.strerror}") from failure

    def note_failure(self, commit: str, error: BaseException) -> None:
        """Remember a failure that the same commit would meet again; any other is no reason to give it up."""
        if isinstance(error, OpsError) and error.of_the_commit:
            self.note(commit, str(error).splitlines()[0])

    def _last(self) -> dict[str, str]:
        try:
            return dict(json.loads(self.path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError) as error:
            raise OpsError(f"{self.path} cannot be read ({error}); remove it to have the head deployed") from error


def memory(path: Path | None, url: str, ref: str) -> Memory | None:
    """Return the memory that --if-moved names. Raises UsageError if there is nothing to follow."""
    if path is None:
        return None
    if not url:
        raise UsageError("--if-moved needs --git-url: it compares the head there with the one it remembers")
    return Memory(path, url, ref)


def failed_here(env: str) -> str:
    """Return what is wrong if this machine follows a branch and the last try failed; empty if not."""
    unit = UNIT.format(env=env)
    try:
        done = subprocess.run(
            ["systemctl", "is-failed", "--quiet", unit],
            check=False,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_ASK_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return f"this machine: {unit} has failed; type: journalctl -u {unit} -n 20" if done.returncode == 0 else ""
