"""FlowTable beside rte_hash (which neither refreshes nor ages): IPv4 five-tuples in 16-byte keys, IPv6 in 40.

Look-ups in random order, all of them hits. Every round sees another millisecond than the one before, so every
look-up writes its refresh. `limit_reading_one_line` is no table: it reads a line of as much memory for each
key, which is what the machine allows. rte_hash runs in huge pages where the kernel has 3100 MiB of them free.
"""

from __future__ import annotations

import ctypes
import time

import numpy as np
import pytest

import dpdk_peer
from fastpath import FlowTable
from fastpath.keys import five_tuples
from native import pointer

CASES = [(4, 1 << 16), (4, 1_000_000), (4, 8_000_000), (6, 1 << 16), (6, 1_000_000), (6, 4_000_000)]
NAMES = [f"IPv{family} x {n:,}" for family, n in CASES]
LARGEST = CASES.index((4, 8_000_000))


class Flows:
    """Distinct five-tuples, and the same in another order."""

    def __init__(self, family: int, n: int) -> None:
        rng = np.random.default_rng(n)
        self.n, self.size = n, 16 if family == 4 else 40
        srcs = np.arange(n, dtype=np.uint32) * np.uint32(2654435761)
        dsts, ports = rng.integers(0, 2**32, n, dtype=np.uint32), rng.integers(0, 65536, (2, n))
        if family == 6:
            pair = np.zeros((2, n, 16), np.uint8)
            pair[:, :, :4] = (0x20, 0x01, 0x0D, 0xB8)
            for side, low in zip(pair, (srcs, dsts), strict=True):
                side[:, 12:] = low.astype(">u4").view(np.uint8).reshape(n, 4)
            self.rows = five_tuples(pair[0], pair[1], 6, ports[0], ports[1])
        else:
            self.rows = five_tuples(srcs, dsts, 6, ports[0], ports[1], size=16)
        self.values = np.arange(1, n + 1, dtype=np.uint32)
        self.shuffled = self.rows[rng.permutation(n)]

    def table(self, share: float = 1.0) -> FlowTable:
        """For all of them, with some inserted; in memory that has been touched."""
        made = FlowTable(self.size, capacity=self.n, dtype="uint32")
        made.insert_many(self.rows, self.values)
        if share < 1:
            made.clear()
            n = int(self.n * share)
            made.insert_many(self.rows[:n], self.values[:n])
        return made


@pytest.fixture(scope="module", params=CASES, ids=NAMES)
def flows(request):
    return Flows(*request.param)


@pytest.fixture(scope="session")
def dpdk(tmp_path_factory):
    return dpdk_peer.start_hash_and_acl(tmp_path_factory.mktemp("dpdk"))


def new_peer(dpdk, flows):
    if dpdk.peer_hash_new(ctypes.c_uint32(flows.size), ctypes.c_uint32(flows.n * 5 // 4)) != 0:
        pytest.skip("rte_hash has no memory for this")


def fill_peer(dpdk, flows):
    pointers = pointer(flows.rows), flows.size, pointer(flows.values)
    assert dpdk.peer_hash_add(*pointers, ctypes.c_size_t(flows.n)) == flows.n


class TestLookup:
    @pytest.fixture(autouse=True)
    def group(self, benchmark, flows, request):
        benchmark.group = f"flow: look-up, {request.node.callspec.id}"
        family = 4 if flows.size == 16 else 6
        benchmark.extra_info.update(series=f"look-up, IPv{family}", size=flows.n)

    def test_fastpath_with_refresh(self, flows, measure):
        table, out = flows.table(), np.empty(flows.n, np.uint32)
        measure(lambda: table.lookup_many(flows.shuffled, out=out), operations=flows.n)
        assert out.all()

    def test_limit_reading_one_line(self, flows, dpdk, measure):
        memory = np.ones(flows.table().nbytes // 64 * 64, np.uint8)
        out = np.empty(flows.n, np.uint32)
        lines = ctypes.c_uint64(memory.size // 64)
        sources = flows.shuffled[:, 0 if flows.size == 16 else 12 :]  # from where they differ
        arguments = pointer(memory), lines, pointer(sources), flows.size
        arguments += ctypes.c_size_t(flows.n), pointer(out)
        measure(lambda: dpdk.peer_read_lines(*arguments), operations=flows.n)

    def test_rte_hash_without(self, flows, dpdk, measure):
        new_peer(dpdk, flows)
        fill_peer(dpdk, flows)
        out = np.empty(flows.n, np.uint32)
        pointers = pointer(flows.shuffled), flows.size, ctypes.c_size_t(flows.n)
        measure(lambda: dpdk.peer_hash_lookup(*pointers, pointer(out)), operations=flows.n)


class TestInsert:
    """All flows into an empty table whose memory has been touched."""

    @pytest.fixture(autouse=True)
    def group(self, benchmark, flows, request):
        benchmark.group = f"flow: insert, {request.node.callspec.id}"
        family = 4 if flows.size == 16 else 6
        benchmark.extra_info.update(series=f"insert, IPv{family}", size=flows.n)

    def test_fastpath(self, flows, benchmark):
        table = flows.table()
        benchmark.extra_info["operations"] = flows.n
        benchmark.pedantic(lambda: table.insert_many(flows.rows, flows.values), setup=table.clear, rounds=5)
        assert table.evictions == 0

    def test_rte_hash(self, flows, dpdk, benchmark):
        benchmark.extra_info["operations"] = flows.n
        benchmark.pedantic(
            lambda: fill_peer(dpdk, flows), setup=lambda: new_peer(dpdk, flows), rounds=5, warmup_rounds=1
        )


@pytest.fixture(scope="module")
def largest():
    return Flows(*CASES[LARGEST])


@pytest.mark.benchmark(group="flow: insert at 95 % load, one by one, 8,000,000 flows")
def test_fastpath_insert_one_by_one(largest, benchmark):
    """Percentiles of single calls stand in the extra information of the JSON."""
    table = largest.table(0.95)
    start = int(largest.n * 0.95)
    keys = [row.tobytes() for row in largest.rows[start : start + 200_000]]
    took = np.empty(len(keys), np.int64)

    def insert():
        clock = time.perf_counter_ns
        for i, key in enumerate(keys):
            begin = clock()
            table.insert(key, 1)
            took[i] = clock() - begin

    benchmark.extra_info["operations"] = len(keys)
    benchmark.pedantic(insert, rounds=1)
    for name, share in (("p50_ns", 50), ("p99_ns", 99), ("p99.9_ns", 99.9)):
        benchmark.extra_info[name] = float(np.percentile(took, share))


@pytest.mark.benchmark(group="flow: insert into a full table, 8,000,000 flows")
def test_fastpath_insert_that_evicts(largest, benchmark):
    table = largest.table()
    others = largest.rows.copy()
    others[:, -1] = 1  # what is padding in the flows that are there
    turns = iter(range(0, largest.n, 500_000))

    def insert():
        at = next(turns)
        table.insert_many(others[at : at + 500_000], largest.values[:500_000])

    benchmark.extra_info["operations"] = 500_000
    benchmark.pedantic(insert, rounds=10)
    assert table.evictions == 5_000_000


@pytest.mark.benchmark(group="flow: expire, 8,000,000 flows")
class TestExpire:
    def test_fastpath_none_is_over(self, largest, measure):
        table = largest.table()
        measure(lambda: table.expire(None), operations=largest.n)

    def test_fastpath_all_are_over_in_calls_of_half_a_millisecond(self, largest, benchmark):
        """The longest call stands in the extra information of the JSON: wall clock, and CPU."""
        now = [0.0]
        table = FlowTable(16, capacity=largest.n, dtype="uint32", clock=lambda: now[0])
        took: list[tuple[int, int]] = []

        def fill():
            table.insert_many(largest.rows, largest.values)
            now[0] += 61

        def expire():
            while len(table):
                begin = time.perf_counter_ns(), time.thread_time_ns()
                table.expire()
                took.append((time.perf_counter_ns() - begin[0], time.thread_time_ns() - begin[1]))

        benchmark.extra_info["operations"] = largest.n
        benchmark.pedantic(expire, setup=fill, rounds=5)
        benchmark.extra_info["longest_call_ns"] = max(wall for wall, _ in took)
        benchmark.extra_info["longest_call_cpu_ns"] = max(cpu for _, cpu in took)
