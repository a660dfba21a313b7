"""What is sent to the database host instead of passwords, and which passwords are refused."""

import base64
import hashlib
import hmac
from collections.abc import Callable, Mapping
from typing import Any

# PostgreSQL's own default (scram_iterations).
ITERATIONS = 4096
SECRET_LENGTH = 16
DEFAULTS = ("airflow", "changeme", "guest", "password", "postgres", "secret")


def scram_verifier(password: str, role: str) -> str:
    """Return the SCRAM-SHA-256 verifier that PostgreSQL stores for `role` (RFC 5803).

    The salt follows from the role's name, so one password always gives one verifier: a converge can compare it with
    what is stored, and PgBouncer can log in with the very verifier that the server holds. A salt is public anyway
    (the server sends it before a client has proved anything); it must only differ from role to role.
    """
    return salted_verifier(password, hashlib.sha256(f"airfleet/{role}".encode()).digest()[:16])


def salted_verifier(password: str, salt: bytes) -> str:
    """Return the SCRAM-SHA-256 verifier of an ASCII password under `salt`."""
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, ITERATIONS)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    stored, server, salt_text = (
        base64.b64encode(part).decode() for part in (hashlib.sha256(client_key).digest(), server_key, salt)
    )
    return f"SCRAM-SHA-256${ITERATIONS}:{salt_text}${stored}:{server}"


def refused_secrets(secrets: Mapping[str, str | None]) -> list[str]:
    """Return `name (why)` for every secret that is missing, a known default, too short or not plain ASCII."""
    return [f"{name} ({why})" for name, secret in secrets.items() if (why := _refusal(secret))]


def _refusal(secret: str | None) -> str | None:
    if not secret:
        return "missing or empty"
    if any(secret.lower().startswith(word) for word in DEFAULTS):
        return "a default password"
    if len(secret) < SECRET_LENGTH:
        return f"shorter than {SECRET_LENGTH} characters"
    # Beyond ASCII, SCRAM asks for SASLprep, which clients implement differently.
    if not (secret.isascii() and secret.isprintable() and " " not in secret):
        return "not plain printable ASCII"
    return None


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"scram_verifier": scram_verifier, "refused_secrets": refused_secrets}
