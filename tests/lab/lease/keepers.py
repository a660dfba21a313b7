"""Keepers as processes of their own, each with a scheduler that only writes."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.lab.lease.cluster import Cluster

ROOT = Path(__file__).parents[3]


class Running:
    def __init__(self, host: str, port: int, log: Path) -> None:
        self.host, self.port, self.log = host, port, log
        self.start()

    def start(self) -> None:
        words = [sys.executable, "-m", "tests.lab.lease.writer", self.host, str(self.port)]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(words, cwd=ROOT, stderr=log, env=os.environ | {"PYTHONPATH": str(ROOT)})

    def get(self, path: str = "/health") -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=2) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            return error.read().decode()

    def health(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self.get()))
        except OSError:
            return {"state": "down", "ready": False}

    def is_(self, state: str) -> bool:
        return self.health()["state"] == state


def until(what: Callable[[], Any], deadline: float = 30.0) -> Any:
    end = time.monotonic() + deadline
    while not (found := what()):
        assert time.monotonic() < end, f"not within {deadline:g} s"
        time.sleep(0.01)
    return found


def written(cluster: Cluster, host: str) -> int:
    return int(cluster.ask("postgres", "SELECT count(*) FROM task_instance WHERE note = %s", host))
