"""Killed with SIGKILL before any of its steps, a publisher or a copier leaves the old state or the new one, whole."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ops_agent.dags.store import Store
from ops_release.cache import Cache
from ops_release.manifest import differences
from tests.unit.ops_agent.dags.conftest import Publish, contents, signed, stream, write

STEPS = frozenset({"os.chmod", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.utime"})
FILES = {"a.py": "new", "b/c.py": "new"}


def die_before(step: int) -> None:
    """Have this process killed before its so-many-th change of the disk."""
    left = iter(range(step, -1, -1))

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (writes or event in STEPS) and next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def killed_at_each_step(action: Callable[[], object]) -> Iterator[int]:
    """Run `action` in processes that are killed one step later each time, until one lives to its end."""
    for step in range(500):
        child = os.fork()
        if child == 0:
            die_before(step)
            try:
                action()
            except BaseException:  # noqa: BLE001 - the child must not go on as a second pytest
                os._exit(3)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in {0, -signal.SIGKILL}
        if status == 0:
            assert step > 5
            return
        yield step
    pytest.fail("never came to an end")


def test_publisher_killed_at_any_step_leaves_whole_releases_and_the_next_one_works(
    store: Store, publish: Publish, tmp_path: Path, key: Path
) -> None:
    old = publish({"a.py": "old"})
    store.flip(old.id)
    tree = write(tmp_path / "new", FILES)

    def deploy() -> None:
        made = store.publish(stream(tree)).id
        store.sign(made, signed(store.text(made), key))
        store.flip(made)

    for step in killed_at_each_step(deploy):
        assert all("is not signed; look at it" in one.error for one in store.all() if one.error), step
        assert store.refusal(store.current() or "") == "", step
        for one in store.all():
            assert one.manifest is not None
            assert differences(store.path(one.id), one.manifest) == [], step
        current = store.current()
        assert current is not None
        assert contents(store.root / "current/dags") in ({"a.py": "old"}, FILES), step
        assert store.previous() is None or store.path(store.previous() or "").is_dir()
        deploy()
        assert contents(store.root / "current/dags") == FILES
        assert list(store.staging.iterdir()) == []
        store.flip(old.id)


def test_prune_killed_at_any_step_leaves_no_half_release(store: Store, publish: Publish) -> None:
    keep = publish({"a.py": "1"})
    store.flip(keep.id)

    def fill() -> None:
        publish({"x.py": "1", "y/z.py": "2"})
        publish({"x.py": "1", "y/z.py": "3"})

    fill()
    for step in killed_at_each_step(lambda: store.prune(1, {})):
        for one in store.all():
            assert one.manifest is not None, step
            assert differences(store.path(one.id), one.manifest) == [], step
        if step > 40:
            break
        fill()
    assert store.current() == keep.id


def test_copier_killed_at_any_step_leaves_no_half_copy(store: Store, publish: Publish, cache: Cache) -> None:
    made = publish(FILES)
    for step in killed_at_each_step(lambda: cache.copy(store.root, made.id)):
        assert not cache.has(made.id) or cache.verify(made.id) == [], step
        cache.copy(store.root, made.id)
        assert contents(cache.path(made.id) / "dags") == FILES
        assert [path.name for path in cache.root.iterdir() if path.name.startswith(".new")] == []
        cache.clean([], -1)
        assert not cache.has(made.id)
