"""A vacuum that kills its own process with SIGKILL at one of its steps; before and after each of `STEPS` is one."""

import functools
import os
import signal
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from ops_agent.archive import engine, settle
from ops_agent.archive.batches import Source
from ops_agent.archive.delete import Deleter
from ops_agent.archive.policy import Policy
from ops_agent.archive.store import Directory

STEPS = [
    (Directory, "publish"),
    (Directory, "remove"),
    (Directory, "read"),
    (Source, "slices"),
    (Deleter, "delete"),
    (Deleter, "_delete"),
    (Deleter, "flush"),
    (settle, "batch"),
]


def run(dsn: str, destination: Path, step: int) -> None:
    """Run in a child process, for nothing here is undone."""
    count = 0

    def passed() -> None:
        nonlocal count
        count += 1
        if count == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def watched(inner: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(inner)
        def outer(*args: Any, **kwargs: Any) -> Any:
            passed()
            result = inner(*args, **kwargs)
            passed()
            return result

        return outer

    for owner, name in STEPS:
        setattr(owner, name, watched(getattr(owner, name)))
    request = engine.Request(
        Policy(timedelta(days=90)), "a test", tables=("public.dag_run", "public.log"), gentle=False
    )
    engine.Vacuum(dsn, Directory(destination), request, lambda _: None).run()
