"""An Airflow of the tests' own on the lab's second scheduler host: its environment, none of its services or data.

Database, share, cache and processes are all of the test's making, so that a share can vanish and a dag-processor die
without the fleet noticing. What runs is the code of this checkout.
"""

import base64
import io
import json
import shlex
import tarfile
import time
from pathlib import Path
from typing import Any

from testinfra.host import Host

from ops_cli.fleet import inventory
from tests.conftest import ROOT
from tests.lab.signing import sign

HOME = "/var/tmp/release-test"  # noqa: S108
DATABASE, PORT = "10.77.0.51", 55418
DATA = f"/var/tmp/release-{PORT}"  # noqa: S108
BINARIES = "/usr/lib/postgresql/17/bin"
CREATE = f"""
set -eu
cd /
test -d {DATA} && {{ {BINARIES}/pg_ctl -D {DATA} -m immediate stop >/dev/null 2>&1 || true; rm -rf {DATA}; }}
{BINARIES}/initdb -D {DATA} -U postgres --no-sync -A trust >/dev/null
cat >> {DATA}/postgresql.conf <<'END'
port = {PORT}
listen_addresses = '{DATABASE}'
unix_socket_directories = '/tmp'
fsync = off
END
echo 'host all all 10.77.0.0/24 trust' >> {DATA}/pg_hba.conf
{BINARIES}/pg_ctl -D {DATA} -w -l {DATA}/server.log start >/dev/null
{BINARIES}/createdb -h /tmp -p {PORT} -U postgres airflow
"""
DESTROY = f"cd /; {BINARIES}/pg_ctl -D {DATA} -m immediate stop >/dev/null; rm -rf {DATA}"
SERVICES = {
    "api-server": "airflow api-server --host 127.0.0.1 --port 58080 --workers 1",
    "scheduler": "airflow scheduler --skip-serve-logs",
    "dag-processor": "python -m ops_airflow.dags.processor",
}
ASK = """
import urllib.request

urllib.request.urlopen("http://127.0.0.1:58080/execution/health", timeout=20)
"""


def settings(home: str) -> dict[str, str]:
    paths = {"share": f"{home}/share", "cache": f"{home}/cache", "signers": f"{home}/signers"}
    bundle = {"name": "fleet", "classpath": "ops_airflow.dags.bundle.ReleaseBundle", "kwargs": paths}
    return {
        "HOME": home,
        "AIRFLOW_HOME": home,
        "PYTHONPATH": home,
        "PATH": "/opt/airflow/current/bin:/usr/bin:/bin",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://postgres@{DATABASE}:{PORT}/airflow",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "0",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": "http://127.0.0.1:58080/execution/",
        "AIRFLOW__API_AUTH__JWT_SECRET": "of-a-test-" * 5,
        "AIRFLOW__API__SECRET_KEY": "of-a-test-" * 3,
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.3",
        "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",
        "AIRFLOW__DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": "1",
        "AIRFLOW__DAG_PROCESSOR__STALE_BUNDLE_CLEANUP_INTERVAL": "0",
        # So that a test need not wait for minutes until a DAG that is gone is retired.
        "AIRFLOW__DAG_PROCESSOR__PARSING_CLEANUP_INTERVAL": "5",
        "AIRFLOW__DAG_PROCESSOR__STALE_DAG_THRESHOLD": "5",
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps([bundle]),
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": f"{home}/log",
    }


class Scratch:
    """The running Airflow."""

    def __init__(self, host: Host, database: Host, home: str = HOME) -> None:
        self.host, self.database, self.home = host, database, home

    def start(self) -> None:
        self.database.check_output("runuser -u postgres -- bash -c %s", CREATE)
        self.host.check_output(f"rm -rf {self.home}")
        self.install()
        self.shell("airflow db migrate")
        for name in SERVICES:
            self.run(name)
        # A task that asks before the first answer fails, which is not what these tests are about.
        self.put("", {"ask.py": ASK})
        self.shell("timeout 180 sh -c 'until python ask.py 2>/dev/null; do sleep 1; done'")

    def install(self) -> None:
        """Put this checkout's packages and the settings there."""
        self.host.check_output(f"cd / && mkdir -p {self.home} && cd {self.home} && mkdir share cache out log")
        # A folder at a time: a command line has its limit.
        packages = ("ops_agent", "ops_airflow", "ops_release")
        for folder in {path.parent for package in packages for path in (ROOT / package).rglob("*.py")}:
            self.put(str(folder.relative_to(ROOT)), {path.name: path.read_text() for path in folder.glob("*.py")})
        values = settings(self.home)
        lines = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in values.items())
        address = values["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
        self.put("", {"env": lines, "asked.cfg": f"[database]\nsql_alchemy_conn = {address}\n"})
        key = Path(inventory.load("lab", ROOT).signing_key).with_name("release-signing.pub")
        self.put("", {"signers": f"release {key.read_text()}"})

    def stop(self) -> None:
        for name in SERVICES:
            self.host.run(f"env kill -KILL -- -$(cat {self.home}/{name}.pid)")
        self.database.run("runuser -u postgres -- bash -c %s", DESTROY)
        self.host.run(f"rm -rf {self.home}")

    def shell(self, script: str) -> str:
        """Run a script as Airflow's user with the test's settings."""
        return str(
            self.host.check_output("runuser -u airflow -- bash -c %s", f". {self.home}/env; cd {self.home}; {script}")
        )

    def run(self, service: str) -> None:
        """Start a service, which leads a process group of its own."""
        command = f"echo $$ >{service}.pid; exec nice -n 5 {SERVICES[service]}"
        self.shell(f"setsid sh -c {shlex.quote(command)} >log/{service}.log 2>&1 </dev/null &")

    def kill(self, service: str) -> None:
        self.host.check_output(f"env kill -KILL -- -$(cat {self.home}/{service}.pid)")

    def put(self, folder: str, files: dict[str, str]) -> None:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as out:
            for name, text in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(text.encode())
                out.addfile(member, io.BytesIO(text.encode()))
        text = base64.b64encode(packed.getvalue()).decode()
        self.host.check_output(
            "bash -c %s",
            f"mkdir -p {self.home}/{folder} && echo {text} | base64 -d | tar -x -z -C {self.home}/{folder} "
            f"&& chown -R airflow:airflow {self.home}",
        )

    def agent(self, *words: str) -> Any:
        """Run `ops-agent release` as the fleet does, on the test's share and cache."""
        return json.loads(self.shell(f"{self._agent()} {shlex.join(words)}"))

    def _agent(self) -> str:
        options = f"--share {self.home}/share --cache {self.home}/cache --signers {self.home}/signers"
        return f"python -m ops_agent.main release {options} --configuration {self.home}/asked.cfg"

    def publish(self, message: str, files: dict[str, str], *, judged: bool = False) -> str:
        """Make a release of these files, with the gate's report if it is to be judged before; return its name."""
        folder = f"trees/{message}-{time.monotonic_ns()}"
        self.put(folder, files)
        report = []
        if judged:
            self.shell(f"python -m ops_agent.main validate {folder} --format json >report.json")
            report = ["--validation", f"{self.home}/report.json"]
        words = ("publish", "--tree", f"{self.home}/{folder}", "--author", "t", "--message", message)
        made = str(self.agent(*words, *report)["release"])
        sign(self.shell, made, self._agent())
        return made

    def serve(self, release: str) -> None:
        """Do what `ops deploy` does from a published release on."""
        self.agent("warm", release)
        self.agent("flip", release)
        self.agent("refresh")

    def trigger(self, dag: str, run: str) -> None:
        self.shell(f"airflow dags trigger {dag} --run-id {run}")

    def told(self, dag: str, run: str) -> list[str]:
        """Return what the run's tasks have written: their names, the code's version, and where it was read."""
        return str(self.host.run(f"cat {self.home}/out/{dag}.{run}").stdout).splitlines()

    def ask(self, statement: str) -> list[str]:
        psql = f"psql -qAt -h /tmp -p {PORT} airflow -c {shlex.quote(statement)}"
        return str(self.database.check_output("runuser -u postgres -- bash -c %s", f"cd /; {psql}")).splitlines()
