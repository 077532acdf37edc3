"""Fdb: learning, moves, ages, limits that are fair between ports, pickling, and what it refuses."""

from __future__ import annotations

import copy
import math
import os
import pickle
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest

from fastpath import CapacityError, Fdb, NotSupported, build_info

A, B = "02:00:00:00:00:0a", "02:00:00:00:00:0b"


class Clock:
    """A clock that a test moves; it can be pickled."""

    def __init__(self) -> None:
        self.now = 5000.0

    def __call__(self) -> float:
        return self.now


def stations(first: int, n: int) -> np.ndarray:
    return np.arange(first, first + n, dtype=np.uint64) + np.uint64(0x020000000000)


def test_learning_and_moving() -> None:
    fdb = Fdb()
    assert fdb.lookup(A) is None
    assert fdb.learn(A, "p1") is True
    assert fdb.learn(A, "p1") is False
    assert fdb.learn(A, "p2") is True
    assert (fdb.lookup(A), fdb.moves, len(fdb)) == ("p2", 1, 1)
    assert fdb.learn(A, "p1", vlan=7)
    assert (fdb.lookup(A), fdb.lookup(A, 7), fdb.lookup(A, vlan=8)) == ("p2", "p1", None)
    assert A in fdb
    assert (A, 7) in fdb
    assert (A, 8) not in fdb
    fdb.delete(A, 7)
    with pytest.raises(KeyError):
        fdb.delete(A, 7)
    for ignored in ("01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"):
        assert fdb.learn(ignored, "p1") is False
        assert fdb.lookup(ignored) is None


def test_static_entries_stay() -> None:
    clock = Clock()
    fdb = Fdb(max_age_s=10, clock=clock)
    fdb.add_static(A, "door")
    assert fdb.learn(A, "window") is False
    clock.now += 1e6
    assert fdb.age() == 0
    assert fdb.lookup(A) == "door"
    assert fdb.purge("door") == 0
    assert fdb.purge("door", static=True) == 1
    assert fdb.lookup(A) is None


def test_ageing_needs_no_sweep() -> None:
    clock = Clock()
    fdb = Fdb(max_age_s=10, clock=clock)
    fdb.learn(A, 1)
    fdb.learn(B, 1)
    clock.now += 10
    assert fdb.lookup(A) == 1
    fdb.learn(B, 1)
    clock.now += 0.001
    assert fdb.lookup(A) is None
    assert fdb.lookup_many([A, B]).tolist() == [0, 1]
    assert [(entry.mac, entry.age_s) for entry in fdb.entries()] == [(B, pytest.approx(0.001, abs=2 / 65536))]
    assert len(fdb) == 2
    assert fdb.learn(A, 2) is True  # too old to count as a move
    assert fdb.moves == 0
    clock.now += 11
    assert fdb.age() == 2
    assert len(fdb) == 0


def test_no_age_and_clocks_that_jump() -> None:
    clock = Clock()
    fdb = Fdb(max_age_s=math.inf, clock=clock)
    fdb.learn(A, 1)
    clock.now += 1e15
    assert fdb.lookup(A) == 1
    clock.now = -1e15
    assert fdb.lookup(A) == 1

    def broken() -> float:
        raise OSError("no clock")

    with pytest.raises(OSError, match="no clock"):
        Fdb(clock=broken)


@pytest.mark.parametrize("n", [0, 1, 31, 33, 511, 513, 4000])
def test_batches(n: int) -> None:
    fdb = Fdb(dtype="uint32")
    macs = stations(0, n)
    vlans = (np.arange(n) % 3).astype(np.uint16)
    ports = (np.arange(n) % 5 + 1).astype(np.uint32)
    assert fdb.learn_many(macs, ports, vlans) == n
    assert fdb.learn_many(macs, ports, vlans) == 0
    assert np.array_equal(fdb.lookup_many(macs, vlans), ports)
    out = np.empty(n, np.uint32)
    assert fdb.lookup_many(macs, 0, out=out, default=9) is out
    assert np.array_equal(out, np.where(vlans == 0, ports, 9))
    rows = macs.astype(">u8").view(np.uint8).reshape(n, 8)[:, 2:]
    assert np.array_equal(fdb.lookup_many(rows, vlans.tolist()), ports)
    assert fdb.learn_many(macs, 8, vlans) == n
    assert fdb.moves == n
    assert fdb.purge(8) == n


def test_ports_as_objects_in_batches() -> None:
    fdb = Fdb()
    assert fdb.learn_many([A, B], ["x", "y"]) == 2
    assert fdb.values is not None
    assert fdb.values[fdb.lookup_many([A, B, "02:00:00:00:00:ff"])] == ["x", "y", None]
    assert fdb.learn_many([A, B], ["x", "y"]) == 0
    assert fdb.learn_many([B], np.array([1], np.uint32)) == 1
    assert fdb.lookup(B) == "x"
    assert "y" not in fdb.values
    with pytest.raises(ValueError, match="no port has id 2"):
        fdb.learn_many([B], np.array([2], np.uint32))
    with pytest.raises(ValueError, match="ids"):
        fdb.learn_many([A], np.array([9], np.uint32))
    assert fdb.purge("never seen") == 0
    fdb.purge("x")
    assert "x" not in fdb.values


def test_a_flood_from_one_port_does_not_push_out_the_others() -> None:
    clock = Clock()
    fdb = Fdb(max_entries=1000, clock=clock, dtype="uint32", seed=1)
    fdb.learn_many(stations(0, 100), 1)
    fdb.learn_many(stations(1000, 100), 2)
    clock.now += 1
    for start in range(10_000, 60_000, 5000):
        fdb.learn_many(stations(start, 5000), 3)
    assert len(fdb) == 1000
    assert np.all(fdb.lookup_many(stations(0, 100)) == 1)
    assert np.all(fdb.lookup_many(stations(1000, 100)) == 2)
    assert fdb.evictions == 50_000 - 800
    assert fdb.learn_many(stations(2000, 300), 2) == 300  # a small port may still grow
    assert np.all(fdb.lookup_many(stations(2000, 300)) == 2)
    assert np.all(fdb.lookup_many(stations(0, 100)) == 1)


def test_limit_of_a_port() -> None:
    fdb = Fdb(max_entries=100, max_entries_per_port=10, dtype="uint32")
    fdb.learn_many(stations(0, 50), 1)
    fdb.learn_many(stations(100, 5), 2)
    assert len(fdb) == 15
    assert fdb.evictions == 40
    fdb.learn_many(stations(100, 5), 1)  # they move, and port 1 still holds 10
    assert sum(entry.port == 1 for entry in fdb) == 10


def test_expired_entries_make_room_first() -> None:
    clock = Clock()
    fdb = Fdb(max_entries=50, max_age_s=10, clock=clock, dtype="uint32")
    fdb.learn_many(stations(0, 50), 1)
    clock.now += 11
    assert fdb.learn_many(stations(100, 50), 2) == 50
    assert fdb.evictions < 5  # only a few candidates are looked at
    assert np.sum(fdb.lookup_many(stations(100, 50)) == 2) > 45


def test_full_of_static_entries() -> None:
    fdb = Fdb(max_entries=3, dtype="uint32")
    for i in range(3):
        fdb.add_static(int(stations(i, 1)[0]), 1)
    fdb.add_static(int(stations(1, 1)[0]), 2)
    with pytest.raises(CapacityError, match="3"):
        fdb.add_static(B, 1)
    assert fdb.learn(B, 1) is False
    assert fdb.refused == 1
    fdb.clear()
    assert len(fdb) == 0
    assert fdb.learn(B, 1)


def test_ports_come_and_go() -> None:
    fdb = Fdb(dtype="uint32", max_entries=8)
    for port in range(200_000):  # more than a table can name at one time
        fdb.learn(A, port)
        if port >= 1:
            fdb.purge(port - 1)
    assert fdb.lookup(A) == 199_999
    assert fdb.refused == 0


class Named(Fdb):
    def __init__(self, name: list[str]) -> None:
        super().__init__(max_entries=77)
        self.name = name


def test_a_subclass_keeps_its_attributes() -> None:
    fdb = Named(["mine"])
    fdb.add_static(A, (1, "a"))
    for other in (pickle.loads(pickle.dumps(fdb)), copy.copy(fdb), copy.deepcopy(fdb)):
        assert (type(other), other.name, other.max_entries) == (Named, ["mine"], 77)
        assert other.entries() == fdb.entries()
    assert copy.copy(fdb).name is fdb.name
    assert copy.deepcopy(fdb).name is not fdb.name


@pytest.mark.parametrize("dtype", [None, "uint32"])
def test_pickle_and_copy(dtype: str | None) -> None:
    clock = Clock()
    fdb = Fdb(max_age_s=20, max_entries=77, clock=clock, dtype=dtype)
    fdb.learn(A, 3, vlan=2)
    clock.now += 7
    fdb.add_static(B, 4)
    for other in (pickle.loads(pickle.dumps(fdb)), copy.copy(fdb), copy.deepcopy(fdb)):
        assert sorted(other.entries()) == sorted(fdb.entries())
        assert (other.max_age_s, other.max_entries, other.dtype) == (20, 77, dtype)
    other = fdb.copy()
    clock.now += 14
    assert other.lookup(A, 2) is None
    assert other.lookup(B) == 4
    assert "2 of 77" in repr(fdb)
    assert fdb.nbytes > 0


def test_the_capsule_is_for_integers() -> None:
    assert "fastpath.fdb.v1" in repr(Fdb(dtype="uint32").capsule)
    with pytest.raises(NotSupported):
        Fdb().capsule


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_age_s": 0}, ValueError),
        ({"max_age_s": -1}, ValueError),
        ({"max_age_s": math.nan}, ValueError),
        ({"max_age_s": "300"}, TypeError),
        ({"max_age_s": None}, TypeError),
        ({"max_age_s": 10**400}, ValueError),
        ({"max_entries": 0}, ValueError),
        ({"max_entries": "x"}, TypeError),
        ({"max_entries_per_port": 0}, ValueError),
        ({"clock": 5}, TypeError),
        ({"dtype": "int8"}, ValueError),
        ({"seed": -1}, ValueError),
    ],
)
def test_bad_construction(options: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        Fdb(**options)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("nonsense", 1), ValueError),
        ((None, 1), TypeError),
        ((A, -1), ValueError),
        ((A, 2**32), ValueError),
        ((A, "1"), TypeError),
        ((A, 1, -1), ValueError),
        ((A, 1, 4096), ValueError),
        ((A, 1, "1"), TypeError),
    ],
)
def test_bad_arguments(arguments: Any, error: type[Exception]) -> None:
    fdb = Fdb(dtype="uint32")
    for call in (fdb.learn, fdb.add_static):
        with pytest.raises(error):
            call(*arguments)
    with pytest.raises(error):
        fdb.learn_many([arguments[0]], *arguments[1:])
    assert len(fdb) == 0


@pytest.mark.parametrize(
    ("macs", "ports", "vlans", "error"),
    [
        (np.zeros(2, np.int64), 1, None, TypeError),
        (np.zeros((2, 7), np.uint8), 1, None, ValueError),
        (A, 1, None, TypeError),
        ([A, B], [1], None, ValueError),
        ([A, B], np.zeros(2), None, TypeError),
        ([A, B], np.zeros(3, np.uint32), None, ValueError),
        ([A, B], 1, [1], ValueError),
        ([A, B], 1, np.zeros(2), TypeError),
        ([A, B], 1, np.array([1, 4096]), ValueError),
        ([A, B], 1, np.array([-1, 1]), ValueError),
        ([A, B], 1, "ab", TypeError),
        ([A, B], 1, object(), TypeError),
    ],
)
def test_bad_batches(macs: Any, ports: Any, vlans: Any, error: type[Exception]) -> None:
    fdb = Fdb(dtype="uint32")
    with pytest.raises(error):
        fdb.learn_many(macs, ports, vlans)
    assert len(fdb) == 0


def test_bad_objects() -> None:
    fdb = Fdb()
    for bad, error in ((None, ValueError), ([], TypeError), ({}, TypeError)):
        with pytest.raises(error):
            fdb.learn(A, bad)
    with pytest.raises(TypeError, match="hashable"):
        fdb.purge([])


def test_a_static_entry_takes_the_place_of_exactly_the_learned_one() -> None:
    clock = Clock()
    fdb = Fdb(max_age_s=10, clock=clock)
    fdb.learn(A, "p1", 5)
    fdb.add_static(A, "p1", 5)
    assert [(entry.port, entry.static) for entry in fdb.entries()] == [("p1", True)]
    clock.now += 1e6
    assert fdb.learn(A, "p2", 5) is False
    assert fdb.age() == 0
    assert fdb.lookup(A, 5) == "p1"


@pytest.mark.parametrize("reading", [math.nan, math.inf, -math.inf])
def test_a_clock_that_gives_no_time(reading: float) -> None:
    clock = Clock()
    fdb = Fdb(max_age_s=10, clock=clock)
    fdb.learn(A, "p1")
    clock.now = reading
    for call in (
        lambda: fdb.lookup(A),
        lambda: fdb.learn(A, "p2"),
        lambda: fdb.learn_many([A], "p2"),
        lambda: fdb.lookup_many([A]),
        lambda: fdb.add_static(A, "p2"),
        lambda: fdb.age(),
        lambda: fdb.entries(),
        lambda: Fdb(clock=clock),
    ):
        with pytest.raises(ValueError, match="finite"):
            call()
    assert fdb.values is not None
    assert list(fdb.values) == [None, "p1"]
    with pytest.raises(TypeError):
        Fdb(clock=lambda: "now")  # type: ignore[arg-type, return-value]


def test_what_is_not_learned_leaves_no_id() -> None:
    fdb = Fdb(max_entries=1)
    group, zero = "01:00:5e:00:00:01", "00:00:00:00:00:00"
    assert fdb.learn(group, "p1") is False
    assert fdb.learn(zero, "p2") is False
    assert fdb.learn_many([group, zero], ["p3", "p4"]) == 0
    assert fdb.learn_many([group, zero], "p5") == 0
    with pytest.raises(TypeError):
        fdb.learn_many([A, B], ["p6", []])
    for port, error in ((None, ValueError), ([], TypeError)):
        with pytest.raises(error):
            fdb.learn(group, port)
        with pytest.raises(error):
            fdb.learn_many([group], [port])
    fdb.add_static(A, "p7")
    with pytest.raises(CapacityError):
        fdb.add_static(B, "p8")
    assert fdb.values is not None
    assert [port for port in fdb.values if port is not None] == ["p7"]
    fdb.clear()
    assert "p7" not in fdb.values
    with pytest.raises(ValueError, match="id 1"):
        fdb.learn_many(stations(0, 2), np.array([1, 1], np.uint32))


def test_entries_hold_their_ports_while_others_write() -> None:
    fdb = Fdb()
    macs = stations(1, 600)
    stop = threading.Event()

    def write(turn: int) -> None:
        while not stop.is_set():
            turn += 2
            fdb.learn_many(macs, [f"port {turn % 20} {i % 7}" for i in range(600)])
            for i in range(7):
                fdb.purge(f"port {turn % 20} {i}")

    writers = [threading.Thread(target=write, args=(turn,)) for turn in range(2)]
    for writer in writers:
        writer.start()
    ports = {entry.port for _ in range(60) for other in (fdb, fdb.copy()) for entry in other.entries()}
    stop.set()
    for writer in writers:
        writer.join()
    assert None not in ports
    assert {entry.port for entry in fdb.entries()} <= set(fdb.values or ())


def test_static_entries_do_not_make_a_port_pay() -> None:
    fdb = Fdb(max_entries=1000, dtype="uint32", seed=1)
    for mac in stations(5000, 600).tolist():
        fdb.add_static(mac, 1)
    fdb.learn_many(stations(0, 50), 1)
    fdb.learn_many(stations(1000, 50), 2)
    for start in range(10_000, 60_000, 5000):
        fdb.learn_many(stations(start, 5000), 3)
    assert len(fdb) == 1000
    assert np.all(fdb.lookup_many(stations(5000, 600)) == 1)
    assert np.all(fdb.lookup_many(stations(0, 50)) == 1)
    assert np.all(fdb.lookup_many(stations(1000, 50)) == 2)


@pytest.mark.parametrize("way", ["move", "delete", "age", "evict", "replace"])
def test_ports_without_entries_are_forgotten(way: str) -> None:
    clock = Clock()
    fdb = Fdb(max_age_s=10, max_entries=4, max_entries_per_port=1 if way == "evict" else None, clock=clock)
    assert fdb.values is not None
    for number in range(70_000 if way == "move" else 1000):
        fdb.learn(A, f"port {number}")
        if way == "delete":
            fdb.delete(A)
        elif way == "age":
            clock.now += 11
            assert fdb.age() == 1
        elif way == "evict":
            fdb.learn(B, f"port {number}")
            fdb.delete(B)
        elif way == "replace":
            fdb.add_static(A, "kept")
            fdb.delete(A)
    live = [port for port in fdb.values if port is not None]
    assert live == ([f"port {number}"] if way == "move" else [])
    assert len(fdb.values) < 40
    assert fdb.refused == 0
    assert fdb.learn(B, "another")
    assert fdb.lookup(B) == "another"


def test_refused_ports_are_forgotten() -> None:
    fdb = Fdb(max_entries=1)
    fdb.add_static(A, "kept")
    for number in range(100):
        assert not fdb.learn(B, number)
    assert list(fdb.values or ()) == [None, "kept", None]


@pytest.mark.parametrize("max_age_s", [20.0, float("inf")])
def test_copies_hold_every_entry_and_its_age(max_age_s: float) -> None:
    clock = Clock()
    fdb = Fdb(max_age_s=max_age_s, max_entries_per_port=2, clock=clock)
    for number in range(2):
        fdb.learn(int(stations(number, 1)[0]), "p")
        clock.now += 5
    for number in range(2, 4):
        fdb.add_static(int(stations(number, 1)[0]), "p")
    assert len(fdb) == 4
    for other in (fdb.copy(), pickle.loads(pickle.dumps(fdb))):
        assert sorted(other.entries()) == sorted(fdb.entries())
        assert sorted(entry.age_s for entry in other) == [0, 0, 5, 10]


def test_ageing_goes_on_after_a_clock_is_set_right() -> None:
    clock = Clock()
    clock.now = 0.0
    fdb = Fdb(max_age_s=300, clock=clock)
    fdb.learn(A, 1)
    clock.now = 1.8e9  # 1970, and then the time of day
    assert fdb.lookup(A) is None
    fdb.learn(A, 1)
    clock.now += 299
    assert fdb.lookup(A) == 1
    clock.now += 2
    assert fdb.lookup(A) is None
    assert fdb.age() == 1


def test_random_histories_keep_the_lists_of_ports_right() -> None:
    random = np.random.default_rng(5)
    clock = Clock()
    fdb = Fdb(max_age_s=50, max_entries=200, max_entries_per_port=40, clock=clock, dtype="uint32")
    for step in range(4000):
        port, first = int(random.integers(1, 12)), int(random.integers(0, 400))
        match int(random.integers(0, 12)):
            case 0:
                fdb.purge(port, static=bool(step % 2))
            case 1:
                fdb.age()
            case 2 if len(fdb):
                entry = fdb.entries()[:1]
                if entry:
                    fdb.delete(entry[0].mac, entry[0].vlan)
            case 3 if step % 20 == 0:
                fdb.add_static(int(stations(first, 1)[0]), port)
            case 4 if step % 500 == 0:
                fdb.clear()
            case _:
                fdb.learn_many(stations(first, 20), port)
        clock.now += 1
        entries = fdb.entries()
        assert len(fdb) <= 200
        for number in range(1, 12):
            assert sum(entry.port == number and not entry.static for entry in entries) <= 40
        probes = [int(entry.mac.replace(":", ""), 16) for entry in entries]
        assert fdb.lookup_many(np.array(probes, np.uint64)).tolist() == [entry.port for entry in entries]


def test_answers_may_be_written_over_the_stations() -> None:
    fdb = Fdb(dtype="uint32")
    macs = stations(0, 1000)
    fdb.learn_many(macs, np.arange(1000, dtype=np.uint32))
    for shift in (0, 1, 1000):
        again = macs.copy()
        out = again.view(np.uint32)[shift : shift + 1000]
        assert fdb.lookup_many(again, out=out).tolist() == list(range(1000))


@pytest.mark.parametrize("isa", build_info()["isa_supported"])
def test_large_batches_learn_as_the_twin_does(isa: str) -> None:
    """Moves, static entries, VLANs and stations that stand twice in a batch, while the table grows."""
    program = """
import numpy as np, fastpath
from fastpath.reference import exact as reference
assert fastpath.build_info()["isa_in_use"] == {isa!r}
random = np.random.default_rng(3)
now = 1000.0
fdb = fastpath.Fdb(max_age_s=10, max_entries=10**6, clock=lambda: now, dtype="uint32", seed=4)
twin = reference.Fdb(max_age_s=10, clock=lambda: now)
for step in range(60):
    known = 50 * (step + 1)
    macs = random.integers(0, known, 700).astype(np.uint64) * np.uint64(7919) + np.uint64(0x020000000000)
    macs[random.integers(0, 700, 3)] = 0x010000000001
    vlans = random.integers(0, 2, 700).astype(np.uint16)
    ports = (macs % np.uint64(5)).astype(np.uint32) + np.uint32(1)
    ports[random.random(700) < 0.03] = 9
    n = int(random.integers(1, 701))
    stations = list(zip(macs[:n].tolist(), ports[:n].tolist(), vlans[:n].tolist()))
    expected = sum(twin.learn(*station) for station in stations)
    assert fdb.learn_many(macs[:n], ports[:n], vlans[:n]) == expected
    mac, vlan = int(macs[0]), int(vlans[0])
    if step % 5 == 0 and mac in (entry[0] for entry in twin.entries):
        fdb.add_static(mac, 77, vlan)
        twin.add_static(mac, 77, vlan)
    if step % 7 == 6:
        assert fdb.age() == twin.age()
    now += float(random.choice([0.0, 0.001, 1.0, 5.0, 10.0]))
    assert (len(fdb), fdb.moves) == (len(twin), twin.moves)
    found = fdb.lookup_many(macs, vlans).tolist()
    assert found == [twin.lookup(mac, vlan) or 0 for mac, vlan in zip(macs.tolist(), vlans.tolist())]
"""
    subprocess.run(
        [sys.executable, "-c", program.format(isa=isa)], env={**os.environ, "FASTPATH_ISA": isa}, check=True
    )


def test_a_batch_does_what_its_stations_do_one_by_one() -> None:
    """Limits and evictions, too."""
    random = np.random.default_rng(8)
    many, single = (
        Fdb(max_entries=500, max_entries_per_port=120, clock=lambda: 1.0, dtype="uint32", seed=1)
        for _ in range(2)
    )
    for fdb in (many, single):
        for mac in stations(0, 30).tolist():
            fdb.add_static(mac, 3)
    for _ in range(40):
        macs = stations(0, 900)[random.integers(0, 900, 300)]
        ports = random.integers(1, 9, 300).astype(np.uint32)
        changed = sum(
            single.learn(mac, port) for mac, port in zip(macs.tolist(), ports.tolist(), strict=True)
        )
        assert many.learn_many(macs, ports) == changed
        assert sorted(many.entries()) == sorted(single.entries())
        for name in ("moves", "evictions", "refused"):
            assert getattr(many, name) == getattr(single, name)
    assert many.evictions


def test_writers_beside_long_writes_do_not_stop_others() -> None:
    """Whoever waits for a writer does so without the GIL, and no port's id goes while a call uses it."""
    fdb = Fdb(max_entries=200_000)
    fdb.add_static(A, "stays")
    stop = threading.Event()
    wrong: list[object] = []

    def read() -> None:
        while not stop.is_set():
            if fdb.lookup(A) != "stays":
                wrong.append("miss")

    def write(name: str, first: int) -> None:
        macs = stations(first, 3)
        for i in range(200):
            fdb.learn(int(macs[0]), f"{name} {i}")
            fdb.learn_many(macs, f"{name} {i + 1}")
            fdb.add_static(int(macs[1]), f"{name} static")
            if fdb.lookup(int(macs[0])) != f"{name} {i + 1}":
                wrong.append(name)
            fdb.delete(int(macs[1]))
            fdb.purge(f"{name} {i}")

    def write_much() -> None:
        for turn in range(6):
            fdb.learn_many(stations(1000, 100_000), f"much {turn % 2}")
            if None in {entry.port for entry in fdb.entries()[:100]}:
                wrong.append("an entry without a port")
            fdb.age()
            assert fdb.refused == 0

    threads = [threading.Thread(target=read), threading.Thread(target=write_much)]
    threads += [
        threading.Thread(target=write, args=(name, first)) for name, first in (("a", 100), ("b", 200))
    ]
    for thread in threads:
        thread.start()
    for thread in threads[1:]:
        thread.join()
    stop.set()
    threads[0].join()
    assert not wrong
    fdb.clear()
    assert fdb.values is not None
    assert [port for port in fdb.values if port is not None] == []
