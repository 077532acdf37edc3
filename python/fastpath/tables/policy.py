"""Policy: ordered allow and deny over five-tuples."""

from __future__ import annotations

import bisect
import copy
import ipaddress
import operator
import secrets
import threading
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Self, SupportsIndex, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastpath import _policy, forking
from fastpath._policy import PolicyCore
from fastpath.keys import Address, checked_address, checked_column, checked_integer, checked_sides

Action = Literal["allow", "deny"]
Prefix = str | ipaddress.IPv4Network | ipaddress.IPv6Network | tuple[Address, int]

_PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132}
_ANY_PROTOCOL = 256
_ANY_PORTS = (0, 65535)
_ORDERS = 1 << 64  # orders are below
_GAP = 1 << 40  # between the orders of neighbours, so that rules can be put between them
_STEP = 8  # bits by which steps are smaller than the gap
_WINDOW = 32  # rules that are moved apart, at least, where a gap is used up
_ROOM = 1 << 16  # the gap that so many rules must get
_REST = 10_000  # deletions, at least, before the number of a rule is given to another one


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


def _protocol(protocol: object) -> int:
    if isinstance(protocol, str):
        if protocol.lower() not in _PROTOCOLS:
            known = ", ".join(_PROTOCOLS)
            raise ValueError(f"protocol must be 0..255 or one of {known}, got {protocol!r}")
        return _PROTOCOLS[protocol.lower()]
    if isinstance(protocol, bool):
        raise TypeError(f"protocol must be an int or a name, got {protocol}")
    return checked_integer(protocol, "protocol", 255)


def _network(prefix: object, name: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    if prefix is None:
        return None
    address, length = prefix, None
    if isinstance(prefix, tuple):
        if len(prefix) != 2:
            raise ValueError(f"{name} must be a prefix or (address, length), got {len(prefix)} items")
        address, length = prefix
        if not isinstance(length, str):
            length = checked_integer(length, f"the length of {name}", 128)
    if isinstance(address, SupportsIndex) and not isinstance(address, bool):
        address = ipaddress.IPv4Address(operator.index(address))
    kinds: Any = str | bytes | ipaddress.IPv4Address | ipaddress.IPv6Address
    if length is None:
        kinds |= ipaddress.IPv4Network | ipaddress.IPv6Network
    if not isinstance(address, kinds):
        raise TypeError(f"{name} must be a prefix or None, got {type(address).__name__}")
    made = ipaddress.ip_network(address if length is None else (address, length))
    if isinstance(made, ipaddress.IPv6Network) and made.network_address.scope_id is not None:
        raise ValueError(f"{name} must be a prefix without a scope, got {prefix!r}")
    return made


def _ports(ports: object, name: str) -> tuple[int, int]:
    if hasattr(ports, "__index__") and not isinstance(ports, bool):
        ports = (ports, ports)
    if isinstance(ports, str | bytes | bytearray | bool) or not isinstance(ports, Sequence):
        raise TypeError(f"{name} must be a (first, last) pair or one port, got {type(ports).__name__}")
    if len(ports) != 2:
        raise ValueError(f"{name} must be a (first, last) pair, got {len(ports)} numbers")
    first, last = (checked_integer(port, name, 65535) for port in ports)
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


class _Entry(NamedTuple):
    rule: Rule
    order: int
    number: int

    @property
    def fields(self) -> tuple[Any, ...]:
        """The rule as the compiled side reads it."""

        def side(network: Any) -> tuple[int, int, int]:
            if network is None:
                return 0, 0, 0
            return network.version, int(network.network_address), network.prefixlen

        rule = self.rule
        protocol = _ANY_PROTOCOL if rule.protocol is None else rule.protocol
        sides = side(rule.src), side(rule.dst)
        return self.number, self.order, protocol, rule.src_ports, rule.dst_ports, *sides


def _spread(low: int, high: int, n: int) -> list[int]:
    """n orders between two that leave wide gaps."""
    return [low + (high - low) * (i + 1) // (n + 1) for i in range(n)]


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
    Threads: any number of readers, which never wait; edits take a lock. A packet is decided by the rules as
    before or after an edit, a batch as a whole by one set of rules. Every decision counts as a hit of its
    rule.

    Cost: a scalar decision takes some microseconds, most of them for reading the addresses. Batches go
    through a decision tree once it is compiled, 10 to 50 ns a packet; it is compiled from the rules of that
    moment by :meth:`compile`, or by the batch with which about 64 packets a rule have been slower. Such a
    batch takes longer by 20 microseconds a rule and a tenth of a second at most: rules so entangled that
    their tree takes more are left to the hashed rules, some 100 ns to microseconds a packet, until half of
    them have changed or :meth:`compile` is called. An edit takes microseconds: it replaces a chunk of the
    hashed rules, and stands beside the tree until that is compiled again.

    Source: merged tuples, after Daly et al., "TupleMerge: Fast Software Packet Processing for Online Packet
    Classification", 2019; the tree, after Gupta and McKeown, "Packet Classification on Multiple Fields" and
    "Packet Classification using Hierarchical Intelligent Cuttings", 1999.
    """

    def __init__(
        self, rules: Iterable[Rule] = (), default: Action = "deny", *, seed: int | None = None
    ) -> None:
        if seed is None:
            seed = secrets.randbits(64)
        self._core = PolicyCore(checked_integer(seed, "seed", 2**64 - 1))
        self._lock = threading.Lock()
        self._editor = 0  # the thread that holds it
        self._orders: list[int] = []  # of the rules, ascending
        self._latest = 0  # the order of the rule that was inserted last
        self._rules: list[Rule] = []
        self._entries: dict[Hashable, _Entry] = {}
        self._values: list[Rule | None] = [
            None
        ]  # by number; what was deleted stays until its number is taken
        self._allows = np.zeros(64, np.bool_)  # by number, too
        self._free: deque[int] = deque()
        self._next_id = 1
        self.default = default
        forking.protect(self, forking.EDITED)
        self.replace(rules)

    # An edit whose rule ids fork, as they are hashed, goes on in parent and child.
    def _lock_for_fork(self) -> bool:
        return self._editor == threading.get_ident() or self._lock.acquire(timeout=forking.PATIENCE_S)

    def _unlock_after_fork(self) -> None:
        if self._editor != threading.get_ident():
            self._lock.release()

    _unlock_in_child = _unlock_after_fork

    @property
    def default(self) -> Action:
        """What happens to packets that no rule matches."""
        return self._default

    @default.setter
    def default(self, action: Action) -> None:
        self._default = _action(action)
        self._allows[0] = action == "allow"

    @contextmanager
    def _editing(self) -> Iterator[None]:
        if self._editor == threading.get_ident():
            raise RuntimeError(
                "hashing or comparing a rule's id must not edit the policy that is being edited"
            )
        with self._lock:
            self._editor = threading.get_ident()
            try:
                yield
            finally:
                self._editor = 0

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
        """A number for a rule; not one that was freed just now: results may still name a rule by it."""
        if len(self._free) > max(_REST, len(self._rules)):
            number = self._free.popleft()
            self._values[number] = rule
        else:
            number = len(self._values)
            if number == len(self._allows):
                self._allows = np.concatenate([self._allows, np.zeros(number, np.bool_)])
            self._values.append(rule)
        self._allows[number] = rule.action == "allow"
        return number

    def replace(self, rules: Iterable[Rule]) -> None:
        """Exchange all rules; hit counters start again. Running readers see the old rules or the new ones."""
        if isinstance(rules, Rule) or not isinstance(rules, Iterable):
            raise TypeError(f"rules must be an iterable of Rule, got {type(rules).__name__}")
        given = list(rules)
        with self._editing():
            # Ids that are given come before numbers that are made up.
            claimed = {rule.id for rule in given if isinstance(rule, Rule)}
            checked: dict[Hashable, Rule] = {}
            for each in given:
                rule = self._checked(each, claimed if getattr(each, "id", 0) is None else checked)
                checked[rule.id] = rule
                claimed.add(rule.id)
            half = min(_GAP * (len(checked) + 1), _ORDERS - 2) // 2
            orders = _spread(_ORDERS // 2 - half, _ORDERS // 2 + half, len(checked))
            entries = [
                _Entry(rule, order, self._number(rule))
                for rule, order in zip(checked.values(), orders, strict=True)
            ]
            self._core.replace([entry.fields for entry in entries])
            self._free.extend(entry.number for entry in self._entries.values())
            self._entries = {entry.rule.id: entry for entry in entries}
            self._orders = [entry.order for entry in entries]
            self._rules = [entry.rule for entry in entries]
            self._latest = 0

    def _bounds(self, start: int, stop: int) -> tuple[int, int]:
        """Between which orders some rules and a new one may lie: one gap a rule beyond the first or last."""
        room = _GAP * (stop - start + 2)
        low = self._orders[start - 1] if start else 0
        high = self._orders[stop] if stop < len(self._orders) else _ORDERS - 1
        if start == 0 and self._orders:
            low = max(low, self._orders[0] - room)
        if stop == len(self._orders) and self._orders:
            high = min(high, self._orders[-1] + room)
        return low, high

    def _order(self, at: int) -> int | None:
        """An order for a new rule at a position; None if there is none between its neighbours.

        Rules often go to one place after the other, before the same rule or after it: there they take a step
        each, rather than half of what is left.
        """
        low, high = self._bounds(at, at)
        if high - low < 2:
            return None
        if 0 < at < len(self._orders) and self._latest in (low, high):
            step = max((high - low) >> _STEP, 1)
            return low + step if low == self._latest else high - step
        return (low + high) // 2

    def _make_room(self, at: int) -> None:
        """Moves the orders of some rules around a position apart.

        As many as it takes to find wide gaps, wider for more rules: so a place to which rules go again and
        again costs a few moves a rule, after Bender et al., "Two Simplified Algorithms for Maintaining Order
        in a List", 2002.
        """
        n = len(self._orders)
        size, gap = _WINDOW, _ROOM
        while True:
            start, stop = max(0, at - size // 2), min(n, at + size // 2)
            low, high = self._bounds(start, stop)
            if high - low >= gap * (stop - start + 1):
                break
            if start == 0 and stop == n:
                low, high = 0, _ORDERS - 1
                break
            size, gap = 2 * size, 2 * gap
        orders = _spread(low, high, stop - start)
        entries = [self._entries[rule.id] for rule in self._rules[start:stop]]
        self._core.move([entry.fields for entry in entries], orders)
        self._orders[start:stop] = orders
        self._latest = 0
        for entry, order in zip(entries, orders, strict=True):
            self._entries[entry.rule.id] = entry._replace(order=order)

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
        with self._editing():
            rule = self._checked(rule, self._entries)
            at = len(self._rules)
            if before is not None:
                at = bisect.bisect_left(self._orders, self._entries[before].order)
            if (order := self._order(at)) is None:
                self._make_room(at)
                order = self._order(at)
                assert order is not None
            entry = _Entry(rule, order, self._number(rule))
            self._core.add(entry.fields)
            self._entries[rule.id] = entry
            self._orders.insert(at, order)
            self._rules.insert(at, rule)
            self._latest = order
        return rule.id

    def delete(self, rule_id: Hashable) -> None:
        """Remove a rule; KeyError if there is none of this id."""
        with self._editing():
            entry = self._entries[rule_id]
            self._core.erase(entry.fields)
            del self._entries[rule_id]
            at = bisect.bisect_left(self._orders, entry.order)
            del self._orders[at], self._rules[at]
            self._free.append(entry.number)

    def compile(self) -> None:
        """Compile the rules of now for :meth:`decide_many`, which else does so by itself after some batches.

        Worth calling after :meth:`replace`, before packets come that must not wait. Goes on until it is done,
        without the GIL; readers and edits go on meanwhile.

        Cost: 10 to 25 microseconds a rule for sets like ClassBench's with 1000 rules or more, up to 100 for
        IPv6. It grows with how many rules overlap: those that are wide in every field take some 300 each.
        """
        self._core.compile()

    def _packet(
        self, src: Any, dst: Any, protocol: Any, src_port: Any, dst_port: Any
    ) -> tuple[int, int, int, int, int, int]:
        source, destination = checked_address(src, "src"), checked_address(dst, "dst")
        if source.version != destination.version:
            raise ValueError(f"src and dst must be of one family, got {source} and {destination}")
        return (
            source.version,
            int(source),
            int(destination),
            _protocol(protocol),
            checked_integer(src_port, "src_port", 65535),
            checked_integer(dst_port, "dst_port", 65535),
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
        srcs, dsts = checked_sides(srcs, dsts)
        n = len(srcs)
        if out is None:
            out = np.empty(n, np.uint32)
        elif not isinstance(out, np.ndarray) or out.dtype != np.uint32:
            raise TypeError(f"out must be uint32[{n}], got {getattr(out, 'dtype', type(out).__name__)}")
        elif out.shape != (n,) or not out.flags.c_contiguous or not out.flags.writeable:
            raise ValueError(f"out must be a writeable, contiguous uint32[{n}], got shape {out.shape}")

        def apart(column: NDArray[Any]) -> NDArray[Any]:
            # What an answer would be written over is copied first.
            return column.copy() if np.may_share_memory(column, out) else column

        self._core.decide_many(
            apart(np.ascontiguousarray(srcs)),
            apart(np.ascontiguousarray(dsts)),
            apart(checked_column(protocols, n, "protocols", np.uint8)),
            apart(checked_column(src_ports, n, "src_ports", np.uint16)),
            apart(checked_column(dst_ports, n, "dst_ports", np.uint16)),
            out,
        )
        return out

    def allowed(self, ids: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
        """Results of :meth:`decide_many` as booleans: whether the packet may pass."""
        ids = np.asarray(ids)
        if ids.size == 0:
            ids = ids.astype(np.uint32)  # of an empty list
        if ids.dtype.kind not in "iu":
            raise TypeError(f"ids must be integers, got an array of {ids.dtype}")
        known = len(self._values)
        if ids.size and (ids.min() < 0 or ids.max() >= known):
            raise ValueError(f"ids must be 0..{known - 1}, got {ids.min()}..{ids.max()}")
        allowed: NDArray[np.bool_] = self._allows[ids]
        return allowed

    def explain(
        self, src: Address, dst: Address, protocol: int | str, src_port: int = 0, dst_port: int = 0
    ) -> PolicyExplanation:
        """Why :meth:`decide` says what it says: every rule up to the one that decides. Counts no hit."""
        family, *packet = self._packet(src, dst, protocol, src_port, dst_port)
        values = (packet[0], packet[1], packet[3], packet[4], packet[2])
        names = ("src", "dst", "src_ports", "dst_ports", "protocol")
        considered = []
        for rule in tuple(self._rules):
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

        Exact. Runs without the GIL, on the rules of the moment it is called; Ctrl-C interrupts it.

        Cost: milliseconds for a thousand rules, a tenth of a second for ten thousand like ClassBench's;
        seconds for ten thousand that overlap in two fields each and leave the others open. Every pair is
        looked at; where many rules overlap one, their number to the power of 2.5 bounds the search.

        Source: Chan, "Klee's Measure Problem Made Easy", 2013.
        """
        rules = tuple(self._rules)
        shadowed = _policy.shadowed([_Entry(rule, i, 0).fields for i, rule in enumerate(rules)])
        return tuple(rule for rule, never in zip(rules, shadowed, strict=True) if never)

    def hits(self, rule_id: Hashable) -> int:
        """Packets that a rule has decided since it was inserted; KeyError if there is none of this id."""
        return self._core.hits(self._entries[rule_id].number)

    @property
    def values(self) -> tuple[Rule | None, ...]:
        """Rules by the numbers of :meth:`decide_many`; ``values[0]`` is None, the default.

        The number of a deleted rule goes on naming it for ten thousand deletions, and as many as there are
        rules, so results may be read after an edit.
        """
        return tuple(self._values)

    @property
    def nbytes(self) -> int:
        """Bytes held by the compiled side."""
        return self._core.nbytes

    @property
    def compiled(self) -> bool:
        """Whether batches have a tree to go through; see :meth:`compile`."""
        return self._core.compiled

    def __getitem__(self, rule_id: Hashable) -> Rule:
        return self._entries[rule_id].rule

    def __contains__(self, rule_id: object) -> bool:
        return rule_id in self._entries

    def __iter__(self) -> Iterator[Rule]:
        return iter(tuple(self._rules))

    def __len__(self) -> int:
        return len(self._rules)

    def copy(self) -> Self:
        """A policy of its own with the same rules, class and attributes; its counters start at 0."""
        made = _restored(type(self), list(self._rules), self.default)
        vars(made).update(self._attributes())
        return made

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        memo[id(self)] = made = _restored(type(self), list(self._rules), self.default)
        vars(made).update(copy.deepcopy(self._attributes(), memo))
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), list(self._rules), self.default), self._attributes() or None

    def _attributes(self) -> dict[str, Any]:
        """What others have set."""
        return {name: value for name, value in vars(self).items() if name not in _OWN}

    def __repr__(self) -> str:
        return f"<Policy: {len(self)} rules, default {self.default!r}>"


_OWN = frozenset(vars(Policy()))
_Kind = TypeVar("_Kind", bound=Policy)


def _restored(kind: type[_Kind], rules: list[Rule], default: Action) -> _Kind:
    made = kind.__new__(kind)
    Policy.__init__(made, rules, default)
    return made
