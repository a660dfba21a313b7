"""The gate on a scheduler host, with every way in which a DAG file can be broken or can break the gate."""

import os
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

from tests.lab.deploy.deployer import gate, rules

testinfra_hosts = ["ansible://sched1"]

DAG = """
from datetime import timedelta
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, task
"""
OK = 'with DAG("{name}"):\n    BashOperator(task_id="a", bash_command="true")\n'

# File name -> what stands in it, the rule it breaks and in which line; the imports above are its lines 1 to 4.
NASTY: dict[str, tuple[str, str, int]] = {
    "syntax": ("def x(:\n", "import", 5),
    "missing": ("import nothing_like_it\n", "import", 5),
    "indirect": ("from common.broken import x\n", "import", 5),
    "circle": (
        'with DAG("circle"):\n    a, b = (BashOperator(task_id=t, bash_command="x") for t in "ab")\n    a >> b >> a\n',
        "cycle",
        5,
    ),
    "one": (OK.format(name="twice"), "duplicate-dag-id", 5),
    "two": (OK.format(name="twice"), "duplicate-dag-id", 5),
    "schedule": ('with DAG("schedule", schedule="61 * * * *"):\n    pass\n', "invalid-schedule", 5),
    "pool": (
        'with DAG("pool"):\n    BashOperator(task_id="p", bash_command="x", pool="gone")\n',
        "unknown-pool",
        6,
    ),
    "queue": (
        'with DAG("queue"):\n    BashOperator(task_id="q", bash_command="x", queue="gpu")\n',
        "unknown-queue",
        6,
    ),
    "forks": ("import os\nos.fork()\n" + OK.format(name="forks"), "top-level-process", 6),
    "exits": ("import sys\nsys.exit(3)\n", "exits", 6),
    "dies": ("import os\nos._exit(3)\n", "exits", 6),
    "killed": ("import os\nos.kill(os.getpid(), 9)\n", "died", 1),
    "hangs": ("import time\n\ndef wait():\n    time.sleep(999)\n\nwait()\n", "hangs", 8),
    "spins": ("while True: pass\n", "hangs", 5),
    "eats": ("x = []\nwhile True:\n    x.append(bytearray(50_000_000))\n", "memory", 7),
    "prints": ('print("here")\n' + OK.format(name="prints"), "output", 5),
    "slow": ("import time\ntime.sleep(2.5)\n" + OK.format(name="slow"), "slow", 1),
    "network": ('import socket\nsocket.create_connection(("pg1", 5432))\n', "top-level-network", 6),
    "swallowed": (
        'import urllib.request\ntry:\n    urllib.request.urlopen("http://pg1")\nexcept OSError:\n    pass\n'
        + OK.format(name="swallowed"),
        "top-level-network",
        7,
    ),
    "database": ('import psycopg2\npsycopg2.connect("host=pg1")\n', "top-level-database", 6),
    "orm": ("from airflow import settings\nsettings.Session()\n", "top-level-database", 6),
    "variable": ('from airflow.sdk import Variable\nVariable.get("x", default=1)\n', "top-level-metadata", 6),
    "connection": ('from airflow.sdk import BaseHook\nBaseHook.get_connection("x")\n', "top-level-metadata", 6),
    "sub dir/größe": ('with DAG("g"):\n    BashOperator(task_id="a", bash_command="x", pool="x")\n', "unknown-pool", 6),
    "unwaived": ("# airfleet: waive slow\n" + OK.format(name="unwaived"), "waiver", 5),
    "slots": (
        'with DAG("slots"):\n    BashOperator(task_id="s", bash_command="x", pool_slots=5000)\n',
        "pool-slots",
        6,
    ),
    "nul": ('with DAG("nul", params={"delimiter": "a\\0b"}):\n    pass\n', "unstorable", 5),
    "half": ('with DAG("half", doc_md="\\ud800"):\n    pass\n', "unstorable", 5),
    "owners": (
        'with DAG("owners"):\n    [BashOperator(task_id=f"t{n}", bash_command="", owner="o" * n) for n in range(99)]\n',
        "unstorable",
        5,
    ),
    # FAB names a permission "DAG Run:" and the id, and has room for 250 characters.
    "permission": (f'with DAG("{"p" * 243}"):\n    pass\n', "unstorable", 5),
    "count": ('with DAG("count", max_active_runs=2**31):\n    pass\n', "unstorable", 5),
    "display": (f'with DAG("display", dag_display_name="{"d" * 2001}"):\n    pass\n', "unstorable", 5),
    # What the gate itself must outlive
    "signalled": ("import os\nos.kill(os.getpid(), 40)\n", "died", 1),
    "stopped": ("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\n", "hangs", 1),
    "removed": ("import os\nos.kill(os.getpid(), 9) if not os.unlink(__file__) else 0\n", "import", 6),
    "nul_source": ("# airfleet: waive \0 slow\n", "import", 1),
    "nested": ("x = " + "-" * 200_000 + "1\n", "died", 1),
    "closed": ("import os\nos.closerange(0, 4096)\n", "died", 1),
    "escapes": ('raise ValueError("\\x1b[31m \\ud800")\n', "import", 5),
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("nasty")
    (folder / "common").mkdir()
    (folder / "sub dir").mkdir()
    (folder / "common" / "__init__.py").write_text("")
    (folder / "common" / "broken.py").write_text("import gone_module\n")
    (folder / "fine.py").write_text(DAG + OK.format(name="fine"))
    (folder / "leaving.py").symlink_to("/etc/passwd")
    for name, (text, _, _) in NASTY.items():
        (folder / f"{name}.py").write_text(DAG.lstrip("\n") + "\n" + text)
    code, report = gate(folder)
    assert code == 4
    return report


@pytest.mark.parametrize("name", NASTY)
def test_gate_names_rule_and_line_of(name: str, report: dict[str, Any]) -> None:
    _, rule, line = NASTY[name]
    found = [(one["rule"], one["line"]) for one in report["findings"] if one["file"] == f"{name}.py"]
    assert (rule, line) in found, found


def test_gate_finds_nothing_in_a_file_in_order(report: dict[str, Any]) -> None:
    assert rules(report, "fine.py") == []
    assert [dag["dag_id"] for dag in report["dags"] if dag["file"] == "fine.py"] == ["fine"]


def test_gate_refuses_a_link_that_leaves_the_tree(report: dict[str, Any]) -> None:
    assert rules(report, "leaving.py") == ["symlink"]


@pytest.mark.parametrize("form", ["table", "junit"])
def test_gate_writes_what_is_no_text_as_an_escape(tmp_path: Path, form: str, run_ops: Callable[..., Any]) -> None:
    (tmp_path / "escapes.py").write_text(DAG + NASTY["escapes"][0])
    done = run_ops("validate", str(tmp_path), "--format", form)
    assert done.code == 4
    assert r"ValueError: \x1b[31m \ud800" in done.stdout


@pytest.mark.parametrize(("name", "target"), [("here", "."), ("same", "sub")])
def test_gate_refuses_a_link_by_which_airflow_would_come_to_a_directory_twice(
    tmp_path: Path, name: str, target: str
) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "fine.py").write_text(DAG + OK.format(name="fine"))
    (tmp_path / name).symlink_to(target)
    code, report = gate(tmp_path)
    assert code == 4
    assert [(found["file"], found["rule"]) for found in report["findings"]] == [(name, "symlink")]


def test_gate_lets_a_second_name_of_a_directory_be_that_airflow_ignores(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    # A release has no empty directories.
    (tmp_path / "sub" / "helper.py").write_text("A = 1\n")
    (tmp_path / "fine.py").write_text(DAG + OK.format(name="fine"))
    (tmp_path / "same").symlink_to("sub")
    (tmp_path / ".airflowignore").write_text("same\n")
    assert gate(tmp_path)[0] == 0


def test_gate_names_what_airflow_could_not_read(tmp_path: Path) -> None:
    (tmp_path / "fine.py").write_text(DAG + OK.format(name="fine"))
    (tmp_path / ".airflowignore").write_bytes(b"caf\xe9\n")
    code, report = gate(tmp_path)
    assert code == 4
    assert [(found["file"], found["rule"]) for found in report["findings"]] == [(".airflowignore", "unreadable")]


def test_gate_outlives_names_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "fine.py").write_text(DAG + OK.format(name="fine"))
    (tmp_path / "two\nlines.py").write_text(DAG + OK.format(name="lines"))
    (tmp_path / os.fsdecode(b"caf\xe9.py")).write_text(DAG + OK.format(name="latin"))
    os.mkfifo(tmp_path / "pipe.py")
    code, report = gate(tmp_path)
    assert code == 4
    assert [(found["file"], found["rule"]) for found in report["findings"]] == [
        (r"caf\xe9.py", "name"),
        ("pipe.py", "symlink"),
        (r"two\nlines.py", "name"),
    ]
    assert [dag["dag_id"] for dag in report["dags"]] == ["fine"]


def test_gate_passes_over_containers_that_hold_no_dags(tmp_path: Path) -> None:
    (tmp_path / "fine.py").write_text(DAG + OK.format(name="fine"))
    for name, member in {
        "prices.xlsx": "xl/workbook.xml",
        "udf.jar": "META-INF/M",
        "h-1-py3-none-any.whl": "h.py",
    }.items():
        with zipfile.ZipFile(tmp_path / name, "w") as container:
            container.writestr(member, "airflow dag")
    code, report = gate(tmp_path)
    assert (code, report["findings"], report["files"]) == (0, [], ["fine.py"])


def test_gate_counts_a_dag_once_whose_last_task_stands_below_the_block(tmp_path: Path) -> None:
    text = 'with DAG("late") as dag:\n    a = BashOperator(task_id="a", bash_command="x")\n'
    (tmp_path / "late.py").write_text(DAG + text + 'a >> BashOperator(task_id="b", bash_command="x", dag=dag)\n')
    code, report = gate(tmp_path)
    assert (code, report["findings"]) == (0, [])
    assert [[task["task_id"] for task in dag["tasks"]] for dag in report["dags"]] == [["a", "b"]]


def test_gate_leaves_nothing_on_the_host(report: dict[str, Any], host: Host) -> None:
    assert report["errors"]
    assert host.run("ls -d /var/lib/airfleet-gate/new-* /run/gate-config-*").stdout == ""
    assert host.run("systemctl list-units --plain --no-legend 'run-*.service'").stdout == ""
    assert host.run("pgrep -f '[o]ps-agent validate'").stdout == ""


def test_gate_cannot_read_the_fleets_secrets(tmp_path: Path) -> None:
    text = 'for name in ("/etc/airflow/airflow.cfg", "/srv/airflow/dags/current", "/var/lib/airflow"):\n    '
    text += "try:\n        import os\n        os.listdir(name) if os.path.isdir(name) else open(name)\n    "
    text += 'except OSError:\n        continue\n    raise RuntimeError(f"{name} can be read")\n'
    (tmp_path / "curious.py").write_text(DAG + text + OK.format(name="curious"))
    code, report = gate(tmp_path)
    assert (code, report["findings"]) == (0, [])


def test_policy_of_the_tree_is_applied_and_waived_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "dag-policy.yml").write_text(
        "rules:\n  tags: {at_least: 1}\n  execution-timeout: {severity: warning}\n"
    )
    (tmp_path / "plain.py").write_text(DAG + OK.format(name="plain"))
    (tmp_path / "waived.py").write_text("# airfleet: waive tags because of that\n" + DAG + OK.format(name="waived"))
    code, report = gate(tmp_path)
    assert (code, report["errors"], report["warnings"]) == (4, 1, 2)
    assert rules(report, "plain.py") == ["execution-timeout", "tags"]
    assert rules(report, "waived.py") == ["execution-timeout"]
    assert [waiver["reason"] for waiver in report["waived"]] == ["of that"]


def test_hash_of_a_task_is_the_same_in_every_run_and_changes_with_its_code(tmp_path: Path) -> None:
    text = DAG + '@task\ndef load():\n    return {"b", "a", 1}\n\nwith DAG("hashed", tags=["b", "a"]):\n    load()\n'
    (tmp_path / "hashed.py").write_text(text)
    first, again = (gate(tmp_path)[1]["dags"] for _ in range(2))
    assert first == again
    (tmp_path / "hashed.py").write_text("# a comment\n" + text)
    moved = gate(tmp_path)[1]["dags"][0]
    assert (moved["hash"], moved["tasks"][0]["hash"]) == (first[0]["hash"], first[0]["tasks"][0]["hash"])
    (tmp_path / "hashed.py").write_text(text.replace('"a", 1', '"a", 2'))
    assert gate(tmp_path)[1]["dags"][0]["tasks"][0]["hash"] != first[0]["tasks"][0]["hash"]


def test_airflows_own_examples_pass_or_name_the_rules_they_break(tmp_path: Path, host: Host) -> None:
    found = host.check_output(
        "/opt/airflow/current/bin/python -c 'import airflow; print(airflow.__path__[0])'"
    ).splitlines()[-1]
    packed = subprocess.Popen(
        ["base64", "--decode"], stdin=subprocess.PIPE, stdout=(tmp_path / "examples.tar").open("wb"), text=True
    )
    packed.communicate(host.check_output(f"tar -C {found}/example_dags --exclude=__pycache__ -c . | base64"))
    folder = tmp_path / "examples"
    folder.mkdir()
    subprocess.run(["tar", "-C", str(folder), "-xf", str(tmp_path / "examples.tar")], check=True)
    code, report = gate(folder)
    assert len(report["dags"]) > 50
    assert code == (4 if report["errors"] else 0)
    for one in report["findings"]:
        assert one["fix"], one
        assert (folder / one["file"]).is_file(), one


def test_report_comes_as_junit(tmp_path: Path, run_ops: Callable[..., Any]) -> None:
    (tmp_path / "broken.py").write_text(DAG + "1 / 0\n")
    done = run_ops("validate", str(tmp_path), "--format", "junit")
    assert done.code == 4
    assert '<failure type="import" message="ZeroDivisionError: division by zero"' in done.stdout
