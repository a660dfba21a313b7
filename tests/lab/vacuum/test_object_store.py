"""Archives in an object store: moto's server, which speaks S3 over HTTP."""

import json
import logging
import secrets
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem

from ops_agent import main
from ops_agent.metadata import runs, session
from ops_agent.metadata.put_back.restore import Restorer, Source
from ops_agent.metadata.shelf import manifest, prune, verify
from ops_agent.metadata.shelf.store import ObjectStore, open_store
from ops_agent.metadata.take import engine
from ops_agent.metadata.take.plan import Request
from ops_agent.metadata.take.policy import Policy
from tests.bench.vacuum import generator
from tests.lab.vacuum.cluster import Cluster, archived, orphans, rows, together


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """A bucket of the test's own, reached as on a database host: by the environment that the role writes."""
    words = {
        "ACCESS_KEY_ID": "key",
        "SECRET_ACCESS_KEY": "secret",
        "ENDPOINT_URL": server,
        "DEFAULT_REGION": "us-east-1",
    }
    for name, value in words.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    name = f"archive-{secrets.token_hex(4)}"
    store = open_store(f"s3://{name}/production")
    assert isinstance(store, ObjectStore)
    store.filesystem.mkdir(name)
    return store


def move(cluster: Cluster, database: str, store: ObjectStore) -> None:
    request = Request(Policy(timedelta(days=90)), "a test", gentle=False)
    engine.Vacuum(cluster.dsn(database), store, request, lambda _: None).run()


def restore(cluster: Cluster, database: str, store: ObjectStore) -> None:
    sources = [Source.read(archive) for archive in manifest.archives(store)]
    with session.connect(cluster.dsn(database), "a test") as connection:
        restorer = Restorer(connection, sources, lambda _: None)
        for source in sources:
            restorer.archive(source)


def test_rows_go_to_the_bucket_and_come_back_equal(
    cluster: Cluster, database: str, admin: psycopg.Connection[object], bucket: ObjectStore
) -> None:
    generator.fill(admin, 2000)
    before = rows(admin)
    move(cluster, database, bucket)
    assert together(rows(admin), archived(bucket, admin)) == before
    (archive,) = manifest.archives(bucket)
    assert verify.verify(archive).problems == []
    restore(cluster, database, bucket)
    assert rows(admin) == before
    assert orphans(admin) == []
    prune.remove(archive)
    assert manifest.archives(bucket) == []


def test_bucket_that_is_away_is_one_line_and_a_failure_that_is_remembered(
    cluster: Cluster,
    database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("ops_agent.host.user.become", lambda _name: None)
    # It keeps what it was told of an endpoint by an earlier test.
    S3FileSystem.clear_instance_cache()
    (tmp_path / "policy.yml").write_text("retention: 90d\n")
    away = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    # Nothing listens on port 9.
    away |= {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}
    for name in away:
        monkeypatch.setenv(name, "")
    raw = {
        "destination": "s3://away/production",
        "dsn": cluster.dsn(database),
        "user": "root",
        "policy_file": str(tmp_path / "policy.yml"),
        "state_directory": str(tmp_path),
        "environment": away,
    }
    (tmp_path / "archive.json").write_text(json.dumps(raw))
    assert main.run(["vacuum", "--archive-settings", str(tmp_path / "archive.json")]) == 1
    told = capsys.readouterr().err
    assert told.startswith("ops-agent: s3://away/production: ")
    assert told.count("\n") == 1
    remembered = runs.read(tmp_path)
    assert remembered
    S3FileSystem.clear_instance_cache()
    assert (remembered.failures, f"ops-agent: {remembered.last.error}\n") == (1, told)


def test_bucket_that_cannot_be_written_costs_no_row(
    cluster: Cluster,
    database: str,
    admin: psycopg.Connection[object],
    bucket: ObjectStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The service fails in the middle of the third upload of data; the next vacuum goes on."""
    generator.fill(admin, 2000)
    before = rows(admin)
    publish, uploads = ObjectStore.publish, iter(range(100))

    def fail(store: ObjectStore, staged: object, path: str) -> None:
        if next(uploads) == 2:
            raise OSError("503 Slow Down")
        publish(store, staged, path)  # type: ignore[arg-type]

    monkeypatch.setattr(ObjectStore, "publish", fail)
    with pytest.raises(OSError, match="503"):
        move(cluster, database, bucket)
    monkeypatch.setattr(ObjectStore, "publish", publish)
    move(cluster, database, bucket)
    assert together(rows(admin), archived(bucket, admin)) == before
    assert all(archive.manifest().state != manifest.RUNNING for archive in manifest.archives(bucket))
