"""What role airflow_dags renders for a branch that is followed, and what its preflight refuses."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.config import plays

LAB_KEY = Path("/var/lib/airfleet/lab/ssh")
PREFLIGHT = {"name": "airflow_dags", "tasks_from": "preflight.yml", "public": True}
FILES = {
    "airfleet-deploy-lab.service": "systemd/airfleet-deploy.service.j2",
    "airfleet-deploy-lab.timer": "systemd/airfleet-deploy.timer.j2",
}
FOLLOWED = {"airflow_dags_git_url": "git@git.example.com:team/dags.git"}
THERE = {"airflow_dags_git_home": "/usr", "airflow_dags_git_user": "daemon"}


def render(out: Path, **variables: Any) -> dict[str, str]:
    templates = [plays.template(path, out / name) for name, path in FILES.items()]
    plays.run([plays.play("sched1", variables, {"ansible.builtin.include_role": PREFLIGHT}, *templates)], out)
    return {name: (out / name).read_text() for name in FILES}


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    environment = {"GIT_SSH_COMMAND": "ssh -i /etc/key-100%", "ANSIBLE_VAULT_PASSWORD_FILE": "/etc/airfleet/vault"}
    variables = FOLLOWED | THERE | {"airflow_dags_git_environment": environment, "airflow_dags_git_interval": "30s"}
    return render(tmp_path_factory.mktemp("units"), **variables)


def lab(command: str) -> "subprocess.CompletedProcess[str]":
    """Run a checker where the lab has it: on a machine of the fleet's release."""
    ssh = ["ssh", "-i", str(LAB_KEY / "id_ed25519"), "-o", f"UserKnownHostsFile={LAB_KEY / 'known_hosts'}"]
    ssh += ["-o", "BatchMode=yes", "-o", "ConnectTimeout=3", "-o", "LogLevel=ERROR", "fleet@10.77.0.31"]
    return subprocess.run([*ssh, command], capture_output=True, text=True, timeout=60, check=False)


def test_units_are_accepted_by_systemd(units: dict[str, str]) -> None:
    # The checkout is not there: any program stands for its `ops`.
    texts = {name: text.replace("/usr/.venv/bin/ops", "/usr/bin/true") for name, text in units.items()}
    written = "".join(f"cat >$d/{name} <<'END'\n{text}\nEND\n" for name, text in texts.items())
    names = " ".join(f"$d/{name}" for name in texts)
    done = lab(f"d=$(mktemp -d) && {written} systemd-analyze verify {names} 2>&1; code=$?; rm -r $d; exit $code")
    assert (done.returncode, done.stdout) == (0, "")


def test_service_deploys_the_branch_through_ops(units: dict[str, str]) -> None:
    text = units["airfleet-deploy-lab.service"].replace("\\\n", " ")
    (start,) = (line for line in text.splitlines() if line.startswith("ExecStart="))
    assert start.split() == [
        "ExecStart=/usr/.venv/bin/ops",
        *("deploy", "dags", "--yes", "--git-url", "git@git.example.com:team/dags.git", "--git-ref", "main"),
        *("--if-moved", "%S/airfleet-deploy-lab/head.json", "--watch", "5m"),
    ]
    lines = text.splitlines()
    assert 'Environment="GIT_SSH_COMMAND=ssh -i /etc/key-100%%"' in lines
    assert "Environment=OPS_HOME=/usr OPS_ENV=lab NO_COLOR=1" in lines
    assert "StateDirectory=airfleet-deploy-lab" in lines
    assert "User=daemon" in lines


def test_timer_looks_again_after_each_look(units: dict[str, str]) -> None:
    assert "OnUnitInactiveSec=30s" in units["airfleet-deploy-lab.timer"].splitlines()


def test_preflight_refuses_what_cannot_work(tmp_path: Path) -> None:
    cases: dict[str, dict[str, Any]] = {
        "password": FOLLOWED | {"airflow_dags_git_url": "https://ann:hunter2@git.example.com/x.git"},
        "token": FOLLOWED | {"airflow_dags_git_url": "https://ghp_hunter2@git.example.com/x.git"},
        "shouted": FOLLOWED | {"airflow_dags_git_url": "HTTPS://hunter2@git.example.com/x.git"},
        "at": FOLLOWED | {"airflow_dags_git_url": "https://ann:hunt@hunter2@git.example.com/x.git"},
        "ssh": FOLLOWED | {"airflow_dags_git_url": "ssh://git:hunter2@git.example.com/x.git"},
        "blank": FOLLOWED | {"airflow_dags_git_url": "a b"},
        "option": FOLLOWED | {"airflow_dags_git_ref": "--upload-pack=x"},
        "outside": FOLLOWED | {"airflow_dags_git_path": "../secrets"},
        "interval": FOLLOWED | {"airflow_dags_git_interval": "often"},
        "watch": FOLLOWED | {"airflow_dags_git_watch": "5min"},
        "home": FOLLOWED | {"airflow_dags_git_home": "airfleet"},
        "host": FOLLOWED | {"airflow_dags_git_host": "mars"},
        "name": FOLLOWED | {"airflow_dags_git_environment": {"git-ssh": "x"}},
        "value": FOLLOWED | {"airflow_dags_git_environment": {"A": 'x"\nExecStart=y'}},
        "nobody": {"airflow_dags_signers": []},
        "no key": {"airflow_dags_signers": ["/root/.ssh/id.pub"]},
        "good": FOLLOWED,
        "user of ssh": FOLLOWED | {"airflow_dags_git_url": "ssh://git@git.example.com:22/x.git"},
        "top": FOLLOWED | {"airflow_dags_git_path": ".", "airflow_dags_git_watch": ""},
        "none": {},
    }
    refused = plays.refusals("sched1", "airflow_dags", cases, tmp_path)
    assert [name for name, text in refused.items() if not text] == ["good", "user of ssh", "top", "none"]
    assert all("airflow_dags_" in text for text in refused.values() if text), refused
    assert "hunt" not in " ".join(refused.values())
