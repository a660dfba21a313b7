"""DAG releases: immutable directories on the share, and each host's verified copies of them.

On the share, written by `dagpublisher` on the publisher host alone (`store`):

    releases/<YYYYmmddTHHMMSSZ>-<sha>/manifest.json   who made it of which commit, and every file's digest
    releases/<id>/manifest.json.sig                   the control node's signature of it (`signature`)
    releases/<id>/dags/...                            what Airflow reads
    staging/                                          what is being written, or was when a publisher died
    current, previous                                 links to releases/<id>, flipped by rename

On every Airflow host (`cache`), the same `<id>/` directories, copied and verified once, and `last-good`. Nothing here
imports Airflow: the host's own Python runs it too.
"""

from pathlib import Path

SHARE = Path("/srv/airflow/dags")
CACHE = Path("/var/cache/airflow/releases")
BUNDLE = "fleet"
# What a dag-processor says of itself, beside the copies.
SERVING = "serving.json"
PUBLISHER = "dagpublisher"
SERVICE_USER = "airflow"


class ReleaseError(Exception):
    """Something about a release that its text says in one line; nothing was changed unless it says so."""


class GoneError(ReleaseError):
    """A release that the share had and has no more: waiting for it is in vain."""


GONE = 4
"""Exit code of `ops-agent release warm` for such a one."""
