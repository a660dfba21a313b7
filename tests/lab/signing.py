"""Signs what a test has published on a host, as `ops deploy` does: no host takes it otherwise."""

import json
import shlex
from collections.abc import Callable

from ops_cli.dags import signing
from ops_cli.fleet import inventory
from tests.conftest import ROOT


def sign(run: Callable[[str], str], release: str, agent: str = "ops-agent release") -> None:
    """Sign a release; `run` runs a shell command where it was published and returns what it prints."""
    text = json.loads(run(f"{agent} manifest {release}"))["text"]
    signature = signing.signer(inventory.load("lab", ROOT).signing_key).sign(text)
    run(f"{agent} sign {release} --signature {shlex.quote(signature)}")
