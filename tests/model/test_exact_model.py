"""ExactTable, ForwardingTable and Fdb against their twins, one random history after the other."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from twins import both

from fastpath import ExactTable, Fdb, ForwardingTable
from fastpath.reference import exact as reference

SETTINGS = settings(max_examples=40, stateful_step_count=40, deadline=None)
PAIRS = st.lists(st.tuples(st.one_of(st.none(), st.integers(0, 9)), st.integers(0, 9)), max_size=12)
VALUES = st.one_of(st.integers(0, 5), st.text(max_size=2), st.just(()), st.none(), st.just([]))


class ExactMachine(RuleBasedStateMachine):
    @initialize(
        size=st.sampled_from([1, 2, 3, 4, 5, 8, 9, 13, 16, 17, 24, 37, 40, 63, 64]), plain=st.booleans()
    )
    def make(self, size: int, plain: bool) -> None:
        self.size = size
        dtype = "uint32" if plain else None
        self.compiled = ExactTable(size, dtype=dtype)
        self.twin = reference.ExactTable(size, dtype=dtype)

    def key(self, number: int) -> bytes:
        return (number.to_bytes(1, "big") * self.size)[: self.size - 1] + bytes([number // 7])

    @rule(number=st.integers(0, 250), value=VALUES)
    def insert(self, number: int, value: Any) -> None:
        key = self.key(number)
        both(lambda: self.compiled.insert(key, value), lambda: self.twin.insert(key, value))

    @rule(start=st.integers(0, 200), n=st.integers(0, 50), value=st.integers(0, 9))
    def insert_many(self, start: int, n: int, value: int) -> None:
        keys = [self.key(i) for i in range(start, start + n)]
        before = len(self.twin)
        for i, key in enumerate(keys):
            self.twin.insert(key, value + i)
        assert self.compiled.insert_many(keys, list(range(value, value + n))) == len(self.twin) - before

    @rule(number=st.integers(0, 250))
    def delete(self, number: int) -> None:
        key = self.key(number)
        both(lambda: self.compiled.delete(key), lambda: self.twin.delete(key))

    @rule(start=st.integers(0, 190), n=st.integers(0, 60))
    def delete_many(self, start: int, n: int) -> None:
        keys = {self.key(i) for i in range(start, start + n)}
        there = [key for key in keys if key in self.twin.entries]
        for key in there:
            self.twin.delete(key)
        assert self.compiled.delete_many(list(keys)) == len(there)

    @precondition(lambda self: self.size > 2)
    @rule(start=st.integers(0, 500), n=st.integers(0, 700), step=st.integers(1, 5))
    def grow(self, start: int, n: int, step: int) -> None:
        # Some go again at once, so that their places are used again while the table still grows.
        for number in range(start, start + n):
            key = (1000 + number).to_bytes(self.size, "big")
            self.compiled.insert(key, number)
            self.twin.insert(key, number)
            if number % step == 0:
                gone = (1000 + start + number % 97).to_bytes(self.size, "big")
                both(lambda gone=gone: self.compiled.delete(gone), lambda gone=gone: self.twin.delete(gone))

    @rule()
    def clear(self) -> None:
        self.compiled.clear()
        self.twin.entries.clear()

    @rule(key=st.one_of(st.binary(max_size=3), st.text(max_size=3), st.integers(), st.none()))
    def foreign_key(self, key: Any) -> None:
        both(lambda: self.compiled.lookup(key), lambda: self.twin.lookup(key))

    @invariant()
    def agree(self) -> None:
        keys = [self.key(i) for i in range(251)]
        expected = [self.twin.lookup(key) for key in keys]
        assert [self.compiled.lookup(key) for key in keys] == expected
        assert dict(self.compiled.items()) == self.twin.entries
        assert len(self.compiled) == len(self.twin)
        rows = np.frombuffer(b"".join(keys), np.uint8).reshape(251, self.size)
        numbers = self.compiled.lookup_many(rows, default=77 if self.twin.plain else 0)
        if self.twin.plain:
            assert numbers.tolist() == [77 if value is None else value for value in expected]
        else:
            assert self.compiled.values is not None
            assert self.compiled.values[numbers] == expected
            assert len(set(self.twin.entries.values())) == len(
                [v for v in self.compiled.values if v is not None]
            )


class ForwardingMachine(RuleBasedStateMachine):
    @initialize(kind=st.sampled_from(["mac", "ipv4", "ipv6"]), plain=st.booleans())
    def make(self, kind: str, plain: bool) -> None:
        self.kind = kind
        dtype = "uint32" if plain else None
        self.compiled = ForwardingTable(kind, dtype=dtype)  # type: ignore[arg-type]
        self.twin = reference.ForwardingTable(kind, dtype=dtype)

    def address(self, number: int | None) -> Any:
        if number is None:
            return None
        if number == 99:
            return "nonsense"
        if self.kind == "mac":
            return [number, number.to_bytes(6, "big"), f"00-00-00-00-00-{number:02X}"][number % 3]
        if self.kind == "ipv4":
            return [number, number.to_bytes(4, "big"), f"0.0.0.{number}"][number % 3]
        return [f"::{number:x}", number.to_bytes(16, "big")][number % 2]

    @rule(
        s=st.one_of(st.none(), st.integers(0, 9)), d=st.one_of(st.integers(0, 9), st.just(99)), value=VALUES
    )
    def insert(self, s: int | None, d: int, value: Any) -> None:
        pair = self.address(s), self.address(d)
        both(lambda: self.compiled.insert(*pair, value), lambda: self.twin.insert(*pair, value))

    @rule(s=st.one_of(st.none(), st.integers(0, 9)), d=st.integers(0, 9))
    def delete(self, s: int | None, d: int) -> None:
        pair = self.address(s), self.address(d)
        both(lambda: self.compiled.delete(*pair), lambda: self.twin.delete(*pair))

    @rule(pairs=PAIRS, value=st.integers(0, 5))
    def insert_many(self, pairs: list[tuple[int | None, int]], value: int) -> None:
        before = len(self.twin)
        for i, (s, d) in enumerate(pairs):
            self.twin.insert(self.address(s), self.address(d), value + i)
        values = list(range(value, value + len(pairs)))
        assert self.compiled.insert_many(*self.columns(pairs), values) == len(self.twin) - before

    @rule(pairs=PAIRS)
    def delete_many(self, pairs: list[tuple[int | None, int]]) -> None:
        columns = self.columns(pairs)
        both(lambda: self.compiled.delete_many(*columns), lambda: self.twin.delete_many(*columns))

    def columns(self, pairs: list[tuple[int | None, int]]) -> tuple[list[Any] | None, list[Any]]:
        """Sources and destinations; None for the sources if all are None."""
        sources = [self.address(s) for s, _ in pairs]
        named = any(source is not None for source in sources)
        return sources if named else None, [self.address(d) for _, d in pairs]

    def agree_without_sources(self) -> None:
        destinations = [self.address(i) for i in range(10)]
        expected = self.twin.lookup_many(None, destinations)
        assert [self.compiled.lookup(None, d) for d in destinations] == expected
        sources = [None, self.address(1)] * 5
        mixed = self.twin.lookup_many(sources, destinations)
        for numbers, wanted in (
            (self.compiled.lookup_many(None, destinations), expected),
            (self.compiled.lookup_many(sources, destinations), mixed),
        ):
            if self.compiled.values is None:
                assert numbers.tolist() == [value or 0 for value in wanted]
            else:
                assert self.compiled.values[numbers] == wanted

    @invariant()
    def agree(self) -> None:
        self.agree_without_sources()
        sources = [self.address(i) for i in range(10) for _ in range(10)]
        destinations = [self.address(i) for _ in range(10) for i in range(10)]
        expected = [self.twin.lookup(s, d) for s, d in zip(sources, destinations, strict=True)]
        got = [self.compiled.lookup(s, d) for s, d in zip(sources, destinations, strict=True)]
        assert got == expected
        assert dict(self.compiled.items()) == self.twin.entries
        numbers = self.compiled.lookup_many(sources, destinations)
        if self.twin.plain:
            assert numbers.tolist() == [value or 0 for value in expected]
        else:
            assert self.compiled.values is not None
            assert self.compiled.values[numbers] == expected


class FdbMachine(RuleBasedStateMachine):
    @initialize(plain=st.booleans())
    def make(self, plain: bool) -> None:
        self.now = 1000.0
        self.plain = plain
        self.compiled = Fdb(max_age_s=10.0, clock=lambda: self.now, dtype="uint32" if plain else None)
        self.twin = reference.Fdb(max_age_s=10.0, clock=lambda: self.now)

    def mac(self, number: int) -> int:
        return [0, 0x010000000001, 0x020000000000 + number][min(number, 2)]

    def port(self, number: int) -> Any:
        return number if self.plain else f"port {number}"

    @rule(number=st.integers(0, 9), port=st.integers(1, 4), vlan=st.sampled_from([0, 1, 4095]))
    def learn(self, number: int, port: int, vlan: int) -> None:
        arguments = self.mac(number), self.port(port), vlan
        both(lambda: self.compiled.learn(*arguments), lambda: self.twin.learn(*arguments))

    @rule(
        numbers=st.lists(st.integers(0, 9), max_size=20), port=st.integers(1, 4), vlan=st.sampled_from([0, 1])
    )
    def learn_many(self, numbers: list[int], port: int, vlan: int) -> None:
        macs = [self.mac(number) for number in numbers]
        expected = sum(self.twin.learn(mac, self.port(port), vlan) for mac in macs)
        assert self.compiled.learn_many(macs, self.port(port), vlan) == expected

    @rule(number=st.integers(0, 9), port=st.integers(1, 4), vlan=st.sampled_from([0, 1]))
    def add_static(self, number: int, port: int, vlan: int) -> None:
        self.compiled.add_static(self.mac(number), self.port(port), vlan)
        self.twin.add_static(self.mac(number), self.port(port), vlan)

    @rule(number=st.integers(0, 9), vlan=st.sampled_from([0, 1, 4096, -1, "1"]))
    def delete(self, number: int, vlan: Any) -> None:
        mac = self.mac(number)
        both(lambda: self.compiled.delete(mac, vlan), lambda: self.twin.delete(mac, vlan))

    @rule(seconds=st.sampled_from([0.0, 0.001, 1.0, 5.0, 9.9999, 10.0, 10.0001, 60.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def age(self) -> None:
        both(self.compiled.age, self.twin.age)

    @rule(port=st.integers(1, 5), static=st.booleans())
    def purge(self, port: int, static: bool) -> None:
        name = self.port(port)
        both(lambda: self.compiled.purge(name, static=static), lambda: self.twin.purge(name, static=static))

    @precondition(lambda self: not self.plain)
    @rule(port=st.sampled_from([None, []]))
    def bad_port(self, port: Any) -> None:
        mac = self.mac(5)
        both(lambda: self.compiled.learn(mac, port), lambda: self.twin.learn(mac, port))

    @invariant()
    def agree(self) -> None:
        stations = [(self.mac(number), vlan) for number in range(10) for vlan in (0, 1, 4095)]
        expected = [self.twin.lookup(*station) for station in stations]
        assert [self.compiled.lookup(*station) for station in stations] == expected
        assert len(self.compiled) == len(self.twin)
        assert self.compiled.moves == self.twin.moves
        shown = {(entry.mac, entry.vlan): entry.port for entry in self.compiled.entries()}
        fresh = {
            (reference.format_mac(mac), vlan): port
            for (mac, vlan), port in zip(stations, expected, strict=True)
            if port is not None
        }
        assert shown == fresh
        macs = np.array([mac for mac, _ in stations], np.uint64)
        vlans = np.array([vlan for _, vlan in stations], np.uint16)
        numbers = self.compiled.lookup_many(macs, vlans)
        if self.plain:
            assert numbers.tolist() == [port or 0 for port in expected]
        else:
            assert self.compiled.values is not None
            assert self.compiled.values[numbers] == expected


TestExact = ExactMachine.TestCase
TestForwarding = ForwardingMachine.TestCase
TestFdb = FdbMachine.TestCase
for case in (TestExact, TestForwarding, TestFdb):
    case.settings = SETTINGS
