"""FlowTable against its twin: random histories under a clock that creeps, leaps and talks nonsense."""

from __future__ import annotations

import math
import pickle
from typing import Any

import hypothesis.strategies as st
import numpy as np
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from twins import both

from fastpath import FlowTable
from fastpath.reference import flow as reference

SETTINGS = settings(max_examples=60, stateful_step_count=40, deadline=None)
VALUES = st.one_of(st.integers(-1, 5), st.text(max_size=1), st.none(), st.just([]))
NUMBERS = st.integers(0, 40)
TIMEOUTS = st.sampled_from([None, math.inf, 0.001, 1, 2.5, 10, 2_000_000, 0, -1, math.nan, "1"])
OWN = st.fixed_dictionaries({}, optional={"idle_timeout_s": TIMEOUTS, "absolute_timeout_s": TIMEOUTS})


class Clock:
    """A clock that is moved; it can be pickled."""

    def __init__(self) -> None:
        self.now = 5.0

    def __call__(self) -> float:
        return self.now


class FlowMachine(RuleBasedStateMachine):
    @initialize(
        size=st.sampled_from([1, 4, 7, 8, 9, 13, 16, 24, 37, 40, 48, 49, 64]),
        plain=st.booleans(),
        counters=st.booleans(),
        idle=st.sampled_from([None, 10.0, 0.5]),
        absolute=st.sampled_from([None, 25.0]),
    )
    def make(
        self, size: int, plain: bool, counters: bool, idle: float | None, absolute: float | None
    ) -> None:
        self.size = size
        self.clock = Clock()
        self.counters = counters
        options: dict[str, Any] = {
            "idle_timeout_s": idle,
            "absolute_timeout_s": absolute,
            "dtype": "uint32" if plain else None,
            "clock": self.clock,
        }
        # Sets of seven: a table for 60 flows is crowded enough for moves, and never evicts 41.
        self.compiled = FlowTable(size, capacity=60, counters=counters, **options)
        self.twin = reference.FlowTable(size, **options)

    def key(self, number: int) -> bytes:
        return (number.to_bytes(1, "big") * self.size)[: self.size - 1] + bytes([number])

    @rule(number=NUMBERS, value=VALUES, own=OWN)
    def insert(self, number: int, value: Any, own: dict[str, Any]) -> None:
        key = self.key(number)
        both(lambda: self.compiled.insert(key, value, **own), lambda: self.twin.insert(key, value, **own))

    @rule(numbers=st.lists(NUMBERS, max_size=40), value=st.integers(0, 3))
    def insert_many(self, numbers: list[int], value: int) -> None:
        keys = [self.key(number) for number in numbers]
        before = sum(self.twin.get(key) is None for key in set(keys))
        for i, key in enumerate(keys):
            self.twin.insert(key, value + i % 2)
        assert self.compiled.insert_many(keys, [value + i % 2 for i in range(len(keys))]) == before

    @rule(number=NUMBERS)
    def delete(self, number: int) -> None:
        # Whether a flow that is over is still there to be removed is up to the compiled one.
        self.compiled.expire(None)
        self.twin.expire()
        key = self.key(number)
        both(lambda: self.compiled.delete(key), lambda: self.twin.delete(key))

    @rule(number=NUMBERS, size=st.integers(0, 1500))
    def lookup(self, number: int, size: int) -> None:
        key = self.key(number)
        both(lambda: self.compiled.lookup(key, size), lambda: self.twin.lookup(key, size))

    @rule(numbers=st.lists(st.integers(0, 60), max_size=100), size=st.integers(0, 9))
    def lookup_many(self, numbers: list[int], size: int) -> None:
        keys = [self.key(number) for number in numbers]
        rows = np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), self.size)
        expected = [self.twin.lookup(key, size) for key in keys]
        found = self.compiled.lookup_many(rows, sizes=np.full(len(keys), size, np.uint32))
        if self.twin.plain:
            assert found.tolist() == [value or 0 for value in expected]
        else:
            assert self.compiled.values is not None
            assert self.compiled.values[found] == expected

    @rule(
        seconds=st.sampled_from(
            [
                0.001,
                0.4,
                0.5,
                0.501,
                5,
                10,
                10.001,
                1e5,
                1_073_741.823,
                2e6,
                2_147_483.648,
                4_294_967.296,
                3e8,
            ]
        )
    )
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(reading=st.sampled_from([-1e300, 0.0, math.nan, math.inf, -math.inf]))
    def nonsense(self, reading: float) -> None:
        kept, self.clock.now = self.clock.now, reading
        key = self.key(0)
        both(lambda: self.compiled.lookup(key), lambda: self.twin.lookup(key))
        self.clock.now = kept

    @rule()
    def expire(self) -> None:
        self.compiled.expire(None)
        self.twin.expire()
        assert len(self.compiled) == len(self.twin.flows)

    @rule()
    def clear(self) -> None:
        self.compiled.clear()
        self.twin.flows.clear()

    @rule(pickled=st.booleans())
    def a_copy_is_the_same(self, pickled: bool) -> None:
        other = pickle.loads(pickle.dumps(self.compiled)) if pickled else self.compiled.copy()
        assert self.rows(other) == self.rows(self.compiled)
        assert (other.idle_timeout_s, other.absolute_timeout_s) == (
            self.compiled.idle_timeout_s,
            self.compiled.absolute_timeout_s,
        )

    @rule(key=st.one_of(st.binary(max_size=3), st.text(max_size=3), st.integers(), st.none()))
    def foreign_key(self, key: Any) -> None:
        both(lambda: self.compiled.lookup(key), lambda: self.twin.lookup(key))

    def rows(self, table: FlowTable) -> dict[bytes, tuple[Any, ...]]:
        array = table.to_array()
        values = array["value"].tolist() if table.values is None else table.values[array["value"]]
        names = ["idle_s", "age_s", "packets", "bytes", "idle_timeout_s", "absolute_timeout_s"]
        columns = [array[name].tolist() for name in names]
        keys = [key.tobytes() for key in array["key"]]
        return dict(zip(keys, zip(values, *columns, strict=True), strict=True))

    @invariant()
    def agree(self) -> None:
        expected = self.twin.rows()
        if not self.counters:
            expected = {key: (*row[:3], 0, 0, *row[5:]) for key, row in expected.items()}
        assert self.rows(self.compiled) == expected
        assert dict(self.compiled.items()) == {key: row[0] for key, row in expected.items()}
        keys = [self.key(i) for i in range(41)]
        assert [self.compiled.get(key) for key in keys] == [self.twin.get(key) for key in keys]
        assert self.compiled.evictions == 0


TestFlow = FlowMachine.TestCase
TestFlow.settings = SETTINGS
