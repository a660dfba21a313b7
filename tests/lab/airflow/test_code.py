"""What an Airflow process imports, nobody but root can write: neither a task nor any other process of user airflow."""

import json
import shlex
from typing import Any

import pytest
from testinfra.host import Host

testinfra_hosts = ["ansible://airflow"]

# Asked of Airflow itself, in a process with a service's environment and working directory. `-c` puts that directory
# first, as it does for every process that Python's own multiprocessing starts.
ASK = """
import json, os, site, sys
import airflow.settings as settings
from airflow.configuration import AIRFLOW_CONFIG, AIRFLOW_HOME, conf
settings.prepare_syspath_for_config_and_plugins()
files = [AIRFLOW_CONFIG, conf.get("fab", "config_file", fallback=AIRFLOW_HOME + "/webserver_config.py")]
named = [*sys.path, os.getcwd(), AIRFLOW_HOME, settings.PLUGINS_FOLDER, AIRFLOW_HOME + "/config", *files]
named += [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
places = set()
for path in map(os.path.abspath, named):
    while path not in places:
        places.add(path)
        path = os.path.dirname(path)
print(json.dumps({"places": sorted(places), "writable": sorted(p for p in places if os.access(p, os.W_OK))}))
"""
EVIL = """
directory=/var/lib/airflow
mkdir -p $directory/plugins $directory/config
for file in plugins/evil.py config/airflow_local_settings.py webserver_config.py; do
  echo "open('/tmp/evil-' + {file!r}.replace('/', '-'), 'w')" | sed "s,{file!r},'$file'," >$directory/$file
done
"""


def _services(host: Host) -> list[str]:
    listing = host.check_output("systemctl list-unit-files --no-legend --plain 'airflow-*.service'")
    return [line.split()[0] for line in listing.splitlines()]


def _ask(host: Host, service: str) -> dict[str, Any]:
    show = f"systemctl show --value -p %s {service}"
    environment = host.check_output(show % "Environment")
    where = host.check_output(show % "WorkingDirectory")
    python = f"/opt/airflow/current/bin/python -c {shlex.quote(ASK)}"
    answer = host.check_output(f"cd {where} && runuser -u airflow -- env {environment} {python}")
    return dict(json.loads(answer.splitlines()[-1]))


def test_nothing_that_a_service_imports_is_writable_by_airflow(host: Host) -> None:
    services = _services(host)
    assert services
    for service in services:
        found = _ask(host, service)
        assert any(place.endswith("/plugins") for place in found["places"])
        assert any("site-packages" in place for place in found["places"])
        assert found["writable"] == [], service


def test_configuration_directory_holds_nothing_of_airflows(host: Host) -> None:
    assert host.check_output("find /etc/airflow ! -user root -o -perm /022 ! -type l") == ""


def test_code_that_a_task_left_in_its_home_is_imported_by_nobody(host: Host) -> None:
    if host.check_output("hostname") not in ("worker-io1", "web1"):
        pytest.skip("a worker and a web host are enough")
    try:
        host.check_output("runuser -u airflow -- sh -c %s", EVIL)
        host.check_output("/usr/local/bin/airflow plugins")
        assert host.run("ls /tmp/evil-*").stdout == ""
    finally:
        left = "/var/lib/airflow/plugins /var/lib/airflow/config /var/lib/airflow/webserver_config.py /tmp/evil-*"
        host.check_output(f"rm -rf {left}")
