"""Airflow's dag-processor, made to know that a bundle's directory changes with its version.

Written for Airflow 3.3. Stock, a result is stored under the version the bundle has when the result arrives, and files
queued before a switch keep their old directory: DAGs of one release are then recorded as another's, and a run that
begins meanwhile would mix the two. Here a file is parsed where its bundle is when its parsing starts, and a result of
any other release is thrown away and the file parsed again.

Stock also retires a DAG as soon as its file is gone, and the scheduler leaves the runs of a retired DAG where they
are. Here such a DAG gets no new scheduled runs, and is retired when its last run is over.

Two that store the same new DAG at once end one of them, stock: the database refuses the second. Here it parses again.

After a switch, DAGs that are the same in both releases are taken over by one statement, and the files of the others
come first; the dag-processors of several hosts share them. Stock runs its whole loop, a dozen queries, for each piece
that a parsing process writes, and may sleep up to a second on one that has written all and not quite ended.
"""

from __future__ import annotations

import os
import random
import socket
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg2
from airflow.dag_processing.manager import DagFileProcessorManager
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError, PendingRollbackError, SQLAlchemyError

from ops_airflow.dags.bundle import ReleaseBundle
from ops_release import ReleaseError, takeover
from ops_release.manifest import ID

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# A process that has closed its pipes ends within this, and nothing tells when.
_END_SECONDS = 0.01


class DagProcessor(DagFileProcessorManager):  # type: ignore[misc]
    """Parses releases."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._parsed_in: dict[Any, Any] = {}
        self._present: dict[str, set[Any]] = {}
        self._urgent: dict[str, dict[Any, frozenset[str]]] = {}

    def _start_new_processes(self) -> None:
        if len(self._processors) < self._parallelism:
            for bundle in self._dag_bundles:
                self._leave_to_others(bundle)
        super()._start_new_processes()

    def _leave_to_others(self, bundle: Any) -> None:
        """Take those files from the head of the queue whose DAGs another dag-processor has stored by now."""
        if not (waiting := self._urgent.get(bundle.name)):
            return
        # A database that does not answer leaves them all to this one.
        with suppress(SQLAlchemyError, psycopg2.Error), _cursor() as cursor:
            served = takeover.served(cursor, str(_version(bundle)), bundle.name)
            for file in [file for file, dags in waiting.items() if dags and dags <= served]:
                del waiting[file]
                self._file_queue.pop(file, None)

    def _service_processor_sockets(self, timeout: float | None = 1.0) -> None:
        """Read what parsing processes write until one of them has ended, or the time is over."""
        end = time.monotonic() + (timeout or 0.0)
        left = timeout or 0.0
        while True:
            ending = any(not process._open_sockets for process in self._processors.values())  # noqa: SLF001
            super()._service_processor_sockets(timeout=min(left, _END_SECONDS) if ending else left)
            left = max(0.0, end - time.monotonic())
            if not left or not self._processors or any(process.is_ready for process in self._processors.values()):
                return

    def _create_process(self, dag_file: Any) -> Any:
        # Callbacks name the version they are for, and their directory is that version's already.
        bundle = self._bundle(dag_file.bundle_name)
        if dag_file.bundle_version is None and bundle is not None:
            dag_file = replace(dag_file, bundle_path=bundle.path)
        self._parsed_in[dag_file] = dag_file.bundle_path
        return super()._create_process(dag_file)

    def handle_parsing_result(self, file: Any, proc: Any) -> None:
        """Store what was parsed, unless its bundle has gone over to another release since."""
        parsed_in = self._parsed_in.pop(file, None)
        bundle = self._bundle(file.bundle_name)
        # Airflow stores it under the version it noted last: not the bundle's, if the database refused that note.
        recorded_as = self._bundle_versions.get(file.bundle_name)
        if (
            file.bundle_version is None
            and bundle is not None
            and (parsed_in, recorded_as) != (bundle.path, _version(bundle))
        ):
            self.log.info("Parsing %s again: it was read from %s, not %s", file.rel_path, parsed_in, bundle.path)
            first = file in self._urgent.get(file.bundle_name, {})
            self._add_files_to_queue([replace(file, bundle_path=bundle.path)], mode="frontprio" if first else "back")
            return
        try:
            super().handle_parsing_result(file, proc)
        except (IntegrityError, PendingRollbackError) as error:
            # Stock ends here, and the restart parses every file.
            self.log.warning("Parsing %s again: another stored its DAG first (%s)", file.rel_path, type(error).__name__)
            self._add_files_to_queue([file], mode="front")
            return
        urgent = self._urgent.get(file.bundle_name, {})
        if proc.had_callbacks and file in urgent:
            # It ran a callback of the DAG, and parsed nothing for the database.
            self._add_files_to_queue([file], mode="frontprio")
        else:
            urgent.pop(file, None)

    def _refresh_dag_bundles(self, known_files: dict[str, set[Any]]) -> None:
        self._present = known_files
        for bundle in self._dag_bundles:
            if isinstance(bundle, ReleaseBundle) and (bundle.problem or not bundle.is_initialized):
                # Otherwise the two dag-processors would store two releases in turn.
                bundle.served_elsewhere = self._stored_version(bundle.name)
        # What Airflow has noted down: without that, no result is stored as the new release's.
        before = dict(self._bundle_versions)
        super()._refresh_dag_bundles(known_files)
        for bundle in self._dag_bundles:
            now = self._bundle_versions.get(bundle.name)
            if isinstance(bundle, ReleaseBundle) and now and now != before.get(bundle.name):
                self._go_over(bundle, before.get(bundle.name), known_files[bundle.name])

    def _stored_version(self, bundle_name: str) -> str | None:
        state = self.get_bundle_state(bundle_name)
        return state.version if state and state.version and ID.fullmatch(state.version) else None

    def deactivate_deleted_dags(self, bundle_name: str, present: set[Any]) -> None:
        """Retire the DAGs whose files are gone, but for those with unfinished runs."""
        super().deactivate_deleted_dags(bundle_name, present)
        self._let_runs_finish(bundle_name)

    def deactivate_stale_dags(self, last_parsed: dict[Any, Any]) -> None:
        """Retire the DAGs that are gone from their files, and those kept until now whose last run is over."""
        super().deactivate_stale_dags(last_parsed=last_parsed)
        for bundle_name, present in self._present.items():
            self.deactivate_deleted_dags(bundle_name, present)

    def _let_runs_finish(self, bundle_name: str) -> None:
        """Bring back retired DAGs that have unfinished runs of a release, without any new scheduled run to come."""
        from airflow.models import DagModel, DagRun  # noqa: PLC0415
        from airflow.utils.session import create_session  # noqa: PLC0415

        unfinished = select(DagRun.dag_id).where(
            DagRun.state.in_(("queued", "running")), DagRun.bundle_version.is_not(None)
        )
        kept = (
            update(DagModel)
            .where(DagModel.bundle_name == bundle_name, DagModel.is_stale, DagModel.dag_id.in_(unfinished))
            .values(is_stale=False, next_dagrun=None, next_dagrun_create_after=None)
            .execution_options(synchronize_session=False)
        )
        with create_session() as session:
            count = session.execute(kept).rowcount
        if count:
            self.log.info("%d DAGs are gone from %s, and stay until their runs are over", count, bundle_name)

    def _go_over(self, bundle: ReleaseBundle, before: str | None, files: Iterable[Any]) -> None:
        """Take over the DAGs that did not change, and parse the others without waiting for their turn."""
        now = str(_version(bundle))
        try:
            with _cursor() as cursor:
                # One that cannot follow `current` leaves the DAGs where those that can have brought them.
                adopted = 0 if bundle.problem else takeover.adopt(cursor, bundle.cache, now, bundle.name)
                served = takeover.served(cursor, now, bundle.name)
            old = bundle.cache.load(before) if before and bundle.cache.has(before) else None
            new = bundle.cache.load(now)
            urgent, parse_all = takeover.urgent(old, new, served), new.validation is None
        except (SQLAlchemyError, psycopg2.Error, ReleaseError, OSError):
            # Parsing everything is slow, and right.
            self.log.exception("DAGs that did not change could not be taken over to %s", now)
            adopted, urgent, parse_all = 0, {}, True
        first = {file: urgent[str(file.rel_path)] for file in files if str(file.rel_path) in urgent}
        self._urgent[bundle.name] = first
        self.log.info("Release %s: %d DAGs taken over, %d files to parse first", now, adopted, len(first))
        # In another order on each host, so that two of them seldom parse the same file.
        order = sorted(first, key=lambda file: str(file.rel_path))
        random.Random(socket.gethostname()).shuffle(order)  # noqa: S311
        self._add_files_to_queue(order, mode="frontprio")
        if parse_all:
            self._add_files_to_queue([file for file in files if file not in first], mode="back")

    def _bundle(self, name: str) -> Any:
        return next((bundle for bundle in self._dag_bundles if bundle.name == name), None)


def _version(bundle: Any) -> str | None:
    version = bundle.get_current_version()
    return getattr(version, "version", None)


@contextmanager
def _cursor() -> Iterator[Any]:
    """Yield psycopg2's own cursor in a transaction of Airflow's session."""
    from airflow.utils.session import create_session  # noqa: PLC0415

    with create_session() as session:
        yield session.connection().connection.cursor()


def main() -> None:
    """Be `airflow dag-processor` with this manager."""
    from airflow.__main__ import main as airflow  # noqa: PLC0415
    from airflow.cli.commands import dag_processor_command  # noqa: PLC0415

    dag_processor_command.DagFileProcessorManager = DagProcessor
    sys.argv = [os.fspath(sys.argv[0]), "dag-processor", *sys.argv[1:]]
    airflow()


if __name__ == "__main__":
    main()
