"""Airflow's rendered configuration and units, and what the preflights refuse."""

import configparser
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ops_airflow.celery import config as celery_config
from tests.config import plays

GOOD = "kR9vX2mQ7tLw4zBa"
# What a URL and an ini file would both misread.
AWKWARD = f"{GOOD}%/@:s"
SECRETS: dict[str, Any] = {
    "vault_postgres_airflow_password": AWKWARD,
    "vault_postgres_celery_password": f"{GOOD}2",
    "vault_postgres_scheduler_passwords": {"sched1": f"{GOOD}3", "sched2": f"{GOOD}4"},
    "vault_rabbitmq_scheduler_password": f"{GOOD}5",
    "vault_rabbitmq_worker_passwords": {"cpu": f"{GOOD}/8", "io": f"{GOOD}9", "memory": f"{GOOD}10"},
    "vault_airflow_jwt_secret": GOOD * 4,
    "vault_airflow_api_secret_key": f"{GOOD}6",
    "vault_airflow_fernet_key": "a1I5dlgybVE3dEx3NHpCYWtSOXZYMm1RN3RMdzR6QmE=",
    "vault_airflow_admin_password": f"{GOOD}7",
}
OVERRIDE = {"airflow_config": {"core": {"parallelism": 7}, "smtp": {"smtp_host": "100%.example"}}}
ROLES = {
    "web1": ["airflow", "airflow_api_server"],
    "sched1": ["airflow", "airflow_scheduler", "airflow_dag_processor", "airflow_triggerer"],
    "sched2": ["airflow", "airflow_scheduler"],
    "worker-io1": ["airflow", "airflow_worker"],
}
# One scheduler host with the lease keeper, as the lab runs them, one without.
MODES = {"sched1": {"airflow_scheduler_mode": "active_active"}, "sched2": {"airflow_scheduler_mode": "active_standby"}}
UNITS = {
    "web1": ["airflow-api-server.service"],
    "sched1": ["airflow-scheduler.service", "airflow-dag-processor.service", "airflow-triggerer.service"],
    "sched2": ["airflow-scheduler.service"],
    "worker-io1": ["airflow-worker.service", "airfleet-worker-drain.service", "airflow-worker.slice"],
}
ALL_UNITS = [(host, unit) for host, units in UNITS.items() for unit in units]
SERVICES = [(host, unit) for host, unit in ALL_UNITS if unit.startswith("airflow-") and unit.endswith(".service")]
LAB_KEY = Path("/var/lib/airfleet/lab/ssh")


def _preflight(role: str) -> dict[str, Any]:
    return {"ansible.builtin.include_role": {"name": role, "tasks_from": "preflight.yml", "public": True}}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    out = tmp_path_factory.mktemp("airflow")
    hosts = []
    for host, roles in ROLES.items():
        files = [plays.template("roles/airflow/templates/airflow.cfg.j2", out / f"{host}.airflow.cfg")]
        files += [plays.template(f"systemd/{unit}.j2", out / f"{host}.{unit}") for unit in UNITS[host]]
        if host == "sched1":
            files.append(plays.template("roles/airflow_scheduler/templates/scheduler.env.j2", out / "sched1.env"))
            files.append(plays.template("roles/airflow/templates/migrate.env.j2", out / "sched1.migrate"))
        hosts.append(
            plays.play(host, SECRETS | OVERRIDE | MODES.get(host, {}), *[_preflight(role) for role in roles], *files)
        )
    plays.run(hosts, out)
    return {
        host: {path.name.removeprefix(f"{host}."): path.read_text() for path in out.glob(f"{host}.*")} for host in ROLES
    }


def _config(text: str) -> configparser.ConfigParser:
    # As Airflow reads it: with interpolation.
    parser = configparser.ConfigParser()
    parser.read_string(text)
    return parser


def test_awkward_passwords_survive_the_url_and_the_ini_file(rendered: dict[str, dict[str, str]]) -> None:
    url = _config(rendered["sched1"]["airflow.cfg"])["database"]["sql_alchemy_conn"]
    assert url == f"postgresql+psycopg2://airflow:{GOOD}%25%2F%40%3As@10.77.0.51:6432/airflow"


def test_overrides_win_and_are_literal(rendered: dict[str, dict[str, str]]) -> None:
    config = _config(rendered["web1"]["airflow.cfg"])
    assert config["core"]["parallelism"] == "7"
    assert config["core"]["executor"] == "CeleryExecutor"
    assert config["smtp"]["smtp_host"] == "100%.example"


def test_workers_do_not_learn_the_control_planes_secrets(rendered: dict[str, dict[str, str]]) -> None:
    text = rendered["worker-io1"]["airflow.cfg"]
    assert not _config(text).has_section("database")
    hidden = ["vault_airflow_jwt_secret", "vault_airflow_fernet_key", "vault_airflow_admin_password"]
    assert [name for name in hidden if SECRETS[name] in text] == []
    assert f"{GOOD}%" not in text
    assert [name for name in hidden[:2] if SECRETS[name] not in rendered["web1"]["airflow.cfg"]] == []


def test_every_host_agrees_on_what_tasks_need(rendered: dict[str, dict[str, str]]) -> None:
    configs = [_config(files["airflow.cfg"]) for files in rendered.values()]
    assert len({config["airfleet"]["queues"] for config in configs}) == 1
    assert len({config["api"]["secret_key"] for config in configs}) == 1
    assert len({config["dag_processor"]["dag_bundle_config_list"] for config in configs}) == 1
    bundles = json.loads(configs[0]["dag_processor"]["dag_bundle_config_list"])
    assert bundles == [{"name": "fleet", "classpath": "ops_airflow.dags.bundle.ReleaseBundle", "kwargs": {}}]


def test_every_tier_has_the_broker_login_of_its_part(rendered: dict[str, dict[str, str]]) -> None:
    urls = {host: _config(files["airflow.cfg"])["celery"]["broker_url"] for host, files in rendered.items()}
    assert urls == {
        "web1": "amqp://10.77.0.61:5672/airflow",
        "sched1": f"amqp://scheduler:{GOOD}5@10.77.0.61:5672/airflow",
        "sched2": f"amqp://scheduler:{GOOD}5@10.77.0.61:5672/airflow",
        "worker-io1": f"amqp://worker_io:{GOOD}9@10.77.0.61:5672/airflow",
    }


def test_worker_serves_its_pools_queue(rendered: dict[str, dict[str, str]]) -> None:
    assert re.search(r"^ExecStart=.* --queues io ", rendered["worker-io1"]["airflow-worker.service"], re.MULTILINE)
    assert json.loads(_config(rendered["worker-io1"]["airflow.cfg"])["airfleet"]["queues"]) == ["cpu", "io", "memory"]


def test_publish_to_a_frozen_broker_ends_before_airflow_gives_it_up(rendered: dict[str, dict[str, str]]) -> None:
    patience = float(_config(rendered["sched1"]["airflow.cfg"])["celery"]["operation_timeout"])
    # the confirm, the channel's close, the connection's close
    assert patience > 3 * celery_config.IO_TIMEOUT_SECONDS


def test_task_may_wait_for_a_slot_for_a_day(rendered: dict[str, dict[str, str]]) -> None:
    # as long as its token is good
    assert _config(rendered["sched1"]["airflow.cfg"])["scheduler"]["task_queued_timeout"] == "86400"


def test_task_ends_itself_before_another_copy_is_started(rendered: dict[str, dict[str, str]]) -> None:
    workers = _config(rendered["worker-io1"]["airflow.cfg"])["workers"]
    # Each try waits up to execution_api_timeout (5 s) and half of retry_wait_max on average, for the jitter is even.
    one = int(workers["execution_api_retries"]) * (5 + float(workers["execution_api_retry_wait_max"]) / 2)
    assert int(workers["max_failed_heartbeats"]) * one < 300 - 60


def test_default_pool_is_as_large_as_the_fleet(rendered: dict[str, dict[str, str]]) -> None:
    assert _config(rendered["sched1"]["airflow.cfg"])["core"]["default_pool_task_slot_count"] == "32"


def test_several_brokers_are_one_list(tmp_path: Path) -> None:
    two = SECRETS | {"airflow_broker_hosts": ["10.0.0.1", "10.0.0.2"]}
    render = plays.template("roles/airflow/templates/airflow.cfg.j2", tmp_path / "cfg")
    plays.run([plays.play("worker-cpu1", two, _preflight("airflow"), render)], tmp_path)
    url = _config((tmp_path / "cfg").read_text())["celery"]["broker_url"]
    login = f"amqp://worker_cpu:{GOOD}%2F8@"
    assert url == f"{login}10.0.0.1:5672/airflow;{login}10.0.0.2:5672/airflow"


def test_services_may_write_the_release_cache_and_start_without_the_share(rendered: dict[str, dict[str, str]]) -> None:
    for host, unit in SERVICES:
        text = rendered[host][unit]
        assert re.search(r"^ReadWritePaths=.* /var/cache/airflow$", text, re.MULTILINE), unit
        assert not re.search(r"^(After|Requires|BindsTo)=.*\.mount", text, re.MULTILINE), unit


def test_a_dag_is_never_recorded_under_a_release_without_its_tasks(rendered: dict[str, dict[str, str]]) -> None:
    config = _config(rendered["sched1"]["airflow.cfg"])
    assert config["core"]["min_serialized_dag_update_interval"] == "0"
    assert config["dag_processor"]["stale_bundle_cleanup_interval"] == "0"
    assert "-m ops_airflow.dags.processor" in rendered["sched1"]["airflow-dag-processor.service"]


def test_scheduler_and_migration_connect_directly(rendered: dict[str, dict[str, str]]) -> None:
    assert f"://scheduler_sched1:{GOOD}3@10.77.0.51:5432/airflow" in rendered["sched1"]["env"]
    assert ":5432/airflow" in rendered["sched1"]["migrate"]


@pytest.mark.parametrize(("host", "unit"), SERVICES)
def test_units_name_one_environment_and_one_configuration(
    rendered: dict[str, dict[str, str]], host: str, unit: str
) -> None:
    text = rendered[host][unit]
    assert "/opt/airflow/current" not in text
    assert text.count("AIRFLEET_GENERATION=") == 1


def test_scheduler_under_the_lease_is_kept_and_watched(rendered: dict[str, dict[str, str]]) -> None:
    unit = rendered["sched2"]["airflow-scheduler.service"]
    assert re.search(r"^ExecStart=\S+/bin/airfleet-keeper --config /etc/airflow/keeper.json$", unit, re.MULTILINE)
    watched = re.findall(r"^(?:Type|WatchdogSec|WatchdogSignal|KillMode)=(\S+)$", unit, re.MULTILINE)
    # Only the keeper is told to stop: it ends its scheduler in order. What is left then, and a frozen one, is killed.
    assert watched == ["exec", "mixed", "notify", "5", "SIGKILL"]


def test_health_check_is_off_under_a_keeper_and_else_at_the_fleets_address(rendered: dict[str, dict[str, str]]) -> None:
    assert not _config(rendered["sched1"]["airflow.cfg"]).getboolean("scheduler", "enable_health_check")
    settings = [
        re.findall(r"^Environment=AIRFLOW__SCHEDULER__(\S*HEALTH_CHECK\S*)=(\S+)$", rendered[host][unit], re.MULTILINE)
        for host, unit in (("sched1", "airflow-scheduler.service"), ("sched2", "airflow-scheduler.service"))
    ]
    alone = [("ENABLE_HEALTH_CHECK", "True"), ("SCHEDULER_HEALTH_CHECK_SERVER_HOST", "10.77.0.31")]
    assert settings == [[*alone, ("SCHEDULER_HEALTH_CHECK_SERVER_PORT", "8974")], []]


def test_worker_stops_its_main_process_and_kills_nothing_for_its_length(rendered: dict[str, dict[str, str]]) -> None:
    lines = rendered["worker-io1"]["airflow-worker.service"].splitlines()
    assert {"KillMode=mixed", "TimeoutStopSec=infinity", "OOMPolicy=continue", "Slice=airflow-io.slice"} <= set(lines)


def test_drain_stops_before_the_worker_and_comes_with_it(rendered: dict[str, dict[str, str]]) -> None:
    drain = set(rendered["worker-io1"]["airfleet-worker-drain.service"].splitlines())
    assert {"PartOf=airflow-worker.service", "After=airflow-worker.service", "TimeoutStopSec=infinity"} <= drain
    assert "ExecStop=/usr/local/bin/ops-agent worker drain --limit 120" in drain
    worker = rendered["worker-io1"]["airflow-worker.service"].splitlines()
    assert "Upholds=airfleet-worker-drain.service" in worker


@pytest.mark.parametrize(("host", "unit"), SERVICES)
def test_code_is_imported_from_where_only_root_writes(
    rendered: dict[str, dict[str, str]], host: str, unit: str
) -> None:
    text = rendered[host][unit]
    assert "WorkingDirectory=/etc/airflow\n" in text
    assert " AIRFLOW_HOME=/etc/airflow " in text
    assert re.search(r"^ReadWritePaths=.*/etc/airflow", text, re.MULTILINE) is None
    config = _config(rendered[host]["airflow.cfg"])
    assert config["core"]["plugins_folder"] == "/etc/airflow/plugins"
    assert config.get("fab", "config_file", fallback="/etc/airflow/").startswith("/etc/airflow/")


def _on_lab(command: str, text: str) -> "subprocess.CompletedProcess[str]":
    """Run a checker of the fleet's systemd on `text`: older ones do not know every setting."""
    ssh = ["ssh", "-i", str(LAB_KEY / "id_ed25519"), "-o", f"UserKnownHostsFile={LAB_KEY / 'known_hosts'}"]
    ssh += ["-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "fleet@10.77.0.41"]
    return subprocess.run([*ssh, command], input=text, capture_output=True, text=True, timeout=60, check=False)


def _verify(unit: str, text: str) -> "subprocess.CompletedProcess[str]":
    # The environment may not be unpacked yet, and the unit's directory is the checker's own business.
    text = "\n".join("ExecStart=/bin/true" if line.startswith("ExecStart=") else line for line in text.splitlines())
    make = 'd=$(mktemp -d) && trap "rm -r $d" EXIT'
    return _on_lab(f"{make} && cat >$d/{unit} && systemd-analyze verify $d/{unit}", text)


@pytest.mark.parametrize(("host", "unit"), ALL_UNITS)
def test_units_are_understood_by_systemd(rendered: dict[str, dict[str, str]], host: str, unit: str) -> None:
    done = _verify(unit, rendered[host][unit])
    assert (done.returncode, done.stderr) == (0, "")


def test_checker_sees_a_misspelt_setting(rendered: dict[str, dict[str, str]]) -> None:
    text = rendered["web1"]["airflow-api-server.service"].replace("PrivateTmp=", "PrivetTmp=")
    assert "PrivetTmp" in _verify("airflow-api-server.service", text).stderr


def _exposure(unit: str, text: str) -> "subprocess.CompletedProcess[str]":
    make = 'd=$(mktemp -d) && trap "rm -r $d" EXIT'
    analyze = "systemd-analyze security --offline=true --threshold=30 --no-pager"
    return _on_lab(f"{make} && cat >$d/{unit} && {analyze} $d/{unit}", text)


@pytest.mark.parametrize(("host", "unit"), SERVICES)
def test_services_are_rated_3_or_lower(rendered: dict[str, dict[str, str]], host: str, unit: str) -> None:
    done = _exposure(unit, rendered[host][unit])
    assert done.returncode == 0, done.stdout[-200:]


def test_rating_refuses_a_service_without_its_sandbox(rendered: dict[str, dict[str, str]]) -> None:
    text = rendered["web1"]["airflow-api-server.service"].split("NoNewPrivileges=")[0]
    assert _exposure("airflow-api-server.service", text).returncode != 0


REFUSED: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "fernet": ("web1", "airflow", {"vault_airflow_fernet_key": "short"}, "airflow_fernet_key"),
    "jwt": ("web1", "airflow", {"vault_airflow_jwt_secret": GOOD}, "airflow_jwt_secret has 32"),
    "workers": ("web1", "airflow_api_server", {"airflow_api_server_workers": 0}, "airflow_api_server_workers"),
    "proxies": ("web1", "airflow_api_server", {"airflow_api_server_proxy_addresses": []}, "name the balancers"),
    "login": ("sched1", "airflow_scheduler", {"airflow_scheduler_database_password": ""}, "vault_postgres_scheduler"),
    "pool": ("worker-io1", "airflow_worker", {"airflow_worker_pool": "gpu"}, "'gpu', which is not one of cpu, memory"),
    "queues": ("worker-io1", "airflow_worker", {"airflow_worker_queues": ["io", "cpu"]}, "its pool's queue alone"),
    "default queue": ("web1", "airflow", {"airflow_default_queue": "gpu"}, "is 'gpu', which is not one of cpu, io"),
    "memory": ("worker-io1", "airflow_worker", {"airflow_worker_memory_high_percent": 95}, "rise from high to max"),
    "no dags": ("sched1", "airflow_dags", {"airflow_dags_source": "/nowhere"}, "airflow_dags_source (/nowhere)"),
    "lock": ("web1", "airflow", {"__airflow_requirements": "{{ __airflow_lock }}"}, "Run `make lock`"),
}


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("preflight")
    cases = []
    for name, (host, role, variables, _) in REFUSED.items():
        say = plays.write("{{ ansible_failed_result.msg | default(ansible_failed_result) }}", out / name)
        include = {"ansible.builtin.include_role": {"name": role, "tasks_from": "preflight.yml"}, "vars": variables}
        cases.append(plays.play(host, SECRETS | variables, {"block": [include], "rescue": [say]}))
    plays.run(cases, out)
    return {name: (out / name).read_text() if (out / name).exists() else "" for name in REFUSED}


@pytest.mark.parametrize("case", REFUSED)
def test_preflight_refuses_and_says_what_to_do(refusals: dict[str, str], case: str) -> None:
    assert REFUSED[case][3] in refusals[case]
    assert GOOD not in refusals[case]
