"""Whether a release was signed by somebody whom root of this host trusts, as `ssh-keygen -Y verify` says.

A signature is OpenSSH's (PROTOCOL.sshsig) over the bytes of manifest.json, which name the release and every file's
digest. It lies beside it on the share and in each copy. `ssh-keygen` is wherever SSH is, with whichever Python.
"""

from __future__ import annotations

import tempfile
import textwrap
from pathlib import Path

from ops_release import ReleaseError
from ops_release.manifest import parse
from ops_release.run import ProbeError, run

SIGNERS = Path("/etc/airfleet/release-signers")
"""Role airflow_dags writes it: a line `release ssh-ed25519 AAAA... comment` for each key."""
NAME = "manifest.json.sig"
NAMESPACE = "airfleet-release"
PRINCIPAL = "release"
_SECONDS = 10.0
_BEGIN, _END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"


class UnsignedError(ReleaseError):
    """A release that nobody trusted has signed; nothing of it may be used."""


def refuse_unsigned(release_id: str, text: str, signature: str, signers: Path, seconds: float = _SECONDS) -> None:
    """Raise UnsignedError unless `text` is this release's manifest and `signature` a trusted key's of it.

    Without a signature it is a release from before signatures, or one whose deploy died before it signed. Raises
    ReleaseError if there was no time to find out.
    """
    if not signers.is_file():
        raise UnsignedError(f"this host trusts no key ({signers} is missing); converge role airflow_dags")
    if not signature:
        raise UnsignedError(
            f"release {release_id} is not signed; look at it, then type: ops releases sign {release_id} --env ENV"
        )
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".sig") as armored:
        armored.write(signature)
        armored.flush()
        words = ["-Y", "verify", "-f", str(signers), "-I", PRINCIPAL, "-n", NAMESPACE, "-s", armored.name]
        try:
            run(["ssh-keygen", *words], timeout_seconds=seconds, stdin=text)
        except ProbeError as error:
            if error.status is None:
                raise ReleaseError(f"the signature of release {release_id} cannot be verified: {error}") from None
            raise UnsignedError(
                f"release {release_id} is not signed by a key that this host trusts ({error}): "
                "do not use it, see docs/runbooks/unsigned-release.md"
            ) from None
    # What was signed as one release is no other.
    if (signed := parse(text).id) != release_id:
        raise UnsignedError(f"release {release_id} has the manifest of {signed}")


def armored(body: str) -> str:
    """Return a signature in OpenSSH's form, of its base64 alone; raise ReleaseError if that is none."""
    if not body or not body.isascii() or not all(letter.isalnum() or letter in "+/=" for letter in body):
        raise ReleaseError("the signature is not base64")
    return "\n".join([_BEGIN, *textwrap.wrap(body, 70), _END, ""])


def read(release: Path) -> str:
    """Return the signature beside a release's manifest; empty if there is none."""
    try:
        return (release / NAME).read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        return ""
