"""How long a host takes to read all files of its current release: from its own copy, a plain one, and the share."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from testinfra.host import Host

ROUNDS = 15
SCRIPT = f"""
import json, os, shutil, statistics, sys, time
release = os.path.basename(os.readlink("/srv/airflow/dags/current"))
places = {{"cache": f"/var/cache/airflow/releases/{{release}}/dags", "disk": "/var/tmp/bench-reading",
          "share": f"/srv/airflow/dags/releases/{{release}}/dags"}}
shutil.rmtree(places["disk"], ignore_errors=True)
shutil.copytree(places["cache"], places["disk"])
def read(folder):
    started = time.perf_counter()
    for parent, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(parent, name), "rb") as source:
                source.read()
    return time.perf_counter() - started
# In turn, so that a drift of the machine's speed meets all three.
times = {{name: [] for name in places}}
for _ in range({ROUNDS}):
    for name, folder in places.items():
        times[name].append(read(folder))
shutil.rmtree(places["disk"])
print(json.dumps({{name: statistics.median(found) for name, found in times.items()}}))
"""


def measure(host: Host) -> dict[str, float]:
    """Return the median seconds of each place."""
    found: dict[str, float] = json.loads(host.check_output("python3 -c %s", SCRIPT))
    return found
