"""What several roles must agree on has one source: changed where one listens, it is followed where one calls."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.config import plays

ROOT = Path(__file__).parents[2]
# Where each is changed, as the operator would: in the variables of the group that listens.
CHANGED: dict[str, dict[str, Any]] = {
    "lb": {"haproxy_ui_port": 18080, "haproxy_execution_port": 18081},
    "web": {"airflow_api_server_port": 28080},
    "database": {
        "postgres_port": 15432,
        "postgres_database": "meta",
        "postgres_version": 18,
        "pgbouncer_listen_port": 16432,
    },
    "broker": {"rabbitmq_port": 25673, "rabbitmq_management_port": 25674, "rabbitmq_vhost": "flow"},
}
FOLLOWS: dict[str, dict[str, Any]] = {
    "lb1": {"haproxy_api_server_port": 28080},
    "pg1": {
        "pgbouncer_server_port": 15432,
        "pgbouncer_database": "meta",
        "metadata_archive_database": "meta",
        "metadata_archive_database_port": 15432,
        "ops_agent_database": "meta",
        "ops_agent_database_port": 15432,
    },
    "mq1": {"ops_agent_rabbitmq_url": "http://10.77.0.61:25674", "ops_agent_rabbitmq_vhost": "flow"},
    "web1": {
        "airflow_base_url": "http://10.77.0.11:18080",
        "airflow_execution_api_url": "http://10.77.0.11:18081/execution/",
    },
    "sched1": {
        "airflow_database_port": 15432,
        "airflow_database_pooled_port": 16432,
        "airflow_database_name": "meta",
        "airflow_broker_port": 25673,
        "airflow_broker_vhost": "flow",
    },
    "worker-cpu1": {"airflow_database_pooled_port": 16432, "airflow_broker_vhost": "flow"},
}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Return what each host of a lab with other ports and names is told, beside the units that it watches."""
    scratch = tmp_path_factory.mktemp("wiring")
    shutil.copytree(ROOT / "inventories", scratch / "inventories", symlinks=True)
    for group, values in CHANGED.items():
        (scratch / f"inventories/lab/group_vars/{group}").mkdir(exist_ok=True)
        (scratch / f"inventories/lab/group_vars/{group}/changed.yml").write_text(json.dumps(values))
    names = {host: [*values, "ops_agent_units"] for host, values in FOLLOWS.items()}
    tasks = [
        plays.play(
            host, {}, plays.write(f"{{{{ dict({wanted} | zip(q('vars', *{wanted}))) | to_json }}}}", scratch / host)
        )
        for host, wanted in names.items()
    ]
    plays.run(tasks, scratch, str(scratch / "inventories/lab"))
    return {host: json.loads((scratch / host).read_text()) for host in FOLLOWS}


@pytest.mark.parametrize("host", FOLLOWS)
def test_whoever_calls_follows_the_host_that_listens(told: dict[str, dict[str, Any]], host: str) -> None:
    found = {name: value for name, value in told[host].items() if name != "ops_agent_units"}
    assert {name: str(value) for name, value in found.items()} == {
        name: str(value) for name, value in FOLLOWS[host].items()
    }


def test_watched_unit_has_the_version_that_is_installed(told: dict[str, dict[str, Any]]) -> None:
    assert "postgresql@18-main.service" in {unit["name"] for unit in told["pg1"]["ops_agent_units"]}


def test_wiring_writes_no_port_but_where_it_is_named() -> None:
    inventories = ROOT / "inventories"
    texts = [path.read_text() for path in [*inventories.glob("wiring.yml"), *inventories.glob("wiring/*.yml")]]
    lines = [line for text in texts for line in text.splitlines() if re.search(r"\b\d{4,5}\b", line)]
    assert len(lines) == 7
    assert [line for line in lines if not re.fullmatch(r"\w+_port: \d+", line)] == []
