"""A branch as the source of truth: its head is deployed once, and a timer of role airflow_dags looks for it."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

from tests.lab.deploy.deployer import ROOT, Done, Repository

testinfra_hosts = ["ansible://nfs1"]
pytestmark = pytest.mark.story

Wait = Callable[..., Any]
UNIT = "airfleet-deploy-lab"
CHECKOUT = "/var/tmp/checkout"  # noqa: S108
# In place of a checkout's `ops`, which this machine has no business with: it says how it was called.
OPS = '#!/bin/sh\n{ pwd; id -un; echo "$OPS_ENV"; echo "$@"; } >"$STATE_DIRECTORY/called"\n'


def test_head_is_deployed_when_it_moved_and_tried_once(
    repository: Repository, run_ops: Callable[..., Done], current: Callable[[], str], tmp_path: Path
) -> None:
    def look() -> Done:
        words = ("--git-url", f"file://{repository.dags}", "--git-ref", "main", "--if-moved", str(tmp_path / "head"))
        return run_ops("deploy", ".", "--yes", *words)

    repository.write(followed="# No DAG, but another release.\n")
    first = look()
    assert first.code == 0, first.stderr
    served = current()
    assert run_ops("releases", "show", served, "--format", "json").json()["commit"] == repository.git(
        "rev-parse", "HEAD"
    )
    assert (look().code, current()) == (0, served)
    repository.write(broken_story="# airflow dag\nimport nothing_like_it\n")
    refused, again = look(), look()
    assert (refused.code, again.code, current()) == (1, 1, served)
    assert "broken_story.py:" in refused.stderr
    assert "is not tried again" in again.stderr
    (repository.dags / "broken_story.py").unlink()
    repository.write(mended="# No DAG either.\n")
    assert look().code == 0
    assert current() != served


@pytest.fixture
def converge(host: Host) -> Iterator[Callable[..., None]]:
    """Give a converge of the timer onto this machine; it is gone afterwards."""
    host.check_output(
        f"mkdir -p {CHECKOUT}/.venv/bin && cd {CHECKOUT}/.venv/bin && printf %%s %s >ops && chmod 755 ops", OPS
    )

    def run(**more: str) -> None:
        words = {
            "airflow_dags_git_url": "https://git.example.com/dags.git",
            "airflow_dags_git_host": "nfs1",
            "airflow_dags_git_home": CHECKOUT,
            "airflow_dags_git_user": "fleet",
            "airflow_dags_git_interval": "1s",
        } | more
        command = [str(Path(sys.executable).with_name("ansible")), "sched1", "-i", "inventories/lab", "-b"]
        command += ["-m", "ansible.builtin.include_role", "-a", "name=airflow_dags tasks_from=follow"]
        command += [word for name, value in words.items() for word in ("-e", f"{name}={value}")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    yield run
    host.check_output(f"systemctl disable --now {UNIT}.timer && rm -f /etc/systemd/system/{UNIT}.*")
    host.check_output(f"systemctl daemon-reload && rm -rf {CHECKOUT} /var/lib/{UNIT}")


def test_timer_looks_until_it_is_switched_off(converge: Callable[..., None], host: Host, wait_until: Wait) -> None:
    converge()
    called = f"/var/lib/{UNIT}/called"
    wait_until(lambda: host.file(called).exists, deadline=30, what="the timer to look")
    folder, user, env, words = host.file(called).content_string.splitlines()
    assert (folder, user, env) == (CHECKOUT, "fleet", "lab")
    assert words.startswith("deploy dags --yes --git-url https://git.example.com/dags.git --git-ref main --if-moved ")
    assert host.service(f"{UNIT}.timer").is_enabled
    converge(airflow_dags_git_enabled="false")
    timer = host.service(f"{UNIT}.timer")
    assert (timer.is_running, timer.is_enabled) == (False, False)
