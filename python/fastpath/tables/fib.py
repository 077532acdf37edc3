"""Longest-prefix match: which next hop an address goes to."""

from __future__ import annotations

import ipaddress
from collections.abc import Hashable, Iterable, Iterator
from typing import Any

from fastpath._fib import FibCore

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = str | int | bytes | ipaddress.IPv4Address | ipaddress.IPv6Address
Prefix = str | Network | tuple[Address, int] | Address

__all__ = ["Fib"]


class Fib(FibCore):
    """A forwarding table: longest-prefix match over IPv4 and IPv6 prefixes in one object.

    Addresses are ``str``, :mod:`ipaddress` objects, packed ``bytes`` or (IPv4) ``int``; prefixes are ``str``,
    :mod:`ipaddress` networks or ``(address, prefixlen)``, and an address alone is a prefix of full length.
    IPv4 and IPv6 never match each other; ``::ffff:a.b.c.d`` is IPv6.

    As a mapping, ``fib[prefix]`` is the prefix's own next hop and ``fib[address]`` the longest match;
    iteration gives the prefixes as networks, IPv4 first, in address order.

    Parameters
    ----------
    strict
        Refuse prefixes with host bits set (``ValueError``), as :func:`ipaddress.ip_network` does. ``False``
        masks them.
    dtype
        ``None``: next hops are any hashable objects but ``None``; array calls answer with ids, 0 for "no
        entry", and ``values[id]`` is the object. ``"uint32"``: next hops are integers from 0 to 2**32 - 1,
        and array calls answer with these.

    Notes
    -----
    Threads: any number of readers beside one writer at a time; writers queue on a lock, readers never wait,
    and each address is answered as before or as after a write.

    Memory: about 7.7 bytes a prefix for a full IPv4 Internet table with distinct next hops.

    Source: intervals and ranks per node of 8 address bits, after Zec, Rizzo and Mikuc, "DXR: towards a
    billion routing lookups per second in software" (CCR 2012) and Asai and Ohara, "Poptrie" (SIGCOMM 2015).

    Examples
    --------
    >>> fib = Fib()
    >>> fib["10.0.0.0/8"] = "backbone"
    >>> fib["10.1.0.0/16"] = "office"
    >>> fib.lookup("10.1.2.3"), fib.lookup("10.9.9.9"), fib.lookup("192.0.2.1")
    ('office', 'backbone', None)

    """

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, *, strict: bool = True, dtype: Any = None) -> None:
        super().__init__()

    # --- mapping ---

    def __getitem__(self, key: Prefix) -> Any:
        missing = object()
        if _is_address(key):
            found = self.match(key)
            if found is None:
                raise KeyError(key)
            return found[1]
        value = self.get(key, missing)
        if value is missing:
            raise KeyError(key)
        return value

    def __setitem__(self, prefix: Prefix, next_hop: Hashable) -> None:
        self.insert(prefix, next_hop)

    def __delitem__(self, prefix: Prefix) -> None:
        self.delete(prefix)

    def __contains__(self, key: Prefix) -> bool:
        if _is_address(key):
            return self.match(key) is not None
        missing = object()
        return self.get(key, missing) is not missing

    def __iter__(self) -> Iterator[Network]:
        for network, _ in self._items():
            yield network

    def keys(self) -> Iterator[Network]:
        """Prefixes as networks, IPv4 first, by address and then shortest first; as of the call."""
        return iter(self)

    def items(self) -> Iterator[tuple[Network, Any]]:
        """Pairs of network and next hop in the order of :meth:`keys`; as of the call."""
        return iter(self._items())

    def covering(self, prefix_or_address: Prefix) -> Iterator[tuple[Network, Any]]:
        """Prefixes that contain this one or are it, least specific first, with their next hops."""
        return iter(self._covering(prefix_or_address))

    def covered(self, prefix: Prefix) -> Iterator[tuple[Network, Any]]:
        """Prefixes within this one, itself included, in address order, with their next hops."""
        return iter(self._covered(prefix))

    # --- as a value ---

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Fib):
            return NotImplemented
        return self is other or (self._sizes() == other._sizes() and self._items() == other._items())

    def __repr__(self) -> str:
        v4, v6 = self._sizes()
        options = ("" if self.strict else " strict=False") + (" dtype=uint32" if self.plain else "")
        return f"<Fib{options}: {v4:,} IPv4 and {v6:,} IPv6 prefixes, {self.nbytes:,} bytes>"

    def __reduce__(self) -> tuple[Any, ...]:
        values = None if self.plain else self.values
        return _restored, (self.strict, self.plain, (self._arrays(4), self._arrays(6)), values)

    def copy(self) -> Fib:
        """An independent table with the same entries (and, next hops being objects, the same ids)."""
        values = None if self.plain else self.values
        return _restored(self.strict, self.plain, (self._arrays(4), self._arrays(6)), values)

    __copy__ = copy

    def update(self, entries: Iterable[tuple[Prefix, Any]]) -> None:
        """Insert pairs of prefix and next hop (the ``items()`` of another table, or of a dict)."""
        pairs = list(entries)
        self.insert_many([prefix for prefix, _ in pairs], [next_hop for _, next_hop in pairs])


def _is_address(key: object) -> bool:
    if isinstance(key, str):
        return "/" not in key
    return not isinstance(key, (tuple, ipaddress.IPv4Network, ipaddress.IPv6Network))


def _restored(strict: bool, plain: bool, families: Any, values: Any) -> Fib:
    fib = Fib(strict=strict, dtype="uint32" if plain else None)
    fib._restore(families, values)
    return fib
