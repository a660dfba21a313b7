"""Signs releases with the key that only a control node holds; hosts take no release without its signature.

`ssh-keygen -Y sign` does it: the key may have a passphrase or live in a hardware token, and needs no library.
"""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ops_cli.console.errors import OpsError, UsageError
from ops_cli.dags.source import entry

# As hosts verify it: ops_release/signature.py.
NAMESPACE = "airfleet-release"
_SECONDS = 120


@dataclass(frozen=True)
class Signer:
    """The key of one environment."""

    key: Path

    def sign(self, text: str) -> str:
        """Return the signature of a text, as base64 alone. Raises OpsError if the key cannot be used."""
        command = ["ssh-keygen", "-q", "-Y", "sign", "-f", str(self.key), "-n", NAMESPACE]
        try:
            done = subprocess.run(
                command, input=text, capture_output=True, text=True, check=False, timeout=_SECONDS, encoding="utf-8"
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise OpsError(f"{self.key} cannot sign: {error}") from None
        if done.returncode:
            reason = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
            raise OpsError(f"{self.key} cannot sign: {reason}; type: ssh-keygen -y -f {self.key}")
        return "".join(line for line in done.stdout.splitlines() if not line.startswith("-----"))


def signer(key: str) -> Signer:
    """Return the key in a file. Raises UsageError if it is not on this machine."""
    path = Path(key).expanduser()
    if not path.is_file():
        raise UsageError(
            f"the key that signs releases, {path}, is not on this machine: deploy from where it is, or make this "
            "machine one of its own as roles/airflow_dags/README.md says"
        )
    return Signer(path)


def refuse_other(text: str, sent: Mapping[str, str], what: Mapping[str, Any]) -> None:
    """Raise OpsError unless a manifest has the files that were sent (`source.contents`), and says `what` of them."""
    manifest = json.loads(text)
    links = {name: f"-> {target}" for name, target in manifest.get("links", {}).items()}
    files = {
        name: entry(one["sha256"], executable=one["executable"]) for name, one in manifest["files"].items()
    } | links
    wrong = [name for name, value in what.items() if manifest.get(name) != value]
    if files != dict(sent) or wrong:
        raise OpsError(
            f"the manifest of {what['id']} on the share is not of what was sent ({', '.join(wrong) or 'files'}); "
            "nothing was signed or changed"
        )
