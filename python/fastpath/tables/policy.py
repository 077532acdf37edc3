"""Policy: ordered allow and deny over five-tuples."""

from __future__ import annotations

import bisect
import ipaddress
import operator
import secrets
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastpath._policy import PolicyCore

Action = Literal["allow", "deny"]
Address = str | bytes | int | ipaddress.IPv4Address | ipaddress.IPv6Address
Prefix = str | ipaddress.IPv4Network | ipaddress.IPv6Network | tuple[Address, int]

_PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132}
_ANY_PROTOCOL = 256
_ANY_PORTS = (0, 65535)
_GAP = 1 << 40  # between the orders of neighbours, so that rules can be put between them


class Decision(NamedTuple):
    """What a policy says of a packet: the action, and the id of the rule that said it (None: the default)."""

    action: Action
    rule_id: Hashable | None


class Considered(NamedTuple):
    """A rule that was tried, and the first field of the packet that it does not match (None: it matches)."""

    rule_id: Hashable
    differs: str | None


class PolicyExplanation(NamedTuple):
    """A decision with the rules that were tried for it, in order."""

    decision: Decision
    considered: tuple[Considered, ...]


def _action(action: object) -> Action:
    if not isinstance(action, str):
        raise TypeError(f"action must be 'allow' or 'deny', got {type(action).__name__}")
    if action not in ("allow", "deny"):
        raise ValueError(f"action must be 'allow' or 'deny', got {action!r}")
    return action  # type: ignore[return-value]


def _integer(value: object, name: str, most: int) -> int:
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be an int, got {type(value).__name__}") from None
    if not 0 <= number <= most:
        raise ValueError(f"{name} must be 0..{most}, got {number}")
    return number


def _protocol(protocol: object) -> int:
    if isinstance(protocol, str):
        if protocol.lower() not in _PROTOCOLS:
            known = ", ".join(_PROTOCOLS)
            raise ValueError(f"protocol must be 0..255 or one of {known}, got {protocol!r}")
        return _PROTOCOLS[protocol.lower()]
    return _integer(protocol, "protocol", 255)


def _network(prefix: object, name: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    if prefix is None or isinstance(prefix, ipaddress.IPv4Network | ipaddress.IPv6Network):
        return prefix
    if isinstance(prefix, bool) or not isinstance(
        prefix, str | bytes | int | tuple | ipaddress.IPv4Address | ipaddress.IPv6Address
    ):
        raise TypeError(f"{name} must be a prefix or None, got {type(prefix).__name__}")
    return ipaddress.ip_network(prefix)


def _ports(ports: object, name: str) -> tuple[int, int]:
    if isinstance(ports, int):
        ports = (ports, ports)
    if isinstance(ports, str) or not isinstance(ports, Sequence):
        raise TypeError(f"{name} must be a (first, last) pair or one port, got {type(ports).__name__}")
    if len(ports) != 2:
        raise ValueError(f"{name} must be a (first, last) pair, got {len(ports)} numbers")
    first, last = (_integer(port, name, 65535) for port in ports)
    if first > last:
        raise ValueError(f"{name} must not end before it starts, got {first}..{last}")
    return first, last


@dataclass(frozen=True)
class Rule:
    """One rule; None matches anything.

    Parameters
    ----------
    action : {"allow", "deny"}
    src, dst : prefix or None
        ``str``, :mod:`ipaddress` network, address, or ``(address, length)``; host bits must be 0. A rule with
        both None holds for IPv4 and IPv6.
    protocol : int, str or None
        0..255, or ``"tcp"``, ``"udp"``, ``"icmp"``, ``"icmpv6"``, ``"sctp"``.
    src_ports, dst_ports : (int, int) or int
        First and last port, both included.
    id : hashable or None
        None: the policy gives it a number.
    """

    action: Action
    src: Any = None
    dst: Any = None
    protocol: Any = None
    src_ports: Any = _ANY_PORTS
    dst_ports: Any = _ANY_PORTS
    id: Any = None

    def __post_init__(self) -> None:
        checked = {
            "action": _action(self.action),
            "src": _network(self.src, "src"),
            "dst": _network(self.dst, "dst"),
            "protocol": None if self.protocol is None else _protocol(self.protocol),
            "src_ports": _ports(self.src_ports, "src_ports"),
            "dst_ports": _ports(self.dst_ports, "dst_ports"),
        }
        if self.src is not None and self.dst is not None:
            source, destination = checked["src"], checked["dst"]
            if source.version != destination.version:  # type: ignore[union-attr]
                raise ValueError(f"src and dst must be of one family, got {self.src} and {self.dst}")
        try:
            hash(self.id)
        except TypeError:
            raise TypeError(f"id must be hashable, got {type(self.id).__name__}") from None
        for name, value in checked.items():
            object.__setattr__(self, name, value)


def _box(rule: Rule, family: int) -> tuple[tuple[int, int], ...] | None:
    """The five ranges of a rule in a family; None if it is not of that family."""
    ranges = []
    for network in (rule.src, rule.dst):
        if network is None:
            ranges.append((0, 2 ** (32 if family == 4 else 128) - 1))
        elif network.version != family:
            return None
        else:
            ranges.append((int(network.network_address), int(network.broadcast_address)))
    protocol = (0, 255) if rule.protocol is None else (rule.protocol, rule.protocol)
    return (*ranges, rule.src_ports, rule.dst_ports, protocol)


def _overlap(a: tuple[tuple[int, int], ...], b: tuple[tuple[int, int], ...]) -> bool:
    return all(low <= high2 and low2 <= high for (low, high), (low2, high2) in zip(a, b, strict=True))


def _subtract(
    box: tuple[tuple[int, int], ...], hole: tuple[tuple[int, int], ...]
) -> Iterator[tuple[tuple[int, int], ...]]:
    """What is left of a box without a hole that overlaps it, as disjoint boxes."""
    rest = list(box)
    for axis, ((low, high), (from_, to)) in enumerate(zip(box, hole, strict=True)):
        if low < from_:
            yield (*rest[:axis], (low, from_ - 1), *rest[axis + 1 :])
        if to < high:
            yield (*rest[:axis], (to + 1, high), *rest[axis + 1 :])
        rest[axis] = (max(low, from_), min(high, to))


class Policy:
    """Ordered allow and deny rules over five-tuples; the first rule that matches decides.

    Parameters
    ----------
    rules : iterable of Rule
        In order.
    default : {"allow", "deny"}, default "deny"
        For packets that no rule matches.
    seed : int, optional
        Of the hashes; random unless told.

    Notes
    -----
    Threads: any number of readers beside one writer; each packet is decided by the rules as before or after a
    write, and :meth:`replace` exchanges all rules of a family at once. Every decision counts as a hit of its
    rule.

    Cost: a scalar decision takes some microseconds, most of them for reading the addresses; batches take 50
    to 100 ns a packet at a thousand rules. An insert or delete rebuilds one of the tuples (some twenty at a
    thousand rules) that the rules fall into.

    Source: merged tuples, after Daly et al., "TupleMerge: Fast Software Packet Processing for Online Packet
    Classification", 2019.
    """

    def __init__(
        self, rules: Iterable[Rule] = (), default: Action = "deny", *, seed: int | None = None
    ) -> None:
        self.default: Action = _action(default)
        if seed is None:
            seed = secrets.randbits(64)
        self._core = PolicyCore(_integer(seed, "seed", 2**64 - 1))
        self._reset()
        self.replace(rules)

    def _reset(self) -> None:
        self._orders: list[int] = []  # of the rules, ascending
        self._rules: list[Rule] = []
        self._order_of: dict[Hashable, int] = {}
        self._number_of: dict[Hashable, int] = {}
        self._values: list[Rule | None] = [None]
        self._unused: list[int] = []
        self._next_id = 1

    def _checked(self, rule: object, taken: Any) -> Rule:
        if not isinstance(rule, Rule):
            raise TypeError(f"a Rule was expected, got {type(rule).__name__}")
        if rule.id is None:
            while self._next_id in taken:
                self._next_id += 1
            return replace(rule, id=self._next_id)
        if rule.id in taken:
            raise ValueError(f"the id {rule.id!r} is taken by another rule")
        return rule

    def _number(self, rule: Rule) -> int:
        if self._unused:
            number = self._unused.pop()
            self._values[number] = rule
        else:
            number = len(self._values)
            self._values.append(rule)
        self._number_of[rule.id] = number
        return number

    @staticmethod
    def _fields(number: int, order: int, rule: Rule) -> tuple[Any, ...]:
        def side(network: Any) -> tuple[int, int, int]:
            if network is None:
                return 0, 0, 0
            return network.version, int(network.network_address), network.prefixlen

        protocol = _ANY_PROTOCOL if rule.protocol is None else rule.protocol
        return number, order, protocol, rule.src_ports, rule.dst_ports, side(rule.src), side(rule.dst)

    def replace(self, rules: Iterable[Rule]) -> None:
        """Exchange all rules; hit counters start again. Running readers see the old rules or the new ones."""
        if isinstance(rules, Rule) or not isinstance(rules, Iterable):
            raise TypeError(f"rules must be an iterable of Rule, got {type(rules).__name__}")
        checked: dict[Hashable, Rule] = {}
        for given in rules:
            rule = self._checked(given, checked)
            checked[rule.id] = rule
        next_id = self._next_id
        self._reset()
        self._next_id = next_id
        self._rules = list(checked.values())
        self._publish(keep_hits=False)

    def _publish(self, keep_hits: bool) -> None:
        """Gives every rule an order and the core all of them."""
        self._orders = [_GAP * (i + 1) for i in range(len(self._rules))]
        fields = []
        for order, rule in zip(self._orders, self._rules, strict=True):
            self._order_of[rule.id] = order
            known = self._number_of.get(rule.id)
            fields.append(self._fields(self._number(rule) if known is None else known, order, rule))
        self._core.replace(fields, keep_hits)

    def insert(self, rule: Rule, before: Hashable | None = None) -> Any:
        """Insert a rule before another one, or at the end.

        Parameters
        ----------
        rule : Rule
        before : rule id or None
            None: at the end.

        Returns
        -------
        hashable
            The rule's id.

        Raises
        ------
        KeyError
            No rule has the id ``before``.
        ValueError
            Another rule has the id of this one.
        """
        rule = self._checked(rule, self._order_of)
        at = len(self._rules) if before is None else bisect.bisect_left(self._orders, self._order_of[before])
        low = self._orders[at - 1] if at else 0
        high = self._orders[at] if at < len(self._orders) else low + 2 * _GAP
        self._rules.insert(at, rule)
        if high - low < 2 or high >= 2**63:
            self._publish(keep_hits=True)
            return rule.id
        order = (low + high) // 2
        self._orders.insert(at, order)
        self._order_of[rule.id] = order
        self._core.add(self._fields(self._number(rule), order, rule))
        return rule.id

    def delete(self, rule_id: Hashable) -> None:
        """Remove a rule; KeyError if there is none of this id."""
        at = bisect.bisect_left(self._orders, self._order_of.pop(rule_id))
        del self._orders[at], self._rules[at]
        number = self._number_of.pop(rule_id)
        self._core.erase(number)
        self._values[number] = None
        self._unused.append(number)

    def _packet(
        self, src: Any, dst: Any, protocol: Any, src_port: Any, dst_port: Any
    ) -> tuple[int, int, int, int, int, int]:
        sides = []
        for address, name in ((src, "src"), (dst, "dst")):
            if isinstance(address, ipaddress.IPv4Address | ipaddress.IPv6Address):
                sides.append(address)
            elif isinstance(address, bool) or not isinstance(address, str | bytes | int):
                raise TypeError(f"{name} must be an address, got {type(address).__name__}")
            elif isinstance(address, int):
                sides.append(ipaddress.IPv4Address(address))
            else:
                sides.append(ipaddress.ip_address(address))
        if sides[0].version != sides[1].version:
            raise ValueError(f"src and dst must be of one family, got {sides[0]} and {sides[1]}")
        return (
            sides[0].version,
            int(sides[0]),
            int(sides[1]),
            _protocol(protocol),
            _integer(src_port, "src_port", 65535),
            _integer(dst_port, "dst_port", 65535),
        )

    def decide(
        self, src: Address, dst: Address, protocol: int | str, src_port: int = 0, dst_port: int = 0
    ) -> Decision:
        """What happens to a packet."""
        packet = self._packet(src, dst, protocol, src_port, dst_port)
        rule = self._values[self._core.decide(*packet, count=True)]
        return Decision(self.default, None) if rule is None else Decision(rule.action, rule.id)

    def decide_many(
        self,
        srcs: NDArray[Any],
        dsts: NDArray[Any],
        protocols: Any,
        src_ports: Any = 0,
        dst_ports: Any = 0,
        *,
        out: NDArray[np.uint32] | None = None,
    ) -> NDArray[np.uint32]:
        """The rules that decide many packets of one family.

        Parameters
        ----------
        srcs, dsts : ndarray of uint32 (n,) for IPv4, or of uint8 (n, 16) for IPv6
        protocols : int, or integer array of shape (n,)
        src_ports, dst_ports : int, or integer array of shape (n,)
        out : ndarray of uint32, shape (n,), optional

        Returns
        -------
        ndarray of uint32, shape (n,)
            ``policy.values[i]`` is the rule of number ``i``; 0 means the default. :meth:`allowed` makes
            booleans.
        """
        srcs, dsts = np.asarray(srcs), np.asarray(dsts)
        n = len(srcs) if srcs.ndim else 0
        for array, name in ((srcs, "srcs"), (dsts, "dsts")):
            if array.dtype not in (np.uint32, np.uint8):
                raise TypeError(f"{name} must be uint32[n] or uint8[n, 16], got an array of {array.dtype}")
            if array.shape != ((n,) if array.dtype == np.uint32 else (n, 16)):
                raise ValueError(f"{name} must be uint32[n] or uint8[n, 16], got shape {array.shape}")
        if srcs.dtype != dsts.dtype:
            raise ValueError("srcs and dsts must be of one family")
        if out is None:
            out = np.empty(n, np.uint32)
        elif not isinstance(out, np.ndarray) or out.dtype != np.uint32:
            raise TypeError(f"out must be uint32[{n}], got {getattr(out, 'dtype', type(out).__name__)}")
        elif out.shape != (n,) or not out.flags.c_contiguous or not out.flags.writeable:
            raise ValueError(f"out must be a writeable, contiguous uint32[{n}], got shape {out.shape}")
        self._core.decide_many(
            np.ascontiguousarray(srcs),
            np.ascontiguousarray(dsts),
            _column(protocols, n, "protocols", np.uint8),
            _column(src_ports, n, "src_ports", np.uint16),
            _column(dst_ports, n, "dst_ports", np.uint16),
            out,
        )
        return out

    def allowed(self, ids: NDArray[np.uint32]) -> NDArray[np.bool_]:
        """Results of :meth:`decide_many` as booleans: whether the packet may pass."""
        allows = [(self.default if rule is None else rule.action) == "allow" for rule in self._values]
        return np.array(allows)[ids]

    def explain(
        self, src: Address, dst: Address, protocol: int | str, src_port: int = 0, dst_port: int = 0
    ) -> PolicyExplanation:
        """Why :meth:`decide` says what it says: every rule up to the one that decides. Counts no hit."""
        family, *packet = self._packet(src, dst, protocol, src_port, dst_port)
        values = (packet[0], packet[1], packet[3], packet[4], packet[2])
        names = ("src", "dst", "src_ports", "dst_ports", "protocol")
        considered = []
        for rule in self._rules:
            box = _box(rule, family)
            differs: str | None = None
            if box is None:
                differs = "family"
            else:
                for name, value, (low, high) in zip(names, values, box, strict=True):
                    if not low <= value <= high:
                        differs = name
                        break
            considered.append(Considered(rule.id, differs))
            if differs is None:
                return PolicyExplanation(Decision(rule.action, rule.id), tuple(considered))
        return PolicyExplanation(Decision(self.default, None), tuple(considered))

    def shadowed(self) -> tuple[Rule, ...]:
        """Rules that can never match: those before them, alone or together, take all their packets.

        Exact: what earlier rules leave of a rule is computed as boxes. A rule whose rest falls into more than
        ten thousand boxes counts as one that can match. Quadratic in the number of rules.
        """
        covered = [self._covered(family) for family in (4, 6)]
        return tuple(rule for i, rule in enumerate(self._rules) if covered[0][i] and covered[1][i])

    def _covered(self, family: int) -> list[bool]:
        """For each rule, whether nothing of a family is left to it."""
        boxes: list[tuple[tuple[int, int], ...]] = []
        # Bounds as floats find the pairs that may overlap: rounding can only make a few too many.
        bounds = np.empty((len(self._rules), 5, 2))
        result = []
        for rule in self._rules:
            box = _box(rule, family)
            if box is None:
                result.append(True)
                continue
            low, high = np.array(box, float).T
            known = bounds[: len(boxes)]
            near = np.flatnonzero(((known[:, :, 0] <= high) & (low <= known[:, :, 1])).all(axis=1))
            rest = [box]
            for earlier in near.tolist():
                hole = boxes[earlier]
                left: list[tuple[tuple[int, int], ...]] = []
                for part in rest:
                    if _overlap(part, hole):
                        left.extend(_subtract(part, hole))
                    else:
                        left.append(part)
                rest = left
                if not rest or len(rest) > 10_000:
                    break
            result.append(not rest)
            bounds[len(boxes)] = np.array(box, float)
            boxes.append(box)
        return result

    def hits(self, rule_id: Hashable) -> int:
        """Packets that a rule has decided since it was inserted; KeyError if there is none of this id."""
        return self._core.hits(self._number_of[rule_id])

    @property
    def values(self) -> tuple[Rule | None, ...]:
        """Rules by the numbers of :meth:`decide_many`; ``values[0]`` is None, the default."""
        return tuple(self._values)

    @property
    def nbytes(self) -> int:
        """Bytes held by the compiled side."""
        return self._core.nbytes

    def __getitem__(self, rule_id: Hashable) -> Rule:
        return self._rules[bisect.bisect_left(self._orders, self._order_of[rule_id])]

    def __contains__(self, rule_id: object) -> bool:
        return rule_id in self._order_of

    def __iter__(self) -> Iterator[Rule]:
        return iter(tuple(self._rules))

    def __len__(self) -> int:
        return len(self._rules)

    def copy(self) -> Policy:
        """A policy of its own with the same rules; its counters start at 0."""
        return Policy(self._rules, self.default)

    def __copy__(self) -> Policy:
        return self.copy()

    def __deepcopy__(self, memo: Any) -> Policy:
        return self.copy()

    def __reduce__(self) -> tuple[Any, ...]:
        return Policy, (self._rules, self.default)

    def __repr__(self) -> str:
        return f"<Policy: {len(self)} rules, default {self.default!r}>"


def _column(values: Any, n: int, name: str, dtype: Any) -> NDArray[Any]:
    array = np.asarray(values)
    most = np.iinfo(dtype).max
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got an array of {array.dtype}")
    if array.ndim == 0:
        array = np.broadcast_to(array, n)
    if array.shape != (n,):
        raise ValueError(f"{name} must have shape ({n},), got {array.shape}")
    if n and array.dtype != dtype and (array.min() < 0 or array.max() > most):
        raise ValueError(f"{name} must be 0..{most}, got {array.min()}..{array.max()}")
    return np.ascontiguousarray(array, dtype)
