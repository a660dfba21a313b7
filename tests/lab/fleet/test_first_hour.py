"""Every command of docs/first-hour.md, as it stands and in its order."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

testinfra_hosts = ["ansible://sched1"]

BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGE = (Path(__file__).parents[3] / "docs/first-hour.md").read_text()


@pytest.fixture
def _served_before(host: Host, fleet: Any) -> Iterator[None]:
    before = Path(host.check_output("readlink /srv/airflow/dags/current")).name
    yield
    host.check_output("ops-agent release flip %s && ops-agent release refresh", before)
    fleet.call("DELETE", "/dags/hello")


@pytest.mark.usefixtures("_served_before")
def test_commands_of_the_first_hour_do_what_the_page_says(root: Path) -> None:
    said = {}
    for number, block in enumerate(BLOCK.findall(PAGE)):
        done = subprocess.run(
            ["bash", "-euo", "pipefail"],
            input=block,
            cwd=root,
            env=os.environ | {"NO_COLOR": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        said[number] = done.stdout
    assert "lab is healthy" in said[0]
    assert "no_such_package" in said[2]
    assert "the first hour" in said[3]
    assert len(said) == PAGE.count("```sh")
