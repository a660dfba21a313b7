"""What the verbs of `ops-agent release` do; `verbs.release` says what they print."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import asdict
from typing import IO, TYPE_CHECKING, Any

from ops_agent.dags import judged
from ops_agent.dags import stream as archive
from ops_agent.dags.store import Store
from ops_agent.host import python, user
from ops_release import GONE, SERVING, GoneError, ReleaseError, database, signature, takeover
from ops_release.cache import Cache
from ops_release.manifest import DAGS, NAME
from ops_release.share import refuse_silence
from ops_release.warm import warm

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable

    from ops_release.manifest import Manifest

_LOOK_SECONDS = 0.1


def run(arguments: Namespace) -> int:
    """Run one verb; return the exit code."""
    os.umask(0o022)
    started = time.monotonic()
    try:
        answer = _VERBS[arguments.release_verb](arguments)
    except (ReleaseError, OSError) as error:
        sys.stderr.write(f"ops-agent release {arguments.release_verb}: {error}\n")
        return GONE if arguments.release_verb == "warm" and isinstance(error, GoneError) else 1
    if arguments.release_verb in {"publish", "flip", "warm"}:
        answer["seconds"] = round(time.monotonic() - started, 3)
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    return 0


def _publish(arguments: Namespace) -> dict[str, Any]:
    refuse_silence(arguments.share)
    with tempfile.TemporaryFile() as stream:
        # Packed before root is given up: the directory need not be the publisher's to read.
        _pack(arguments, stream)
        stream.seek(0)
        user.become(arguments.publisher)
        return _published(_store(arguments).publish(stream))


def _manifest(arguments: Namespace) -> dict[str, Any]:
    refuse_silence(arguments.share)
    return {"text": _store(arguments).text(arguments.id)}


def _sign(arguments: Namespace) -> dict[str, Any]:
    refuse_silence(arguments.share)
    user.become(arguments.publisher)
    _store(arguments).sign(arguments.id, signature.armored(arguments.signature))
    return {"release": arguments.id}


def _store(arguments: Namespace) -> Store:
    return Store(arguments.share, signers=arguments.signers)


def _cache(arguments: Namespace) -> Cache:
    return Cache(arguments.cache, arguments.signers)


def _pack(arguments: Namespace, stream: IO[bytes]) -> None:
    if arguments.judged:
        header = _header(sys.stdin.read())
        with judged.taken(arguments.judged) as (tree, report):
            archive.pack(tree, header | {"digest": arguments.judged, "validation": report}, stream)
        return
    if arguments.tree is None:
        raise ReleaseError("name --judged or --tree; an `ops` that sends the tree itself is older than this: update it")
    header = {name: getattr(arguments, name) for name in ("author", "message", "commit", "dirty", "source")}
    if arguments.validation:
        header["validation"] = json.loads(arguments.validation.read_text(encoding="utf-8"))
    archive.pack(arguments.tree, header, stream)


def _header(text: str) -> dict[str, Any]:
    try:
        header = dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise ReleaseError(f"standard input is not what is to be said of the release: {error}") from error
    if own := sorted(header.keys() & {"digest", "validation"}):
        raise ReleaseError(f"{' and '.join(own)} are this host's to say, not the caller's")
    return header


def _published(manifest: Manifest) -> dict[str, Any]:
    summary = manifest.summary()
    return {"release": summary.pop("id"), **summary}


def _flip(arguments: Namespace) -> dict[str, Any]:
    python.require("psycopg2")
    refuse_silence(arguments.share)
    # Logged in to the database as root, who may read the password.
    with database.refreshing(arguments.configuration) as refresh:
        user.become(arguments.publisher)
        flipped = _store(arguments).flip(arguments.id)
        return flipped | {"refreshed": refresh()}


def _list(arguments: Namespace) -> dict[str, Any]:
    python.require("psycopg2")
    refuse_silence(arguments.share)
    runs: dict[str, int] | None = None
    with suppress(ReleaseError, ImportError), database.connected(arguments.configuration) as cursor:
        runs = database.unfinished(cursor)
    store = _store(arguments)
    current, previous = store.current(), store.previous()
    releases = []
    for one in store.all():
        summary = one.manifest.summary() if one.manifest else {"id": one.id}
        marks = {"current": one.id == current, "previous": one.id == previous, "error": one.error}
        releases.append({**summary, **marks, "unfinished_runs": None if runs is None else runs.get(one.id, 0)})
    return {"current": current, "previous": previous, "releases": releases}


def _links(arguments: Namespace) -> dict[str, Any]:
    refuse_silence(arguments.share)
    store = _store(arguments)
    releases = [{"id": release_id} for release_id in store.ids()]
    return {"current": store.current(), "previous": store.previous(), "releases": releases}


def _show(arguments: Namespace) -> dict[str, Any]:
    # A release never changes: this host's copy, which was verified, says the same as the share, and sooner.
    with suppress(ReleaseError):
        return asdict(_cache(arguments).load(arguments.id)) | {"refusal": ""}
    refuse_silence(arguments.share)
    store = _store(arguments)
    return asdict(store.load(arguments.id)) | {"refusal": store.refusal(arguments.id)}


def _restore(arguments: Namespace) -> dict[str, Any]:
    refuse_silence(arguments.share)
    cache, store = _cache(arguments), _store(arguments)
    present = {one.id for one in store.all() if one.manifest}
    current = store.current() or cache.last_good()
    with ExitStack() as stack:
        lost = []
        for manifest in map(cache.load, sorted({*cache.ids()} - present)):
            header = {"author": manifest.author, "message": manifest.message}
            stream = stack.enter_context(tempfile.TemporaryFile())
            # Packed before root is given up: the copies are the service's.
            archive.pack(cache.path(manifest.id) / DAGS, header, stream)
            stream.seek(0)
            text = (cache.path(manifest.id) / NAME).read_text(encoding="utf-8")
            lost.append((manifest.id, text, signature.read(cache.path(manifest.id)), stream))
        user.become(arguments.publisher)
        for _, text, signed, stream in lost:
            store.restore(text, signed, stream)
    if current and store.current() is None:
        store.flip(current)
    return {"restored": [release_id for release_id, *_ in lost], "current": store.current()}


def _prune(arguments: Namespace) -> dict[str, Any]:
    if arguments.keep < 1:
        raise ReleaseError("--keep must be 1 or more")
    python.require("psycopg2")
    with database.connected(arguments.configuration) as cursor:
        needed = database.needed(cursor, arguments.clearable_days)
    refuse_silence(arguments.share)
    user.become(arguments.publisher)
    return _store(arguments).prune(arguments.keep, needed, dry_run=arguments.dry_run)


def _warm(arguments: Namespace) -> dict[str, Any]:
    user.become(arguments.service_user)
    return warm(arguments.share, _cache(arguments), arguments.id, arguments.unused_days)


def _status(arguments: Namespace) -> dict[str, Any]:
    share, current, source, previous, refusal = "", None, None, None, ""
    try:
        refuse_silence(arguments.share)
        store = _store(arguments)
        current, previous = store.current(), store.previous()
        if current:
            source, refusal = store.load(current).source, store.refusal(current)
    except ReleaseError as error:
        share = str(error)
    serving = None
    with suppress(OSError, ValueError):
        serving = json.loads((arguments.cache / SERVING).read_text(encoding="utf-8"))
    return {
        "share": share,
        "current": current,
        "current_source": source,
        "current_refusal": refusal,
        "previous": previous,
        "cache": _cache(arguments).report(),
        "dag_processor": serving,
    }


def _served(arguments: Namespace) -> dict[str, Any]:
    python.require("psycopg2")
    with database.connected(arguments.configuration) as cursor:
        if arguments.release:
            _wait(cursor, arguments.release, _cache(arguments), arguments.seconds)
        return database.served(cursor)


def _wait(cursor: Any, release_id: str, cache: Cache, seconds: float) -> None:
    """Return when every DAG of a release is served from it, or the time is over, or this host does not know them."""
    end = time.monotonic() + seconds
    with suppress(ReleaseError):
        expected = {dag["dag_id"] for dag in (cache.load(release_id).validation or {}).get("dags", ())}
        while time.monotonic() < end and not (
            database.followed(cursor) == release_id and expected <= takeover.served(cursor, release_id)
        ):
            time.sleep(_LOOK_SECONDS)


def _refresh(arguments: Namespace) -> dict[str, Any]:
    python.require("psycopg2")
    with database.connected(arguments.configuration) as cursor:
        return {"refreshed": database.refresh(cursor)}


_VERBS: dict[str, Callable[[Namespace], dict[str, Any]]] = {
    "publish": _publish,
    "manifest": _manifest,
    "sign": _sign,
    "flip": _flip,
    "list": _list,
    "links": _links,
    "restore": _restore,
    "show": _show,
    "prune": _prune,
    "warm": _warm,
    "status": _status,
    "served": _served,
    "refresh": _refresh,
}
