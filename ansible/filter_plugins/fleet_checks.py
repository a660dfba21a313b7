"""What role `preflight` compares hosts with each other by."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def shared_addresses(addresses: Mapping[str, str]) -> list[str]:
    """Return `address (host, host)` for every address that several hosts have; hosts without one are left out."""
    owners: defaultdict[str, list[str]] = defaultdict(list)
    for host, address in addresses.items():
        if address:
            owners[address].append(host)
    return [f"{address} ({', '.join(hosts)})" for address, hosts in owners.items() if len(hosts) > 1]


def hosts_in_several(groups: Mapping[str, Sequence[str]]) -> list[str]:
    """Return `host (group, group)` for every host that stands in more than one of `groups`."""
    places: defaultdict[str, list[str]] = defaultdict(list)
    for group, hosts in groups.items():
        for host in hosts:
            places[host].append(group)
    return [f"{host} ({', '.join(found)})" for host, found in places.items() if len(found) > 1]


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"hosts_in_several": hosts_in_several, "shared_addresses": shared_addresses}
