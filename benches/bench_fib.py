"""Fib beside DPDK, pytricia, py-radix, pyasn and dict, on a full Internet table with distinct next hops.

Probes: `routed` (a random host of a random prefix), `uniform` (any IPv4 address), `zipf` (prefixes by Zipf's
law, s = 1, then a random host), `miss` (addresses that no prefix holds), `sequential`. DPDK needs
libdpdk-dev; it runs with huge pages where the kernel has 3100 MiB of them free, and with pages of 4 KiB in
the same process. The rows of random gathers tell what one read a look-up would cost: the rate of reading
4 bytes at random places of a memory as large as the table.
"""

from __future__ import annotations

import ctypes
import ipaddress
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import dpdk_peer
from fastpath import Fib
from fastpath.data import bgp_prefixes_path
from native import compiled, pointer

PROBES = 1 << 22
CALL = 4096
SCALARS = 20_000


def hosts(addresses, lengths, rng):
    """Each prefix with random host bits."""
    if addresses.ndim == 1:
        span = (np.uint64(1) << (np.uint64(32) - lengths.astype(np.uint64))) - np.uint64(1)
        return addresses | (rng.integers(0, 2**32, len(addresses), dtype=np.uint64) & span).astype(np.uint32)
    kept = np.clip(lengths[:, None].astype(np.int64) - 8 * np.arange(16)[None, :], 0, 8)
    mask = (0xFF >> kept).astype(np.uint8)
    return addresses | (rng.integers(0, 256, addresses.shape, dtype=np.uint8) & mask)


class Table:
    """One family of the full table, its Fib and its probes."""

    def __init__(self, whole: Fib, family: int) -> None:
        rng = np.random.default_rng(20260101 + family)
        self.family = family
        self.addresses, self.lengths, _ = whole.to_arrays(family)
        n = len(self.lengths)
        # All distinct; DPDK's tables take next hops of 30 bits.
        self.values = (np.arange(1, n + 1, dtype=np.uint64) * 2654435761 % 2**30).astype(np.uint32)
        self.fib = Fib(dtype="uint32")
        self.fib.insert_many((self.addresses, self.lengths), self.values)
        order = rng.permutation(n)
        rank = np.minimum((n + 1.0) ** rng.random(PROBES), n).astype(np.int64) - 1
        self.probes = {
            "routed": self.pick(rng.integers(0, n, PROBES), rng),
            "zipf": self.pick(order[rank], rng),
        }
        if family == 4:
            any_address = rng.integers(0, 2**32, PROBES * 4, dtype=np.uint64).astype(np.uint32)
            self.probes["uniform"] = any_address[:PROBES]
            self.probes["sequential"] = np.arange(PROBES, dtype=np.uint32) * 61 + (1 << 24)
        else:
            any_address = rng.integers(0, 256, (PROBES * 2, 16), dtype=np.uint8)
            self.probes["sequential"] = self.pick(np.sort(rng.integers(0, n, PROBES)), rng)
        missed = any_address[self.fib.match_many(any_address)[1] == 0]
        self.probes["miss"] = missed[np.arange(PROBES) % len(missed)]

    def pick(self, rows, rng):
        return hosts(self.addresses[rows], self.lengths[rows], rng)


@pytest.fixture(scope="session")
def tables(bgp_text):
    whole = Fib(dtype="uint32")
    whole.insert_many(bgp_text, np.arange(1, 1 + len(bgp_text.split()), dtype=np.uint32))
    return {family: Table(whole, family) for family in (4, 6)}


@pytest.fixture(scope="session")
def dpdk(tmp_path_factory):
    """The peer library, started; its kinds of pages by name."""
    peer = dpdk_peer.start(tmp_path_factory.mktemp("dpdk"), "dpdk_fib.c", "-DALLOW_EXPERIMENTAL_API")
    huge = dpdk_peer.has_huge_pages()
    peer.kinds = ["huge pages"] if huge else []
    if not huge or peer.peer_small_pages(ctypes.c_size_t(1800 << 20)) == 0:
        peer.kinds.append("small pages")
    return peer


@pytest.fixture(scope="session")
def loaded(dpdk, tables):
    """(library, number of the kind) for a kind of pages, with both tables in it."""
    done = {}

    def load(pages):
        if pages not in dpdk.kinds:
            pytest.skip(f"no {pages} here")
        if pages not in done:
            # Without huge pages the memory of EAL is of small ones.
            kind = int(pages == "small pages" and len(dpdk.kinds) == 2)
            for family, function in ((4, dpdk.peer_load4), (6, dpdk.peer_load6)):
                table = tables[family]
                arrays = pointer(table.addresses), pointer(table.lengths), pointer(table.values)
                error = function(kind, *arrays, ctypes.c_size_t(len(table.lengths)))
                if error != 0:
                    pytest.skip(f"DPDK does not take the IPv{family} table here (error {error})")
            done[pages] = kind
        return dpdk, done[pages]

    return load


MIXES = [(4, mix) for mix in ("routed", "uniform", "zipf", "miss", "sequential")]
MIXES += [(6, mix) for mix in ("routed", "zipf", "miss", "sequential")]


def in_calls(fib, probes, out):
    for i in range(0, len(probes), CALL):
        fib.lookup_many(probes[i : i + CALL], out=out)


@pytest.mark.parametrize(("family", "mix"), MIXES)
class TestBatch:
    def test_fastpath(self, tables, family, mix, benchmark, measure) -> None:
        benchmark.group = f"fib: IPv{family} lookup_many, {mix}"
        table = tables[family]
        measure(in_calls, table.fib, table.probes[mix], np.empty(CALL, np.uint32), operations=PROBES)

    @pytest.mark.parametrize("pages", ["huge pages", "small pages"])
    def test_dpdk(self, tables, loaded, family, mix, pages, benchmark, measure) -> None:
        benchmark.group = f"fib: IPv{family} lookup_many, {mix}"
        peer, kind = loaded(pages)
        benchmark.extra_info["settings"] = f"AVX-512, {pages}"
        table = tables[family]
        lookup = peer.peer_lookup4 if family == 4 else peer.peer_lookup6
        out = np.empty(PROBES, np.uint32)
        lookup(kind, pointer(table.probes[mix]), ctypes.c_size_t(PROBES), pointer(out))
        assert np.array_equal(out, table.fib.lookup_many(table.probes[mix]))
        measure(lookup, kind, pointer(table.probes[mix]), ctypes.c_size_t(PROBES), None, operations=PROBES)


@pytest.mark.parametrize("family", [4, 6])
def test_limit_random_gather(tables, tmp_path, family, benchmark, measure) -> None:
    benchmark.group = "fib: roofline, a random gather from as many bytes as the table has"
    library = compiled("roofline.cpp", tmp_path, "-std=c++20")
    library.roofline_memory.restype = ctypes.c_void_p
    size = tables[family].fib.nbytes
    benchmark.extra_info["MB"] = round(size / 1e6, 1)
    memory = ctypes.c_void_p(library.roofline_memory(ctypes.c_size_t(size)))
    places = np.random.default_rng(1).integers(0, size // 4, PROBES, dtype=np.uint32)
    out = np.empty(PROBES, np.uint32)
    count = ctypes.c_size_t(CALL)

    def in_calls() -> None:
        for i in range(0, PROBES, CALL):
            library.roofline_gather(memory, pointer(places[i:]), pointer(out), count)

    measure(in_calls, operations=PROBES)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512", "avx512-gather", "neon"])
def test_fastpath_kernel(tables, family, isa, benchmark, measure) -> None:
    table = tables[family]
    fib = table.fib.copy()
    if not fib._use(isa):
        pytest.skip(f"this machine has no {isa}")
    benchmark.group = f"fib: IPv{family} kernels, routed"
    measure(in_calls, fib, table.probes["routed"], np.empty(CALL, np.uint32), operations=PROBES)


@pytest.mark.parametrize("n", [1, 16, 64, 1024])
def test_fastpath_call(tables, n, benchmark, measure) -> None:
    """Calls for other probes each time, one after another, into an array that is there."""
    benchmark.group = f"fib: one lookup_many of {n}"
    look_up, out = tables[4].fib.lookup_many, np.empty(n, np.uint32)
    probes = list(tables[4].probes["routed"][: 1000 * n].reshape(1000, n))

    def calls() -> None:
        for some in probes:
            look_up(some, out=out)

    measure(calls, operations=len(probes))


def smaps(pid: int, path: Path) -> dict[str, int]:
    """Kilobytes by kind of what a process has mapped of a file."""
    found: dict[str, int] = {}
    inside = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        name, _, rest = line.partition(":")
        if " " in name:  # a mapping's first line; its fields have one word
            inside = line.endswith(str(path))
        elif inside and rest.endswith(" kB"):
            found[name] = found.get(name, 0) + int(rest.split()[0])
    return found


def each(function, keys) -> None:
    for key in keys:
        function(key)


# An IPv4 address in each form that a scalar call takes.
KINDS = {
    "int": int,
    "str": lambda number: str(ipaddress.IPv4Address(number)),
    "bytes": lambda number: number.to_bytes(4, "big"),
    "ip_address": ipaddress.IPv4Address,
}


@pytest.fixture(scope="session")
def keys(tables):
    numbers = tables[4].probes["routed"][:SCALARS].tolist()
    return {kind: [make(number) for number in numbers] for kind, make in KINDS.items()}


@pytest.mark.parametrize("kind", list(KINDS))
class TestScalar:
    def test_fastpath(self, tables, keys, kind, benchmark, measure) -> None:
        benchmark.group = f"fib: lookup({kind})"
        measure(each, tables[4].fib.lookup, keys[kind], operations=SCALARS)

    def test_dict_get(self, tables, keys, kind, benchmark, measure) -> None:
        """An exact look-up in a dict with as many entries as the table, and these keys among them."""
        benchmark.group = f"fib: lookup({kind})"
        found = dict.fromkeys(map(KINDS[kind], tables[4].addresses.tolist()), 1)
        found.update(dict.fromkeys(keys[kind], 1))
        measure(each, found.get, keys[kind], operations=SCALARS)

    def test_pytricia(self, tables, keys, kind, benchmark, measure) -> None:
        benchmark.group = f"fib: lookup({kind})"
        tree = pytest.importorskip("pytricia").PyTricia(32)
        for network, _ in tables[4].fib.items():
            tree.insert(str(network), 1)
        measure(each, tree.get, keys[kind], operations=SCALARS)

    def test_pyasn(self, tables, keys, kind, tmp_path, benchmark, measure) -> None:
        if kind != "str":
            pytest.skip("pyasn takes str")
        benchmark.group = f"fib: lookup({kind})"
        pyasn = pytest.importorskip("pyasn")
        lines = [f"{network}\t{number}\n" for number, network in enumerate(tables[4].fib, 1)]
        (tmp_path / "asn").write_text("".join(lines))
        measure(each, pyasn.pyasn(str(tmp_path / "asn")).lookup, keys[kind], operations=SCALARS)

    def test_py_radix(self, tables, keys, kind, benchmark, measure) -> None:
        if kind != "str":
            pytest.skip("py-radix takes str")
        benchmark.group = f"fib: lookup({kind})"
        tree = pytest.importorskip("radix").Radix()
        for network, _ in tables[4].fib.items():
            tree.add(str(network))
        measure(each, tree.search_best, keys[kind], operations=SCALARS)


class TestBuild:
    def test_fastpath_from_text(self, bgp_text, benchmark, measure) -> None:
        benchmark.group = "fib: build, a prefix"
        values = np.arange(1, 1 + len(bgp_text.split()), dtype=np.uint32)
        measure(lambda: Fib(dtype="uint32").insert_many(bgp_text, values), operations=len(values))

    def test_fastpath_from_arrays(self, tables, benchmark, measure) -> None:
        benchmark.group = "fib: build, a prefix"

        def build() -> None:
            fib = Fib(dtype="uint32")
            for table in tables.values():
                fib.insert_many((table.addresses, table.lengths), table.values)

        measure(build, operations=sum(len(table.lengths) for table in tables.values()))

    def test_pytricia_from_str(self, tables, benchmark, measure) -> None:
        benchmark.group = "fib: build, a prefix"
        pytricia = pytest.importorskip("pytricia")
        prefixes = [str(network) for network in tables[4].fib]

        def build() -> None:
            tree = pytricia.PyTricia(32)
            for prefix in prefixes:
                tree.insert(prefix, 1)

        measure(build, operations=len(prefixes))

    def test_dpdk_ipv4(self, tables, loaded, dpdk, benchmark, measure) -> None:
        benchmark.group = "fib: build, a prefix"
        peer, kind = loaded(dpdk.kinds[0])
        table = tables[4]
        arrays = pointer(table.addresses), pointer(table.lengths), pointer(table.values)
        count = ctypes.c_size_t(len(table.lengths))
        measure(peer.peer_load4, kind, *arrays, count, operations=len(table.lengths))

    def test_fastpath_open(self, bgp_text, tmp_path, benchmark) -> None:
        """Both families in one file; its pages are one copy for all processes that open it."""
        benchmark.group = "fib: open a saved table"
        path = tmp_path / "table"
        Fib.from_file(bgp_prefixes_path(), dtype="uint32").save(path)
        opened = Fib.open(path)
        code = "import sys; from fastpath import Fib; fib = Fib.open(sys.argv[1]); print(flush=True); input()"
        command = [sys.executable, "-c", code, str(path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
            other.stdout.readline()
            kilobytes = smaps(other.pid, path)
            other.communicate("\n")
        for kind in ("Shared", "Private"):
            held = kilobytes[f"{kind}_Clean"] + kilobytes[f"{kind}_Dirty"]
            benchmark.extra_info[f"MB {kind.lower()}"] = round(held / 1000, 1)
        benchmark(Fib.open, path)
        del opened


class TestUpdate:
    def changes(self, table):
        rows = np.random.default_rng(3).integers(0, len(table.lengths), 10_000)
        return [
            (ipaddress.IPv4Network((int(table.addresses[i]), int(table.lengths[i]))), int(i)) for i in rows
        ]

    def one_by_one(self, benchmark, calls) -> None:
        """Each call is a round. The clock's own cost, some 50 ns, is in the figures."""
        calls = iter(calls)
        benchmark.pedantic(lambda call: call(), setup=lambda: ((next(calls),), {}), rounds=20_000)
        times = np.array(benchmark.stats.stats.data)
        benchmark.extra_info["p99 µs"] = round(float(np.percentile(times, 99)) * 1e6, 2)
        benchmark.extra_info["p99.9 µs"] = round(float(np.percentile(times, 99.9)) * 1e6, 2)

    def test_fastpath_one_insert(self, tables, benchmark) -> None:
        """A prefix one bit longer than one that is there, so mostly a new one."""
        benchmark.group = "fib: one change in the full table, timed alone"
        fib = tables[4].fib.copy()
        calls = [partial(fib.insert, (address, length + 1), 1) for address, length in self.some(tables[4])]
        self.one_by_one(benchmark, calls)

    def test_fastpath_one_delete(self, tables, benchmark) -> None:
        benchmark.group = "fib: one change in the full table, timed alone"
        fib = tables[4].fib.copy()
        self.one_by_one(benchmark, [partial(fib.delete, prefix) for prefix in self.some(tables[4])])

    def some(self, table) -> list[tuple[int, int]]:
        """Different prefixes of the table as (address, length)."""
        rows = np.random.default_rng(5).permutation(np.flatnonzero(table.lengths < 32))[:20_000]
        return list(zip(table.addresses[rows].tolist(), table.lengths[rows].tolist(), strict=True))

    def test_fastpath_insert(self, tables, benchmark, measure) -> None:
        """A new next hop for a random prefix."""
        benchmark.group = "fib: one change in the full table"
        fib = tables[4].fib.copy()
        changes = self.changes(tables[4])
        measure(lambda: [fib.insert(network, hop) for network, hop in changes], operations=len(changes))

    def test_fastpath_delete_and_insert(self, tables, benchmark, measure) -> None:
        benchmark.group = "fib: one change in the full table"
        fib = tables[4].fib.copy()
        changes = list(dict(self.changes(tables[4])).items())

        def turn() -> None:
            for network, _ in changes:
                fib.delete(network)
            for network, hop in changes:
                fib.insert(network, hop)

        measure(turn, operations=2 * len(changes))

    @pytest.mark.parametrize("family", [4, 6])
    @pytest.mark.parametrize("batch", [100, 1000, 10_000])
    def test_fastpath_batches(self, tables, family, batch, benchmark, measure) -> None:
        """Prefixes deleted in a batch, then inserted in one, as arrays."""
        benchmark.group = f"fib: a change in batches of {batch} in the full table, IPv{family}"
        table = tables[family]
        fib = table.fib.copy()
        rows = np.random.default_rng(5).permutation(len(table.lengths))[:100_000].reshape(-1, batch)
        batches = [(table.addresses[some], table.lengths[some], table.values[some]) for some in rows]

        def turn() -> None:
            for addresses, lengths, values in batches:
                fib.delete_many((addresses, lengths))
                fib.insert_many((addresses, lengths), values)

        measure(turn, operations=2 * rows.size)

    def test_fastpath_readers_beside_a_writer(self, tables, benchmark, measure) -> None:
        """Batches while another thread makes 100,000 changes a second; compare with IPv4 routed."""
        benchmark.group = "fib: IPv4 lookup_many, routed"
        fib = tables[4].fib.copy()
        table = tables[4]
        rows = np.random.default_rng(4).integers(0, len(table.lengths), 1_000_000)
        stop = threading.Event()

        def write() -> None:
            begin, done = time.perf_counter(), 0
            while not stop.is_set():
                some = rows[done % 900_000 :][:1000]
                fib.insert_many((table.addresses[some], table.lengths[some]), table.values[some])
                done += 1000
                time.sleep(max(0.0, begin + done / 100_000 - time.perf_counter()))

        writer = threading.Thread(target=write)
        writer.start()
        try:
            measure(in_calls, fib, table.probes["routed"], np.empty(CALL, np.uint32), operations=PROBES)
        finally:
            stop.set()
            writer.join()

    @pytest.mark.parametrize("threads", [1, 2])
    def test_fastpath_threads(self, tables, threads, benchmark, measure) -> None:
        """Each looks all probes up in one call, into an array of its own: as many times the operations."""
        benchmark.group = "fib: IPv4 lookup_many, routed, in one call a thread"
        table = tables[4]
        arrays = [np.zeros(PROBES, np.uint32) for _ in range(threads)]

        def look_up(out) -> None:
            table.fib.lookup_many(table.probes["routed"], out=out)

        with ThreadPoolExecutor(threads) as workers:
            measure(lambda: list(workers.map(look_up, arrays)), operations=threads * PROBES)


def test_fastpath_bytes_a_prefix(tables, benchmark) -> None:
    """Not a time: the figures stand in this row's extra information."""
    benchmark.group = "fib: memory"
    for family, table in tables.items():
        few = Fib(dtype="uint32")
        few.insert_many(
            (table.addresses, table.lengths), np.arange(len(table.lengths), dtype=np.uint32) % 500 + 1
        )
        benchmark.extra_info[f"ipv{family}"] = round(table.fib.nbytes / len(table.fib), 2)
        benchmark.extra_info[f"ipv{family}, 500 next hops"] = round(few.nbytes / len(few), 2)
    benchmark(lambda: tables[4].fib.nbytes)
