"""Filters that role `preflight` refuses a contradictory inventory with."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping

SHORTEST_SECRET = 16
PLACEHOLDER = re.compile(r"change.?me|changeit|example|placeholder|password|secret|default|todo|xxx|<.*>", re.IGNORECASE)

Secrets = Mapping[str, object]


def weak_secrets(secrets: Secrets) -> list[str]:
    """Name the secrets that are missing, shorter than 16 characters, or still a placeholder; `name.key` in a mapping."""
    return [name for name, value in _flatten(secrets) if _is_weak(value)]


def shared_addresses(addresses: Mapping[str, str]) -> list[str]:
    """Say which hosts share an address: `10.0.0.1 (web1, web2)`. Hosts without an address are left out."""
    owners = defaultdict(list)
    for host, address in addresses.items():
        if address:
            owners[str(address)].append(host)
    return [f"{address} ({', '.join(hosts)})" for address, hosts in owners.items() if len(hosts) > 1]


def _flatten(secrets: Secrets) -> Iterator[tuple[str, object]]:
    for name, value in secrets.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{key}", inner) for key, inner in value.items())
        else:
            yield name, value


def _is_weak(value: object) -> bool:
    text = str(value or "")
    return len(text) < SHORTEST_SECRET or len(set(text)) < SHORTEST_SECRET // 4 or bool(PLACEHOLDER.search(text))


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, object]:
        """Map each filter's name to its function."""
        return {"weak_secrets": weak_secrets, "shared_addresses": shared_addresses}
