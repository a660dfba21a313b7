"""`ops-agent release ...`: one JSON object on standard output, or one line on standard error and exit code 1.

On the publisher host, as root:

    publish --judged DIGEST < JSON
                        makes a release of the tree that `validate --keep DIGEST -` has let through, with the
                        gate's report. JSON: {"author", "message", "commit", "dirty", "source"}. {"release", "parent",
                        "commit", "author", "message", "created", "dirty", "source", "digest", "validated", "files",
                        "bytes", "seconds"}; nothing serves it yet
    publish --tree DIR --author A --message M [--commit C] [--dirty] [--source JSON] [--validation FILE]
                        the same, of a directory on this host
    manifest ID         {"text"}: manifest.json as it stands, to be signed
    sign ID --signature BASE64
                        {"release"}: puts an SSH signature of that text beside it; refused unless a trusted key's
    flip ID             {"release", "previous", "changed", "refreshed": bool, "seconds"}: `current` is ID from here on;
                        unless "refreshed" is false, every dag-processor looks within a second or two
    list                {"current", "previous", "releases": [{all of publish's but seconds, with "id" for "release",
                        "current", "previous", "unfinished_runs": N, or null if the database is silent,
                        "error": "" or why the release is unusable: damaged, or not signed}]}, the newest first
    links               {"current", "previous", "releases": [{"id"}]}: the same without reading each
    show ID             {"refusal": as current_refusal of status} and the manifest: publish's keys with "id" for
                        "release", "validation": {...} or null, "files": {path: {"sha256", "size", "executable"}},
                        "links": {path: target}
    restore             {"restored": [ids], "current"}: puts back from this host's copies what the share has lost, and
                        makes the last good release current if none is
    prune --keep N [--clearable-days D] [--dry-run]
                        {"removed": [ids], "kept": [{"id", "reasons": [...]}]}; refused while the database is silent

On every Airflow host, as root or airflow:

    warm [ID]           {"release", "copied": bool, "cleaned": [ids], "seconds"}: the host's copy is there and verified,
                        one that was damaged made anew. Exit code 4: the release was removed from the share for good
    status              {"share": "" or what is wrong, "current", "current_source", "current_refusal": "" or why no
                        host would take it, "previous", "cache": {"path", "last_good", "releases": [ids]},
                        "dag_processor": null or {"release", "since", "checked", "problem"}}

On a scheduler host, as root:

    served [--release ID [--seconds S]]
                        {"bundle_release", "dags": [{"dag_id", "release", "file", "paused", "import_error": bool}],
                        "import_errors": [{"file", "error"}], "unfinished_runs": [{"dag_id", "release", "runs"}]};
                        of ID as soon as all its DAGs are served from it, or after S seconds
    refresh             {"refreshed": bool}: every dag-processor looks for the current release within a second or two

A release of null is a run or DAG from before releases. Paths are relative to the release's DAG folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ops_release import CACHE, PUBLISHER, SERVICE_USER, SHARE, signature
from ops_release.database import CONFIGURATION

if TYPE_CHECKING:
    from argparse import Namespace

# Whoever clears a task of a run that ended longer ago has to run it on the latest version.
CLEARABLE_DAYS = 30.0


def add(verbs: Any) -> None:
    """Add the verb and its own verbs."""
    parser = verbs.add_parser("release", help="publish, copy and inspect DAG releases")
    parser.set_defaults(run=run)
    parser.add_argument("--share", type=Path, default=SHARE, help="where the DAG share is mounted")
    parser.add_argument("--cache", type=Path, default=CACHE, help="directory of this host's copies")
    parser.add_argument("--signers", type=Path, default=signature.SIGNERS, help="file of the keys that are trusted")
    parser.add_argument("--configuration", type=Path, default=CONFIGURATION, help="airflow.cfg, for the database")
    parser.add_argument("--publisher", default=PUBLISHER, help="user that may write the share; root becomes it")
    parser.add_argument("--service-user", default=SERVICE_USER, help="user of Airflow's services; root becomes it")
    actions = parser.add_subparsers(dest="release_verb", required=True)
    publish = actions.add_parser("publish", help="make a release of what the gate let through, or of a directory")
    what = publish.add_mutually_exclusive_group()
    what.add_argument("--judged", metavar="DIGEST", help="what the gate let through; what to say of it is on stdin")
    what.add_argument("--tree", type=Path, help="directory to publish")
    publish.add_argument("--author", default="")
    publish.add_argument("--message", default="")
    publish.add_argument("--commit", default="")
    publish.add_argument("--dirty", action="store_true")
    publish.add_argument("--source", type=json.loads, default={}, help="JSON object: what kind of release this is")
    publish.add_argument("--validation", type=Path, help="file with the gate's report")
    sign = actions.add_parser("sign", help="put a signature beside its manifest")
    sign.add_argument("id")
    sign.add_argument("--signature", required=True, help="the base64 of what `ssh-keygen -Y sign` printed")
    of_one = {"manifest": "print its manifest's text", "flip": "make it current", "show": "print its manifest"}
    for name, text in of_one.items():
        actions.add_parser(name, help=text).add_argument("id")
    prune = actions.add_parser("prune", help="remove what nothing needs")
    prune.add_argument("--keep", type=int, required=True)
    prune.add_argument(
        "--clearable-days", type=float, default=CLEARABLE_DAYS, help="keep what runs that ended since then began on"
    )
    prune.add_argument("--dry-run", action="store_true", help="say what would be removed")
    warm = actions.add_parser("warm", help="copy it to this host")
    warm.add_argument("id", nargs="?", help="default: the current release")
    warm.add_argument("--unused-days", type=float, default=7.0, help="remove other copies unused for so long")
    served = actions.add_parser("served", help="print what the metadata database says is served")
    served.add_argument("--release", default="", help="wait until all its DAGs are served from it")
    served.add_argument("--seconds", type=float, default=2.0, help="wait for at most so long")
    of_all = {
        "restore": "put back what the share has lost",
        "list": "print all releases",
        "links": "print the ids of all releases",
        "status": "print what this host has and serves",
        "refresh": "have the dag-processors look now",
    }
    for name, text in of_all.items():
        actions.add_parser(name, help=text)


def run(arguments: Namespace) -> int:
    """Run one of its verbs; return the exit code."""
    # Not for `ops status`, which is to be quick.
    from ops_agent.dags import releases  # noqa: PLC0415

    return releases.run(arguments)
