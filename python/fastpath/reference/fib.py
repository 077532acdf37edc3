"""The slow, obvious twin of :class:`fastpath.Fib`: a dict of prefixes and a loop over lengths."""

from __future__ import annotations

import ipaddress
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def to_address(address: Any) -> Address:
    """Read an address as fastpath does."""
    if isinstance(address, (ipaddress.IPv4Address, ipaddress.IPv6Address)):
        found: Address = address
    elif isinstance(address, int):
        found = ipaddress.IPv4Address(address)
    elif isinstance(address, bytes):
        if len(address) not in (4, 16):
            raise ValueError(f"{address!r} is not 4 or 16 bytes")
        found = ipaddress.ip_address(address)
    elif isinstance(address, str):
        found = ipaddress.ip_address(address)
    else:
        raise TypeError(f"{address!r} is no address")
    if getattr(found, "scope_id", None) is not None:
        raise ValueError(f"{found} has a scope id")
    return found


def to_network(prefix: Any, strict: bool = True) -> Network:
    """Read a prefix as fastpath does."""
    if isinstance(prefix, (ipaddress.IPv4Network, ipaddress.IPv6Network)):
        return prefix
    if isinstance(prefix, tuple):
        if len(prefix) != 2:
            raise ValueError(f"{prefix!r} is not (address, prefixlen)")
        address = to_address(prefix[0])
        if not isinstance(prefix[1], int):
            raise TypeError(f"{prefix[1]!r} is no prefix length")
        return ipaddress.ip_network((address, prefix[1]), strict)
    if isinstance(prefix, str):
        if "%" in prefix:
            raise ValueError(f"{prefix!r} has a scope id")
        return ipaddress.ip_network(prefix, strict)
    if isinstance(prefix, (ipaddress.IPv4Interface, ipaddress.IPv6Interface)):
        return ipaddress.ip_network((to_address(prefix).packed, prefix.network.prefixlen), strict)
    address = to_address(prefix)
    return ipaddress.ip_network((address, address.max_prefixlen), strict)


class Fib:
    """Longest-prefix match by trying every length, longest first."""

    def __init__(self, *, strict: bool = True, dtype: Any = None) -> None:
        if dtype is not None and dtype != "uint32":
            raise ValueError(f"dtype {dtype!r}")
        self.strict = strict
        self.plain = dtype is not None
        self.table: dict[Network, Any] = {}

    def _checked(self, next_hop: Hashable) -> Hashable:
        if self.plain:
            if not isinstance(next_hop, int):
                raise TypeError(f"{next_hop!r} is no integer")
            if not 0 <= next_hop < 2**32:
                raise ValueError(f"{next_hop} is out of range")
        elif next_hop is None:
            raise ValueError("None means 'no entry'")
        hash(next_hop)
        return next_hop

    def insert(self, prefix: Any, next_hop: Hashable) -> None:
        """Insert or replace."""
        self.table[to_network(prefix, self.strict)] = self._checked(next_hop)

    def insert_many(self, prefixes: Iterable[Any], next_hops: Sequence[Hashable]) -> int:
        """Insert all or, on bad input, nothing."""
        networks = [to_network(prefix, self.strict) for prefix in prefixes]
        if len(networks) != len(next_hops):
            raise ValueError(f"{len(networks)} prefixes, {len(next_hops)} next hops")
        hops = [self._checked(next_hop) for next_hop in next_hops]
        self.table.update(zip(networks, hops, strict=True))
        return len(networks)

    def delete(self, prefix: Any) -> None:
        """Remove a prefix that is there."""
        del self.table[to_network(prefix, self.strict)]

    def delete_many(self, prefixes: Iterable[Any]) -> int:
        """Remove those that are there; how many were."""
        networks = [to_network(prefix, self.strict) for prefix in prefixes]
        before = len(self.table)
        for network in networks:
            self.table.pop(network, None)
        return before - len(self.table)

    def get(self, prefix: Any, default: Any = None) -> Any:
        """Return the exact prefix's next hop."""
        return self.table.get(to_network(prefix, self.strict), default)

    def match(self, address: Any) -> tuple[Network, Any] | None:
        """Return the longest prefix that holds the address, and its next hop."""
        wanted = to_address(address)
        for length in range(wanted.max_prefixlen, -1, -1):
            network = ipaddress.ip_network((wanted, length), strict=False)
            if network in self.table:
                return network, self.table[network]
        return None

    def lookup(self, address: Any) -> Any:
        """Return the longest match's next hop, or None."""
        found = self.match(address)
        return None if found is None else found[1]

    def items(self) -> Iterator[tuple[Network, Any]]:
        """Sorted: IPv4 first, by address, then shortest first."""
        return iter(sorted(self.table.items(), key=lambda item: (item[0].version, *_place(item[0]))))

    def covering(self, prefix: Any) -> Iterator[tuple[Network, Any]]:
        """Least specific first."""
        inner = to_network(prefix, self.strict)
        return (item for item in self.items() if _within(inner, item[0]))

    def covered(self, prefix: Any) -> Iterator[tuple[Network, Any]]:
        """In address order."""
        outer = to_network(prefix, self.strict)
        return (item for item in self.items() if _within(item[0], outer))

    def parent(self, prefix: Any) -> tuple[Network, Any] | None:
        """Return the most specific of the prefixes that contain this one and are not it."""
        inner = to_network(prefix, self.strict)
        above = [item for item in self.covering(prefix) if item[0] != inner]
        return above[-1] if above else None

    def children(self, prefix: Any) -> Iterator[tuple[Network, Any]]:
        """Those within this one that no other one within it contains."""
        outer = to_network(prefix, self.strict)
        inside = [item for item in self.covered(prefix) if item[0] != outer]
        return (
            item
            for item in inside
            if not any(_within(item[0], other) and item[0] != other for other, _ in inside)
        )

    def overlaps(self, other: Fib) -> bool:
        """Whether a prefix of one contains a prefix of the other."""
        return any(_within(a, b) or _within(b, a) for a in self.table for b in other.table)

    def union(self, other: Fib) -> Fib:
        """Both, the other's next hops where both have a prefix."""
        both = Fib(strict=self.strict, dtype="uint32" if self.plain else None)
        both.table = {**self.table, **other.table}
        return both

    def diff(self, other: Fib) -> tuple[list[Any], list[Any], list[Any]]:
        """Prefixes added, removed, and with another next hop."""
        added = [item for item in other.items() if item[0] not in self.table]
        removed = [item for item in self.items() if item[0] not in other.table]
        changed = [
            (network, hop, other.table[network])
            for network, hop in self.items()
            if network in other.table and other.table[network] != hop
        ]
        return added, removed, changed

    def __len__(self) -> int:
        return len(self.table)


def _place(network: Network) -> tuple[int, int]:
    return int(network.network_address), network.prefixlen


def _within(inner: Network, outer: Network) -> bool:
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]
