"""Runs beside Airflow on a machine of the lab: what the bundle does with each state of the share. Prints a JSON object.

usage: bundle_cases.py EMPTY_DIRECTORY
"""

import io
import json
import logging
import os
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from airflow.sdk.exceptions import AirflowFailException, AirflowRescheduleException

from ops_agent.dags import stream as archive
from ops_agent.dags.store import Store
from ops_airflow.dags.bundle import ReleaseBundle
from ops_release import signature
from ops_release.cache import Cache

Case = Callable[["Place"], None]
CASES: list[Case] = []


class Place:
    """A share with two releases, the first one current, and an empty cache."""

    def __init__(self, root: Path) -> None:
        (root / "share").mkdir(parents=True)
        (root / "cache").mkdir()
        (root / "bin").mkdir()
        self.root, self.key, signers = root, root / "key", root / "signers"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)], check=True)
        signers.write_text(f"{signature.PRINCIPAL} {self.key.with_suffix('.pub').read_text()}")
        self.store, self.cache = Store(root / "share", root / "lock", signers), Cache(root / "cache", signers)
        self.old, self.new = self.publish("old"), self.publish("new")
        self.store.flip(self.old)

    def publish(self, text: str) -> str:
        (self.root / text).mkdir()
        (self.root / text / "größe 1.py").write_text(f"TEXT = {text!r}\n")
        stream = io.BytesIO()
        archive.pack(self.root / text, {"author": "t", "message": text}, stream)
        stream.seek(0)
        made = self.store.publish(stream).id
        command = ["ssh-keygen", "-q", "-Y", "sign", "-f", str(self.key), "-n", signature.NAMESPACE]
        signed = subprocess.run(command, input=self.store.text(made), capture_output=True, text=True, check=True)
        self.store.sign(made, signed.stdout)
        return made

    def bundle(self, version: str | None = None) -> Any:
        paths = {"share": str(self.store.root), "cache": str(self.cache.root), "signers": str(self.cache.signers)}
        return ReleaseBundle(name="fleet", refresh_interval=10, version=version, **paths)

    def started(self, version: str | None = None) -> Any:
        made = self.bundle(version)
        made.initialize()
        return made

    def lose_share(self) -> None:
        self.store.root.rename(self.root / "away")
        self.store.root.mkdir()

    def hang_share(self) -> None:
        for name in ("readlink", "stat"):
            (self.root / "bin" / name).write_text("#!/bin/sh\nexec sleep 300\n")
            (self.root / "bin" / name).chmod(0o755)
        os.environ["PATH"] = f"{self.root}/bin:/usr/bin:/bin"

    def serves(self, bundle: Any, release: str) -> None:
        assert bundle.get_current_version().version == release, (bundle.get_current_version(), release)
        text = (bundle.path / "größe 1.py").read_text()
        assert text == f"TEXT = {'old' if release == self.old else 'new'!r}\n"


def put_off(bundle: Any) -> Any:
    """Return what `initialize` raises where it has nothing to serve now."""
    return raised(bundle, AirflowRescheduleException)


def raised(bundle: Any, kind: type[Exception]) -> Any:
    try:
        bundle.initialize()
    except kind as error:
        return error
    raise AssertionError("it claims to serve what is not there")


def case(function: Case) -> Case:
    CASES.append(function)
    return function


@case
def unpinned_follows_current(place: Place) -> None:
    bundle = place.started()
    place.serves(bundle, place.old)
    place.store.flip(place.new)
    bundle.refresh()
    place.serves(bundle, place.new)
    assert bundle.problem == ""
    state = json.loads((place.cache.root / "serving.json").read_text())
    assert (state["release"], state["problem"]) == (place.new, "")


@case
def pinned_stays(place: Place) -> None:
    bundle = place.started(place.old)
    place.store.flip(place.new)
    place.serves(place.started(place.old), place.old)
    place.serves(bundle, place.old)


@case
def pinned_with_a_copy_never_asks_the_share(place: Place) -> None:
    place.cache.copy(place.store.root, place.new)
    place.hang_share()
    began = time.monotonic()
    place.serves(place.started(place.new), place.new)
    assert time.monotonic() - began < 2


@case
def pinned_without_a_copy_or_share_is_put_off(place: Place) -> None:
    place.lose_share()
    later = put_off(place.bundle(place.new))
    assert 0 < later.reschedule_date.timestamp() - time.time() <= 30


@case
def pinned_to_what_was_pruned_is_failed_and_says_what_to_do(place: Place) -> None:
    shutil.rmtree(place.store.path(place.new))
    failure = raised(place.bundle(place.new), AirflowFailException)
    assert "was pruned from the share" in str(failure), failure
    assert "Run with latest bundle version" in str(failure), failure


@case
def pinned_is_put_off_while_a_lost_share_may_come_back(place: Place) -> None:
    shutil.rmtree(place.store.path(place.new))
    shutil.rmtree(place.store.path(place.old))
    put_off(place.bundle(place.new))


@case
def unsigned_release_is_not_served(place: Place) -> None:
    bundle = place.started()
    (place.store.path(place.new) / signature.NAME).unlink()
    (place.store.root / "current").unlink()
    (place.store.root / "current").symlink_to(f"releases/{place.new}")
    bundle.refresh()
    place.serves(bundle, place.old)
    assert "is not signed" in bundle.problem, bundle.problem
    put_off(place.bundle(place.new))


@case
def empty_share_changes_nothing(place: Place) -> None:
    bundle = place.started()
    place.lose_share()
    bundle.refresh()
    place.serves(bundle, place.old)
    assert "no current release" in bundle.problem, bundle.problem


@case
def last_good_survives_a_restart_without_a_share(place: Place) -> None:
    place.started()
    place.store.flip(place.new)
    place.started()
    place.lose_share()
    place.serves(place.started(), place.new)


@case
def nothing_to_serve_is_an_error_and_no_empty_folder(place: Place) -> None:
    place.lose_share()
    bundle = place.bundle()
    put_off(bundle)
    assert not bundle.is_initialized
    assert not bundle.path.exists()
    assert bundle.get_current_version() is None


@case
def hanging_share_costs_seconds_and_changes_nothing(place: Place) -> None:
    bundle = place.started()
    place.hang_share()
    began = time.monotonic()
    bundle.refresh()
    assert time.monotonic() - began < 4
    place.serves(bundle, place.old)
    assert "no answer" in bundle.problem, bundle.problem


@case
def dangling_current_changes_nothing(place: Place) -> None:
    bundle = place.started()
    place.store.flip(place.new)
    shutil.rmtree(place.store.path(place.new))
    bundle.refresh()
    place.serves(bundle, place.old)
    assert place.new in bundle.problem, bundle.problem


@case
def damaged_release_is_not_served(place: Place) -> None:
    bundle = place.started()
    (place.store.path(place.new) / "dags/größe 1.py").write_text("TEXT = 'evil'\n")
    place.store.flip(place.new)
    bundle.refresh()
    place.serves(bundle, place.old)
    assert "not what was published" in bundle.problem, bundle.problem


@case
def share_that_comes_back_is_followed_again(place: Place) -> None:
    bundle = place.started()
    place.lose_share()
    bundle.refresh()
    shutil.rmtree(place.store.root)
    (place.root / "away").rename(place.store.root)
    place.store.flip(place.new)
    bundle.refresh()
    place.serves(bundle, place.new)
    assert bundle.problem == ""


@case
def without_a_share_the_others_release_is_served(place: Place) -> None:
    bundle = place.started()
    place.cache.copy(place.store.root, place.new)
    place.lose_share()
    bundle.refresh()
    bundle.served_elsewhere = place.new
    bundle.refresh()
    place.serves(bundle, place.new)
    assert bundle.problem != ""


@case
def copy_in_use_outlives_the_cleaner(place: Place) -> None:
    bundle = place.started(place.old)
    assert place.cache.clean([], -1) == []
    place.serves(bundle, place.old)
    del bundle
    assert place.cache.clean([], -1) == [place.old]


def main(directory: Path) -> None:
    logging.disable()
    path, found = os.environ["PATH"], {}
    for number, one in enumerate(CASES):
        try:
            one(Place(directory / str(number)))
            found[one.__name__] = ""
        except Exception:  # noqa: BLE001 - reported by name
            found[one.__name__] = traceback.format_exc()
        os.environ["PATH"] = path
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
