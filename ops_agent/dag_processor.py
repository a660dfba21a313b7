"""Airflow's dag-processor, made to know that a bundle's directory changes with its version.

Written for Airflow 3.3. Stock, a result is stored under the version the bundle has when the result arrives, and files
queued before a switch keep their old directory: DAGs of one release are then recorded as another's, and a run that
begins meanwhile would mix the two. Here a file is parsed where its bundle is when its parsing starts, and a result of
any other release is thrown away and the file parsed again.

Stock also retires a DAG as soon as its file is gone, and the scheduler leaves the runs of a retired DAG where they
are. Here such a DAG gets no new scheduled runs, and is retired when its last run is over.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow.dag_processing.manager import DagFileProcessorManager
from sqlalchemy import select, update

from ops_agent.dag_bundle import ReleaseBundle
from ops_agent.release import ReleaseError
from ops_agent.release.diff import changes
from ops_agent.release.manifest import ID

if TYPE_CHECKING:
    from collections.abc import Iterable


class DagProcessor(DagFileProcessorManager):  # type: ignore[misc]
    """Parses releases."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._parsed_in: dict[Any, Any] = {}
        self._present: dict[str, set[Any]] = {}

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
            self._add_files_to_queue([replace(file, bundle_path=bundle.path)], mode="front")
            return
        super().handle_parsing_result(file, proc)

    def _refresh_dag_bundles(self, known_files: dict[str, set[Any]]) -> None:
        self._present = known_files
        for bundle in self._dag_bundles:
            if isinstance(bundle, ReleaseBundle) and bundle.problem:
                # Otherwise the two dag-processors would store two releases in turn.
                bundle.served_elsewhere = self._stored_version(bundle.name)
        before = {bundle.name: _version(bundle) for bundle in self._dag_bundles}
        super()._refresh_dag_bundles(known_files)
        for bundle in self._dag_bundles:
            if _version(bundle) != before[bundle.name] and bundle.name in known_files:
                self._queue_all(bundle, before[bundle.name], known_files[bundle.name])

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

    def _queue_all(self, bundle: Any, before: str | None, files: Iterable[Any]) -> None:
        """Parse every file of a new release without waiting for its turn, first those that changed."""
        changed = _changed(bundle, before)
        first = sorted(files, key=lambda file: (str(file.rel_path) not in changed, str(file.rel_path)))
        # The last one moved to the front is the first to be parsed.
        self._add_files_to_queue(first[::-1], mode="frontprio")

    def _bundle(self, name: str) -> Any:
        return next((bundle for bundle in self._dag_bundles if bundle.name == name), None)


def _version(bundle: Any) -> str | None:
    version = bundle.get_current_version()
    return getattr(version, "version", None)


def _changed(bundle: Any, before: str | None) -> set[str]:
    now = _version(bundle)
    if not isinstance(bundle, ReleaseBundle) or before is None or now is None:
        return set()
    try:
        difference = changes(bundle.cache.load(before), bundle.cache.load(now))
    except ReleaseError:
        return set()
    return {*difference["added"], *difference["changed"]}


def main() -> None:
    """Be `airflow dag-processor` with this manager."""
    from airflow.__main__ import main as airflow  # noqa: PLC0415
    from airflow.cli.commands import dag_processor_command  # noqa: PLC0415

    dag_processor_command.DagFileProcessorManager = DagProcessor
    sys.argv = [os.fspath(sys.argv[0]), "dag-processor", *sys.argv[1:]]
    airflow()


if __name__ == "__main__":
    main()
