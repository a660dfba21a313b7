"""Runs the gate over a tree and prints its report."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from ops_agent.dags.gate import airflow_home, confine, policy, rules, tree, workers
from ops_agent.dags.gate.findings import Finding
from ops_agent.dags.gate.importer import import_file
from ops_agent.dags.gate.report import Report
from ops_agent.host import python

if TYPE_CHECKING:
    import argparse

DONE, FAILED, USAGE, REFUSED = 0, 1, 2, 4
# Beyond any tree the limits of single files allow in practice.
_RUN_SECONDS = 900


def run(arguments: argparse.Namespace) -> int:
    """Judge the tree: 0 nothing refuses it, 4 something does, 2 the tree or the policy cannot be read."""
    if not arguments.tree.is_dir():
        sys.stderr.write(f"ops-agent: {arguments.tree} is no directory of DAG files\n")
        return USAGE
    python.require("airflow")
    if not _has_airflow():
        sys.stderr.write(f"ops-agent: {sys.executable} has no Airflow, in which the files would have to be imported\n")
        return FAILED
    if arguments.confined:
        return _confined(arguments)
    root = arguments.tree.resolve()
    try:
        chosen = _policy(arguments, root)
    except (policy.PolicyError, ValueError) as error:
        sys.stderr.write(f"ops-agent: {error}\n")
        return USAGE
    with tempfile.TemporaryDirectory(prefix="gate-") as home:
        airflow_home.prepare(Path(home), arguments.config, chosen.default_queue)
        limits = workers.Limits(arguments.seconds, arguments.memory_mib, arguments.jobs)
        report = judge(root, chosen, limits)
    sys.stdout.write(_printed(report, arguments.format))
    sys.stdout.flush()
    return REFUSED if report.errors else DONE


def judge(root: Path, chosen: policy.Policy, limits: workers.Limits) -> Report:
    """Import every DAG file of the tree and apply the rules."""
    started = time.monotonic()
    files, unlistable = tree.dag_files(root)
    broken = sorted({*tree.check(root), *unlistable})
    airflow_home.warm(files)
    # Shared modules are compiled once, and the tree stays as it is.
    sys.pycache_prefix = os.environ["AIRFLOW_HOME"] + "/pycache"
    imports = sorted(workers.run(files, root, limits, import_file), key=lambda done: done.file)
    findings, waived = rules.judge(imports, chosen)
    if not any(done.dags for done in imports) and not findings and not unlistable:
        broken.append(Finding(".", 1, "no-dags", f"no DAG in {len(files) or 'any'} of its files"))
    return Report(
        airflow=version("apache-airflow-core"),
        python=platform.python_version(),
        seconds=time.monotonic() - started,
        files=[str(path.relative_to(root)) for path in files],
        dags=[dag for done in imports for dag in done.dags],
        findings=[*broken, *findings],
        waived=waived,
    )


def _policy(arguments: argparse.Namespace, root: Path) -> policy.Policy:
    if arguments.policy and not arguments.policy.is_file():
        raise policy.PolicyError(f"{arguments.policy}: no such file")
    chosen = policy.load(arguments.policy or root / policy.FILE)
    known = json.loads(arguments.options)
    # What the fleet has counts, not what a file says it has.
    pools, queues = policy.pools(known.get("pools")), frozenset(known.get("queues") or ())
    chosen = replace(chosen, pools=pools or chosen.pools, queues=queues or chosen.queues)
    return replace(chosen, default_queue=known.get("default_queue") or chosen.default_queue)


def _has_airflow() -> bool:
    try:
        return bool(version("apache-airflow-core"))
    except PackageNotFoundError:
        return False


def _confined(arguments: argparse.Namespace) -> int:
    root = arguments.tree.resolve()
    with tempfile.TemporaryDirectory(prefix="gate-config-", dir="/run") as directory:
        safe = Path(directory, "airflow.cfg")
        if arguments.config.is_file():
            safe.write_text(airflow_home.harmless(arguments.config.read_text(encoding="utf-8")), encoding="utf-8")
            safe.chmod(0o644)
        safe.parent.chmod(0o755)
        words = [sys.executable, sys.argv[0], "validate", str(root), "--config", str(safe)]
        words += ["--policy", str(arguments.policy.resolve())] if arguments.policy else []
        for name in ("format", "options", "jobs", "seconds", "memory_mib"):
            words += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
        command = confine.command(words, directory=root, seconds=_RUN_SECONDS)
        return subprocess.run(command, check=False).returncode


def _printed(report: Report, form: str) -> str:
    if form == "json":
        return json.dumps(report.as_json()) + "\n"
    return report.as_junit() if form == "junit" else report.as_table()
