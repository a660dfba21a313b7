"""The scheduler lease as the database and this host's keeper tell it."""

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from ops_agent.host.psql import Psql
from ops_release.run import ProbeError

KEEPER_FILE = Path("/etc/airflow/keeper.json")
_KEEPER_SECONDS = 2.0

# One object; age and readiness by the database's clock. `previous` held the lease before, or until nobody did.
LEASE = """
SELECT jsonb_build_object(
  'epoch', l.epoch, 'holder', l.holder, 'suspended', l.suspended, 'fenced', l.fenced_at IS NOT NULL,
  'live', l.holder IS NOT NULL AND l.expires_at > clock_timestamp(),
  'age_s', round(extract(epoch FROM clock_timestamp() - l.renewed_at), 3),
  'held_s', round(extract(epoch FROM clock_timestamp() - l.acquired_at), 3),
  'hand_over_to', l.hand_over_to,
  'previous', (
    SELECT e.host FROM ops.lease_event AS e
    WHERE e.event = 'acquired' AND e.host IS DISTINCT FROM l.holder ORDER BY e.id DESC LIMIT 1),
  'hosts', (
    SELECT coalesce(jsonb_agg(jsonb_build_object(
      'name', s.host, 'active', s.active, 'ready', coalesce(s.ready, false),
      'seen_s', round(s.seen_seconds_ago::numeric, 3),
      'admitted', s.admitted, 'writes', s.writes, 'sessions', s.sessions
    ) ORDER BY s.host), '[]') FROM ops.lease_status AS s WHERE s.lease_group = l.lease_group)
) AS lease FROM ops.scheduler_lease AS l WHERE l.lease_group = 'scheduler'
"""
INSTALLED = "SELECT to_jsonb(to_regclass('ops.lease_status') IS NOT NULL)"

# A change of epoch each, newest first. `gap_s` runs from the end of the old one's scheduler, or where nobody saw that
# from its last renewal, until the new one had fenced it and started its own.
_HISTORY = """
SELECT coalesce(jsonb_agg(to_jsonb(h) ORDER BY h.epoch DESC), '[]') FROM (
  SELECT
    a.epoch, to_char(a.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS at,
    CASE
      WHEN p.host IS NULL THEN 'start'
      WHEN p.host = a.host THEN 'restart'
      WHEN r.why LIKE 'handed over to %' OR r.why = 'shutting down' THEN 'switchover'
      ELSE 'failover'
    END AS kind,
    p.host AS "from", a.host AS "to",
    CASE WHEN a.why IN ('free', 'handed over') THEN coalesce(r.why, a.why) ELSE a.why END AS why,
    q.detail ->> 'by' AS by,
    f.at IS NOT NULL AND NOT f.detail ? 'waived' AS fenced,
    (f.detail ->> 'milliseconds')::float AS fence_ms,
    round(extract(epoch FROM f.at - coalesce(r.at, (a.detail ->> 'renewed_at')::timestamptz)), 3) AS gap_s,
    m.detail -> 'pause_s' AS pause_s, m.detail -> 'first_task_s' AS first_task_s,
    m.detail -> 'orphans' AS orphans, m.detail -> 'orphans_adopted_s' AS orphans_adopted_s
  FROM ops.lease_event AS a
  LEFT JOIN ops.lease_event AS p ON p.event = 'acquired' AND p.epoch = a.epoch - 1
  LEFT JOIN ops.lease_event AS r ON r.event = 'released' AND r.epoch = a.epoch - 1
  LEFT JOIN ops.lease_event AS f ON f.event = 'fenced' AND f.epoch = a.epoch
  LEFT JOIN ops.lease_event AS m ON m.event = 'measured' AND m.epoch = a.epoch
  LEFT JOIN LATERAL (
    SELECT detail FROM ops.lease_event
    WHERE event IN ('hand-over asked', 'revoked') AND epoch = a.epoch - 1 ORDER BY id DESC LIMIT 1
  ) AS q ON true
  WHERE a.event = 'acquired' ORDER BY a.epoch DESC LIMIT 100
) AS h
"""


def status() -> dict[str, Any]:
    """Return `{"lease": {...}}`, or `{"lease": null}` where the lease was never installed. Raises ProbeError."""
    with Psql() as session:
        return {"lease": session.ask(LEASE) if session.ask(INSTALLED) else None}


def history() -> dict[str, Any]:
    """Return `{"history": [...]}`, newest first, or `{"history": null}` where there is no lease. Raises ProbeError."""
    with Psql() as session:
        return {"history": session.ask(_HISTORY) if session.ask(INSTALLED) else None}


def keeper(path: Path = KEEPER_FILE) -> dict[str, Any]:
    """Return what this host's keeper says of itself. Raises ProbeError if it does not answer."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        address, port = settings["listen_address"], settings["listen_port"]
    except (OSError, ValueError, KeyError) as error:
        raise ProbeError(f"{path}: {error!r}") from None
    url = f"http://[{address}]:{port}/health" if ":" in address else f"http://{address}:{port}/health"
    try:
        with urllib.request.urlopen(url, timeout=_KEEPER_SECONDS) as answer:  # noqa: S310
            return dict(json.load(answer))
    except urllib.error.HTTPError as answer:
        # 503 says that it is neither active nor ready, and the body why.
        return dict(json.load(answer))
    except (OSError, ValueError) as error:
        raise ProbeError(f"the keeper does not answer at {url}: {getattr(error, 'reason', error)}") from None
