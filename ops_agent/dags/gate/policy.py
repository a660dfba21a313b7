"""The rules a team sets itself, read from dag-policy.yml at the top of the tree; docs/reference/dag-policy.md."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ops_agent.dags.gate.findings import Severity

if TYPE_CHECKING:
    from pathlib import Path

FILE = "dag-policy.yml"

# Rule -> its settings and their types.
_RULES: dict[str, dict[str, type]] = {
    "catchup": {},
    "execution-timeout": {},
    "naming": {"pattern": str},
    "owner": {"pattern": str},
    "retries": {"at_least": int},
    "slow": {"seconds": float},
    "tags": {"at_least": int},
    "output": {},
    "unstable": {},
    "top-level-database": {},
    "top-level-metadata": {},
    "top-level-network": {},
    "top-level-process": {},
}
# Always in force; the policy may only set how grave each is.
_BUILT_IN = {
    "slow": Severity.ERROR,
    "output": Severity.WARNING,
    "unstable": Severity.WARNING,
    "top-level-database": Severity.ERROR,
    "top-level-metadata": Severity.ERROR,
    "top-level-network": Severity.ERROR,
}
SLOW_SECONDS = 2.0


class PolicyError(Exception):
    """The policy cannot be used; the text says what to change in which file."""


@dataclass(frozen=True)
class Policy:
    """Which rules are in force, how grave each is, and its settings."""

    severities: Mapping[str, Severity] = field(default_factory=lambda: dict(_BUILT_IN))
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    # None: not known here, so nothing is compared. A pool's value is how many slots it has; below 0 is without limit.
    pools: Mapping[str, int | None] | None = None
    queues: frozenset[str] | None = None
    default_queue: str | None = None

    def setting(self, rule: str, name: str, default: Any) -> Any:
        """Return a rule's setting."""
        return self.settings.get(rule, {}).get(name, default)


def load(path: Path) -> Policy:
    """Read a policy file; one that does not exist is the default. Raises PolicyError."""
    import yaml  # noqa: PLC0415

    if not os.path.lexists(path):
        return Policy()
    if not path.is_file():
        # To open a pipe is to wait for ever.
        raise PolicyError(f"{path.name}: no regular file")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError, OSError, RecursionError) as error:
        raise PolicyError(f"{path.name}: {' '.join(str(error).split())}") from None
    return parse(raw, path.name)


def parse(raw: Any, name: str = FILE) -> Policy:
    """Turn the content of a policy file into a Policy. Raises PolicyError."""
    if not isinstance(raw, Mapping) or not set(raw) <= {"rules", "pools", "queues", "default_queue"}:
        raise PolicyError(f"{name}: only rules, pools, queues and default_queue may stand at the top")
    severities, settings = dict(_BUILT_IN), {}
    rules = raw.get("rules") or {}
    if not isinstance(rules, Mapping):
        raise PolicyError(f"{name}: rules is a mapping of a rule to its settings")
    for rule, given in rules.items():
        if rule not in _RULES:
            raise PolicyError(f"{name}: {rule!r} is no rule of a policy; there are: {', '.join(sorted(_RULES))}")
        if not isinstance(given or {}, Mapping):
            raise PolicyError(f"{name}: {rule}: its settings are a mapping, not {given!r}")
        options = dict(given or {})
        try:
            severities[rule] = Severity(options.pop("severity", severities.get(rule, Severity.ERROR)))
        except ValueError:
            raise PolicyError(f"{name}: {rule}: severity is error or warning") from None
        settings[rule] = _options(name, rule, options)
    queues = pools(raw.get("queues"), f"{name}: queues")
    default_queue = raw.get("default_queue")
    if not isinstance(default_queue, str | None):
        raise PolicyError(f"{name}: default_queue is the name of a queue")
    known = pools(raw.get("pools"), f"{name}: pools")
    return Policy(severities, settings, known, None if queues is None else frozenset(queues), default_queue)


def pools(given: Any, where: str = "pools") -> dict[str, int | None] | None:
    """Return the slots of each pool by its name; None for those of a list of names, whose slots are not known."""
    if given is None:
        return None
    named = given if isinstance(given, Mapping) else dict.fromkeys(given if isinstance(given, list) else (given,))
    if not all(isinstance(name, str) and isinstance(slots, int | None) for name, slots in named.items()):
        raise PolicyError(f"{where} is a list of names, or a mapping of each name to its slots")
    return dict(named)


def _options(name: str, rule: str, options: dict[str, Any]) -> dict[str, Any]:
    known = _RULES[rule]
    for option, value in options.items():
        if option not in known:
            raise PolicyError(f"{name}: {rule} has no {option!r}; it has: severity {' '.join(known)}".rstrip())
        numeric = known[option] is not str
        if isinstance(value, bool) or not isinstance(value, (int, float) if numeric else str):
            raise PolicyError(f"{name}: {rule}: {option} is a {'number' if numeric else 'string'}, not {value!r}")
    try:
        re.compile(options.get("pattern", ""))
    except re.error as error:
        raise PolicyError(f"{name}: {rule}: pattern: {error}") from None
    return options
