"""Which runs and rows are old enough to go.

    retention: 90d            # after the end of a run; for rows that stand alone, after their own time
    keep_last: 1              # so many newest runs of every DAG stay, however old
    dags:                     # for runs; the first rule that fits decides, with all that it says
      - dag: "finance_*"      # a glob; of `dag`, `tag` and `state` all that are given must fit
        tag: audit
        state: failed         # success or failed
        retention: never
        keep_last: 10
    tables:                   # for tables that stand alone
      log: 30d
      job: never

A duration is a number with s, m, h, d or w; `never` keeps everything.
"""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

NEVER = "never"
STATES = ("success", "failed")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class PolicyError(ValueError):
    """A policy says something that cannot be understood; the text says what, and where."""


@dataclass(frozen=True)
class Rule:
    """One entry of `dags`; None keeps for ever."""

    dag: str
    tag: str | None
    states: tuple[str, ...]
    retention: timedelta | None
    keep_last: int

    def fits(self, dag_id: str, tags: Iterable[str], state: str) -> bool:
        """Tell whether the rule is for such a run."""
        return fnmatch.fnmatchcase(dag_id, self.dag) and self.tag in {None, *tags} and state in self.states


@dataclass(frozen=True)
class Policy:
    """What may go: see the module."""

    retention: timedelta | None
    keep_last: int = 1
    rules: tuple[Rule, ...] = ()
    tables: Mapping[str, timedelta | None] = field(default_factory=dict)

    def rule(self, dag_id: str, tags: Sequence[str], state: str) -> Rule:
        """Return the rule for the runs of a DAG that ended so."""
        default = Rule("*", None, STATES, self.retention, self.keep_last)
        return next((rule for rule in self.rules if rule.fits(dag_id, tags, state)), default)

    def table(self, name: str) -> timedelta | None:
        """Return how long rows of a stand-alone table stay; `name` may carry its schema."""
        return self.tables.get(name.rpartition(".")[2], self.retention)


@dataclass(frozen=True)
class Wanted:
    """The policy applied to one DAG and state: runs that ended before `before` may go, but for the newest `keep`."""

    dag_id: str
    state: str
    before: datetime
    keep: int


def parse(raw: Any, tables: Iterable[str]) -> Policy:
    """Read a policy's document; `tables` are the tables that stand alone. Raises PolicyError."""
    document = _mapping(raw, "the policy", {"retention", "keep_last", "dags", "tables"})
    if "retention" not in document:
        raise PolicyError("the policy says no `retention`; write `retention: 90d`")
    keep = _number(document.get("keep_last", 1), "keep_last")
    retention = duration(document["retention"], "retention")
    rules = document.get("dags") or []
    if not isinstance(rules, list):
        raise PolicyError("`dags` is a list of rules")
    known = {name.rpartition(".")[2] for name in tables}
    return Policy(
        retention=retention,
        keep_last=keep,
        rules=tuple(_rule(rule, f"dags[{number}]", retention, keep) for number, rule in enumerate(rules)),
        tables={
            name: duration(value, f"tables.{name}")
            for name, value in _mapping(document.get("tables") or {}, "`tables`", known).items()
        },
    )


def duration(text: Any, where: str) -> timedelta | None:
    """Read `90d` or `never`; raise PolicyError."""
    if text == NEVER:
        return None
    match = re.fullmatch(r"([0-9]{1,18})([smhdw])", str(text))
    if not match:
        raise PolicyError(f"{where}: {text!r} is no duration; write a number with s, m, h, d or w, or `never`")
    try:
        return timedelta(**{_UNITS[match[2]]: int(match[1])})
    except OverflowError:
        return timedelta.max


def ago(now: datetime, age: timedelta) -> datetime:
    """Return the time so long before `now`, or the first that there is: nothing is older."""
    try:
        return now.astimezone(UTC) - age
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC)


def wanted(policy: Policy, dags: Mapping[str, Sequence[str]], pattern: str, now: datetime) -> list[Wanted]:
    """Apply the policy to DAGs (id -> tags) whose id fits the glob."""
    found = []
    for dag_id, tags in sorted(dags.items()):
        if not fnmatch.fnmatchcase(dag_id, pattern):
            continue
        rules = [(state, policy.rule(dag_id, tags, state)) for state in STATES]
        # The newest runs are the newest whatever their state, so the largest number holds for all of them.
        keep = max(rule.keep_last for _, rule in rules)
        found += [
            Wanted(dag_id, state, ago(now, rule.retention), max(keep, 1))
            for state, rule in rules
            if rule.retention is not None
        ]
    return found


def _rule(raw: Any, where: str, retention: timedelta | None, keep: int) -> Rule:
    rule = _mapping(raw, where, {"dag", "tag", "state", "retention", "keep_last"})
    if not {"dag", "tag", "state"} & set(rule):
        raise PolicyError(f"{where} fits every run; give it `dag`, `tag` or `state`, or change the default")
    state = rule.get("state")
    if state is not None and state not in STATES:
        raise PolicyError(f"{where}.state: {state!r} is not one of {', '.join(STATES)}")
    return Rule(
        dag=str(rule.get("dag", "*")),
        tag=None if rule.get("tag") is None else str(rule["tag"]),
        states=STATES if state is None else (state,),
        retention=duration(rule["retention"], f"{where}.retention") if "retention" in rule else retention,
        keep_last=_number(rule.get("keep_last", keep), f"{where}.keep_last"),
    )


def _mapping(raw: Any, where: str, known: set[str]) -> Mapping[str, Any]:
    if not isinstance(raw, dict):
        raise PolicyError(f"{where} is no mapping")
    if unknown := sorted(str(key) for key in raw if key not in known):
        raise PolicyError(f"{where} has no `{unknown[0]}`; it knows {', '.join(sorted(known))}")
    return raw


def _number(raw: Any, where: str) -> int:
    if isinstance(raw, bool) or not isinstance(raw, int) or raw < 1:
        raise PolicyError(f"{where}: {raw!r} is no number of runs; at least the newest run of a DAG stays")
    return raw
