"""The bundle in Airflow's own environment, on every state that a share can be in."""

import json
import re
from pathlib import Path

import pytest
import testinfra

from tests.lab.release.scratch import Scratch

testinfra_hosts = ["ansible://sched2"]

SOURCE = Path(__file__).with_name("bundle_cases.py").read_text()
CASES = re.findall(r"^@case\ndef (\w+)", SOURCE, re.MULTILINE)
HOME = "/var/tmp/bundle-test"  # noqa: S108


@pytest.fixture(scope="module")
def found() -> dict[str, str]:
    host = testinfra.get_host("ansible://sched2")
    scratch = Scratch(host, host, HOME)
    host.check_output(f"rm -rf {HOME}")
    try:
        scratch.install()
        scratch.put("", {"bundle_cases.py": SOURCE})
        told = scratch.shell(f"python bundle_cases.py {HOME}/places")
    finally:
        host.run(f"rm -rf {HOME}")
    return dict(json.loads(told.splitlines()[-1]))


@pytest.mark.parametrize("case", CASES)
def test_bundle(found: dict[str, str], case: str) -> None:
    assert found[case] == ""
