"""What role `preflight` compares hosts with each other by."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any


def shared_addresses(addresses: Mapping[str, str]) -> list[str]:
    """Return `address (host, host)` for every address that several hosts have; hosts without one are left out."""
    owners: defaultdict[str, list[str]] = defaultdict(list)
    for host, address in addresses.items():
        if address:
            owners[address].append(host)
    return [f"{address} ({', '.join(hosts)})" for address, hosts in owners.items() if len(hosts) > 1]


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"shared_addresses": shared_addresses}
