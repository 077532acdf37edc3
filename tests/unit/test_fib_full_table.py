"""A full Internet table against a brute-force reference: one binary search a prefix length, longest first."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from fastpath import Fib
from fastpath.addresses import parse_ipv4, parse_ipv6
from fastpath.data import bgp_prefixes_path

ISAS = ["scalar", "avx2", "avx512", "neon"]


class Reference:
    """Prefixes of one family as sorted 64-bit keys for each length; IPv6 beyond 64 bits one by one."""

    def __init__(self, addresses, lengths, values) -> None:
        self.v4 = addresses.ndim == 1
        self.by_length = {}
        self.longer = []
        for length in np.unique(lengths).tolist():
            chosen = lengths == length
            if not self.v4 and length > 64:
                rows = zip(addresses[chosen], values[chosen].tolist(), strict=True)
                self.longer += [(length, int.from_bytes(row.tobytes(), "big"), value) for row, value in rows]
                continue
            keys = (
                self.top(addresses[chosen]) >> np.uint64(self.shift(length))
                if length
                else np.zeros(1, np.uint64)
            )
            order = np.argsort(keys)
            self.by_length[length] = keys[order], values[chosen][order]

    def shift(self, length: int) -> int:
        return (32 if self.v4 else 64) - length

    def top(self, addresses):
        if self.v4:
            return addresses.astype(np.uint64)
        return np.ascontiguousarray(addresses[:, :8]).view(">u8").ravel().astype(np.uint64)

    def match(self, addresses):
        top = self.top(addresses)
        answers = np.zeros(len(top), np.uint32)
        lengths = np.zeros(len(top), np.uint8)
        for length in sorted(self.by_length):
            keys, values = self.by_length[length]
            asked = top >> np.uint64(self.shift(length)) if length else np.zeros_like(top)
            at = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
            hit = keys[at] == asked
            answers[hit] = values[at[hit]]
            lengths[hit] = length
        for length, address, value in sorted(self.longer):
            near = np.flatnonzero(top == address >> 64)
            for row in near.tolist():
                if int.from_bytes(addresses[row].tobytes(), "big") >> (128 - length) == address >> (
                    128 - length
                ):
                    answers[row], lengths[row] = value, length
        return answers, lengths


def neighbours(addresses, lengths):
    """First and last address of each prefix and the ones beside them."""
    if addresses.ndim == 1:
        first = addresses.astype(np.uint64)
        last = first | ((np.uint64(1) << (np.uint64(32) - lengths.astype(np.uint64))) - np.uint64(1))
        return np.concatenate([first, last, first - np.uint64(1), last + np.uint64(1)]).astype(np.uint32)
    bits = np.unpackbits(addresses, axis=1)
    bits |= np.arange(128)[None, :] >= lengths[:, None]
    last = np.packbits(bits, axis=1)

    def step(rows, by):
        high = np.ascontiguousarray(rows).view(">u8").reshape(-1, 2)
        low = high[:, 1].astype(np.uint64) + np.uint64(by % 2**64)
        carry = low < high[:, 1] if by > 0 else low > high[:, 1]
        top = high[:, 0].astype(np.uint64) + carry.astype(np.uint64) * np.uint64(by % 2**64)
        return np.stack([top, low], axis=1).astype(">u8").view(np.uint8).reshape(-1, 16)

    return np.concatenate([addresses, last, step(addresses, -1), step(last, 1)])


@pytest.fixture(scope="module")
def table():
    lines = gzip.decompress(bgp_prefixes_path().read_bytes()).splitlines()
    found = {}
    for family, parse in ((4, parse_ipv4), (6, parse_ipv6)):
        chosen = [line.split(b"/") for line in lines if (b":" in line) == (family == 6)]
        lengths = np.array([int(length) for _, length in chosen], np.uint8)
        found[family] = parse(b"\n".join(address for address, _ in chosen)), lengths
    return lines, found


def values_of(family: int, n: int, kind: str):
    """Next hops: all distinct with 32 bits, or 500 of them."""
    at = np.arange(n, dtype=np.uint64)
    if kind == "distinct":
        return ((at * 2654435761 + family) % 2**32).astype(np.uint32)
    return (at % 500 + 1).astype(np.uint32)


@pytest.mark.parametrize("kind", ["distinct", "few"])
@pytest.mark.parametrize("family", [4, 6])
def test_every_prefix_edge_and_random_addresses(table, family, kind) -> None:
    addresses, lengths = table[1][family]
    values = values_of(family, len(lengths), kind)
    values[values == 0] = 1
    fib = Fib(dtype="uint32")
    assert fib.insert_many((addresses, lengths), values) == len(lengths) == len(fib)
    # A sample of the edges keeps this within seconds; another one each run of `kind`.
    rng = np.random.default_rng(family)
    sample = rng.permutation(len(lengths))[:150_000]
    random = rng.integers(0, 256, (200_000, 16 if family == 6 else 4), dtype=np.uint8)
    random = random if family == 6 else random.view(np.uint32).ravel()
    asked = np.concatenate([neighbours(addresses[sample], lengths[sample]), random])
    if family == 4:  # a third of them sorted: neighbours go through kernels together
        asked[::3].sort()
        asked[: len(asked) // 3].sort()
    answers, found_lengths = Reference(addresses, lengths, values).match(asked)
    for isa in ISAS:
        if not fib._use(isa):
            continue
        assert np.array_equal(fib.lookup_many(asked), answers), isa
        ids, bits = fib.match_many(asked)
        assert np.array_equal(ids, answers), isa
        assert np.array_equal(bits, found_lengths), isa
        for n in (0, 1, 7, 63, 64, 65, 127, 128, 129, 300):  # ragged ends of every kernel
            assert np.array_equal(fib.lookup_many(asked[3 : 3 + n]), answers[3 : 3 + n]), (isa, n)
    limit = {4: 8.0, 6: 20.0}[family]
    assert fib.nbytes / len(fib) <= limit, fib.nbytes / len(fib)


def test_text_and_updates(table) -> None:
    """The table from text; then random deletes and inserts, held against the reference, memory too."""
    lines, families = table
    fib = Fib(dtype="uint32")
    values = np.arange(1, len(lines) + 1, dtype=np.uint32)
    assert fib.insert_many(b"\n".join(lines), values) == len(lines)
    fresh = fib.nbytes
    rng = np.random.default_rng(5)
    for family in (4, 6):
        addresses, lengths = families[family]
        gone = rng.permutation(len(lengths))[:20_000]
        new = values_of(family, len(lengths), "distinct") | 1
        before = fib.lookup_many(addresses)
        assert fib.delete_many((addresses[gone], lengths[gone])) == len(gone)
        kept = np.ones(len(lengths), bool)
        kept[gone] = False
        own = fib._arrays(family)
        assert len(own[1]) == kept.sum()
        reference = Reference(*own)
        asked = neighbours(addresses[gone[:4000]], lengths[gone[:4000]])
        assert np.array_equal(fib.lookup_many(asked), reference.match(asked)[0])
        fib.insert_many((addresses[gone], lengths[gone]), new[gone])
        assert np.array_equal(fib.lookup_many(asked), Reference(*fib._arrays(family)).match(asked)[0])
        after = fib.lookup_many(addresses)
        assert (after[kept] == before[kept]).mean() > 0.9
    assert fib.nbytes <= 1.1 * fresh


def test_beside_py_radix(table) -> None:
    """Another implementation, on a slice of the table."""
    radix = pytest.importorskip("radix")
    lines = table[0][::40]
    fib, tree = Fib(dtype="uint32"), radix.Radix()
    fib.insert_many(b"\n".join(lines), np.arange(len(lines), dtype=np.uint32))
    for i, line in enumerate(lines):
        tree.add(line.decode()).data["hop"] = i
    rng = np.random.default_rng(9)
    for line in rng.permutation(lines)[:4000].tolist():
        address = line.decode().partition("/")[0]
        for asked in (address, address[:-1] + "1" if address.endswith("0") else address):
            found = tree.search_best(asked)
            assert fib.lookup(asked) == (found and found.data["hop"])
