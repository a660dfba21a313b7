"""`ops-agent status`: everything this host knows about its own health, in one JSON object."""

import json
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from threading import Thread
from typing import Any

from ops_agent.broker import probe as rabbitmq_probe
from ops_agent.database import probe as postgres_probe
from ops_agent.host import probe as host_probes
from ops_agent.host import settings as settings_file
from ops_agent.host.settings import Settings
from ops_agent.metadata import runs
from ops_agent.scheduler import probe as lease_probe
from ops_release.run import ProbeError

# Above the bound of any single probe, so that a probe's own error is seen rather than this one.
_DEADLINE_SECONDS = 3.5

Probe = Callable[[], Any]


def add(verbs: Any) -> None:
    """Add the verb."""
    verb = verbs.add_parser("status", help="print what this host runs and how it is")
    verb.add_argument("--json", action="store_true", help="on one line, for `ops`; otherwise indented")
    verb.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    """Print the report as one JSON object; return the exit code: 0 done, 1 failed."""
    try:
        host = settings_file.load(arguments.settings)
    except (OSError, ValueError, KeyError) as error:
        sys.stderr.write(f"ops-agent: {arguments.settings}/agent.json: {error!r}; converge role ops_agent\n")
        return 1
    sys.stdout.write(json.dumps(collect(host), indent=None if arguments.json else 2) + "\n")
    sys.stdout.flush()
    return 0


def collect(settings: Settings) -> dict[str, Any]:
    """Run all probes side by side; one that fails leaves its error under "errors" and spoils no other."""
    started = time.monotonic()
    answers, errors = gather(probes(settings), deadline_seconds=_DEADLINE_SECONDS)
    seconds = round(time.monotonic() - started, 3)
    return {"tier": settings.tier, **answers, "errors": errors, "seconds": seconds}


def probes(settings: Settings) -> dict[str, Probe]:
    """Return the probes of every host and those this host was given."""
    chosen: dict[str, Probe] = {
        "units": lambda: host_probes.units(settings.units),
        "failed_units": host_probes.failed_units,
        "versions": host_probes.versions,
        "disks": host_probes.disks,
    }
    special: dict[str, tuple[str, Probe]] = {
        "keeper": ("keeper", lease_probe.keeper),
        "metadata_archive": ("vacuum", runs.probe),
        "nfs_client": ("share", lambda: host_probes.share(settings)),
        "postgres": ("postgres", lambda: postgres_probe.probe(lease_probe.LEASE)),
        "rabbitmq": ("rabbitmq", lambda: rabbitmq_probe.probe(settings)),
    }
    return chosen | dict(special[name] for name in settings.probes)


def gather(probes: Mapping[str, Probe], *, deadline_seconds: float) -> tuple[dict[str, Any], dict[str, str]]:
    """Run `probes` in threads; return the answers and the errors by name when all are done or the deadline is over."""
    answers: dict[str, Any] = {}
    errors = dict.fromkeys(probes, f"no answer within {deadline_seconds:g} s")

    def answer(name: str, probe: Probe) -> None:
        try:
            answers[name] = probe()
        except (ProbeError, OSError, ValueError, LookupError) as error:
            errors[name] = str(error) or type(error).__name__

    threads = [Thread(target=answer, args=item, daemon=True) for item in probes.items()]
    end = time.monotonic() + deadline_seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0, end - time.monotonic()))
    # A copy: a probe that answers after the deadline must not change what is being printed.
    done = dict(answers)
    return done, {name: error for name, error in errors.items() if name not in done}
