"""Moves the scheduler lease to another host, and measures what that cost, by the database's clock alone.

What is asked of the lease is one statement; the keepers do the rest, whether anybody listens here or not. So there is
nothing to take back when `ops` is killed: the change was asked for and completes, or it was not.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

from ops_agent.host.psql import Psql
from ops_release.run import ProbeError

Say = Callable[[Mapping[str, Any]], None]

_POLL_SECONDS = 0.02
# A holder that was asked ends its loop within its keeper's `drain` of 30 s, or is killed then.
_END_SECONDS = 45.0
# A lease that was given back is kept for the target for 5 s; fencing retries every 4 s.
_TAKE_SECONDS = 10.0
_FENCE_SECONDS = 10.0
_WAIVE_SECONDS = 4.0
# Where the keeper could not preload, its scheduler starts in a fresh interpreter.
_START_SECONDS = 30.0
# An idle fleet has no task to wait for; orphans that are there will be adopted.
_TASK_SECONDS = 10.0
_ADOPTION_SECONDS = 30.0

_PREPARE = """
CREATE TEMP TABLE before AS SELECT coalesce(max(id), 0) AS job FROM public.job;
CREATE TEMP TABLE old_job AS SELECT id FROM public.job WHERE job_type = 'SchedulerJob' AND state = 'running';
CREATE TEMP TABLE orphan AS SELECT id FROM public.task_instance
WHERE state IN ('queued', 'running') AND queued_by_job_id IN (SELECT id FROM old_job);
"""
# Only the lease that the operator has seen: had it changed hands meanwhile, he would get the opposite of what he wants.
_ASK = """
SELECT CASE
  WHEN l.epoch <> (p ->> 'seen')::bigint THEN jsonb_build_object('meanwhile', l.holder, 'epoch', l.epoch)
  WHEN p ->> 'kind' = 'switchover' THEN ops.hand_over(p ->> 'to', p ->> 'why')
  WHEN p ->> 'kind' = 'failover' THEN ops.revoke_lease(p ->> 'to', p ->> 'why')
  ELSE '{}'
END
FROM (SELECT :'parameters'::jsonb AS p) AS request,
  (SELECT * FROM ops.scheduler_lease WHERE lease_group = 'scheduler' FOR UPDATE) AS l
"""
_LEASE = """
SELECT jsonb_build_object(
  'epoch', epoch, 'holder', holder, 'fenced', fenced_at IS NOT NULL, 'fence', fence
) FROM ops.scheduler_lease WHERE lease_group = 'scheduler'
"""
# The tasks of before the change count too where they are still open: the new scheduler may have adopted them by now.
_ENDED = """
DELETE FROM orphan WHERE id NOT IN (SELECT id FROM public.task_instance WHERE state IN ('queued', 'running'));
INSERT INTO orphan SELECT id FROM public.task_instance
WHERE state IN ('queued', 'running') AND queued_by_job_id IN (SELECT id FROM old_job) AND id NOT IN (TABLE orphan);
"""
# When the old scheduler ended or, where nobody saw it, the last renewal of its lease.
_END = """
SELECT jsonb_build_object('released', r.at IS NOT NULL, 'at', extract(epoch FROM coalesce(
  r.at, (a.detail ->> 'renewed_at')::timestamptz, a.at)))
FROM (SELECT :'parameters'::jsonb AS p) AS request
JOIN ops.lease_event AS a ON a.event = 'acquired' AND a.epoch = (p ->> 'epoch')::bigint + 1
LEFT JOIN ops.lease_event AS r ON r.event = 'released' AND r.epoch = (p ->> 'epoch')::bigint
"""
_SESSIONS = """
SELECT coalesce(jsonb_agg(format('%s (pid %s)', a.usename, a.pid)), '[]')
FROM pg_stat_activity AS a JOIN ops.keeper AS k ON k.scheduler_role = a.usename
"""
_WAIVE = """
SELECT to_jsonb(ops.waive_fence((p ->> 'epoch')::bigint + 1, p ->> 'why'))
FROM (SELECT :'parameters'::jsonb AS p) AS request
"""
_WORK = """
WITH job AS (
  SELECT id FROM public.job, before WHERE job_type = 'SchedulerJob' AND state = 'running' AND id > before.job
)
SELECT jsonb_build_object(
  'at', extract(epoch FROM clock_timestamp()),
  'started', EXISTS (SELECT FROM job),
  'tasks', EXISTS (
    SELECT FROM public.task_instance AS t
    WHERE t.state = 'running' AND t.queued_by_job_id IN (SELECT id FROM job) AND t.id NOT IN (SELECT id FROM orphan)),
  'orphans', (SELECT count(*) FROM orphan),
  'left', (
    SELECT count(*) FROM public.task_instance AS t JOIN orphan USING (id)
    WHERE t.state IN ('queued', 'running') AND t.queued_by_job_id IN (SELECT id FROM old_job))
)
"""
_RECORD = """
WITH recorded AS (
  INSERT INTO ops.lease_event (lease_group, epoch, event, host, detail)
  SELECT 'scheduler', (p ->> 'epoch')::bigint, 'measured', p ->> 'to', p FROM (SELECT :'parameters'::jsonb AS p) AS r
  RETURNING id
) SELECT to_jsonb(id) FROM recorded
"""


class LeaseError(ProbeError):
    """The lease did not move as it was asked to; the text says how far it came."""


def change(request: Mapping[str, Any], say: Say) -> dict[str, Any]:
    """Move the lease as `request` says; tell each step to `say` as it happens.

    The request has `kind` (switchover, failover, or waive: the lease has moved, and only its fence is not proved),
    `from`, `to`, `epoch` (the one that ends), `seen` (the one that the operator saw), `why`, `force` and `by`.
    Return the measured result, which is also kept as a lease event. Raises LeaseError, and ProbeError if the database
    does not answer or refuses.
    """
    with Psql(request, application=request["by"]) as session:
        session.tell(_PREPARE)
        answer = session.ask(_ASK)
        if "meanwhile" in answer:
            holder = answer["meanwhile"] or "nobody"
            raise LeaseError(f"meanwhile {holder} holds the lease, in epoch {answer['epoch']}: nothing was changed")
        say({"event": "asked"})
        result = _follow(session, request, say)
    with Psql(result, application=request["by"]) as session:
        session.ask(_RECORD)
    return result


def _follow(session: Psql, request: Mapping[str, Any], say: Say) -> dict[str, Any]:
    _ended(session, request)
    say({"event": "ended", "host": request["from"]})
    lease = _taken(session, request)
    say({"event": "taken", "host": lease["holder"], "epoch": lease["epoch"]})
    lease = _fenced(session, request, lease)
    proved = not lease["fence"].get("waived", False)
    say({"event": "fenced", "proved": proved, "milliseconds": lease["fence"].get("milliseconds")})
    end = session.ask(_END)
    return {
        "kind": "switchover" if request["kind"] == "switchover" and end["released"] else "failover",
        "from": request["from"],
        "to": lease["holder"],
        "epoch": lease["epoch"],
        "fenced": proved,
        **_work(session, end["at"], say),
    }


def _ended(session: Psql, request: Mapping[str, Any]) -> None:
    """Wait until the old epoch is over, and note whose tasks nobody owns now."""

    def over() -> bool:
        lease = session.ask(_LEASE)
        return bool(lease["epoch"] > request["epoch"] or (request["kind"] == "switchover" and lease["holder"] is None))

    if not _wait(over, _END_SECONDS if request["kind"] == "switchover" else _TAKE_SECONDS):
        raise LeaseError(
            f"{request['from']} has not given the lease back within {_END_SECONDS:g} s"
            if request["kind"] == "switchover"
            else f"{request['to']} has not taken the lease within {_TAKE_SECONDS:g} s"
        )
    session.tell(_ENDED)


def _taken(session: Psql, request: Mapping[str, Any]) -> dict[str, Any]:
    lease: dict[str, Any] = {}

    def taken() -> bool:
        lease.update(session.ask(_LEASE))
        return bool(lease["epoch"] > request["epoch"] and lease["holder"])

    if not _wait(taken, _TAKE_SECONDS):
        raise LeaseError(f"{request['to']} has not taken the lease within {_TAKE_SECONDS:g} s")
    return lease


def _fenced(session: Psql, request: Mapping[str, Any], lease: dict[str, Any]) -> dict[str, Any]:
    def fenced() -> bool:
        lease.update(session.ask(_LEASE))
        return bool(lease["fenced"])

    if not _wait(fenced, _WAIVE_SECONDS if request["force"] else _FENCE_SECONDS):
        left = ", ".join(session.ask(_SESSIONS)) or "none is left now"
        if not (request["force"] and session.ask(_WAIVE) and _wait(fenced, _FENCE_SECONDS)):
            raise LeaseError(
                f"{request['from']} is not proved to be fenced, so {lease['holder']} starts no scheduler: "
                f"sessions that do not end: {left}"
            )
    return lease


def _work(session: Psql, ended: float, say: Say) -> dict[str, Any]:
    """Watch the new scheduler begin; None stands for what did not happen in time."""
    found: dict[str, Any] = {"pause_s": None, "first_task_s": None, "orphans": 0, "orphans_adopted_s": None}
    began = 0.0

    def started() -> bool:
        nonlocal began
        seen = session.ask(_WORK)
        began, found["orphans"] = seen["at"], seen["orphans"]
        return bool(seen["started"])

    if not _wait(started, _START_SECONDS):
        return found
    found["pause_s"] = round(max(0.0, began - ended), 3)
    say({"event": "started", "pause_s": found["pause_s"], "orphans": found["orphans"]})

    def complete() -> bool:
        seen = session.ask(_WORK)
        if found["first_task_s"] is None and seen["tasks"]:
            found["first_task_s"] = round(seen["at"] - ended, 3)
        if found["orphans_adopted_s"] is None and found["orphans"] and not seen["left"]:
            found["orphans_adopted_s"] = round(seen["at"] - began, 3)
        adopted = found["orphans_adopted_s"] is not None or not found["orphans"]
        return adopted and (found["first_task_s"] is not None or seen["at"] > began + _TASK_SECONDS)

    _wait(complete, _ADOPTION_SECONDS)
    return found


def _wait(over: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not over():
        if time.monotonic() >= end:
            return False
        time.sleep(_POLL_SECONDS)
    return True
