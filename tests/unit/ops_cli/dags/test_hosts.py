import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ops_cli.dags.hosts import ReleaseHosts
from ops_cli.fleet import ssh
from ops_cli.fleet.inventory import Host, Inventory
from ops_cli.fleet.session import Sessions

FLEET = Inventory("prod", (Host("sched1", "10.0.0.1", "scheduler"),))


@pytest.mark.parametrize("queues", [["cpu", "gpu"], None])
def test_gate_is_told_what_the_fleet_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, queues: list[str] | None
) -> None:
    commands: list[str] = []

    def stream(_host: Host, command: str, **_: Any) -> Iterator[str]:
        commands.append(command)
        yield "{}"

    monkeypatch.setattr(ssh, "stream", stream)
    (tmp_path / "dags.tar").write_bytes(b"")
    known = {"pools": {"default_pool": 128}, "import_errors": 0} | ({"queues": queues} if queues else {})
    assert ReleaseHosts(FLEET, Sessions()).validate(tmp_path / "dags.tar", known) == ("{}\n", False)
    options = json.loads(shlex.split(commands[0])[-2])
    assert options == {"pools": {"default_pool": 128}, "queues": queues}
