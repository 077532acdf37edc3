"""Which records a name has: the forms of names, read from right to left, and the registry behind them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from fastpath.dns.names import Labels, labels_of, legal, text_of
from fastpath.dns.records import (
    TYPES,
    AddressRecord,
    HinfoRecord,
    NsRecord,
    PtrRecord,
    Record,
    SoaRecord,
    SrvRecord,
    packed_address,
)
from fastpath.registry import Instance, Registry
from fastpath.registry.types import check_label

_A, _NS, _SOA, _PTR, _AAAA, _SRV, _ANY = (TYPES[t] for t in ("A", "NS", "SOA", "PTR", "AAAA", "SRV", "ANY"))
_REVERSE_V4: Labels = (b"in-addr", b"arpa")
_REVERSE_V6: Labels = (b"ip6", b"arpa")
_HEX = frozenset(b"0123456789abcdef")
# The answer to ANY changes never, so it may be kept for long.
_ANY_TTL_S = 3600
_SOA_TIMERS = (3600, 600, 86400)


@dataclass(frozen=True, slots=True)
class Entry:
    """A record of the answer: its share and rank when the order is drawn, and what goes along with it.

    `service` is the one service whose changes can change the answer; empty: any change can.
    """

    record: Record
    weight: int = 1
    priority: int = 0
    additional: AddressRecord | None = None
    service: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of a (name, type) at a revision.

    `exists` is False for NXDOMAIN; without entries, `soa` is the record for the authority section. `soa` is
    None where nothing here has authority (REFUSED).
    """

    revision: int
    exists: bool
    entries: tuple[Entry, ...] = ()
    soa: SoaRecord | None = None


class Zone:
    """The names under one domain, and the reverse names of what is registered.

    | name | is |
    | --- | --- |
    | ``NAME.service[.DC]``, ``TAG.NAME.service[.DC]`` | the available instances of a service (with a tag) |
    | ``_NAME._tcp[.service][.DC]``, ``_NAME._TAG[.service][.DC]`` | the same, after RFC 2782 |
    | ``ID.node[.DC]`` | one instance, whatever its health |
    | ``HEX.addr[.DC]`` | the address itself: 8 or 32 hex digits; the target of SRV records |
    | the domain itself, ``ns`` | SOA and NS; addresses of this server |
    | ``….in-addr.arpa``, ``….ip6.arpa`` | the names of the instances at an address |

    DC is the registry's data centre, also as ``DC.dc``.
    """

    def __init__(
        self, registry: Registry, domain: Labels, ttl_s: int, negative_ttl_s: int, addresses: tuple[str, ...]
    ) -> None:
        self._registry = registry
        self._domain = domain
        self._ttl_s = ttl_s
        self._negative_ttl_s = negative_ttl_s
        self._addresses = addresses
        self._datacenter = registry.datacenter.encode()

    def find(self, name: Labels, rdtype: int) -> Found:
        """The records of a name (lower case), all at one revision."""
        with self._registry.reading() as revision:
            for apex in (self._domain, _REVERSE_V4, _REVERSE_V6):
                if name[-len(apex) :] == apex:
                    break
            else:
                return Found(revision, False)
            rest = name[: -len(apex)]
            if not rest:
                entries: list[Entry] | None = self._apex(apex, rdtype, revision)
            elif apex is self._domain:
                entries = self._below(rest, name, rdtype)
            else:
                entries = self._reverse(rest, apex, name, rdtype)
            if entries is not None and rdtype == _ANY:
                entries = [Entry(HinfoRecord(text_of(name), _ANY_TTL_S, "RFC8482", ""))]
            return Found(
                revision,
                entries is not None,
                tuple(entries or ()),
                None if entries else self._soa(apex, revision, self._negative_ttl_s),
            )

    # Below, None means that the name does not exist, and an empty list that it has no such records.

    def _soa(self, apex: Labels, revision: int, ttl_s: int) -> SoaRecord:
        return SoaRecord(
            text_of(apex),
            ttl_s,
            text_of((b"ns", *self._domain)),
            text_of((b"hostmaster", *self._domain)),
            revision & 0xFFFFFFFF,
            *_SOA_TIMERS,
            self._negative_ttl_s,
        )

    def _apex(self, apex: Labels, rdtype: int, revision: int) -> list[Entry]:
        if rdtype == _SOA:
            return [Entry(self._soa(apex, revision, self._ttl_s))]
        if rdtype == _NS:
            return [Entry(NsRecord(text_of(apex), self._ttl_s, text_of((b"ns", *self._domain))))]
        return []

    def _below(self, rest: Labels, name: Labels, rdtype: int) -> list[Entry] | None:
        if rest == (b"ns",):
            return self._address_entries(name, self._addresses, rdtype)
        if rest == (b"dc",):
            return []
        if rest[-2:] == (self._datacenter, b"dc"):
            rest = rest[:-2]
        elif rest[-1] == self._datacenter:
            rest = rest[:-1]
        if not rest:
            return []
        body, kind = rest[:-1], rest[-1]
        if kind == b"service":
            return self._service(body, name, rdtype)
        if kind == b"node":
            return self._node(body, name, rdtype)
        if kind == b"addr":
            return self._addr(body, name, rdtype)
        if kind.startswith(b"_") and len(rest) <= 2:
            return self._service(rest, name, rdtype)
        return None

    def _service(self, body: Labels, name: Labels, rdtype: int) -> list[Entry] | None:
        if not body:
            return []
        if body[-1].startswith(b"_"):
            tag = None if body[-1] == b"_tcp" else _text(body[-1][1:])
            if len(body) == 1:
                return [] if self._tag_exists(tag) else None
            if len(body) > 2 or not body[0].startswith(b"_"):
                return None
            service = _text(body[0][1:])
        else:
            service = _text(body[-1])
            tag = _text(b".".join(body[:-1])) if len(body) > 1 else None
        instances = self._registry.instances(service, tag=tag)
        if not instances:
            # A tag may hold dots; a part of it is a name without records, not an absent one.
            inner = tag is not None and any(
                own.lower().endswith("." + tag)
                for instance in self._registry.instances(service)
                for own in instance.tags
            )
            return [] if inner else None
        if rdtype == _SRV:
            return [self._srv(name, instance) for instance in instances]
        shares: dict[str, tuple[int, int]] = {}
        for instance in instances:
            weight, priority = shares.get(instance.address, (0, 65535))
            shares[instance.address] = (
                min(weight + instance.weight, 2**32 - 1),
                min(priority, instance.priority),
            )
        return [
            Entry(entry.record, *shares[entry.record.address], service=service)
            for entry in self._address_entries(name, shares, rdtype)
            if isinstance(entry.record, AddressRecord)
        ]

    def _tag_exists(self, tag: str | None) -> bool:
        return any(
            tag is None or any(own.lower() == tag for own in tags)
            for tags in self._registry.services().values()
        )

    def _srv(self, name: Labels, instance: Instance) -> Entry:
        packed = packed_address(instance.address)
        target = text_of((packed.hex().encode(), b"addr", self._datacenter, *self._domain))
        record = SrvRecord(
            text_of(name), self._ttl_s, instance.priority, instance.weight, instance.port, target
        )
        address = AddressRecord(target, self._ttl_s, instance.address)
        return Entry(record, instance.weight, instance.priority, address, instance.service)

    def _node(self, body: Labels, name: Labels, rdtype: int) -> list[Entry] | None:
        if not body:
            return []
        instances = self._registry.find_id(_text(b".".join(body)))
        if not instances:
            return None
        return self._address_entries(name, dict.fromkeys(i.address for i in instances), rdtype)

    def _addr(self, body: Labels, name: Labels, rdtype: int) -> list[Entry] | None:
        if not body:
            return []
        if len(body) != 1 or len(body[0]) not in (8, 32) or not _HEX.issuperset(body[0]):
            return None
        address = str(ipaddress.ip_address(bytes.fromhex(body[0].decode())))
        return self._address_entries(name, (address,), rdtype)

    def _address_entries(self, name: Labels, addresses: Iterable[str], rdtype: int) -> list[Entry]:
        if rdtype not in (_A, _AAAA):
            return []
        owner = text_of(name)
        return [
            Entry(AddressRecord(owner, self._ttl_s, address))
            for address in addresses
            if (":" in address) == (rdtype == _AAAA)
        ]

    def _reverse(self, rest: Labels, apex: Labels, name: Labels, rdtype: int) -> list[Entry] | None:
        parts = [_text(label) for label in reversed(rest)]
        if apex is _REVERSE_V4:
            legal_parts = all(
                part.isascii() and part.isdigit() and str(int(part)) == part and int(part) < 256
                for part in parts
            )
            whole, text = 4, ".".join(parts)
        else:
            legal_parts = all(len(label) == 1 and _HEX.issuperset(label) for label in rest)
            whole = 32
            text = ":".join("".join(parts[i : i + 4]) for i in range(0, 32, 4))
        if not legal_parts or len(parts) > whole:
            return None
        if len(parts) < whole:
            return []
        instances = self._registry.find_address(text)
        if not instances:
            return None
        if rdtype != _PTR:
            return []
        nodes = [
            (*instance.id.lower().encode().split(b"."), b"node", self._datacenter, *self._domain)
            for instance in instances
            if instance.id.isascii() and "\\" not in instance.id
        ]
        services = dict.fromkeys(
            (instance.service.encode(), b"service", *self._domain)
            for instance in instances
            if instance.available
        )
        owner = text_of(name)
        return [
            Entry(PtrRecord(owner, self._ttl_s, _plain_text(target)), priority=rank)
            for rank, targets in enumerate((nodes, services))
            for target in targets
            if legal(target)
        ]


def _text(label: bytes) -> str:
    return label.decode("utf-8", "replace")


def _plain_text(labels: Labels) -> str:
    return b".".join(labels).decode() + "."


def apex_of(domain: object) -> Labels:
    """Labels of a resolver's domain."""
    labels = labels_of(domain, "domain")
    for label in labels:
        check_label(label.decode(), "every label of domain")
    if sum(len(label) + 1 for label in labels) > 128:
        raise ValueError(f"domain must leave room for names below it: at most 127 characters, not {domain!r}")
    if labels[-1] == b"arpa":
        raise ValueError(f"domain must not be below 'arpa', where reverse names live: {domain!r}")
    return labels
