import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

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
    (root / "self.py").symlink_to("self.py")
    os.mkfifo(root / "pipe")
    found = {finding.file: finding.message for finding in tree.check(root)}
    assert {file: text.split(", ")[-1] for file, text in found.items()} == {
        "absolute.py": "which is outside of the tree",
        "folder": "which is outside of the tree",
        "sub dir/up.py": "which is outside of the tree",
        "gone.py": "which does not exist",
        "self.py": "which does not exist",
        "pipe": "is neither a file nor a directory",
    }


@pytest.mark.parametrize(
    ("name", "rule", "make"),
    [
        ("away", "symlink", lambda path: path.symlink_to("/etc")),
        (".airflowignore", "unreadable", lambda path: path.write_bytes(b"caf\xe9\n")),
        ("data/huge.py", "memory", lambda path: (path.touch(), os.truncate(path, 33 << 20))),
    ],
)
def test_tree_that_airflow_could_not_list_is_not_listed(
    tmp_path: Path, name: str, rule: str, make: Callable[[Path], object]
) -> None:
    (tmp_path / "data").mkdir()
    make(tmp_path / name)
    files, found = tree.dag_files(tmp_path)
    assert (files, [(finding.file, finding.rule) for finding in found]) == ([], [(name, rule)])


def test_what_another_user_cannot_read_is_found() -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        root = Path(directory)
        root.chmod(0o755)
        (root / "closed.py").touch(mode=0)
        (root / "closed").mkdir(mode=0)
        (root / "open.py").touch(mode=0o644)
        reading, writing = os.pipe()
        if not os.fork():
            if not os.getuid():
                os.setuid(65_534)
            os.write(writing, " ".join(f"{finding.file}:{finding.rule}" for finding in tree.check(root)).encode())
            os._exit(0)
        os.wait()
        assert os.read(reading, 1000) == b"closed:unreadable closed.py:unreadable"


def test_name_that_is_no_text_is_shown_as_escapes() -> None:
    assert tree.printable(Path(os.fsdecode(b"sub/caf\xe9\n.py"))) == r"sub/caf\xe9\n.py"
    assert tree.printable(Path("größe 1.py")) == "größe 1.py"


def test_names_prefer_a_literal_and_take_the_first_line() -> None:
    source = 'def load():\n    pass\n\nx = DAG("load")\ny = "load"\n\n@task\ndef save(): ...\n'
    assert places.names(source) == {"load": 4, "save": 8}
    assert places.names("def (") == {}
    assert places.names("-" * 200_000 + "1") == {}


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
