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
