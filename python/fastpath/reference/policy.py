"""Rules tried one after the other: the oracle of Policy."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any, Protocol


class RuleLike(Protocol):
    """What is read of a rule."""

    @property
    def src(self) -> Any: ...  # noqa: D102
    @property
    def dst(self) -> Any: ...  # noqa: D102
    @property
    def protocol(self) -> Any: ...  # noqa: D102
    @property
    def src_ports(self) -> tuple[int, int]: ...  # noqa: D102
    @property
    def dst_ports(self) -> tuple[int, int]: ...  # noqa: D102


def _covers(prefix: Any, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if prefix is None:
        return True
    network = ipaddress.ip_network(prefix)
    return network.version == address.version and address in network


def first_match(rules: Iterable[RuleLike], packet: tuple[str, str, int, int, int]) -> RuleLike | None:
    """The first rule that matches (source, destination, protocol, source port, destination port), or None."""
    src, dst, protocol, src_port, dst_port = packet
    source, destination = ipaddress.ip_address(src), ipaddress.ip_address(dst)
    for rule in rules:
        if (
            _covers(rule.src, source)
            and _covers(rule.dst, destination)
            and rule.protocol in (None, protocol)
            and rule.src_ports[0] <= src_port <= rule.src_ports[1]
            and rule.dst_ports[0] <= dst_port <= rule.dst_ports[1]
        ):
            return rule
    return None


def _is_of(rule: RuleLike, version: int) -> bool:
    return all(side is None or side.version == version for side in (rule.src, rule.dst))


def _range(rule: RuleLike, field: int, bits: int) -> tuple[int, int]:
    """First and last value of a field, of addresses of so many bits."""
    if field < 2:
        side = (rule.src, rule.dst)[field]
        if side is None or side.max_prefixlen != bits:
            return 0, 2**bits - 1
        return int(side[0]), int(side[-1])
    if field < 4:
        return (rule.src_ports, rule.dst_ports)[field - 2]
    return (0, 255) if rule.protocol is None else (rule.protocol, rule.protocol)


def _differs(rule: RuleLike, packet: Any) -> str | None:
    src, dst, protocol, src_port, dst_port = packet
    source, destination = ipaddress.ip_address(src), ipaddress.ip_address(dst)
    if not _is_of(rule, source.version):
        return "family"
    values = (int(source), int(destination), src_port, dst_port, protocol)
    for field, name in enumerate(("src", "dst", "src_ports", "dst_ports", "protocol")):
        low, high = _range(rule, field, source.max_prefixlen)
        if not low <= values[field] <= high:
            return name
    return None


class Policy:
    """What :class:`fastpath.Policy` does, with rules in a list; every rule has an id."""

    def __init__(self, rules: Iterable[Any], default: str) -> None:
        self._rules = list(rules)
        self._hits = {rule.id: 0 for rule in self._rules}
        self._default = default

    def ids(self) -> list[Any]:
        """Of the rules, in order."""
        return [rule.id for rule in self._rules]

    def insert(self, rule: Any, before: Any = None) -> None:
        """Before the rule of an id; None: at the end."""
        if rule.id in self._hits:
            raise ValueError(f"the id {rule.id!r} is taken by another rule")
        self._rules.insert(len(self._rules) if before is None else self.ids().index(before), rule)
        self._hits[rule.id] = 0

    def delete(self, rule_id: Any) -> None:
        """The rule of an id."""
        del self._hits[rule_id]
        self._rules = [rule for rule in self._rules if rule.id != rule_id]

    def shadowed(self) -> list[Any]:
        """Ids of the rules that no packet meets first, of one packet for each way to match."""
        firsts = set()
        for version, bits in ((4, 32), (6, 128)):
            met = {sum(1 << i for i, rule in enumerate(self._rules) if _is_of(rule, version))}
            for field in range(5):
                ranges = [_range(rule, field, bits) for rule in self._rules]
                starts = {0, *(low for low, _ in ranges), *(high + 1 for _, high in ranges)}
                starts -= {2 ** (bits, bits, 16, 16, 8)[field]}
                masks = {
                    sum(1 << i for i, (low, high) in enumerate(ranges) if low <= start <= high)
                    for start in starts
                }
                met = {before & mask for before in met for mask in masks}
            firsts |= {rules & -rules for rules in met}
        return [rule.id for i, rule in enumerate(self._rules) if 1 << i not in firsts]

    def decide(self, *packet: Any) -> tuple[str, Any]:
        """(action, id of the rule or None), and a hit of the rule."""
        rule: Any = first_match(self._rules, packet)
        if rule is None:
            return self._default, None
        self.count(rule.id)
        return rule.action, rule.id

    def explain(self, *packet: Any) -> list[tuple[Any, str | None]]:
        """Ids of the rules up to the one that decides, each with the first field that differs."""
        tried = []
        for rule in self._rules:
            tried.append((rule.id, _differs(rule, packet)))
            if tried[-1][1] is None:
                break
        return tried

    def count(self, rule_id: Any) -> None:
        """One hit more."""
        if rule_id is not None:
            self._hits[rule_id] += 1

    def hits(self) -> list[int]:
        """Of the rules, in order."""
        return [self._hits[rule.id] for rule in self._rules]
