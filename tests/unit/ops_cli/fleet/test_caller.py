import getpass
import socket

import pytest

from ops_cli.fleet import caller


def test_under_sudo_the_one_who_called_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "ann")
    assert caller.name() == f"ann@{socket.gethostname()}"
    monkeypatch.delenv("SUDO_USER")
    assert caller.name() == f"{getpass.getuser()}@{socket.gethostname()}"
