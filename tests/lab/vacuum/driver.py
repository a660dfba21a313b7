"""A vacuum that kills its own process with SIGKILL at one of its steps; before and after each of `STEPS` is one."""

import functools
import itertools
import os
import signal
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from ops_agent.metadata.session import Rows
from ops_agent.metadata.shelf.manifest import Archive
from ops_agent.metadata.shelf.store import Directory
from ops_agent.metadata.take import engine, move
from ops_agent.metadata.take.move import Mover
from ops_agent.metadata.take.plan import Request
from ops_agent.metadata.take.policy import Policy

STEPS = [
    (Directory, "publish"),
    (Directory, "read"),
    (Archive, "write"),
    (Mover, "_keep_roots"),
    (Mover, "_take"),
    (Mover, "_refuse_changes"),
    (Rows, "commit"),
    (move._Files, "finish"),
]


def run(dsn: str, destination: Path, step: int) -> None:
    """Run in a child process, for nothing here is undone."""
    count = itertools.count(1)

    def passed() -> None:
        if next(count) == step:
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
    request = Request(Policy(timedelta(days=90)), "a test", tables=("public.dag_run", "public.log"), gentle=False)
    engine.Vacuum(dsn, Directory(destination), request, lambda _: None).run()
