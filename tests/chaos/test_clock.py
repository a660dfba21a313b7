"""The standby's clock is five minutes off: it neither takes the lease early nor takes itself for unfit."""

import shlex
import time
from collections.abc import Iterator

import pytest

from tests.chaos.lab import SCHEDULERS, UNIT, health, keeper_pid, settled, shell

DROP_IN = f"/run/systemd/system/{UNIT}.d/clock.conf"
LIBRARY = "/usr/$LIB/faketime/libfaketime.so.1"
# Several lives of a lease.
WATCH_SECONDS = 20


@pytest.fixture(scope="module", autouse=True)
def _library() -> Iterator[None]:
    """The machines share the host's clock: what a process reads of it is moved by a library."""
    for host in SCHEDULERS:
        shell(host, "apt-get install --yes --quiet libfaketime", timeout=120)
    yield
    for host in SCHEDULERS:
        shell(host, "apt-get purge --yes --quiet libfaketime", timeout=120)


@pytest.fixture
def standby(request: pytest.FixtureRequest) -> Iterator[str]:
    """Return the standby, whose clock is moved by the parameter until the story ends."""
    _, host = settled()
    seconds = request.param
    moved = [f"LD_PRELOAD={LIBRARY}", f"FAKETIME={seconds:+d}", "FAKETIME_DONT_FAKE_MONOTONIC=1"]
    dates = shell(host, f"date +%s; env {' '.join(map(shlex.quote, moved))} date +%s").split()
    assert abs(int(dates[1]) - int(dates[0]) - seconds) <= 1
    lines = "\n".join(f"Environment={each}" for each in moved)
    shell(host, f"mkdir -p $(dirname {DROP_IN}) && cat >{DROP_IN} <<'END'\n[Service]\n{lines}\nEND\n")
    shell(host, f"systemctl daemon-reload && systemctl restart {UNIT}", timeout=60)
    yield host
    shell(host, f"rm -f {DROP_IN} && systemctl daemon-reload && systemctl restart {UNIT}", timeout=60)


@pytest.mark.usefixtures("load")
@pytest.mark.parametrize("standby", [300, -300], indirect=True)
def test_clock_moved_by_five_minutes_changes_nothing(standby: str) -> None:
    active, ready = settled()
    assert ready == standby
    epoch = health(active)["epoch"]
    assert "libfaketime" in shell(standby, f"cat /proc/{keeper_pid(standby)}/maps")
    end = time.monotonic() + WATCH_SECONDS
    while time.monotonic() < end:
        assert (health(active)["state"], health(active)["epoch"]) == ("active", epoch)
        assert health(standby)["ready"]
        time.sleep(1)
