"""Verifiers are the ones that PostgreSQL would have made, and weak passwords are named."""

import base64
import hashlib
import hmac
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

PLUGIN = Path(__file__).parents[3] / "ansible/filter_plugins/postgres_secrets.py"


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


plugin = _load(PLUGIN)


def test_salted_verifier_passes_the_exchange_of_rfc_7677() -> None:
    salt, nonce = "W22ZaJ0SNY7soEsUEjb6gQ==", "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    exchange = f"n=user,r=rOprNGfwEbeRWgbNEkqO,r={nonce},s={salt},i=4096,c=biws,r={nonce}".encode()
    proof = base64.b64decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")

    verifier = plugin.salted_verifier("pencil", base64.b64decode(salt))

    scheme, parameters, keys = verifier.split("$")
    stored_key, server_key = (base64.b64decode(key) for key in keys.split(":"))
    assert (scheme, parameters) == ("SCRAM-SHA-256", f"4096:{salt}")
    signature = hmac.digest(stored_key, exchange, "sha256")
    client_key = bytes(a ^ b for a, b in zip(proof, signature, strict=True))
    assert hashlib.sha256(client_key).digest() == stored_key
    server_signature = base64.b64encode(hmac.digest(server_key, exchange, "sha256")).decode()
    assert server_signature == "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def test_scram_verifier_is_the_same_on_every_run_and_differs_by_role_and_password() -> None:
    verifiers = [
        plugin.scram_verifier(password, role)
        for password, role in [("first", "ops"), ("first", "ops"), ("first", "monitor"), ("second", "ops")]
    ]
    assert verifiers[0] == verifiers[1]
    assert len(set(verifiers)) == 3
    assert verifiers[0].split("$")[1] != verifiers[2].split("$")[1]


@pytest.mark.parametrize(
    ("secret", "why"),
    [
        (None, "missing or empty"),
        ("", "missing or empty"),
        ("changeme", "a default password"),
        ("postgres", "a default password"),
        ("AirflowAirflowAirflow", "a default password"),
        ("kR9vX2mQ7tLw4zB", "shorter than 16 characters"),
        ("kR9vX2mQ7tLw4zBé", "not plain printable ASCII"),
        ("kR9vX2mQ 7tLw4zBa", "not plain printable ASCII"),
    ],
)
def test_refused_secrets_names_the_variable_and_the_reason(secret: str | None, why: str) -> None:
    secrets = {"good": "kR9vX2mQ7tLw4zBa", "postgres_monitor_password": secret}
    assert plugin.refused_secrets(secrets) == [f"postgres_monitor_password ({why})"]
