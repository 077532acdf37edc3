"""FlowTable and keys: timeouts, eviction, counters, copies, odd clocks, threads, misuse."""

from __future__ import annotations

import copy
import gc
import ipaddress
import pickle
import threading
from typing import Any

import numpy as np
import pytest

from fastpath import FlowTable, hash64_many
from fastpath.keys import five_tuple, five_tuples


class Clock:
    """A clock that a test moves; it can be pickled."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def rows_of(numbers: np.ndarray, size: int = 40) -> np.ndarray:
    rows = np.zeros((len(numbers), size), np.uint8)
    rows[:, :4] = numbers.astype("<u4").view(np.uint8).reshape(-1, 4)
    return rows


@pytest.mark.parametrize("size", [1, 4, 7, 8, 9, 13, 16, 37, 40, 64])
def test_every_key_size(size: int) -> None:
    table = FlowTable(size, capacity=300, dtype="uint32")
    n = 200
    keys = np.random.default_rng(size).permutation(256)[:n].astype(np.uint8)
    rows = np.zeros((n, size), np.uint8)
    rows[:, -1] = keys
    assert table.insert_many(rows, np.arange(n)) == n
    assert table.insert_many(rows, np.arange(n)) == 0
    assert np.array_equal(table.lookup_many(rows), np.arange(n))
    assert table.lookup(rows[3].tobytes()) == 3
    assert len(table.items()) == n
    table.clear()
    assert len(table) == 0


def test_full_is_never_an_error() -> None:
    clock = Clock()
    table = FlowTable(8, capacity=1000, clock=clock, dtype="uint32", seed=1)
    numbers = np.arange(5000)
    for start in range(0, 5000, 100):
        clock.now += 1
        assert (
            table.insert_many(rows_of(numbers[start : start + 100], 8), numbers[start : start + 100]) == 100
        )
    assert len(table) == 1000
    assert table.evictions == 4000
    found = table.lookup_many(rows_of(numbers, 8), default=2**32 - 1)
    held = found != 2**32 - 1
    assert np.array_equal(found[held], numbers[held])
    assert np.mean(np.nonzero(held)[0]) > 3800  # the idlest went


def test_keys_that_collide_under_one_seed_do_not_under_another() -> None:
    """Whoever knows the seed finds keys of one home and one tag; they share fourteen places."""
    capacity = 600
    sets = capacity // 6 + 1
    keys = rows_of(np.arange(400_000), 16)
    hashes = hash64_many(keys, 7)
    homes = (hashes >> np.uint64(32)) * np.uint64(sets) >> np.uint64(32)
    chosen = keys[(homes == 3) & (hashes & np.uint64(127) == 5)]
    assert len(chosen) > 20
    attacked = FlowTable(16, capacity=capacity, dtype="uint32", seed=7)
    attacked.insert_many(chosen, np.arange(len(chosen)))
    assert len(attacked) <= 14
    assert attacked.evictions == len(chosen) - len(attacked)
    for _ in range(3):
        table = FlowTable(16, capacity=capacity, dtype="uint32")
        table.insert_many(chosen, np.arange(len(chosen)))
        assert table.evictions == 0
        assert np.array_equal(table.lookup_many(chosen), np.arange(len(chosen)))


def test_a_busy_flow_stays() -> None:
    clock = Clock()
    table = FlowTable(8, capacity=200, clock=clock, dtype="uint32")
    busy = b"\xff" * 8
    table.insert(busy, 7)
    for i in range(3000):
        clock.now += 0.01
        assert table.lookup(busy) == 7
        table.insert(i.to_bytes(8, "little"), i)


def test_expire_goes_on_where_it_ended() -> None:
    clock = Clock()
    table = FlowTable(8, capacity=200_000, clock=clock, dtype="uint32")
    table.insert_many(rows_of(np.arange(150_000), 8), np.arange(150_000))
    assert table.expire(None) == 0
    clock.now += 61
    calls = 0
    while len(table):
        table.expire(0)
        calls += 1
    assert calls > 5
    assert table.expirations == 150_000


def test_expire_lets_a_few_objects_go_at_a_time() -> None:
    clock = Clock()
    table = FlowTable(8, capacity=20_000, clock=clock)
    table.insert_many(rows_of(np.arange(20_000), 8), range(20_000))
    clock.now += 61
    assert 1000 <= table.expire(60.0) < 2000
    assert table.expire(None) > 18_000
    assert len(table) == 0


def test_counters_and_export() -> None:
    clock = Clock()
    table = FlowTable(capacity=100, clock=clock, counters=True)
    key = five_tuple("10.0.0.1", "10.0.0.2", 6, 1234, 80)
    table.insert(key, "web")
    clock.now += 2
    assert table.lookup(key, 1500) == "web"
    rows = np.frombuffer(key * 3, np.uint8).reshape(3, 40)
    table.lookup_many(rows, sizes=[40, 40, 60])
    clock.now += 1
    flows = table.to_array()
    assert flows["packets"].tolist() == [4]
    assert flows["bytes"].tolist() == [1640]
    assert flows["idle_s"].tolist() == [1.0]
    assert flows["age_s"].tolist() == [3.0]
    assert flows["key"].tobytes() == key
    assert table.values is not None
    assert table.values[int(flows["value"][0])] == "web"
    assert FlowTable(4, capacity=1).to_array().shape == (0,)


def test_objects_are_let_go() -> None:
    clock = Clock()
    table = FlowTable(4, capacity=50, clock=clock)
    for i in range(500):
        table[i.to_bytes(4, "little")] = f"value {i}"
    table.insert_many(
        [i.to_bytes(4, "little") for i in range(500, 900)], [f"value {i}" for i in range(500, 900)]
    )
    assert len(table) == 50
    assert table.values is not None
    assert {v for v in table.values if v is not None} == {value for _, value in table.items()}
    clock.now += 100
    table.expire()
    assert [v for v in table.values if v is not None] == []


class Named(FlowTable):
    name = ""


def test_a_subclass_keeps_its_attributes() -> None:
    table = Named(4, capacity=10)
    table.name = ["mine"]
    table[b"abcd"] = (1, "a")
    for other in (pickle.loads(pickle.dumps(table)), copy.copy(table), copy.deepcopy(table)):
        assert (type(other), other.name, other.items()) == (Named, ["mine"], [(b"abcd", (1, "a"))])
    assert copy.copy(table).name is table.name
    assert copy.deepcopy(table).name is not table.name


def test_as_a_mapping_pickle_and_copy() -> None:
    table = FlowTable(4, capacity=10, clock=Clock(), idle_timeout_s=None)
    table[b"abcd"] = 1
    assert b"abcd" in table
    assert b"abce" not in table
    assert table[b"abcd"] == 1
    assert list(table) == [b"abcd"]
    for other in (pickle.loads(pickle.dumps(table)), copy.copy(table), copy.deepcopy(table)):
        assert other.items() == table.items()
        assert (other.capacity, other.idle_timeout_s, other.dtype) == (10, None, None)
    del table[b"abcd"]
    for call in (lambda: table[b"abcd"], lambda: table.delete(b"abcd")):
        with pytest.raises(KeyError):
            call()
    assert "0 of 10" in repr(table)
    assert table.nbytes > 0


def test_copies_keep_times_timeouts_and_counters() -> None:
    clock = Clock()
    table = FlowTable(4, capacity=10, clock=clock, idle_timeout_s=0.5, absolute_timeout_s=90.5, counters=True)
    table.insert(b"abcd", "a", idle_timeout_s=20)
    table.insert(b"efgh", "b")
    clock.now += 0.25
    table.lookup(b"abcd", 100)
    clock.now += 0.125
    for other in (pickle.loads(pickle.dumps(table)), copy.copy(table)):
        assert (other.idle_timeout_s, other.absolute_timeout_s) == (0.5, 90.5)
        rows = {row["key"].tobytes(): row for row in other.to_array()}
        long, short = rows[b"abcd"], rows[b"efgh"]
        assert (long["idle_s"], long["age_s"], long["packets"], long["bytes"]) == (0.125, 0.375, 1, 100)
        assert (long["idle_timeout_s"], long["absolute_timeout_s"]) == (20, 90.5)
        assert (short["idle_s"], short["idle_timeout_s"]) == (0.375, 0.5)
    other = table.copy()
    clock.now += 1
    assert (other.get(b"abcd"), other.get(b"efgh")) == ("a", None)
    for state in ((np.zeros((1, 4), np.uint8), np.zeros(2, np.uint32), ["x"]), (b"", None, None)):
        with pytest.raises((TypeError, ValueError)):
            other.__setstate__(state)


@pytest.mark.parametrize("days", [1, 13, 24, 25, 30, 49, 50, 400, 40_000])
def test_flows_do_not_come_back_however_long_nobody_asks(days: int) -> None:
    clock = Clock()
    table = FlowTable(4, capacity=10, clock=clock, idle_timeout_s=3600)
    table[b"idle"] = 1
    table.insert(b"ever", 2, idle_timeout_s=None)
    for _ in range(3):
        clock.now += days * 86400
        assert table.lookup(b"idle") is None
        assert table.get(b"ever") == 2
    assert table.lookup_many([b"idle"]).tolist() == [0]
    assert table.expire(None) <= 1
    assert table.items() == [(b"ever", 2)]


def test_time_stands_still_where_the_clock_does_not_go_on() -> None:
    clock = Clock()
    table = FlowTable(4, capacity=10, clock=clock)
    table[b"abcd"] = 1
    clock.now += 40
    table.lookup(b"abcd")
    for reading in (-1e300, 0.0, float("nan"), float("inf"), float("-inf")):
        now, clock.now = clock.now, reading
        assert table.lookup(b"abcd") == 1
        assert table.to_array()["age_s"].tolist() == [40]
        assert table.expire(None) == 0
        clock.now = now
    clock.now += 59
    assert table.get(b"abcd") == 1
    clock.now += 2
    assert table.get(b"abcd") is None
    for reading in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="clock"):
            FlowTable(4, capacity=1, clock=lambda reading=reading: reading)
    with pytest.raises(TypeError):
        FlowTable(4, capacity=1, clock=lambda: "soon")


def test_out_may_lie_where_keys_and_sizes_do() -> None:
    table = FlowTable(4, capacity=2000, dtype="uint32", counters=True)
    numbers = np.arange(1500, dtype=np.uint32)
    table.insert_many(numbers.view(np.uint8).reshape(-1, 4), numbers + 7)
    shared = numbers.copy()
    out = table.lookup_many(shared.view(np.uint8).reshape(-1, 4), sizes=shared, out=shared)
    assert out is shared
    assert np.array_equal(shared, numbers + 7)
    by_value = {int(row["value"]): int(row["bytes"]) for row in table.to_array()}
    assert by_value == {i + 7: i for i in range(1500)}
    odd = np.zeros(4 * 10 + 1, np.uint8)[1:].view(np.uint32)
    with pytest.raises(ValueError, match="aligned"):
        table.lookup_many(np.zeros((10, 4), np.uint8), out=odd)
    assert table.insert_many(np.zeros((10, 4), np.uint8), odd) == 0


def test_ids_stay_right_when_a_table_is_cleared_beside_a_writer() -> None:
    table = FlowTable(4, capacity=5000)
    keys = [i.to_bytes(4, "little") for i in range(4000)]
    stop = threading.Event()

    def clear() -> None:
        while not stop.is_set():
            table.clear()
            table.expire()

    clearer = threading.Thread(target=clear)
    clearer.start()
    for turn in range(30):
        table.insert_many(keys, [f"{turn} {i}" for i in range(4000)])
        for key, value in table.items():
            assert value.endswith(f" {int.from_bytes(key, 'little')}")
    stop.set()
    clearer.join()
    table.clear()
    assert table.values is not None
    assert [value for value in table.values if value is not None] == []


def test_a_value_whose_hash_comes_back_to_the_table() -> None:
    table = FlowTable(4, capacity=10)

    class Meddler:
        def __hash__(self) -> int:
            table.clear()
            table[b"more"] = "more"
            return 1

    table[b"abcd"] = Meddler()
    table.insert_many([b"efgh", b"ijkl"], [Meddler(), Meddler()])
    assert table[b"more"] == "more"
    assert len(table) <= 4


def test_threads() -> None:
    table = FlowTable(16, capacity=3000, dtype="uint32", counters=True)
    numbers = np.arange(20000)
    rows = rows_of(numbers, 16)
    stop = threading.Event()
    failures: list[str] = []

    def read() -> None:
        while not stop.is_set():
            found = table.lookup_many(rows, default=2**32 - 1)
            if not np.all((found == numbers) | (found == 2**32 - 1)):
                failures.append("a value of another flow")

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for start in [*range(0, 20000, 1000)] * 3:
        table.insert_many(rows[start : start + 1000], numbers[start : start + 1000])
    stop.set()
    for reader in readers:
        reader.join()
    assert not failures
    assert len(table) <= 3000


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        ((), {}, TypeError),
        ((0,), {"capacity": 1}, ValueError),
        ((65,), {"capacity": 1}, ValueError),
        (("40",), {"capacity": 1}, TypeError),
        ((40,), {"capacity": 0}, ValueError),
        ((40,), {"capacity": -5}, ValueError),
        ((40,), {"capacity": 2**40}, ValueError),
        ((40,), {"capacity": 1.5}, TypeError),
        ((40,), {"capacity": 1, "idle_timeout_s": 0}, ValueError),
        ((40,), {"capacity": 1, "idle_timeout_s": -1}, ValueError),
        ((40,), {"capacity": 1, "idle_timeout_s": float("nan")}, ValueError),
        ((40,), {"capacity": 1, "idle_timeout_s": 1e9}, ValueError),
        ((40,), {"capacity": 1, "absolute_timeout_s": "1"}, TypeError),
        ((40,), {"capacity": 1, "clock": 1}, TypeError),
        ((40,), {"capacity": 1, "dtype": "int8"}, ValueError),
        ((40,), {"capacity": 1, "seed": -1}, ValueError),
        ((40,), {"capacity": 1, "seed": "x"}, TypeError),
        ((40,), {"capacity": 1, "idle_timeout_s": 10**400}, ValueError),
        ((40,), {"capacity": 1, "idle_timeout_s": 1j}, TypeError),
        ((40,), {"capacity": 2**34}, MemoryError),
    ],
)
def test_bad_construction(arguments: Any, options: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        FlowTable(*arguments, **options)


def test_there_is_no_table_that_was_not_made() -> None:
    with pytest.raises(TypeError):
        FlowTable.__new__(FlowTable)


def test_bad_arguments() -> None:
    table = FlowTable(4, capacity=10, dtype="uint32")
    good = np.zeros((2, 4), np.uint8)
    for key, error in ((b"abc", ValueError), (b"", ValueError), ("abcd", TypeError), (1, TypeError)):
        for call in (
            table.lookup,
            table.get,
            table.delete,
            lambda k: table.insert(k, 1),
            lambda k: k in table,
        ):
            with pytest.raises(error):
                call(key)
    for keys, error in (
        (np.zeros((2, 4), np.int8), TypeError),
        (np.zeros((2, 5), np.uint8), ValueError),
        (b"abcd", TypeError),
        (3, TypeError),
        ([b"abcd", 1], TypeError),
        ([b"abc"], ValueError),
    ):
        for many in (table.lookup_many, lambda k: table.insert_many(k, [1, 2])):
            with pytest.raises(error):
                many(keys)
    for values, error in (([1], ValueError), ([1, -1], ValueError), ([1, "x"], TypeError), (5, TypeError)):
        with pytest.raises(error):
            table.insert_many(good, values)
        with pytest.raises(error):
            table.lookup_many(good, sizes=values)
    for out, error in ((np.zeros(2), TypeError), (np.zeros(3, np.uint32), ValueError), ([0, 0], TypeError)):
        with pytest.raises(error):
            table.lookup_many(good, out=out)
    for call in (
        lambda: table.lookup_many(good, default=-1),
        lambda: table.lookup(b"abcd", -1),
        lambda: table.insert(b"abcd", -1),
        lambda: table.insert(b"abcd", 1, idle_timeout_s=0),
        lambda: table.expire(-1),
        lambda: table.expire(float("nan")),
        lambda: table.expire(10**400),
    ):
        with pytest.raises(ValueError):
            call()
    with pytest.raises(TypeError):
        table.expire("1")
    objects = FlowTable(4, capacity=10)
    for value, error in ((None, ValueError), ([], TypeError)):
        with pytest.raises(error):
            objects.insert(b"abcd", value)
        with pytest.raises(error):
            objects.insert_many([b"abcd", b"efgh"], ["x", value])
    assert len(table) == len(objects) == 0


def test_five_tuple() -> None:
    key = five_tuple("10.0.0.1", "192.168.0.2", 6, 1234, 80)
    assert key[:13] == bytes([10, 0, 0, 1, 192, 168, 0, 2, 4, 210, 0, 80, 6])
    assert (len(key), key[39]) == (40, 4)
    short = five_tuple(0x0A000001, ipaddress.ip_address("192.168.0.2"), 6, 1234, 80, size=16)
    assert short == key[:13] + bytes(3)
    six = five_tuple("2001:db8::1", bytes(16), 17, 53, 5353)
    assert six[:32] == ipaddress.ip_address("2001:db8::1").packed + bytes(16)
    assert six[32:] == bytes([0, 53, 20, 233, 17, 0, 0, 6])


def test_five_tuple_of_integers_and_scopes() -> None:
    assert five_tuple(np.uint32(1), np.uint32(2), 6) == five_tuple(1, 2, 6)
    for address in ("fe80::1%eth0", ipaddress.ip_address("fe80::1%eth0")):
        with pytest.raises(ValueError, match="scope"):
            five_tuple(address, "fe80::2", 6)
    for wrong in (True, 1.0, None):
        with pytest.raises(TypeError):
            five_tuple(wrong, "10.0.0.1", 6)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [16, 40])
def test_five_tuples_row_by_row(size: int) -> None:
    rng = np.random.default_rng(4)
    srcs, dsts = rng.integers(0, 2**32, (2, 50), dtype=np.uint32)
    ports, more = rng.integers(0, 65536, (2, 50))
    keys = five_tuples(srcs, dsts, 17, ports, more, size=size)
    for i in range(50):
        expected = five_tuple(int(srcs[i]), int(dsts[i]), 17, int(ports[i]), int(more[i]), size=size)
        assert keys[i].tobytes() == expected
    rows = rng.integers(0, 256, (2, 50, 16), dtype=np.uint8)
    if size == 16:
        with pytest.raises(ValueError, match="40"):
            five_tuples(rows[0], rows[1], 6, size=16)
        return
    six = five_tuples(rows[0], rows[1], np.full(50, 6), ports)
    for i in range(50):
        assert six[i].tobytes() == five_tuple(rows[0, i].tobytes(), rows[1, i].tobytes(), 6, int(ports[i]))
    assert five_tuples(np.zeros(0, np.uint32), np.zeros(0, np.uint32), 6).shape == (0, 40)
    assert five_tuples([], [], [], [], [], size=16).shape == (0, 16)


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        (("10.0.0.1", "::1", 6), {}, ValueError),
        (("::1", "::1", 6), {"size": 16}, ValueError),
        (("10.0.0.1", "10.0.0.2", 6), {"size": 13}, ValueError),
        (("10.0.0.1", "10.0.0.2", 6), {"size": "40"}, TypeError),
        (("10.0.0.1", "10.0.0.2", 256), {}, ValueError),
        (("10.0.0.1", "10.0.0.2", "tcp"), {}, TypeError),
        (("10.0.0.1", "10.0.0.2", 6, 65536), {}, ValueError),
        (("10.0.0.1", "10.0.0.2", 6, 1, -1), {}, ValueError),
        (("10.0.0", "10.0.0.2", 6), {}, ValueError),
        ((None, "10.0.0.2", 6), {}, TypeError),
        ((1.5, "10.0.0.2", 6), {}, TypeError),
    ],
)
def test_bad_five_tuple(arguments: Any, options: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        five_tuple(*arguments, **options)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((np.zeros(2, np.int64), np.zeros(2, np.uint32), 6), TypeError),
        ((np.zeros((2, 4), np.uint8), np.zeros((2, 4), np.uint8), 6), ValueError),
        ((np.zeros(2, np.uint32), np.zeros(3, np.uint32), 6), ValueError),
        ((np.zeros(2, np.uint32), np.zeros((2, 16), np.uint8), 6), ValueError),
        ((np.zeros(2, np.uint32), np.zeros(2, np.uint32), 256), ValueError),
        ((np.zeros(2, np.uint32), np.zeros(2, np.uint32), 1.5), TypeError),
        ((np.zeros(2, np.uint32), np.zeros(2, np.uint32), [6]), ValueError),
        ((np.zeros(2, np.uint32), np.zeros(2, np.uint32), 6, [1, 70000]), ValueError),
    ],
)
def test_bad_five_tuples(arguments: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        five_tuples(*arguments)


def test_listing_holds_its_objects_while_others_end() -> None:
    class Ending:
        def __init__(self, table: FlowTable) -> None:
            self.table, self.self = table, self  # a cycle, so that a collection ends it

        def __del__(self) -> None:
            self.table.clear()
            for number in range(1000):
                self.table.insert(number.to_bytes(8, "big"), ("late", number))

    table = FlowTable(8, capacity=4096)
    before = gc.get_threshold()
    gc.set_threshold(5)
    try:
        for listing in (table.items, table.copy):
            table.clear()
            for number in range(1000):
                table.insert(number.to_bytes(8, "big"), ("early", number))
            Ending(table)
            found = listing()
            pairs = found if isinstance(found, list) else found.items()
            assert len(pairs) == 1000
            assert all(value[1] == int.from_bytes(key, "big") for key, value in pairs)
            assert len({value[0] for _, value in pairs}) == 1
    finally:
        gc.set_threshold(*before)


def test_deleting_a_flow_that_is_over() -> None:
    now = [0.0]
    table = FlowTable(8, capacity=100, idle_timeout_s=60, clock=lambda: now[0])
    table.insert(b"12345678", "x")
    now[0] = 61
    with pytest.raises(KeyError):
        table.delete(b"12345678")
    assert len(table) == 0
    assert table.values is not None
    assert "x" not in table.values
