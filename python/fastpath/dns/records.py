"""The records that are answered. `str(record)` is the data in the text form of zone files."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from fastpath.dns.names import Labels, labels_of, wire_of

TYPES = {
    "A": 1,
    "NS": 2,
    "CNAME": 5,
    "SOA": 6,
    "PTR": 12,
    "HINFO": 13,
    "MX": 15,
    "TXT": 16,
    "AAAA": 28,
    "SRV": 33,
    "SVCB": 64,
    "HTTPS": 65,
    "ANY": 255,
}
_TYPE_NAMES = {number: name for name, number in TYPES.items()}

# Writes a name, compressed where the message allows it.
NameWriter: TypeAlias = Callable[[Labels], bytes]


def type_number(rdtype: object) -> int:
    """Number of a record type given as "SRV", "TYPE33" or 33."""
    if isinstance(rdtype, str):
        name = rdtype.upper()
        if name in TYPES:
            return TYPES[name]
        digits = name.removeprefix("TYPE")
        if (
            digits != name
            and digits.isascii()
            and digits.isdigit()
            and len(digits) <= 5
            and int(digits) <= 0xFFFF
        ):
            return int(digits)
        raise ValueError(f"rdtype must be a DNS type such as 'A', 'AAAA' or 'SRV', not {rdtype!r}")
    if isinstance(rdtype, bool) or not isinstance(rdtype, int):
        raise TypeError(f"rdtype must be a str or int, not {type(rdtype).__name__}: {rdtype!r}")
    if not 0 <= rdtype <= 0xFFFF:
        raise ValueError(f"rdtype must be 0 to 65535, not {rdtype}")
    return int(rdtype)


def type_name(number: int) -> str:
    """Name of a record type, ``TYPEn`` (RFC 3597) where it has none here."""
    return _TYPE_NAMES.get(number, f"TYPE{number}")


def packed_address(address: str) -> bytes:
    """4 or 16 bytes of a canonical address; several times as fast as `ipaddress`."""
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


@dataclass(frozen=True, slots=True)
class Record:
    """What all records share: the owner's name (with the dot at the end) and the TTL in seconds."""

    name: str
    ttl_s: int

    @property
    def rdtype(self) -> str:
        """Name of the record's type."""
        raise NotImplementedError

    def rdata(self, compress: NameWriter) -> bytes:
        """The data on the wire."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class AddressRecord(Record):
    """A or AAAA: an address in canonical text."""

    address: str

    @property
    def rdtype(self) -> str:
        """A or AAAA."""
        return "AAAA" if ":" in self.address else "A"

    def rdata(self, compress: NameWriter) -> bytes:
        """4 or 16 bytes."""
        return packed_address(self.address)

    def __str__(self) -> str:
        return self.address


@dataclass(frozen=True, slots=True)
class SrvRecord(Record):
    """SRV (RFC 2782): lower priority first, then in proportion to weight."""

    priority: int
    weight: int
    port: int
    target: str

    @property
    def rdtype(self) -> str:
        """SRV."""
        return "SRV"

    def rdata(self, compress: NameWriter) -> bytes:
        """The target is not compressed, as RFC 2782 asks."""
        numbers = b"".join(n.to_bytes(2) for n in (self.priority, self.weight, self.port))
        return numbers + wire_of(labels_of(self.target))

    def __str__(self) -> str:
        return f"{self.priority} {self.weight} {self.port} {self.target}"


@dataclass(frozen=True, slots=True)
class PtrRecord(Record):
    """PTR: the name at an address."""

    target: str

    @property
    def rdtype(self) -> str:
        """PTR."""
        return "PTR"

    def rdata(self, compress: NameWriter) -> bytes:
        """The target, compressed."""
        return compress(labels_of(self.target))

    def __str__(self) -> str:
        return self.target


@dataclass(frozen=True, slots=True)
class NsRecord(PtrRecord):
    """NS: a name server."""

    @property
    def rdtype(self) -> str:
        """NS."""
        return "NS"


@dataclass(frozen=True, slots=True)
class SoaRecord(Record):
    """SOA: its serial is the registry's revision, its minimum the TTL of negative answers."""

    mname: str
    rname: str
    serial: int
    refresh: int
    retry: int
    expire: int
    minimum: int

    @property
    def rdtype(self) -> str:
        """SOA."""
        return "SOA"

    def rdata(self, compress: NameWriter) -> bytes:
        """Both names compressed, then five numbers of 32 bits."""
        numbers = (self.serial, self.refresh, self.retry, self.expire, self.minimum)
        names = compress(labels_of(self.mname)) + compress(labels_of(self.rname))
        return names + b"".join(n.to_bytes(4) for n in numbers)

    def __str__(self) -> str:
        numbers = (self.serial, self.refresh, self.retry, self.expire, self.minimum)
        return f"{self.mname} {self.rname} {' '.join(map(str, numbers))}"


@dataclass(frozen=True, slots=True)
class HinfoRecord(Record):
    """HINFO, the minimal answer to ANY (RFC 8482)."""

    cpu: str
    os: str

    @property
    def rdtype(self) -> str:
        """HINFO."""
        return "HINFO"

    def rdata(self, compress: NameWriter) -> bytes:
        """Two strings, each behind its length."""
        return b"".join(bytes([len(text)]) + text.encode() for text in (self.cpu, self.os))

    def __str__(self) -> str:
        return f'"{self.cpu}" "{self.os}"'
