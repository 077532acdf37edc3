"""A full Internet table against references that share nothing with it, for every kernel of this machine."""

from __future__ import annotations

import gzip
import ipaddress
import random

import numpy as np
import pytest
import radix

from fastpath import Fib
from fastpath.addresses import parse_ipv4, parse_ipv6
from fastpath.data import bgp_prefixes_path

ISAS = ["scalar", "avx2", "avx512", "avx512-gather", "neon"]


class Painted:
    """Prefixes of one family painted onto the line of addresses, shorter ones first."""

    def __init__(self, addresses, lengths, values) -> None:
        first, after = keys(addresses), keys(beyond(addresses, lengths))
        zero = keys(np.zeros_like(addresses[:1]))
        self.starts = np.unique(np.concatenate([zero, first, after]))
        self.values = np.zeros(len(self.starts), np.uint32)
        self.lengths = np.zeros(len(self.starts), np.uint8)
        begin, end = np.searchsorted(self.starts, first), np.searchsorted(self.starts, after)
        end[after == zero] = len(self.starts)
        for length in np.unique(lengths).tolist():
            rows = np.flatnonzero(lengths == length)
            sizes = end[rows] - begin[rows]
            inside = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
            at = np.repeat(begin[rows], sizes) + inside
            self.values[at] = np.repeat(values[rows], sizes)
            self.lengths[at] = length

    def match(self, addresses):
        at = np.searchsorted(self.starts, keys(addresses), side="right") - 1
        return self.values[at], self.lengths[at]


def keys(addresses):
    """Addresses as values that numpy can sort."""
    return addresses if addresses.ndim == 1 else np.ascontiguousarray(addresses).view("S16").ravel()


def beyond(addresses, lengths):
    """The address after each prefix; 0 where there is none."""
    return neighbours(addresses, lengths)[3 * len(lengths) :]


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
    """First and last address of each prefix, the ones beside them, a million random ones; each kernel."""
    addresses, lengths = table[1][family]
    values = values_of(family, len(lengths), kind)
    values[values == 0] = 1
    fib = Fib(dtype="uint32")
    assert fib.insert_many((addresses, lengths), values) == len(lengths) == len(fib)
    limit = {4: 8.0, 6: 20.0}[family]
    assert fib.nbytes / len(fib) <= limit, fib.nbytes / len(fib)
    if kind == "few":  # and a default route
        fib.insert("0.0.0.0/0" if family == 4 else "::/0", 501)
        addresses, lengths, values = fib.to_arrays(family)
    rng = np.random.default_rng(family)
    anywhere = rng.integers(0, 256, (1_000_000, 16 if family == 6 else 4), dtype=np.uint8)
    if family == 6:  # a tenth of them where the prefixes are
        anywhere[::10, :4] = addresses[rng.integers(0, len(addresses), 100_000), :4]
    asked = np.concatenate(
        [neighbours(addresses, lengths), anywhere if family == 6 else anywhere.view(np.uint32).ravel()]
    )
    answers, found_lengths = Painted(addresses, lengths, values).match(asked)
    for isa in ISAS:
        if not fib._use(isa):
            continue
        assert np.array_equal(fib.lookup_many(asked), answers), isa
        ids, bits = fib.match_many(asked)
        assert np.array_equal(ids, answers), isa
        assert np.array_equal(bits, found_lengths), isa
        mixed = rng.permutation(len(asked))[:300_000]  # neighbours in a batch are no neighbours in the table
        assert np.array_equal(fib.lookup_many(asked[mixed]), answers[mixed]), isa
        for n in (0, 1, 7, 63, 64, 65, 127, 128, 129, 300):  # ragged ends of every kernel
            assert np.array_equal(fib.lookup_many(asked[3 : 3 + n]), answers[3 : 3 + n]), (isa, n)


class Lengths:
    """Prefixes of one family as a dict for each length, longest first."""

    def __init__(self, width: int, addresses, lengths, values) -> None:
        self.width = width
        self.by_length: dict[int, dict[int, int]] = {length: {} for length in range(width, -1, -1)}
        numbers = addresses.tolist() if width == 32 else [int.from_bytes(row.tobytes()) for row in addresses]
        for number, length, value in zip(numbers, lengths.tolist(), values.tolist(), strict=True):
            self.by_length[length][number >> (width - length)] = value

    def lookup(self, number: int) -> int | None:
        for length, entries in self.by_length.items():
            if entries and (value := entries.get(number >> (self.width - length))) is not None:
                return value
        return None


@pytest.mark.parametrize(("family", "changes"), [(4, 70_000), (6, 30_000)])
def test_after_each_of_many_changes(table, family, changes) -> None:
    """Prefixes come and go one by one; after each, its edges and an address elsewhere are looked up."""
    addresses, lengths = table[1][family]
    width = 32 if family == 4 else 128
    fib = Fib(dtype="uint32")
    values = np.arange(1, len(lengths) + 1, dtype=np.uint32)
    fib.insert_many((addresses, lengths), values)
    reference = Lengths(width, addresses, lengths, values)
    rng = random.Random(family)
    picks = np.random.default_rng(family).integers(0, len(lengths), changes)
    top = (1 << width) - 1

    def named(number: int):
        return number if family == 4 else number.to_bytes(16)

    touched = []
    for step, row in enumerate(picks.tolist()):
        number = int(addresses[row]) if family == 4 else int.from_bytes(addresses[row].tobytes())
        length = int(lengths[row])
        if step % 2:  # a prefix near a known one: shorter, longer, or beside it
            length = min(max(length + rng.randint(-9, 9), 0), width)
            number = (number ^ rng.getrandbits(8) << (width - length)) & top
        span = (1 << (width - length)) - 1
        number &= top ^ span
        entries, key = reference.by_length[length], number >> (width - length)
        if key in entries and step % 3:
            del entries[key]
            fib.delete((named(number), length))
        else:
            entries[key] = len(values) + step
            fib.insert((named(number), length), len(values) + step)
        last = number | span
        for asked in (number, last, max(number - 1, 0), min(last + 1, top), number ^ rng.getrandbits(width)):
            assert fib.lookup(named(asked)) == reference.lookup(asked), (step, asked)
        if step % 10 == 0:
            touched.append(number)
    own = fib.to_arrays(family)
    assert len(own[1]) == len(fib) == sum(map(len, reference.by_length.values()))
    places = (
        np.array(touched, np.uint32)
        if family == 4
        else np.frombuffer(b"".join(number.to_bytes(16) for number in touched), np.uint8).reshape(-1, 16)
    )
    asked = np.concatenate([neighbours(places, np.full(len(places), width, np.uint8)), neighbours(*own[:2])])
    answers = Painted(*own).match(asked)
    assert [answer or None for answer in answers[0][: len(touched)].tolist()] == [
        reference.lookup(number) for number in touched
    ]
    for isa in ISAS:
        if fib._use(isa):
            ids, bits = fib.match_many(asked)
            assert np.array_equal(ids, answers[0]), isa
            assert np.array_equal(bits, answers[1]), isa
            assert np.array_equal(fib.lookup_many(asked), answers[0]), isa


def test_text(table) -> None:
    lines, families = table
    values = np.arange(1, len(lines) + 1, dtype=np.uint32)
    text = Fib(dtype="uint32")
    assert text.insert_many(b"\n".join(lines), values) == len(lines)
    arrays = Fib(dtype="uint32")
    for family, six in ((4, False), (6, True)):
        arrays.insert_many(families[family], values[[(b":" in line) == six for line in lines]])
    assert text == arrays


@pytest.mark.parametrize("hops", [500, 1 << 30])
def test_memory_of_one_family_after_batches_of_changes(table, hops: int) -> None:
    addresses, lengths = table[1][6]
    values = (np.arange(1, len(lengths) + 1, dtype=np.uint64) * 2654435761 % hops).astype(np.uint32)
    fib = Fib(dtype="uint32")
    fib.insert_many((addresses, lengths), values)
    fresh = fib.nbytes
    rng = np.random.default_rng(8)
    for _ in range(12):
        gone = rng.permutation(len(lengths))[:20_000]
        fib.delete_many((addresses[gone], lengths[gone]))
        fib.insert_many((addresses[gone], lengths[gone]), values[gone])
        assert fib.nbytes <= 1.1 * fresh
    rows = rng.permutation(len(lengths))[: len(lengths) // 2]
    for first in range(0, len(rows), 5000):
        some = rows[first : first + 5000]
        fib.delete_many((addresses[some], lengths[some]))
    assert fib.nbytes <= 1.25 * fib.copy().nbytes


def test_memory_after_a_million_changes(table) -> None:
    """A tenth of the changes one by one. The table's size follows what it holds, not what it held."""
    fib = Fib(dtype="uint32")
    for addresses, lengths in table[1].values():
        fib.insert_many((addresses, lengths), np.arange(1, len(lengths) + 1, dtype=np.uint32))
    fresh = fib.nbytes
    rng = np.random.default_rng(8)
    for family, (addresses, lengths) in table[1].items():
        values = np.arange(1, len(lengths) + 1, dtype=np.uint32)
        for _ in range(25):
            gone = rng.integers(0, len(lengths), 5000)
            fib.delete_many((addresses[gone], lengths[gone]))
            # Of another length, so that other nodes are made.
            longer = np.minimum(lengths[gone] + rng.integers(1, 9, len(gone)), 32 if family == 4 else 128)
            made = addresses[gone], longer.astype(np.uint8)
            fib.insert_many(made, values[gone])
            for address, length in zip(addresses[gone[:1000]], longer[:1000].tolist(), strict=True):
                prefix = (int(address) if family == 4 else address.tobytes()), length
                fib.insert(prefix, 7)
                if fib.get(prefix) is not None and length % 2:
                    fib.delete(prefix)
            fib.delete_many(made)
            fib.insert_many((addresses[gone], lengths[gone]), values[gone])
        fib.insert_many((addresses, lengths), values)
    assert fib.nbytes <= 1.1 * fresh
    again = Fib(dtype="uint32")
    for family in (4, 6):
        addresses, lengths, values = fib.to_arrays(family)
        again.insert_many((addresses, lengths), values)
    assert fib.nbytes <= 1.1 * again.nbytes
    assert again == fib


def test_beside_py_radix(table) -> None:
    """Another implementation, on a slice of the table: look-ups, covering and covered prefixes, deletes."""
    lines = [line.decode() for line in table[0][::8]]
    fib, tree = Fib(dtype="uint32"), radix.Radix()
    fib.insert_many(lines, np.arange(len(lines), dtype=np.uint32))
    for i, line in enumerate(lines):
        tree.add(line).data["hop"] = i
    rng = random.Random(9)

    def held(nodes) -> list:
        return sorted((ipaddress.ip_network(node.prefix), node.data["hop"]) for node in nodes)

    for turn in range(2):
        for line in rng.sample(lines, 6000):
            network = ipaddress.ip_network(line)
            for address in (network[0], network[-1]):
                found = tree.search_best(str(address))
                assert fib.lookup(address) == (found and found.data["hop"])
            assert list(fib.covering(line)) == held(tree.search_covering(line))
            if turn == 0 and rng.random() < 0.5 and fib.get(line) is not None:
                fib.delete(line)
                tree.delete(line)
        for line in rng.sample(lines, 300):
            assert list(fib.covered(line)) == held(tree.search_covered(line))


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("batch", [100, 5_000])
def test_memory_after_others_came_for_all(table, family: int, batch: int) -> None:
    """Other prefixes take the place of those that were there, batch by batch."""
    addresses, lengths = table[1][family]
    come, gone = np.random.default_rng(9).permutation(len(lengths))[:150_000].reshape(2, -1)
    values = np.arange(1, len(lengths) + 1, dtype=np.uint32)
    fib = Fib(dtype="uint32")
    fib.insert_many((addresses[gone], lengths[gone]), values[gone])
    for first in range(0, len(gone), batch):
        new, old = come[first : first + batch], gone[first : first + batch]
        fib.insert_many((addresses[new], lengths[new]), values[new])
        fib.delete_many((addresses[old], lengths[old]))
    assert len(fib) == len(come)
    assert fib.nbytes <= 1.1 * fib.copy().nbytes


def test_an_emptied_table_is_small() -> None:
    """Each prefix had a page of its own."""
    rng = np.random.default_rng(9)
    fib = Fib(dtype="uint32")
    fib["::/0"] = 1
    for begin in (1, 2):
        addresses = rng.integers(0, 256, (20_000, 16), np.uint8)
        lengths = np.full(len(addresses), 128, np.uint8)
        fib.insert_many((addresses, lengths), np.arange(begin, begin + len(lengths), dtype=np.uint32))
        many = fib.snapshot()
        assert many.nbytes > 10_000_000
        with pytest.raises(KeyError), fib.transaction():
            fib.delete_many((addresses[1000:], lengths[1000:]))
            raise KeyError
        assert fib == many
        fib.delete_many((addresses, lengths))
        assert list(fib.items()) == [(ipaddress.ip_network("::/0"), 1)]
        assert fib.lookup_many(addresses).tolist() == [1] * len(addresses)
        assert fib.nbytes < 1_000_000
        assert many.lookup_many(addresses).tolist() == list(range(begin, begin + len(lengths)))
