"""FlowTable beside rte_hash (which neither refreshes nor ages), with IPv4 five-tuples in 16-byte keys."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

import dpdk_peer
from fastpath import FlowTable
from fastpath.keys import five_tuples

N = 8_000_000


@pytest.fixture(scope="module")
def flows():
    rng = np.random.default_rng(4)
    srcs = np.arange(N, dtype=np.uint32) * np.uint32(2654435761)
    dsts, ports = rng.integers(0, 2**32, N, dtype=np.uint32), rng.integers(0, 65536, (2, N))
    keys = five_tuples(srcs, dsts, 6, ports[0], ports[1], size=16)
    return keys, np.arange(1, N + 1, dtype=np.uint32), keys[rng.permutation(N)]


@pytest.fixture(scope="module")
def table(flows):
    made = FlowTable(16, capacity=N, dtype="uint32", idle_timeout_s=3600)
    made.insert_many(flows[0], flows[1])
    return made


@pytest.mark.benchmark(group="flow: 8,000,000 flows, look-up")
class TestLookup:
    def test_fastpath_with_refresh(self, flows, table, measure):
        out = np.empty(N, np.uint32)
        measure(lambda: table.lookup_many(flows[2], out=out), operations=N)

    def test_rte_hash_without(self, flows, tmp_path_factory, measure):
        peer = dpdk_peer.start(tmp_path_factory.mktemp("dpdk"))
        if peer.peer_hash_new(ctypes.c_uint32(16), ctypes.c_uint32(N * 5 // 4)) != 0:
            pytest.skip("rte_hash has no memory for this")
        size = ctypes.c_size_t(N)
        peer.peer_hash_add(dpdk_peer.pointer(flows[0]), 16, dpdk_peer.pointer(flows[1]), size)
        out = np.empty(N, np.uint32)
        measure(
            lambda: peer.peer_hash_lookup(dpdk_peer.pointer(flows[2]), 16, size, dpdk_peer.pointer(out)),
            operations=N,
        )


@pytest.mark.benchmark(group="flow: 8,000,000 flows, expiry that finds nothing")
def test_fastpath_expire(table, measure):
    measure(lambda: table.expire(None), operations=N)


@pytest.mark.benchmark(group="flow: 8,000,000 flows, insert at 95 % load")
def test_fastpath_insert(flows, measure):
    made = FlowTable(16, capacity=N, dtype="uint32", idle_timeout_s=3600)
    start = int(N * 0.95)
    made.insert_many(flows[0][:start], flows[1][:start])
    step = (N - start) // 12
    turns = iter(range(start, N, step))

    def insert():
        at = next(turns)
        made.insert_many(flows[0][at : at + step], flows[1][at : at + step])

    measure(insert, operations=step)
