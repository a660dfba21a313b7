"""Any machine may be rebooted: the fleet is healthy again without a hand."""

from collections.abc import Callable
from typing import Any

import pytest

DEADLINE_SECONDS = 120
BOOT_ID = "cat /proc/sys/kernel/random/boot_id"


@pytest.mark.parametrize("name", ["lb1", "web1", "sched1", "worker-io1", "mq1", "pg1", "nfs1"])
def test_fleet_is_healthy_after_a_reboot(
    name: str, ops: Callable[..., Any], machine: Callable[[str], Any], wait_until: Callable[..., Any]
) -> None:
    wait_until(lambda: ops("status").code == 0, deadline=120, what="a healthy fleet to begin with")
    rebooted = machine(name)
    before = rebooted.check_output(BOOT_ID)
    # A second later, so that this connection ends first.
    rebooted.check_output("systemd-run --on-active=1 systemctl reboot")

    def is_back() -> bool:
        return bool(rebooted.check_output(BOOT_ID) != before)

    wait_until(is_back, deadline=DEADLINE_SECONDS, what=f"{name} to boot again")
    wait_until(
        lambda: ops("status").code == 0, deadline=DEADLINE_SECONDS, what=f"a healthy fleet after {name}'s reboot"
    )
