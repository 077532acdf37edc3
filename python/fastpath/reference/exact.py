"""Dicts that answer as ExactTable, ForwardingTable and Fdb must: the oracle of the compiled ones."""

from __future__ import annotations

import ipaddress
import math
import operator
import re
from collections.abc import Callable, Hashable, Iterable
from typing import Any

_MAC = re.compile(
    r"(?:[0-9a-f]{12}|[0-9a-f]{2}(?::[0-9a-f]{2}){5}|[0-9a-f]{2}(?:-[0-9a-f]{2}){5})",
    re.IGNORECASE | re.ASCII,
)


def _index(value: object, name: str) -> int:
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}") from None


def _value(value: Any, plain: bool) -> Any:
    """A value as a table keeps it."""
    if plain:
        number = _index(value, "value")
        if not 0 <= number <= 2**32 - 1:
            raise ValueError(f"value must be 0..2**32-1, got {number}")
        return number
    if value is None:
        raise ValueError("None means 'no entry' and cannot be a value")
    hash(value)
    return value


def parse_mac(mac: object) -> int:
    """A MAC address (text, 6 bytes, int) as an integer."""
    if isinstance(mac, str):
        if not _MAC.fullmatch(mac):
            raise ValueError(f"{mac!r} is not a MAC address like 'aa:bb:cc:dd:ee:ff'")
        return int(mac.replace(":", "").replace("-", ""), 16)
    if isinstance(mac, bytes | bytearray):
        if len(mac) != 6:
            raise ValueError(f"a packed MAC address has 6 bytes, got {len(mac)}")
        return int.from_bytes(mac, "big")
    number = _index(mac, "a MAC address")
    if not 0 <= number < 2**48:
        raise ValueError(f"a MAC address as an int is 0..2**48-1, got {number}")
    return number


def format_mac(mac: int) -> str:
    """An integer as ``aa:bb:cc:dd:ee:ff``."""
    return mac.to_bytes(6, "big").hex(":")


class ExactTable:
    """A dict of byte strings of one size."""

    def __init__(self, key_size: int, *, dtype: str | None = None) -> None:
        number = _index(key_size, "key_size")
        if not 1 <= number <= 64:
            raise ValueError(f"key_size must be 1..64 bytes, got {number}")
        self.key_size = number
        self.plain = dtype == "uint32"
        self.entries: dict[bytes, Any] = {}

    def _key(self, key: object) -> bytes:
        if not isinstance(key, bytes | bytearray | memoryview):
            raise TypeError(f"key must be {self.key_size} bytes, got {type(key).__name__}")
        if len(key) != self.key_size:
            raise ValueError(f"key must be {self.key_size} bytes, got {len(key)}")
        return bytes(key)

    def insert(self, key: object, value: Any) -> None:
        """Insert or replace."""
        self.entries[self._key(key)] = _value(value, self.plain)

    def delete(self, key: object) -> None:
        """Remove; KeyError if absent."""
        del self.entries[self._key(key)]

    def lookup(self, key: object) -> Any:
        """The value, or None."""
        return self.entries.get(self._key(key))

    def __len__(self) -> int:
        return len(self.entries)


class ForwardingTable:
    """A dict of (source or None, destination)."""

    def __init__(self, kind: str = "mac", *, dtype: str | None = None) -> None:
        if kind not in ("mac", "ipv4", "ipv6"):
            raise ValueError(f"kind must be 'mac', 'ipv4' or 'ipv6', got {kind!r}")
        self.kind = kind
        self.plain = dtype == "uint32"
        self.entries: dict[tuple[str | None, str], Any] = {}

    def _text(self, address: object) -> str:
        if self.kind == "mac":
            return format_mac(parse_mac(address))
        wanted = ipaddress.IPv4Address if self.kind == "ipv4" else ipaddress.IPv6Address
        if isinstance(address, int) and self.kind == "ipv6":
            raise TypeError("an int is an IPv4 address")
        if not isinstance(address, str | bytes | int | ipaddress.IPv4Address | ipaddress.IPv6Address):
            raise TypeError(f"{address!r} is not an {self.kind} address")
        if "%" in str(address) and not isinstance(address, bytes):
            raise ValueError(f"an address without a scope is wanted, got {address!r}")
        return str(wanted(str(address) if not isinstance(address, bytes | int) else address))

    def _pair(self, source: object, destination: object) -> tuple[str | None, str]:
        return None if source is None else self._text(source), self._text(destination)

    def insert(self, source: object, destination: object, egress: Any) -> None:
        """Insert or replace."""
        pair = self._pair(source, destination)
        self.entries[pair] = _value(egress, self.plain)

    def delete(self, source: object, destination: object) -> None:
        """Remove exactly this entry; KeyError if absent."""
        del self.entries[self._pair(source, destination)]

    def delete_many(self, sources: Iterable[object] | None, destinations: Iterable[object]) -> int:
        """Remove exactly those of the entries that are there; how many."""
        pairs = set(self._pairs(sources, destinations))
        return sum(self.entries.pop(pair, None) is not None for pair in pairs)

    def lookup_many(self, sources: Iterable[object] | None, destinations: Iterable[object]) -> list[Any]:
        """lookup() of each."""
        return [self.lookup(*pair) for pair in self._pairs(sources, destinations)]

    def _pairs(
        self, sources: Iterable[object] | None, destinations: Iterable[object]
    ) -> list[tuple[str | None, str]]:
        asked = list(destinations)
        listed = [None] * len(asked) if sources is None else list(sources)
        if len(listed) != len(asked):
            raise ValueError(f"sources and destinations differ in length: {len(listed)} and {len(asked)}")
        return [self._pair(source, destination) for source, destination in zip(listed, asked, strict=True)]

    def lookup(self, source: object, destination: object) -> Any:
        """The exact pair, then any source, then None."""
        pair = self._pair(source, destination)
        return self.entries.get(pair, self.entries.get((None, pair[1])))

    def __len__(self) -> int:
        return len(self.entries)


class Fdb:
    """A dict of (MAC, VLAN) to port and time, without limits: whom they hit is the compiled one's choice."""

    def __init__(self, *, max_age_s: float = 300.0, clock: Callable[[], float]) -> None:
        if not max_age_s > 0:
            raise ValueError(f"max_age_s must be more than 0 seconds, got {max_age_s}")
        self.clock = clock
        self.start_s = clock() - max_age_s
        self.max_age_us = round(max_age_s * 1e6)
        self.moves = 0
        self.entries: dict[tuple[int, int], tuple[Hashable, int | None]] = {}

    def _now_us(self) -> int:
        return max(0, math.floor((self.clock() - self.start_s) * 1e6))

    @staticmethod
    def _station(mac: object, vlan: object) -> tuple[int, int]:
        number = _index(vlan, "vlan")
        if not 0 <= number <= 4095:
            raise ValueError(f"vlan must be 0..4095, got {number}")
        return parse_mac(mac), number

    def _fresh(self, station: tuple[int, int]) -> bool:
        if station not in self.entries:
            return False
        seen_us = self.entries[station][1]
        return seen_us is None or seen_us >= self._now_us() - self.max_age_us

    def learn(self, mac: object, port: Hashable, vlan: object = 0) -> bool:
        """Note a station; whether it is new or has moved."""
        station = self._station(mac, vlan)
        _value(port, False)
        if station[0] == 0 or station[0] >> 40 & 1:
            return False
        before = self.entries.get(station)
        if before is not None and before[1] is None:
            return False
        was_fresh = self._fresh(station)
        self.entries[station] = (port, self._now_us())
        if before is None or before[0] == port:
            return not was_fresh
        self.moves += was_fresh
        return True

    def add_static(self, mac: object, port: Hashable, vlan: object = 0) -> None:
        """An entry that neither ages nor moves."""
        self.entries[self._station(mac, vlan)] = (_value(port, False), None)

    def delete(self, mac: object, vlan: object = 0) -> None:
        """Remove; KeyError if absent."""
        del self.entries[self._station(mac, vlan)]

    def lookup(self, mac: object, vlan: object = 0) -> Hashable | None:
        """The port, or None."""
        station = self._station(mac, vlan)
        return self.entries[station][0] if self._fresh(station) else None

    def age(self) -> int:
        """Remove what is too old."""
        old = [station for station in self.entries if not self._fresh(station)]
        for station in old:
            del self.entries[station]
        return len(old)

    def purge(self, port: Hashable, *, static: bool = False) -> int:
        """Remove what a port has learned."""
        gone = [s for s, (p, seen) in self.entries.items() if p == port and (static or seen is not None)]
        for station in gone:
            del self.entries[station]
        return len(gone)

    def __len__(self) -> int:
        return len(self.entries)
