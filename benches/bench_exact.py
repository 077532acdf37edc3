"""ExactTable, ForwardingTable and Fdb beside rte_hash, dict and searchsorted; look-ups in random order.

`limit_reading_one_line` is no table: it reads a line of as much memory for each key, which is what the
machine allows. The longest insert of a growing table is told twice: with memory as the machine gives it,
and with memory that was in use a moment before. A virtual machine whose host gives it memory only when it
is first touched needs milliseconds for a huge page that it has not used for a while; the rest is the
table's.
"""

from __future__ import annotations

import ctypes
import time

import numpy as np
import pytest

import dpdk_peer
from fastpath import ExactTable, Fdb, ForwardingTable
from native import pointer

SIZES = [4, 6, 8, 12, 13, 16, 37, 40, 64]
COUNTS = [1 << 12, 1 << 14, 1 << 16, 1 << 18, 1_000_000, 1 << 22, 1 << 24]  # the plot over table size
CASES = [*((16, n) for n in COUNTS), *((size, 1_000_000) for size in SIZES if size != 16)]
NAMES = [f"{size} B x {n:,}" for size, n in CASES]


class Keys:
    """Distinct random keys, the same in another order, and keys that are absent."""

    def __init__(self, size: int, n: int) -> None:
        rng = np.random.default_rng(size * n)
        self.size, self.n = size, n
        self.rows = rng.integers(0, 256, (n, size), dtype=np.uint8)
        self.rows[:, :4] = (
            (np.arange(n, dtype=np.uint32) * np.uint32(2654435761)).view(np.uint8).reshape(n, 4)
        )
        self.values = np.arange(1, n + 1, dtype=np.uint32)
        self.shuffled = self.rows[rng.permutation(n)]
        self.absent = rng.integers(0, 256, (min(n, 1_000_000), size), dtype=np.uint8)


@pytest.fixture(scope="module", params=CASES, ids=NAMES)
def keys(request):
    return Keys(*request.param)


@pytest.fixture(scope="session")
def dpdk(tmp_path_factory):
    return dpdk_peer.start_hash_and_acl(tmp_path_factory.mktemp("dpdk"))


@pytest.fixture(scope="module")
def table(keys):
    made = ExactTable(keys.size, dtype="uint32", capacity=keys.n)
    made.insert_many(keys.rows, keys.values)
    return made


@pytest.fixture(scope="module")
def peer(dpdk, keys):
    if dpdk.peer_hash_new(ctypes.c_uint32(keys.size), ctypes.c_uint32(keys.n * 5 // 4)) != 0:
        pytest.skip("rte_hash has no memory for this")
    n = dpdk.peer_hash_add(pointer(keys.rows), keys.size, pointer(keys.values), ctypes.c_size_t(keys.n))
    assert n == keys.n
    return dpdk


@pytest.mark.parametrize("what", ["hits", "misses"])
class TestLookupMany:
    @pytest.fixture
    def probes(self, keys, what):
        return keys.shuffled if what == "hits" else keys.absent

    @pytest.fixture(autouse=True)
    def group(self, benchmark, keys, what):
        benchmark.group = f"exact: {what}, {keys.size} B x {keys.n:,}"
        benchmark.extra_info.update(series=f"{what}, {keys.size} B", size=keys.n)

    def test_fastpath(self, table, probes, measure):
        out = np.empty(len(probes), np.uint32)
        measure(lambda: table.lookup_many(probes, out=out), operations=len(probes))

    def test_limit_reading_one_line(self, dpdk, table, keys, probes, measure):
        memory = np.zeros(table.nbytes // 64 * 64, np.uint8)
        memory[:] = 1
        out = np.empty(len(probes), np.uint32)
        lines = ctypes.c_uint64(memory.size // 64)
        arguments = pointer(memory), lines, pointer(probes), keys.size
        arguments += ctypes.c_size_t(len(probes)), pointer(out)
        measure(lambda: dpdk.peer_read_lines(*arguments), operations=len(probes))

    def test_rte_hash(self, peer, keys, probes, measure):
        out = np.empty(len(probes), np.uint32)
        arguments = pointer(probes), keys.size, ctypes.c_size_t(len(probes)), pointer(out)
        measure(lambda: peer.peer_hash_lookup(*arguments), operations=len(probes))


@pytest.mark.parametrize("size", [8, 16, 40])
class TestInsert:
    """A table made anew and filled."""

    @pytest.fixture(autouse=True)
    def group(self, benchmark, size):
        benchmark.group = f"exact: insert_many, {size} B x 1,000,000"

    @pytest.fixture
    def wanted(self, size):
        return Keys(size, 1_000_000)

    def test_fastpath(self, wanted, size, measure):
        measure(
            lambda: ExactTable(size, dtype="uint32", capacity=wanted.n).insert_many(
                wanted.rows, wanted.values
            ),
            operations=wanted.n,
        )

    def test_fastpath_growing(self, wanted, size, measure):
        measure(
            lambda: ExactTable(size, dtype="uint32").insert_many(wanted.rows, wanted.values),
            operations=wanted.n,
        )

    def test_rte_hash(self, dpdk, wanted, size, measure):
        def build():
            dpdk.peer_hash_new(ctypes.c_uint32(size), ctypes.c_uint32(wanted.n * 5 // 4))
            n = ctypes.c_size_t(wanted.n)
            dpdk.peer_hash_add(pointer(wanted.rows), size, pointer(wanted.values), n)

        measure(build, operations=wanted.n)


GROWN = 1 << 24
NEXT_ARRAY = 600 << 20  # bytes, a little more than the last growth asks for


class Pauses:
    """The longest call, by the wall clock and by the processor's: the first has pauses that others cause."""

    def __init__(self):
        self.wall = self.processor = 0  # ns

    def watch(self, call, keys):
        wall, processor = time.perf_counter_ns, time.thread_time_ns
        for key in keys:
            start, start_processor = wall(), processor()
            call(key, 1)
            taken, taken_processor = wall() - start, processor() - start_processor
            self.wall = max(self.wall, taken)
            self.processor = max(self.processor, taken_processor)


@pytest.mark.parametrize("memory", ["as it comes", "in use before"])
@pytest.mark.benchmark(group="exact: the longest insert of a table that grows to 16 M keys")
def test_fastpath_growth_pause(benchmark, memory):
    """In extra_info, in milliseconds; and the longest dict.get() in between: what the machine does."""
    keys = np.random.default_rng(3).integers(0, 256, (GROWN, 16), dtype=np.uint8)
    made = ExactTable(16, dtype="uint32")
    table, machine = Pauses(), Pauses()

    def grow():
        for begin in range(0, GROWN, 1 << 16):
            if memory == "in use before" and begin % (1 << 18) == 0:
                np.ones(NEXT_ARRAY, np.uint8)
            listed = [row.tobytes() for row in keys[begin : begin + (1 << 16)]]
            table.watch(made.insert, listed)
            machine.watch({}.get, listed)

    benchmark.extra_info["operations"] = GROWN
    benchmark.pedantic(grow, rounds=1)
    benchmark.extra_info["longest_ms"] = table.wall / 1e6
    benchmark.extra_info["longest_processor_ms"] = table.processor / 1e6
    benchmark.extra_info["machine_longest_ms"] = machine.wall / 1e6
    benchmark.extra_info["machine_longest_processor_ms"] = machine.processor / 1e6


@pytest.mark.parametrize("load", [50, 90])
def test_fastpath_load(load, measure, benchmark):
    benchmark.group = "exact: hits by load factor, 16 B"
    keys = Keys(16, 900_000)
    # A key may find no room from 85 % on, and the table grows: then with another seed.
    for seed in range(50):
        made = ExactTable(16, dtype="uint32", capacity=int(keys.n * 100 / load * 2 / 3), seed=seed)
        before = made.nbytes
        made.insert_many(keys.rows, keys.values)
        if made.nbytes == before:
            break
    assert made.nbytes == before
    out = np.empty(keys.n, np.uint32)
    measure(lambda: made.lookup_many(keys.shuffled, out=out), operations=keys.n)


@pytest.fixture(scope="module")
def listed():
    return [row.tobytes() for row in Keys(16, 10_000).rows]


class TestScalar:
    @pytest.fixture(autouse=True)
    def group(self, benchmark):
        benchmark.group = "exact: scalar look-up, 16 B x 10,000"

    def run(self, lookup, listed, measure):
        def every():
            for key in listed:
                lookup(key)

        measure(every, operations=len(listed))

    def test_fastpath(self, listed, measure):
        made = ExactTable(16)
        made.insert_many(listed, listed)
        self.run(made.lookup, listed, measure)

    def test_dict(self, listed, measure):
        self.run(
            dict(zip(listed, listed, strict=True)).get, [bytes(bytearray(key)) for key in listed], measure
        )


STATIONS = 100_000


@pytest.fixture(scope="module")
def macs():
    rng = np.random.default_rng(9)
    return rng.permutation(STATIONS).astype(np.uint64) + np.uint64(0x020000000000)


class TestBridge:
    """The tables that stand on it."""

    @pytest.fixture(autouse=True)
    def group(self, benchmark):
        benchmark.group = "exact: tables of a bridge, 100,000 stations"

    def test_fastpath_exact_table(self, macs, measure):
        rows = macs.view(np.uint8).reshape(-1, 8)
        made = ExactTable(8, dtype="uint32", capacity=STATIONS)
        made.insert_many(rows, np.arange(STATIONS))
        measure(lambda: made.lookup_many(rows), operations=STATIONS)

    def test_fastpath_forwarding_table(self, macs, measure):
        made = ForwardingTable("mac", dtype="uint32", capacity=STATIONS)
        made.insert_many(macs, macs[::-1].copy(), range(STATIONS))
        destinations = macs[::-1].copy()
        measure(lambda: made.lookup_many(macs, destinations), operations=STATIONS)

    def test_fastpath_fdb(self, macs, measure):
        made = Fdb(max_entries=2 * STATIONS, dtype="uint32")
        made.learn_many(macs, np.arange(STATIONS) % 64)
        measure(lambda: made.lookup_many(macs), operations=STATIONS)

    def test_fastpath_fdb_learn(self, macs, measure):
        made = Fdb(max_entries=2 * STATIONS, dtype="uint32")
        ports = (np.arange(STATIONS) % 64).astype(np.uint32)
        measure(lambda: made.learn_many(macs, ports), operations=STATIONS)

    def test_searchsorted(self, macs, measure):
        ordered = np.sort(macs)
        measure(lambda: np.searchsorted(ordered, macs), operations=STATIONS)
