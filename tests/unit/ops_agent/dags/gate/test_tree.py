import os
from pathlib import Path

from ops_agent.dags.gate import airflow_home, confine, places, tree


def test_links_that_leave_or_lead_nowhere_and_devices_are_found(tmp_path: Path) -> None:
    root = tmp_path / "dags"
    (root / "sub dir").mkdir(parents=True)
    (root / "größe.py").write_text("")
    (root / "inside.py").symlink_to("größe.py")
    (root / "sub dir" / "up.py").symlink_to("../../secret")
    (root / "absolute.py").symlink_to("/etc/passwd")
    (root / "gone.py").symlink_to("nothing")
    (root / "folder").symlink_to("/etc")
    os.mkfifo(root / "pipe")
    found = {finding.file: finding.message for finding in tree.check(root)}
    assert {file: text.split(", ")[-1] for file, text in found.items()} == {
        "absolute.py": "which is outside of the tree",
        "folder": "which is outside of the tree",
        "sub dir/up.py": "which is outside of the tree",
        "gone.py": "which does not exist",
        "pipe": "is neither a file nor a directory",
    }


def test_names_prefer_a_literal_and_take_the_first_line() -> None:
    source = 'def load():\n    pass\n\nx = DAG("load")\ny = "load"\n\n@task\ndef save(): ...\n'
    assert places.names(source) == {"load": 4, "save": 8}
    assert places.names("def (") == {}


def test_frames_are_those_of_the_tree() -> None:
    text = 'File "/t/a.py", line 3, in <module>\n  File "/usr/lib/x.py", line 9\n  File "/t/sub/b.py", line 5'
    assert places.frames(text, "/t") == [("a.py", 3), ("sub/b.py", 5)]


def test_configuration_keeps_settings_and_loses_what_logs_in() -> None:
    text = """
[core]
executor = CeleryExecutor
fernet_key = geheim
[database]
sql_alchemy_conn = postgresql://airflow:geheim@pg1/airflow
[celery]
broker_url = amqp://airflow:geheim@mq1/
result_backend = db+postgresql://celery:geheim@pg1/airflow
worker_concurrency = 8
[api]
base_url = http://lb1
secret_key = geheim
[api_auth]
jwt_secret = geheim
[secrets]
backend_kwargs = {"token": "geheim"}
[operators]
default_queue = io
"""
    kept = airflow_home.harmless(text)
    assert "geheim" not in kept
    assert "default_queue = io" in kept
    assert "executor = CeleryExecutor" in kept
    assert "worker_concurrency = 8" in kept


def test_confined_gate_has_no_network_no_privilege_and_an_end(tmp_path: Path) -> None:
    words = confine.command(["python", "gate"], directory=tmp_path, seconds=60)
    for expected in ("PrivateNetwork=yes", "DynamicUser=yes", "RuntimeMaxSec=60", f"BindReadOnlyPaths={tmp_path}"):
        assert f"--property={expected}" in words
    assert words[-3:] == ["--", "python", "gate"]
