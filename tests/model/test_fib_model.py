"""The compiled Fib beside its twin: random tables in small corners of the address space, so they collide."""

from __future__ import annotations

import copy
import functools
import ipaddress
import pickle
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fastpath import Fib
from fastpath.reference.fib import Fib as Twin


@st.composite
def networks(draw) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    if draw(st.booleans()):
        length = draw(st.integers(0, 32))
        bits = draw(st.sampled_from([0x0A000000, 0x0A0000FF, 0x0AFFFFFF, 0xFFFFFFFF, 0x0B800000]))
        return ipaddress.ip_network(
            (bits ^ draw(st.sampled_from([0, 1, 256, 0x8000, 3])), length), strict=False
        )
    length = draw(st.integers(0, 128))
    bits = draw(st.sampled_from([0x20010DB8 << 96, (0x20010DB8 << 96) + (7 << 80), (1 << 128) - 1, 0]))
    flip = draw(st.sampled_from([0, 1 << 20, 1 << 64, 1 << 79, 1 << 95, 1 << 104, 1 << 119, 0xFF]))
    return ipaddress.IPv6Network((bits ^ flip, length), strict=False)


VALUES = st.one_of(
    st.integers(0, 5), st.sampled_from([0xFFFD, 0xFFFE, 0xFFFF, 0x10000, 2**32 - 1, 2**32 - 2])
)


def edges(network) -> list:
    first, last = int(network.network_address), int(network.broadcast_address)
    kind = type(network.network_address)
    top = 2**network.max_prefixlen - 1
    return [kind(value) for value in {first, last, max(first - 1, 0), min(last + 1, top)}]


MANY = st.lists(st.tuples(networks(), VALUES), max_size=90)


def saved_and_opened(fib: Fib) -> Fib:
    with tempfile.TemporaryDirectory() as folder:
        fib.save(Path(folder) / "table")
        return Fib.open(Path(folder) / "table")


def as_arrays(entries) -> list:
    """(addresses, lengths), next hops for each family that has entries."""
    parts = []
    for version in (4, 6):
        chosen = [(network, value) for network, value in entries if network.version == version]
        if chosen:
            packed = np.frombuffer(b"".join(network[0].packed for network, _ in chosen), np.uint8)
            addresses = packed.view(">u4").astype(np.uint32) if version == 4 else packed.reshape(-1, 16)
            lengths = np.array([network.prefixlen for network, _ in chosen], np.uint8)
            parts.append(((addresses, lengths), np.array([value for _, value in chosen], np.uint32)))
    return parts


class FibMachine(RuleBasedStateMachine):
    @initialize(plain=st.booleans(), few=st.booleans())
    def make(self, plain: bool, few: bool) -> None:
        dtype = "uint32" if plain else None
        self.fib, self.twin = Fib(dtype=dtype), Twin(dtype=dtype)
        # With few next hops, a table that was cleared or built at once packs them.
        self.few = few
        if few:
            self.fib.clear()
        self.snapshot = None
        self.touched: list = [ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("2001:db8::/32")]

    def fitting(self, many) -> list:
        return [(network, value % 200 if self.few else value) for network, value in many]

    @rule(network=networks(), value=VALUES)
    def insert(self, network, value) -> None:
        [(network, value)] = self.fitting([(network, value)])
        self.fib.insert(network, value)
        self.twin.insert(network, value)
        self.touched.append(network)

    @rule(many=MANY, form=st.sampled_from(["str", "network", "interface", "text", "arrays", "update"]))
    def insert_many(self, many, form) -> None:
        many = self.fitting(many)
        prefixes, hops = [str(network) for network, _ in many], [value for _, value in many]
        if form == "arrays":
            for arrays, values in as_arrays(many):
                assert self.fib.insert_many(arrays, values) == len(values)
        elif form == "update":
            self.fib.update(many)
        else:
            given = {"str": prefixes, "network": [network for network, _ in many]}
            given["interface"] = [ipaddress.ip_interface((net[0], net.prefixlen)) for net, _ in many]
            given["text"] = "\n".join(prefixes).encode()
            assert self.fib.insert_many(given[form], hops) == len(many)
        self.twin.insert_many(prefixes, hops)
        self.touched += [network for network, _ in many]

    @rule(data=st.data())
    def delete(self, data) -> None:
        if self.twin.table:
            network = data.draw(st.sampled_from(sorted(self.twin.table, key=str)))
            self.fib.delete(network)
            self.twin.delete(network)

    @rule(many=st.lists(networks(), max_size=20), arrays=st.booleans())
    def delete_many(self, many, arrays) -> None:
        given = [part[0] for part in as_arrays([(network, 0) for network in many])] if arrays else [many]
        assert sum(map(self.fib.delete_many, given)) == self.twin.delete_many(many)

    @rule(network=networks())
    def delete_perhaps_absent(self, network) -> None:
        outcomes = []
        for table in (self.fib, self.twin):
            try:
                outcomes.append(table.delete(network))
            except KeyError:
                outcomes.append(KeyError)
        assert outcomes[0] == outcomes[1]

    @rule(network=networks())
    def ask_exact(self, network) -> None:
        assert self.fib.get(network) == self.twin.get(network)
        assert list(self.fib.covering(network)) == list(self.twin.covering(network))
        assert list(self.fib.covered(network)) == list(self.twin.covered(network))
        assert self.fib.parent(network) == self.twin.parent(network)
        assert list(self.fib.children(network)) == list(self.twin.children(network))
        assert (network in self.fib) == (network in self.twin.table)

    @rule(many=st.lists(st.tuples(networks(), VALUES), max_size=8), keep=st.booleans())
    def beside_another(self, many, keep) -> None:
        many = self.fitting(many)
        dtype = "uint32" if self.fib.plain else None
        other, twin = (self.fib.copy() if keep else Fib(dtype=dtype)), Twin(dtype=dtype)
        twin.table = dict(self.twin.table) if keep else {}
        for table in (other, twin):
            table.insert_many([network for network, _ in many], [value for _, value in many])
            table.delete_many(list(self.twin.table)[::4])
        assert self.fib.overlaps(other) == self.twin.overlaps(twin)
        assert list(self.fib.union(other).items()) == list(self.twin.union(twin).items())
        difference = self.fib.diff(other)
        assert difference == self.twin.diff(twin)
        assert (self.fib == other) == (self.twin.table == twin.table)
        if self.fib.plain:
            lines = [f"- {network}" for network, _ in difference.removed]
            lines += [f"+ {network} {value}" for network, value in difference.added]
            lines += [f"+ {network} {value}" for network, _, value in difference.changed]
            assert self.fib.update_from("\n".join(lines)) == (
                len(difference.added) + len(difference.changed),
                len(difference.removed),
            )
            self.twin.table = dict(twin.table)
            self.touched += [network for network, _ in many]

    @rule()
    def save_and_open(self) -> None:
        opened = saved_and_opened(self.fib)
        assert list(opened.items()) == list(self.twin.items())
        asked = [address for network in self.touched[-12:] for address in edges(network)]
        assert [opened.match(address) for address in asked] == [self.twin.match(a) for a in asked]

    @rule(
        how=st.sampled_from(
            [
                copy.copy,
                copy.deepcopy,
                lambda fib: pickle.loads(pickle.dumps(fib)),
                lambda fib: fib.snapshot().copy(),
                lambda fib: saved_and_opened(fib).copy(),
            ]
        )
    )
    def become_a_copy(self, how) -> None:
        before = self.fib
        self.fib = how(before)
        assert self.fib == before

    @rule(
        steps=st.lists(
            st.one_of(st.tuples(networks(), VALUES), MANY, st.just("clear")), min_size=1, max_size=9
        ),
        fail=st.booleans(),
    )
    def change_at_once(self, steps, fail) -> None:
        before, after = list(self.twin.items()), Twin(dtype="uint32" if self.fib.plain else None)
        after.table = dict(self.twin.table)
        gone = sorted(self.twin.table, key=str)[::3]
        touched = []
        try:
            with self.fib.transaction() as change:
                for step in steps:
                    if step == "clear":
                        change.clear()
                        after.table.clear()
                        continue
                    many = self.fitting(step if isinstance(step, list) else [step])
                    if isinstance(step, list):
                        change.insert_many([network for network, _ in many], [value for _, value in many])
                    else:
                        change.insert(*many[0])
                    after.insert_many([network for network, _ in many], [value for _, value in many])
                    touched += [network for network, _ in many]
                assert change.delete_many(gone) == after.delete_many(gone)
                assert list(self.fib.items()) == list(self.fib.snapshot().items()) == before
                assert len(self.fib) == len(before)
                for network in touched[-9:]:
                    assert self.fib.get(network) == self.twin.get(network)
                    assert self.fib.match(network[0]) == self.twin.match(network[0])
                if fail:
                    raise ZeroDivisionError
        except ZeroDivisionError:
            return
        self.twin = after
        self.touched += touched

    @rule()
    def take_snapshot(self) -> None:
        self.snapshot = self.fib.snapshot(), list(self.twin.items())

    @rule()
    def forget_snapshot(self) -> None:
        self.snapshot = None

    @rule()
    def aggregate(self) -> None:
        smaller = self.fib.aggregate()
        assert len(smaller) <= len(self.fib)
        for network in self.touched[-12:]:
            for address in edges(network):
                assert smaller.lookup(address) == self.twin.lookup(address)

    @rule()
    def clear(self) -> None:
        self.fib.clear()
        self.twin.table.clear()

    @invariant()
    def same(self) -> None:
        if not hasattr(self, "fib"):
            return
        assert len(self.fib) == len(self.twin)
        assert list(self.fib.items()) == list(self.twin.items())
        if self.snapshot is not None:
            taken, items = self.snapshot
            assert list(taken.items()) == items
            for network, value in items[:5]:
                assert taken.lookup(network[0]) is not None
                assert taken.get(network) == value
        asked = [address for network in self.touched[-12:] for address in edges(network)]
        expected = [self.twin.match(address) for address in asked]
        assert [self.fib.match(address) for address in asked] == expected
        assert [self.fib.lookup(address) for address in asked] == [found and found[1] for found in expected]
        for version, array in (
            (4, np.array([int(a) for a in asked if a.version == 4], dtype=np.uint32)),
            (6, np.frombuffer(b"".join(a.packed for a in asked if a.version == 6), np.uint8).reshape(-1, 16)),
        ):
            wanted = [
                found for address, found in zip(asked, expected, strict=True) if address.version == version
            ]
            ids, lengths = self.fib.match_many(array)
            assert lengths.tolist() == [found[0].prefixlen if found else 0 for found in wanted]
            answers = self.fib.lookup_many(array, default=77)
            for found, id_, answer in zip(wanted, ids.tolist(), answers.tolist(), strict=True):
                if found is None:
                    assert (id_, answer) == (0, 77)
                elif self.fib.plain:
                    assert id_ == answer == found[1]
                else:
                    assert id_ == answer
                    assert self.fib.values[id_] == found[1]


TestFib = FibMachine.TestCase
TestFib.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)


def fewest(answers: tuple) -> int:
    """How many prefixes give these answers to as many addresses, by trying all there are.

    No prefix may cover an address that has no answer.
    """

    @functools.cache
    def count(first: int, size: int, above: object) -> float:
        inside = answers[first : first + size]
        hops = {above} if None in inside else {above, *inside}
        half = size // 2
        return min(
            (hop != above)
            + (
                (0 if inside[0] == hop else float("inf"))
                if size == 1
                else count(first, half, hop) + count(first + half, half, hop)
            )
            for hop in hops
        )

    return int(count(0, len(answers), None))


@settings(max_examples=250, deadline=None)
@given(
    st.sampled_from(
        [(4, 0), (4, 12), (4, 20), (4, 28), (6, 0), (6, 20), (6, 36), (6, 62), (6, 76), (6, 124)]
    ),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 15), st.sampled_from("aabbc")), max_size=14),
    st.booleans(),
)
def test_aggregate_has_the_fewest_prefixes(place, entries, plain) -> None:
    """In a universe of four bits, `skip` bits into an address, whose other bits are zero."""
    family, skip = place
    kind = ipaddress.IPv4Network if family == 4 else ipaddress.IPv6Network
    width = 32 if family == 4 else 128
    start = 0x2A << (width - 8) if skip >= 8 else 0
    start = start >> (width - skip) << (width - skip)

    def at(bits: int) -> int:
        return start | bits << (width - skip - 4)

    fib, twin = (table(dtype="uint32" if plain else None) for table in (Fib, Twin))
    for length, bits, hop in entries:
        network = kind((at(bits), skip + length), strict=False)
        for table in (fib, twin):
            table.insert(network, ord(hop) if plain else hop)
    smaller = fib.aggregate()
    asked = [kind((at(bits), width))[0] for bits in range(16)]
    answers = [twin.lookup(address) for address in asked]
    assert [smaller.lookup(address) for address in asked] == answers
    assert all(network.prefixlen <= skip + 4 for network in smaller)
    assert len(smaller) == fewest(tuple(answers))
    assert len(smaller.aggregate()) == len(smaller)
