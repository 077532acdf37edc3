"""Every table beside os.fork: the child has it whole, whatever other threads were at, and can write to it."""

from __future__ import annotations

import copy
import os
import threading
import time
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from forks import SANITIZED, in_child, threads

from fastpath import (
    Backend,
    Balancer,
    ExactTable,
    Fdb,
    Fib,
    FlowTable,
    ForwardingTable,
    Policy,
    Registry,
    Rule,
)

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here"),
    # Of Python 3.12 and newer: forks beside threads are what is tested.
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]

N = 20_000
NUMBERS = np.arange(1, N + 1, dtype=np.uint64)


def keys_of(width: int, first: int = 0) -> np.ndarray:
    rows = np.zeros((N, width), np.uint8)
    rows[:, :8] = (NUMBERS + np.uint64(first)).view(np.uint8).reshape(N, 8)
    return rows


class Exact:
    """Of integers, or of objects; keys within buckets, or in records."""

    def __init__(self, dtype: str | None = "uint32", width: int = 8) -> None:
        self.keys, self.more = keys_of(width), keys_of(width, N)
        self.dtype, self.table = dtype, ExactTable(width, dtype=dtype)

    def write(self, version: int) -> None:
        self.table.insert_many(self.keys, [version] * N)
        self.table.delete_many(self.keys[::2])

    def read(self) -> None:
        self.table.lookup_many(self.keys)

    def is_whole(self) -> bool:
        held = dict(self.table.items())
        known = {key.tobytes() for key in self.keys}
        found = self.table.lookup_many(self.keys)
        values = list(held.values())
        return (
            held.keys() <= known
            and len(held) == len(self.table) == np.count_nonzero(found)
            and (not values or max(values) - min(values) <= 1)
        )

    def use(self) -> bool:
        self.table.insert_many(self.more, [7] * N)
        self.table.insert(self.keys[0].tobytes(), 8)
        grown = self.table.lookup(self.more[5].tobytes()) == 7 and self.table[self.keys[0].tobytes()] == 8
        return grown and self.table.delete_many(self.more) == N


class Forwarding:
    def __init__(self) -> None:
        self.table = ForwardingTable(dtype="uint32")

    def write(self, version: int) -> None:
        self.table.insert_many(NUMBERS, NUMBERS, np.full(N, version))
        self.table.insert_many(None, NUMBERS, np.full(N, version))
        for number in range(1, 100):
            with suppress(KeyError):  # beside another writer
                self.table.delete(number, number)

    def read(self) -> None:
        self.table.lookup_many(NUMBERS, NUMBERS)

    def is_whole(self) -> bool:
        held = dict(self.table.items())
        values = list(held.values())
        return (
            len(held) == len(self.table)
            and all(source in (None, destination) for source, destination in held)
            and (not values or max(values) - min(values) <= 1)
        )

    def use(self) -> bool:
        self.table.insert_many(NUMBERS, NUMBERS[::-1].copy(), np.full(N, 7))
        self.table.insert(1, 2, 8)
        self.table.insert(None, 3, 9)
        grown = [self.table.lookup(1, 2), self.table.lookup(5, 3), self.table.lookup(1, N)] == [8, 9, 7]
        self.table.delete(1, 2)
        return grown and self.table.get(1, 2) is None


class Bridge:
    def __init__(self, dtype: str | None = "uint32") -> None:
        self.macs = NUMBERS + np.uint64(0x020000000000)
        self.table = Fdb(dtype=dtype, max_entries=3 * N)

    def write(self, version: int) -> None:
        self.table.learn_many(self.macs, [version * 10 + i % 7 for i in range(N)])
        self.table.purge(version * 10 + 3)

    def read(self) -> None:
        self.table.lookup_many(self.macs)

    def is_whole(self) -> bool:
        entries = self.table.entries()
        ports = [entry.port for entry in entries]
        return len(entries) == len(self.table) and (not ports or max(ports) // 10 - min(ports) // 10 <= 1)

    def use(self) -> bool:
        new = self.table.learn_many(self.macs + np.uint64(1 << 20), [5] * N)
        self.table.add_static(7 << 20, 6)
        grown = new == N and self.table.lookup(7 << 20) == 6 and self.table.purge(5) == N
        self.table.delete(7 << 20)
        ended = self.table.values is None or 5 not in self.table.values
        return grown and ended


class Flows:
    def __init__(self, dtype: str | None = "uint32") -> None:
        self.keys, self.more = keys_of(16), keys_of(16, N)
        self.table = FlowTable(16, capacity=3 * N, dtype=dtype, counters=True)

    def write(self, version: int) -> None:
        self.table.insert_many(self.keys, [version] * N)
        self.table.expire()

    def read(self) -> None:
        self.table.lookup_many(self.keys)

    def is_whole(self) -> bool:
        held = dict(self.table.items())
        values = list(held.values())
        return len(held) == len(self.table) and (not values or max(values) - min(values) <= 1)

    def use(self) -> bool:
        new = self.table.insert_many(self.more, [7] * N)
        self.table.insert(self.keys[0].tobytes(), 8)
        grown = new == N and self.table.lookup(self.more[5].tobytes()) == 7
        self.table.delete(self.keys[0].tobytes())
        self.table.clear()
        return grown and len(self.table) == 0


class Rules:
    """Edits, and batches that compile."""

    def __init__(self) -> None:
        self.rules = [Rule("allow", dst=(i << 16, 16), id=i) for i in range(300)]
        self.table = Policy(self.rules)
        self.addresses = (np.arange(N) << 10).astype(np.uint32)

    def write(self, version: int) -> None:
        self.table.replace(self.rules)
        self.table.compile()
        with suppress(KeyError, ValueError):  # beside another writer
            self.table.delete(version % 300)
            self.table.insert(Rule("deny", dst=(version % 300 << 16, 16), id=version % 300))

    def read(self) -> None:
        self.table.decide_many(self.addresses, self.addresses, 6)

    def is_whole(self) -> bool:
        ids = [rule.id for rule in self.table]
        found = self.table.values
        numbers = self.table.decide_many(self.addresses, self.addresses, 6).tolist()
        named = [found[number] for number in numbers]
        expected = [int(address) >> 16 for address in self.addresses]
        return (
            len(set(ids)) == len(ids) >= 299
            and set(ids) <= set(range(300))
            and all(
                rule.id == id if id in ids else rule is None for rule, id in zip(named, expected, strict=True)
            )
        )

    def use(self) -> bool:
        self.table.replace(self.rules[:100])
        self.table.compile()
        self.table.insert(Rule("deny", id="mine"), before=0)
        denied = self.table.decide("10.0.0.1", "0.5.0.1", "tcp").rule_id
        self.table.delete("mine")
        allowed = self.table.decide("10.0.0.1", "0.5.0.1", "tcp").rule_id
        return (denied, allowed, self.table.compiled, len(self.table)) == ("mine", 5, True, 100)


class Routes:
    def __init__(self) -> None:
        self.prefixes = (np.arange(N, dtype=np.uint32) << 12, np.full(N, 24, np.uint8))
        self.table = Fib(dtype="uint32")

    def write(self, version: int) -> None:
        self.table.insert_many(self.prefixes, np.full(N, version, np.uint32))
        self.table.delete_many((self.prefixes[0][::2], self.prefixes[1][::2]))

    def read(self) -> None:
        self.table.lookup_many(self.prefixes[0])

    def is_whole(self) -> bool:
        _, _, versions = self.table.to_arrays()
        return len(set(versions.tolist())) <= 1 and len(self.table) in (0, N, N // 2)

    def use(self) -> bool:
        self.table.insert("192.0.2.0/24", 5)
        found = self.table.lookup("192.0.2.1")
        self.table.delete("192.0.2.0/24")
        return found == 5 and self.table.lookup("192.0.2.1") is None


class Backends:
    def __init__(self) -> None:
        self.table = Balancer([Backend(str(i)) for i in range(8)], policy="maglev")
        self.hashes = NUMBERS * np.uint64(0x9E3779B97F4A7C15)

    def write(self, version: int) -> None:
        self.table.set_weight(str(version % 8), 1 + version % 3)

    def read(self) -> None:
        self.table.pick_many(self.hashes)

    def is_whole(self) -> bool:
        return len(self.table) == 8 and self.table.pick(b"key") is not None

    def use(self) -> bool:
        self.table.add(Backend("more"))
        self.table.set_weight("more", 1000)
        picked = np.count_nonzero(self.table.pick_many(self.hashes))
        self.table.remove("more")
        return picked == N and "more" not in self.table


class Services:
    def __init__(self) -> None:
        self.table = Registry()

    def write(self, version: int) -> None:
        self.table.register("web", "192.0.2.1", 80, id=f"i{version % 50}", ttl_s=60)
        if version % 3 == 0:
            self.table.deregister(f"i{version % 50}")

    def read(self) -> None:
        self.table.instances("web")

    def is_whole(self) -> bool:
        return all(instance.service == "web" for instance in self.table.instances("web"))

    def use(self) -> bool:
        self.table.register("web", "192.0.2.2", 80, id="mine", ttl_s=0.05)
        time.sleep(0.3)  # the child has a timer of its own
        return "mine" not in [instance.id for instance in self.table.instances("web")]


NOUNS = {
    "exact": Exact,
    "exact of objects": lambda: Exact(None),
    "exact, wide keys": lambda: Exact("uint32", 40),
    "forwarding": Forwarding,
    "fdb": Bridge,
    "fdb of objects": lambda: Bridge(None),
    "flow": Flows,
    "flow of objects": lambda: Flows(None),
    "policy": Rules,
    "fib": Routes,
    "balancer": Backends,
    "registry": Services,
}


@pytest.mark.parametrize("noun", NOUNS)
def test_children_of_forks_beside_a_writer(noun: str) -> None:
    it: Any = NOUNS[noun]()
    it.write(1)
    version = [1]

    def write(_: int) -> None:
        version[0] += 1
        it.write(version[0])

    with threads(write, lambda _: it.read()):
        for turn in range(8):
            time.sleep(0.004 * turn)
            assert in_child(lambda: (it.is_whole(), it.use(), it.use())) == "(True, True, True)"
    assert it.is_whole()
    assert it.use()


@pytest.mark.parametrize("noun", ["exact", "forwarding", "fdb", "flow", "policy"])
def test_children_of_forks_beside_writers_that_wait(noun: str) -> None:
    """They waited for each other in the parent; the child neither waits for them nor lets them go first."""
    it: Any = NOUNS[noun]()
    with threads(*[it.write] * 4):
        for _ in range(8):
            time.sleep(0.01)
            assert in_child(it.use) == "True"


def describe(table: Any) -> None:
    """Whatever of a table waits for its writers, beside look-ups."""
    for name in ("nbytes", "evictions", "moves", "compiled"):
        getattr(table, name, None)
    list(table)
    len(table)
    repr(table)
    copy.copy(table)


@pytest.mark.parametrize("noun", [noun for noun in NOUNS if noun != "registry"])
def test_forks_beside_who_waits_for_writers(noun: str) -> None:
    """Who holds the GIL does not wait for the thread that forks, which waits for the GIL."""
    it: Any = NOUNS[noun]()
    it.write(1)
    with threads(it.write, *[lambda _: describe(it.table)] * 2):
        for turn in range(20):
            time.sleep(0.001 * turn)
            assert in_child(lambda: len(it.table) >= 0) == "True"
    assert it.is_whole()
    assert it.use()


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="there is no /proc here")
@pytest.mark.skipif(SANITIZED, reason="what is freed rests in the sanitizer's quarantine")
@pytest.mark.parametrize("noun", ["exact", "exact, wide keys", "forwarding", "policy", "balancer"])
def test_children_free_what_readers_of_the_parent_looked_at(noun: str) -> None:
    it: Any = NOUNS[noun]()
    it.write(1)

    def growth() -> int:
        def turn(number: int) -> None:
            if noun == "balancer":
                it.write(number)
                it.table.pick(b"key")
            elif noun == "policy":
                for _ in range(50):
                    it.table.delete(number)
                    it.table.insert(it.rules[number], before=number + 1)
            else:
                it.table.clear()
                it.write(number)

        for number in range(10):
            turn(number)
        before = resident()
        turns = {"balancer": 150, "policy": 100}.get(noun, 50)
        for number in range(turns):
            turn(number)
        return (resident() - before) >> 20

    with threads(*[lambda _: it.read()] * 3):
        for _ in range(2):
            time.sleep(0.02)
            assert int(in_child(growth)) < 12


@pytest.mark.parametrize("width", [16, 40])
def test_a_child_goes_on_where_memory_was_made_ready(width: int) -> None:
    """By a thread that only the parent has, while it grows."""
    rows = np.zeros((120_000, width), np.uint8)
    rows[:, :8] = np.arange(len(rows), dtype=np.uint64).view(np.uint8).reshape(-1, 8)
    keys = [row.tobytes() for row in rows]
    table = ExactTable(width, dtype="uint32")
    about = []  # numbers of keys at which memory is made ready
    for number, key in enumerate(keys):
        before = table.nbytes
        table.insert(key, number)
        if table.nbytes > before + (1 << 20):
            about.append(number)
    assert about

    def goes_on(table: ExactTable, first: int) -> bool:
        for number in range(first, len(keys)):
            table.insert(keys[number], number)
        return table.lookup_many(rows).tolist() == list(range(len(keys)))

    for last in about:
        table = ExactTable(width, dtype="uint32", seed=table.seed)
        for number in range(last + 1):
            table.insert(keys[number], number)
        if SANITIZED:
            time.sleep(0.5)  # the thread has ended
        assert in_child(lambda table=table, last=last: goes_on(table, last + 1)) == "True"
        assert goes_on(table, last + 1)


def test_a_policy_edited_by_an_id_that_forks() -> None:
    said: list[str] = []

    class Id(str):
        __slots__ = ()

        def __hash__(self) -> int:
            if not said:
                said.append("forking")
                said.append(in_child(lambda: "here"))
            return str.__hash__(self)

    policy = Policy()
    identity = Id("a")
    policy.insert(Rule("allow", id="b"))
    rule = object.__new__(Rule)
    for name, value in vars(Rule("allow")).items():
        object.__setattr__(rule, name, identity if name == "id" else value)
    policy.insert(rule)
    assert said == ["forking", "here"]
    assert [rule.id for rule in policy] == ["b", "a"]


def test_an_object_that_ends_beside_a_fork_may_write() -> None:
    """Garbage is not collected while a fork holds the locks of all tables."""
    table, ended = ExactTable(4), []

    class Writer:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            table.insert(b"last", len(ended))
            ended.append(1)

    tables = [ExactTable(4) for _ in range(3000)]
    for _ in range(20):
        Writer()
        assert in_child(lambda: table.insert(b"next", 1)) == "None"
    assert len(tables) == 3000


@pytest.mark.parametrize("noun", ["policy", "registry"])
def test_a_writer_that_forks_beside_another_fork(noun: str) -> None:
    """Each has what the other one waits for: the lock of what is edited, and the turn to fork."""
    editing, over, forked = threading.Event(), threading.Event(), []

    def fork() -> None:
        if editing.is_set():
            return
        editing.set()
        time.sleep(0.3)  # the other one is at it by now
        forked.append(in_child(lambda: "of the writer"))

    class Id(str):
        __slots__ = ()

        def __hash__(self) -> int:
            fork()
            return str.__hash__(self)

    def write() -> None:
        if noun == "policy":
            rule = object.__new__(Rule)
            for name, value in vars(Rule("allow")).items():
                object.__setattr__(rule, name, Id("a") if name == "id" else value)
            Policy().insert(rule)
        else:
            registry = Registry()
            registry.subscribe(lambda event: fork())
            registry.register("web", "192.0.2.1", 80)
        over.wait(200)  # a thread that ends takes the locks of the sanitizer's allocator: see forks.py

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert editing.wait(20)
        assert in_child(lambda: "of the other") == "of the other"
    finally:
        over.set()
    writer.join()
    assert forked == ["of the writer"]
