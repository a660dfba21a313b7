"""What one deploy or rollback has done so far, as `--format json` prints it."""

from dataclasses import asdict, dataclass, field
from typing import Any

from ops_cli.dags.changes import Changes
from ops_cli.dags.rollout import Result


@dataclass
class Deployment:
    """What one deploy has done so far."""

    result: Result
    changes: Changes = field(default_factory=Changes)
    validated_seconds: float | None = None
    published_seconds: float | None = None
    error: str = ""
    forced: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return the object that `--format json` prints; a step that was not reached is null."""
        return {
            "release": self.result.release or None,
            "previous": self.result.previous,
            "added": list(self.changes.added),
            "removed": list(self.changes.removed),
            "changed": [change.dag_id for change in self.changes.changed],
            "validated_s": _rounded(self.validated_seconds),
            "published_s": _rounded(self.published_seconds),
            "flipped_s": _rounded(self.result.flipped_seconds or None),
            "visible_s": _rounded(self.result.visible_seconds),
            "verified_s": _rounded(self.result.verified_seconds),
            "hosts": [asdict(host) for host in self.result.hosts],
            "rolled_back": self.result.rolled_back,
            "error": self.error or None,
        }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 2)
