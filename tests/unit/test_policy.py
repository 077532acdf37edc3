"""Policy: against a linear scan and the ClassBench trace, edits in place, shadowed rules, misuse."""

from __future__ import annotations

import copy
import gzip
import ipaddress
import os
import pickle
import random
import re
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastpath import Decision, Policy, Rule
from fastpath.reference import policy as reference
from fastpath.reference.policy import first_match

ACL = Path(__file__).parent.parent / "vectors" / "acl"


def classbench() -> list[Rule]:
    rules = []
    for line in (ACL / "acl1_1k").read_text().splitlines():
        src, dst, s0, s1, d0, d1, protocol, mask = re.match(  # type: ignore[union-attr]
            r"@(\S+)\s+(\S+)\s+(\d+) : (\d+)\s+(\d+) : (\d+)\s+0x(\w+)/0x(\w+)", line
        ).groups()
        known = int(protocol, 16) if mask == "FF" else None
        rules.append(Rule("allow", src, dst, known, (int(s0), int(s1)), (int(d0), int(d1)), id=len(rules)))
    return rules


def test_classbench_trace() -> None:
    rules = classbench()
    assert len(rules) == 953
    with gzip.open(ACL / "acl1_1k_trace.gz") as file:
        trace = np.loadtxt(file, dtype=np.int64)
    src, dst, sport, dport, protocol, _, named = trace.T
    low = np.array([[int(r.src[0]), int(r.dst[0]), r.src_ports[0], r.dst_ports[0]] for r in rules])
    high = np.array([[int(r.src[-1]), int(r.dst[-1]), r.src_ports[1], r.dst_ports[1]] for r in rules])
    wanted = np.array([-1 if r.protocol is None else r.protocol for r in rules])
    packets = np.stack([src, dst, sport, dport], axis=1)
    expected = []
    for packet, proto in zip(packets, protocol, strict=True):
        fits = ((low <= packet) & (packet <= high)).all(axis=1) & ((wanted == -1) | (wanted == proto))
        expected.append(int(np.flatnonzero(fits)[0]))
    policy = Policy(rules)
    ids = policy.decide_many(src.astype(np.uint32), dst.astype(np.uint32), protocol, sport, dport)
    values = policy.values
    assert [values[i].id for i in ids] == expected  # type: ignore[union-attr]
    assert (
        sum(e == n for e, n in zip(expected, named, strict=True)) == 10787
    )  # the trace names a match, not the first
    for i in range(0, len(trace), 500):
        decision = policy.decide(int(src[i]), int(dst[i]), int(protocol[i]), int(sport[i]), int(dport[i]))
        assert decision == ("allow", expected[i])
    for i in (0, 400, 952):
        assert policy.hits(i) == expected.count(i) + expected[::500].count(i)
    # The same after every rule went and came back in its place.
    for position, rule in enumerate(rules):
        policy.delete(rule.id)
        policy.insert(rule, before=rules[position + 1].id if position + 1 < len(rules) else None)
    ids = policy.decide_many(src.astype(np.uint32), dst.astype(np.uint32), protocol, sport, dport)
    values = policy.values
    assert [values[i].id for i in ids] == expected  # type: ignore[union-attr]
    assert list(policy) == rules


def generated(n: int, width: int) -> tuple[np.ndarray, list[Rule]]:
    """n rules with the lengths, ports and order of ClassBench's, and other addresses: of `width` bits."""
    rng = np.random.default_rng(n)
    seeds = classbench()
    kind = ipaddress.IPv4Network if width == 32 else ipaddress.IPv6Network
    rules, table = [], []
    for i, seed in enumerate(np.sort(rng.integers(0, len(seeds), n)).tolist()):
        sides, row = [], []
        for net in (seeds[seed].src, seeds[seed].dst):
            length = net.prefixlen * width // 32
            moved = (int(net.network_address) ^ int(rng.integers(0, 4096)) << 8) << (width - 32)
            low = moved >> (width - length) << (width - length)
            sides.append(kind((low, length)))
            row += [low, low + (1 << (width - length)) - 1]
        rules.append(replace(seeds[seed], src=sides[0], dst=sides[1], id=i))
        row += [*rules[-1].src_ports, *rules[-1].dst_ports]
        table.append([*row, *((0, 255) if rules[-1].protocol is None else (rules[-1].protocol,) * 2)])
    return np.array(table, np.uint64 if width == 32 else object), rules


@pytest.mark.parametrize(("n", "width"), [(1000, 32), (10_000, 32), (100_000, 32), (1000, 128)])
def test_generated_sets_against_a_linear_scan(n: int, width: int) -> None:
    """Packets of one rule, and of the fields of several; before and after compiling, and edited since."""
    table, rules = generated(n, width)
    rng = np.random.default_rng(1)
    packets = []
    for turn in range(300):
        fields = []
        for field in range(5):
            if field == 0 or turn % 2:
                row = table[rng.integers(0, n)]
            low, high = int(row[2 * field]), int(row[2 * field + 1])
            fields.append(low + int(rng.integers(0, 2**63)) % (high - low + 1))
        packets.append(fields)
    expected = []
    for fields in packets:
        fits = np.ones(n, bool)
        for field, value in enumerate(fields):
            fits &= (table[:, 2 * field] <= value) & (table[:, 2 * field + 1] >= value)
        expected.append(np.flatnonzero(fits))
    sides = [[fields[side] for fields in packets] for side in (0, 1)]
    if width == 32:
        addresses = [np.array(side, np.uint32) for side in sides]
    else:
        packed = [b"".join(value.to_bytes(16, "big") for value in side) for side in sides]
        addresses = [np.frombuffer(side, np.uint8).reshape(-1, 16) for side in packed]
    columns = [*addresses, *(np.array([fields[i] for fields in packets]) for i in (4, 2, 3))]
    policy = Policy(rules)

    def decided() -> list[int | None]:
        values = policy.values
        found = (values[i] for i in policy.decide_many(*columns).tolist())
        return [None if rule is None else rule.id for rule in found]

    firsts = [int(matching[0]) if len(matching) else None for matching in expected]
    assert not policy.compiled
    assert decided() == firsts
    policy.compile()
    assert policy.compiled
    assert decided() == firsts
    gone = {first for first in firsts[::3] if first is not None}
    for first in gone:
        policy.delete(first)
    left = [next((int(m) for m in matching if m not in gone), None) for matching in expected]
    assert decided() == left
    back = sorted(gone)[::2]
    for first in back:
        before = next((i for i in range(first + 1, n) if i not in gone), None)
        policy.insert(rules[first], before=before)
        gone.remove(first)
    left = [next((int(m) for m in matching if m not in gone), None) for matching in expected]
    assert decided() == left
    if n < 100_000:
        policy.compile()
        assert decided() == left


@pytest.mark.parametrize("isa", ["scalar", "avx2"])
def test_the_same_sets_with_other_instruction_sets(isa: str) -> None:
    """FASTPATH_ISA is read once in a process."""
    which = "classbench_trace or (generated_sets and not 100000) or random_histories or no_tree_can_hold"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", which]
    ran = subprocess.run(
        command, env={**os.environ, "FASTPATH_ISA": isa}, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout[-4000:]


def test_it_compiles_when_batches_were_slow() -> None:
    policy = Policy([Rule("allow", f"10.{i}.0.0/16", id=i) for i in range(100)])
    src = np.full(1000, 0x0A070000, np.uint32)
    for _ in range(7):
        assert not policy.compiled
        assert set(policy.decide_many(src, src, 6).tolist()) == {8}
    assert policy.compiled
    policy.replace([])
    assert not policy.decide_many(src, src, 6).any()


def entangled(n: int) -> list[Rule]:
    """Rules of IPv6 most of which overlap in every field."""
    source = random.Random(n)

    def prefix() -> tuple[ipaddress.IPv6Address, int] | None:
        length = source.choice([0, 1, 8, 16, 64, 127, 128, source.randrange(129)])
        address = source.choice([0, 1, 2**128 - 1, 0x20010DB8 << 96 | source.randrange(4) << 64])
        network = ipaddress.IPv6Address(address >> (128 - length) << (128 - length))
        return source.choice([None, (network, length), (network, length), (network, length)])

    def ports() -> tuple[int, ...]:
        ends = (source.choice([0, 65535, 1023, source.randrange(65536)]) for _ in range(2))
        return source.choice([(0, 65535), tuple(sorted(ends))])

    return [
        Rule(
            "allow", prefix() or "::/0", prefix(), source.choice([None, 6, 17, i % 256]), ports(), ports(), i
        )
        for i in range(n)
    ]


def inseparable(n: int) -> list[Rule]:
    """Rules of IPv6 that hardly any cut tells apart: wide in every field, and each different."""
    source = random.Random(n)

    def prefix() -> tuple[ipaddress.IPv6Address, int]:
        length = source.randrange(6)
        return ipaddress.IPv6Address(source.randrange(2**length) << (128 - length)), length

    def ports() -> tuple[int, ...]:
        return tuple(sorted(source.randrange(65536) for _ in range(2)))

    return [
        Rule("allow", prefix(), prefix(), source.choice([None, 6, 17]), ports(), ports(), i) for i in range(n)
    ]


def test_a_batch_gives_up_compiling_what_takes_long() -> None:
    hard = inseparable(900)
    easy = [Rule("deny", f"2001:db8:{i:x}::/48", id=("easy", i)) for i in range(1000)]
    policy = Policy([*hard, *easy])
    rng = np.random.default_rng(1)
    src, dst = rng.integers(0, 256, (2, 30_000, 16), dtype=np.uint8)
    src[0] = dst[0] = 0

    def decide_on() -> None:
        for _ in range(12):
            ids = policy.decide_many(src, dst, 6, 80, 80)
        packet = "::", "::", 6, 80, 80
        assert policy.values[ids[0]] == first_match(policy, packet)

    decide_on()
    assert not policy.compiled
    for rule in hard:  # fewer than half
        policy.delete(rule.id)
    decide_on()
    assert not policy.compiled
    for rule in easy[:60]:
        policy.delete(rule.id)
    decide_on()
    assert policy.compiled
    policy.replace([*hard, *easy])
    decide_on()
    assert not policy.compiled
    policy.replace(easy)
    decide_on()
    assert policy.compiled
    policy.replace([*hard, *easy])
    policy.compile()
    assert policy.compiled
    decide_on()


def test_results_name_the_rule_that_decided_even_after_edits() -> None:
    policy = Policy([Rule("allow", "10.0.0.0/8", id="old"), Rule("deny", id="last")])
    src = np.full(3, 0x0A000001, np.uint32)
    old = policy.decide_many(src, src, 6)
    policy.delete("old")
    policy.insert(Rule("deny", "10.0.0.0/8", id="new"), before="last")
    new = policy.decide_many(src, src, 6)
    policy.replace([Rule("deny", "10.0.0.0/9", id="newest")])
    newest = policy.decide_many(src, src, 6)
    names = policy.values
    assert [names[i[0]].id for i in (old, new, newest)] == ["old", "new", "newest"]  # type: ignore[union-attr]
    assert policy.allowed(old).all()
    assert not policy.allowed(new).any()
    for _ in range(25):
        policy.replace([Rule("allow") for _ in range(1000)])
    assert len(policy.values) < 13_000


def test_hits_start_again_with_another_rule() -> None:
    policy = Policy([Rule("allow", id=0)])
    for i in range(1, 12_000):  # numbers are used again
        policy.decide("10.0.0.1", "10.0.0.2", 6)
        assert policy.hits(i - 1) == 1
        policy.delete(i - 1)
        policy.insert(Rule("allow", id=i))
        assert policy.hits(i) == 0


def test_a_set_that_no_tree_can_hold() -> None:
    """Every rule overlaps every other one in all fields: memory stays bounded, and answers right."""
    source = random.Random(5)
    rules = [
        Rule(
            "allow",
            (source.randrange(4) << 30, 2),
            (source.randrange(2) << 31, 1),
            None,
            tuple(sorted((source.randrange(65536), source.randrange(65536)))),
            tuple(sorted((source.randrange(65536), source.randrange(65536)))),
            id=i,
        )
        for i in range(3000)
    ]
    policy = Policy(rules)
    before = policy.nbytes
    policy.compile()
    assert policy.nbytes - before < 3000 * 2048 + (1 << 20)
    rng = np.random.default_rng(2)
    src, dst = rng.integers(0, 2**32, (2, 200), dtype=np.uint32)
    sports, dports = rng.integers(0, 65536, (2, 200), dtype=np.uint16)
    ids = policy.decide_many(src, dst, 6, sports, dports)
    names = policy.values
    for i in range(0, 200, 10):
        packet = (str(ipaddress.ip_address(int(src[i]))), str(ipaddress.ip_address(int(dst[i]))), 6)
        assert names[ids[i]] == first_match(rules, (*packet, int(sports[i]), int(dports[i])))


def random_rule(source: random.Random) -> Rule:
    family = source.choice([4, 4, 6, None])

    def prefix() -> str | None:
        if family is None or source.random() < 0.3:
            return None
        width = 32 if family == 4 else 128
        length = source.choice([0, 1, 8, 15, 16, 24, 31, 32, width - 1, width])
        base = source.choice([0, 0x0A000000, 0xFFFFFFFF, 0x0A0000FF]) << (width - 32)
        kind = ipaddress.IPv4Network if family == 4 else ipaddress.IPv6Network
        return str(kind((base | source.randrange(4), length), strict=False))

    def ports() -> tuple[int, int]:
        first = source.choice([0, 0, 80, 1024])
        return first, source.choice([first, 65535, first + 10])

    return Rule(
        source.choice(["allow", "deny"]),
        prefix(),
        prefix(),
        source.choice([None, 6, "udp"]),
        ports(),
        ports(),
    )


def random_packets(source: random.Random, family: int, n: int) -> list[tuple[Any, ...]]:
    kind = ipaddress.IPv4Address if family == 4 else ipaddress.IPv6Address
    width = 32 if family == 4 else 128

    def address() -> str:
        base = source.choice([0, 0x0A000000, 0xFFFFFFFF, 0x0A0000FF, 0x0A010000]) << (width - 32)
        return str(kind(base | source.randrange(4)))

    def port() -> int:
        return source.choice([0, 80, 85, 90, 91, 1024, 1034, 65535])

    return [(address(), address(), source.choice([6, 17, 1]), port(), port()) for _ in range(n)]


def columns(packets: list[tuple[Any, ...]], family: int) -> list[np.ndarray]:
    sides = []
    for side in (0, 1):
        packed = b"".join(ipaddress.ip_address(packet[side]).packed for packet in packets)
        if family == 4:
            sides.append(np.frombuffer(packed, ">u4").astype(np.uint32))
        else:
            sides.append(np.frombuffer(packed, np.uint8).reshape(-1, 16))
    return [*sides, *(np.array([packet[i] for packet in packets]) for i in (2, 3, 4))]


@pytest.mark.parametrize("turn", range(8))
def test_random_histories_against_a_linear_scan(turn: int) -> None:
    source = random.Random(turn)
    policy = Policy([random_rule(source) for _ in range(source.choice([0, 3, 40]))], "allow")
    twin = list(policy)
    for _ in range(60):
        action = source.randrange(5)
        if action <= 1:
            before = source.choice([None, *twin])
            given = policy.insert(random_rule(source), before=before.id if before else None)
            twin.insert(twin.index(before) if before else len(twin), policy[given])
        elif action == 2 and twin:
            gone = twin.pop(source.randrange(len(twin)))
            policy.delete(gone.id)
            assert gone.id not in policy
        elif action == 3 and source.random() < 0.1:
            policy.replace([random_rule(source) for _ in range(30)])
            twin = list(policy)
        assert list(policy) == twin
        for family in (4, 6):
            packets = random_packets(source, family, 150 if action == 4 else 3)
            expected = [first_match(twin, packet) for packet in packets]
            ids = policy.decide_many(*columns(packets, family))
            values = policy.values
            assert [values[i] for i in ids] == expected
            allowed = [rule is None or rule.action == "allow" for rule in expected]  # type: ignore[attr-defined]
            assert policy.allowed(ids).tolist() == allowed
            for packet, rule in zip(packets[:3], expected, strict=False):
                decision = Decision("allow", None) if rule is None else (rule.action, rule.id)  # type: ignore[attr-defined]
                assert policy.decide(*packet) == decision
                explained = policy.explain(*packet)
                assert explained.decision == decision
                assert [c.differs is None for c in explained.considered] == [
                    r is rule for r in twin[: len(explained.considered)]
                ]


class Watched:
    """The compiled side of a policy, and how many rules each edit touched."""

    def __init__(self, policy: Policy) -> None:
        self._core: Any = policy._core
        self.touched: list[int] = []
        policy._core = self  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def add(self, fields: Any) -> None:
        self.touched.append(1)
        self._core.add(fields)

    def move(self, rules: list[Any], orders: list[int]) -> None:
        self.touched.append(len(rules))
        self._core.move(rules, orders)

    def replace(self, *_: Any) -> None:
        raise AssertionError("an edit replaced all rules")


@pytest.mark.parametrize("where", ["before one", "before the last", "after one", "anywhere", "end", "front"])
def test_thousands_of_inserts_keep_the_tree_and_touch_few_rules(where: str) -> None:
    rules = [Rule("deny", f"10.0.{i}.0/24", id=i) for i in range(200)]
    policy = Policy([*rules, Rule("deny", id="last")])
    policy.compile()
    watched = Watched(policy)
    source = random.Random(3)
    ids: list[Any] = [rule.id for rule in policy]
    for i in range(10_000):
        at = {
            "before one": 100 + i,
            "before the last": len(ids) - 1,
            "after one": 101,
            "anywhere": source.randrange(len(ids)),
            "end": len(ids),
            "front": 0,
        }[where]
        new = policy.insert(
            Rule("allow", f"11.{i >> 8}.{i & 255}.0/24", id=("new", i)),
            before=ids[at] if at < len(ids) else None,
        )
        ids.insert(at, new)
        assert policy.compiled
    assert [rule.id for rule in policy] == ids
    assert max(watched.touched) <= 64
    assert sum(watched.touched) <= 1.1 * 10_000
    src = np.array([0x0B000001 + (i << 8) for i in range(0, 10_000, 500)], np.uint32)
    found = [policy.values[i].id for i in policy.decide_many(src, src, 6).tolist()]  # type: ignore[union-attr]
    ranks = {id: rank for rank, id in enumerate(ids)}
    assert found == [min(("new", i), "last", key=ranks.__getitem__) for i in range(0, 10_000, 500)]


@pytest.mark.parametrize("turn", range(4))
def test_rules_that_move_apart_stay_in_order(turn: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With gaps so small that every few edits use one up, beside a tree and while trees are made."""
    monkeypatch.setattr("fastpath.tables.policy._GAP", 4)
    monkeypatch.setattr("fastpath.tables.policy._ROOM", 2)
    monkeypatch.setattr("fastpath.tables.policy._WINDOW", 4)
    source = random.Random(turn)
    policy = Policy([random_rule(source) for _ in range(30)])
    watched = Watched(policy)
    twin = list(policy)
    counted = {rule.id: 0 for rule in twin}
    stop = threading.Event()

    def compile_on() -> None:
        while not stop.is_set():
            policy.compile()

    if turn % 2:
        compiling = threading.Thread(target=compile_on)
        compiling.start()
    else:
        policy.compile()
    try:
        for step in range(400):
            at = source.choice([source.randrange(len(twin) + 1), len(twin) // 2, len(twin) // 2])
            if len(twin) > 20 and source.random() < 0.5:
                gone = twin.pop(min(at, len(twin) - 1))
                policy.delete(gone.id)
            else:
                given = policy.insert(random_rule(source), before=twin[at].id if at < len(twin) else None)
                twin.insert(at, policy[given])
                counted[given] = 0
            assert list(policy) == twin
            for family in (4, 6) if step % 4 == 0 else ():
                packets = random_packets(source, family, 20)
                expected = [first_match(twin, packet) for packet in packets]
                values = policy.values
                assert [values[i] for i in policy.decide_many(*columns(packets, family))] == expected
                for rule in expected:
                    if rule is not None:
                        counted[rule.id] += 1  # type: ignore[attr-defined]
        assert [policy.hits(rule.id) for rule in twin] == [counted[rule.id] for rule in twin]
    finally:
        stop.set()
        if turn % 2:
            compiling.join()
    assert policy.compiled
    assert sum(touched > 1 for touched in watched.touched) >= 5


def test_many_rules_of_one_prefix() -> None:
    rules = [Rule("allow", "10.0.0.0/8", None, 6, dst_ports=port, id=port) for port in range(1000)]
    policy = Policy(rules)
    ports = np.arange(1200)
    ids = policy.decide_many(np.full(1200, 0x0A000001, np.uint32), np.zeros(1200, np.uint32), 6, 1, ports)
    found = [None if policy.values[i] is None else policy.values[i].id for i in ids.tolist()]  # type: ignore[union-attr]
    assert found == [*range(1000), *[None] * 200]


def test_shadowed() -> None:
    policy = Policy(
        [
            Rule("allow", "10.0.0.0/9", id="low half"),
            Rule("allow", "10.128.0.0/9", protocol="tcp", id="high half, tcp"),
            Rule("deny", "10.0.0.0/8", protocol=6, id="covered by two"),
            Rule("deny", "10.0.0.0/8", id="udp is left"),
            Rule("deny", "10.1.0.0/16", dst_ports=(80, 90), id="covered by one"),
            Rule("deny", dst_ports=(0, 100), id="low ports"),
            Rule("deny", dst_ports=(101, 65535), id="high ports"),
            Rule("allow", "2001:db8::/32", id="covered in its family"),
            Rule("allow", id="never"),
        ]
    )
    assert [rule.id for rule in policy.shadowed()] == [
        "covered by two",
        "covered by one",
        "covered in its family",
        "never",
    ]
    assert Policy().shadowed() == ()


def test_shadowed_rules_never_match() -> None:
    source = random.Random(11)
    rules = [random_rule(source) for _ in range(60)]
    policy = Policy(rules)
    shadowed = {rule.id for rule in policy.shadowed()}
    assert shadowed
    for family in (4, 6):
        ids = policy.decide_many(*columns(random_packets(source, family, 5000), family))
        assert not shadowed & {rule.id for rule in (policy.values[i] for i in ids) if rule is not None}


@pytest.mark.parametrize("turn", range(60))
def test_shadowed_in_small_universes(turn: int) -> None:
    """Few bounds and many rules, or many bounds and few rules: every cell between bounds can be tried."""
    source = random.Random(turn)
    coarse = turn % 3 != 0
    width = source.choice([32, 128])
    kind = ipaddress.IPv4Network if width == 32 else ipaddress.IPv6Network

    def prefix() -> Any:
        if source.random() < 0.2:
            return None
        length = source.choice([1, 2] if coarse else [0, 1, 2, 3, 8, width - 1, width])
        return kind((source.getrandbits(length) << (width - length), length))

    def ports() -> tuple[int, int]:
        ends = [16384 * source.randrange(5) if coarse else source.randrange(65537) for _ in range(2)]
        return (min(ends), max(ends) - 1) if ends[0] != ends[1] else (0, 65535)

    protocols = [None, None, 6] if coarse else [None, 0, 6, 255]
    rules = [
        Rule("allow", prefix(), prefix(), source.choice(protocols), ports(), ports(), i)
        for i in range(source.choice([20, 60, 150]) if coarse else 11)
    ]
    wanted = reference.Policy(rules, "deny").shadowed()
    assert [rule.id for rule in Policy(rules).shadowed()] == wanted
    assert not coarse or wanted


@pytest.mark.parametrize("kind", ["like ClassBench's", "entangled", "two fields each"])
def test_shadowed_of_many_rules(kind: str) -> None:
    """Sets that took minutes to days when rests were kept as boxes; each answer is held against packets."""
    source = random.Random(1)

    def of_two_fields(i: int) -> Rule:
        fields: list[Any] = [None, None, None, (0, 65535), (0, 65535)]
        for field in source.sample(range(5), 2):
            first = source.randrange(60_000)
            byte = source.randrange(64)
            fields[field] = (
                [(byte << 26, 6), (byte << 26, 6), byte][field] if field < 3 else (first, first + 5000)
            )
        return Rule("allow", *fields, id=i)

    if kind == "like ClassBench's":
        rules = generated(10_000, 32)[1]
    elif kind == "entangled":
        rules = entangled(10_000)
    else:
        rules = [of_two_fields(i) for i in range(1000)]
    policy = Policy(rules)
    shadowed = {rule.id for rule in policy.shadowed()}
    assert len(shadowed) > 0
    rng = np.random.default_rng(2)
    n = 20_000
    picks = rng.integers(0, len(rules), n)
    width = 16 if kind == "entangled" else 4
    packed = [b"", b""]
    columns: list[list[int]] = [[], [], []]
    for pick in picks.tolist():  # a packet of each rule, at a corner of it
        rule = rules[pick]
        for side, net in enumerate((rule.src, rule.dst)):
            host = source.getrandbits(8 * width) if net is None else int(net[source.choice([0, -1])])
            packed[side] += host.to_bytes(width, "little" if width == 4 else "big")
        columns[0].append(source.randrange(256) if rule.protocol is None else rule.protocol)
        columns[1].append(source.choice(rule.src_ports))
        columns[2].append(source.choice(rule.dst_ports))
    sides = [np.frombuffer(side, np.uint32 if width == 4 else np.uint8) for side in packed]
    if width == 16:
        sides = [side.reshape(n, 16) for side in sides]
    ids = policy.decide_many(*sides, *columns)
    met = {policy.values[i].id for i in set(ids.tolist())}  # type: ignore[union-attr]
    assert not met & shadowed


def test_threads() -> None:
    old = [Rule("allow", f"10.{i}.0.0/16", id=i) for i in range(100)]
    new = [Rule("deny", f"10.{i}.0.0/16", id=1000 + i) for i in range(100)]
    policy = Policy(old)
    src = (0x0A000000 + (np.arange(5000) % 100 << 16)).astype(np.uint32)
    stop = threading.Event()
    failures: list[str] = []

    def read() -> None:
        while not stop.is_set():
            if not policy.decide_many(src, src, 6).all():
                failures.append("a packet fell through")

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for _ in range(40):
        policy.replace(new)
        policy.replace(old)
        policy.insert(Rule("allow", id="all"))
        policy.delete("all")
    stop.set()
    for reader in readers:
        reader.join()
    assert not failures


def test_one_batch_sees_one_set_and_ids_name_it() -> None:
    sets = [[Rule("allow", f"10.{i}.0.0/16", id=(name, i)) for i in range(100)] for name in "ab"]
    policy = Policy(sets[0])
    src = (0x0A000000 + (np.arange(20_000) % 100 << 16)).astype(np.uint32)
    stop = threading.Event()
    failures: list[Any] = []

    def read() -> None:
        while not stop.is_set():
            ids = policy.decide_many(src, src, 6)
            names = policy.values
            rules = {names[i].id for i in set(ids.tolist())}  # type: ignore[union-attr]
            if len({name for name, _ in rules}) != 1 or len(rules) != 100:
                failures.append(rules)

    def edit(editor: int) -> None:
        for i in range(50):
            policy.insert(Rule("deny", "11.0.0.0/8", id=(editor, i)))

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for turn in range(30):
        policy.replace(sets[turn % 2])
        if turn % 3 == 0:
            policy.compile()
    editors = [threading.Thread(target=edit, args=(editor,)) for editor in range(3)]
    for thread in editors:
        thread.start()
    for thread in editors:
        thread.join()
    stop.set()
    for thread in threads:
        thread.join()
    assert len(policy) == 250
    assert not failures


@pytest.mark.parametrize(
    ("packet", "differs"),
    [
        (("11.0.0.1", "192.0.2.1", 6, 1024, 80), "src"),
        (("10.0.0.1", "192.0.3.0", 6, 1024, 80), "dst"),
        (("10.0.0.1", "192.0.2.1", 17, 1024, 80), "protocol"),
        (("10.0.0.1", "192.0.2.1", 6, 1023, 80), "src_ports"),
        (("10.0.0.1", "192.0.2.1", 6, 2049, 80), "src_ports"),
        (("10.0.0.1", "192.0.2.1", 6, 1024, 79), "dst_ports"),
        (("10.0.0.1", "192.0.2.1", 6, 2048, 82), "dst_ports"),
        (("::1", "::2", 6, 1024, 80), "family"),
        (("10.255.255.255", "192.0.2.255", 6, 2048, 81), None),
    ],
)
def test_explain_names_the_field_and_counts_nothing(packet: tuple[Any, ...], differs: str | None) -> None:
    policy = Policy(
        [
            Rule("allow", "10.0.0.0/8", "192.0.2.0/24", "tcp", (1024, 2048), (80, 81), id="a"),
            Rule("deny", id="all"),
        ]
    )
    explained = policy.explain(*packet)
    assert explained.decision == policy.decide(*packet)
    if differs is None:
        assert explained.considered == (("a", None),)
    else:
        assert explained.considered == (("a", differs), ("all", None))
    for _ in range(3):
        assert policy.explain(*packet) == explained
    assert (policy.hits("a"), policy.hits("all")) == ((1, 0) if differs is None else (0, 1))
    policy.delete("all")
    if differs is not None:
        assert policy.explain(*packet) == (Decision("deny", None), (("a", differs),))


class Named(Policy):
    def __init__(self, name: str) -> None:
        super().__init__([Rule("allow", id="first")])
        self.name = [name]


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, Policy.copy, lambda policy: pickle.loads(pickle.dumps(policy))]
)
def test_copies_of_subclasses(again: Any) -> None:
    policy = Named("outer")
    policy.insert(Rule("deny", "10.0.0.0/8", id="second"), before="first")
    policy.default = "allow"
    policy.decide("10.0.0.1", "10.0.0.2", 6)
    other = again(policy)
    assert type(other) is Named
    assert (list(other), other.default, other.name) == (list(policy), "allow", ["outer"])
    assert other.hits("second") == 0
    assert (other.name is policy.name) == (again in (copy.copy, Policy.copy))
    other.delete("second")
    assert len(policy) == 2


@pytest.mark.parametrize(
    "call",
    [
        lambda policy, part: Rule("allow", part),
        lambda policy, part: Rule("allow", (part, 8)),
        lambda policy, part: Rule("allow", protocol=part),
        lambda policy, part: policy.decide(part, part, 6),
        lambda policy, part: policy.decide_many(part, part, 6),
        lambda policy, part: policy.decide_many(np.zeros(4, np.uint32), np.zeros(4, np.uint32), 6, out=part),
    ],
)
def test_buffers_with_gaps_are_no_addresses_and_take_no_answers(call: Any) -> None:
    policy = Policy([Rule("allow")])
    for part in (
        memoryview(bytes(8))[::2],
        np.zeros(8, np.uint8)[::2],
        memoryview(np.zeros(8, np.uint64))[::2],
    ):
        with pytest.raises((TypeError, ValueError)):
            call(policy, part)
    with pytest.raises(ValueError, match="contiguous"):
        policy.decide_many(np.zeros(4, np.uint32), np.zeros(4, np.uint32), 6, out=np.zeros(8, np.uint32)[::2])


def test_pickle_and_copy() -> None:
    policy = Policy([Rule("allow", "10.0.0.0/8", id="a"), Rule("allow", dst="2001:db8::/32")], "allow")
    for other in (pickle.loads(pickle.dumps(policy)), copy.copy(policy), copy.deepcopy(policy)):
        assert list(other) == list(policy)
        assert other.default == "allow"
        other.delete("a")
        assert len(policy) == 2
    assert "2 rules" in repr(policy)
    assert policy.nbytes > 0


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("permit",), ValueError),
        ((1,), TypeError),
        (("allow", "10.0.0.1/8"), ValueError),
        (("allow", "10.0.0.0/33"), ValueError),
        (("allow", "nonsense"), ValueError),
        (("allow", 1.5), TypeError),
        (("allow", "10.0.0.0/8", "::/0"), ValueError),
        (("allow", None, None, 256), ValueError),
        (("allow", None, None, "gre"), ValueError),
        (("allow", None, None, 6.0), TypeError),
        (("allow", None, None, 6, (1, 65536)), ValueError),
        (("allow", None, None, 6, (2, 1)), ValueError),
        (("allow", None, None, 6, (1, 2, 3)), ValueError),
        (("allow", None, None, 6, "80"), TypeError),
        (("allow", None, None, 6, (1, "2")), TypeError),
        (("allow", None, None, 6, 1, -1), ValueError),
        (("allow", None, None, 6, 1, 1, []), TypeError),
    ],
)
def test_bad_rules(arguments: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        Rule(*arguments)


def test_bad_results_and_default() -> None:
    policy = Policy([Rule("allow", id="a")])
    assert policy.allowed(np.array([0, 1])).tolist() == [False, True]
    assert policy.allowed([]).tolist() == []
    policy.default = "allow"
    assert policy.allowed(np.array([0, 1], np.uint32)).tolist() == [True, True]
    for wrong, error in (([-1], ValueError), ([2], ValueError), ([1.5], TypeError), ("a", TypeError)):
        with pytest.raises(error):
            policy.allowed(np.array(wrong))
    with pytest.raises(ValueError, match="'allow' or 'deny'"):
        policy.default = "maybe"  # type: ignore[assignment]
    with pytest.raises(TypeError):
        policy.default = None  # type: ignore[assignment]
    assert policy.default == "allow"


def test_bad_edits() -> None:
    policy = Policy([Rule("allow", id="a")])
    for call, error in (
        (lambda: Policy(default="maybe"), ValueError),  # type: ignore[arg-type]
        (lambda: Policy(5), TypeError),  # type: ignore[arg-type]
        (lambda: Policy(Rule("allow")), TypeError),  # type: ignore[arg-type]
        (lambda: Policy(["allow"]), TypeError),  # type: ignore[list-item]
        (lambda: Policy([Rule("allow", id=1), Rule("deny", id=1)]), ValueError),
        (lambda: Policy(seed=-1), ValueError),
        (lambda: policy.insert("allow"), TypeError),  # type: ignore[arg-type]
        (lambda: policy.insert(Rule("deny", id="a")), ValueError),
        (lambda: policy.insert(Rule("deny"), before="b"), KeyError),
        (lambda: policy.delete("b"), KeyError),
        (lambda: policy.hits("b"), KeyError),
        (lambda: policy["b"], KeyError),
        (lambda: policy.replace([Rule("allow", id="x"), None]), TypeError),  # type: ignore[list-item]
    ):
        with pytest.raises(error):
            call()
    assert [rule.id for rule in policy] == ["a"]
    assert policy.decide("10.0.0.1", "10.0.0.2", 6) == ("allow", "a")


@pytest.mark.parametrize(
    ("packet", "error"),
    [
        (("10.0.0.1", "::1", 6), ValueError),
        (("10.0.0", "10.0.0.1", 6), ValueError),
        ((None, "10.0.0.1", 6), TypeError),
        ((1.5, "10.0.0.1", 6), TypeError),
        (("10.0.0.1", "10.0.0.1", 256), ValueError),
        (("10.0.0.1", "10.0.0.1", None), TypeError),
        (("10.0.0.1", "10.0.0.1", 6, -1), ValueError),
        (("10.0.0.1", "10.0.0.1", 6, 1, 65536), ValueError),
        (("10.0.0.1", "10.0.0.1", 6, "80"), TypeError),
    ],
)
def test_bad_packets(packet: Any, error: type[Exception]) -> None:
    policy = Policy()
    for call in (policy.decide, policy.explain):
        with pytest.raises(error):
            call(*packet)


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        ((np.zeros(2, np.int64), np.zeros(2, np.uint32), 6), {}, TypeError),
        ((np.zeros((2, 4), np.uint8), np.zeros((2, 4), np.uint8), 6), {}, ValueError),
        ((np.zeros(2, np.uint32), np.zeros(3, np.uint32), 6), {}, ValueError),
        ((np.zeros(2, np.uint32), np.zeros((2, 16), np.uint8), 6), {}, ValueError),
        ((np.zeros(2, np.uint32), np.zeros(2, np.uint32), 256), {}, ValueError),
        ((np.zeros(2, np.uint32), np.zeros(2, np.uint32), "tcp"), {}, TypeError),
        ((np.zeros(2, np.uint32), np.zeros(2, np.uint32), 6, [1]), {}, ValueError),
        ((np.zeros(2, np.uint32), np.zeros(2, np.uint32), 6, 1, 65536), {}, ValueError),
        ((np.zeros(2, np.uint32), np.zeros(2, np.uint32), 6), {"out": np.zeros(2)}, TypeError),
        ((np.zeros(2, np.uint32), np.zeros(2, np.uint32), 6), {"out": np.zeros(3, np.uint32)}, ValueError),
        ((5, 6, 6), {}, TypeError),
    ],
)
def test_bad_batches(arguments: Any, options: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        Policy().decide_many(*arguments, **options)
    assert Policy().decide_many(np.zeros(0, np.uint32), np.zeros(0, np.uint32), 6).shape == (0,)


def test_answers_may_be_written_over_any_part_of_the_packets() -> None:
    policy = Policy([Rule("allow", src="10.0.0.0/8", id=1), Rule("allow", dst="10.0.0.0/9", id=2)])
    random = np.random.default_rng(1)
    for compiled in (False, True):
        if compiled:
            policy.compile()
        for shift in (0, 1, 2):
            memory = random.integers(0x09000000, 0x0B000000, 4002, dtype=np.uint32)
            other = random.integers(0x09000000, 0x0B000000, 4000, dtype=np.uint32)
            for flip in (False, True):
                packets = memory[:4000], other
                want = policy.decide_many(*(packets[::-1] if flip else packets), 6)
                again = memory.copy()
                packets = again[:4000], other
                out = again[shift : shift + 4000]
                got = policy.decide_many(*(packets[::-1] if flip else packets), 6, out=out)
                assert got is out
                assert np.array_equal(got, want)


def test_ids_that_edit_the_policy_are_refused() -> None:
    class Editing:
        def __init__(self, policy: Policy) -> None:
            self.policy = policy

        def __hash__(self) -> int:
            return 7

        def __eq__(self, other: object) -> bool:
            self.policy.insert(Rule("deny"))
            return False

    policy = Policy()
    policy.insert(Rule("allow", id=Editing(policy)))
    with pytest.raises(RuntimeError, match="must not edit"):
        policy.insert(Rule("allow", id=Editing(policy)))
    assert len(policy) == 1
    policy.insert(Rule("deny"))
    assert len(policy) == 2


def test_numbers_made_up_leave_given_ids_alone() -> None:
    policy = Policy([Rule("allow"), Rule("deny", id=1), Rule("deny"), Rule("deny", id=3)])
    assert [rule.id for rule in policy] == [2, 1, 4, 3]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"src": 2**40}, ValueError),
        ({"src": (2**40, 128)}, ValueError),
        ({"src": np.uint64(2**40)}, ValueError),
        ({"src": np.float32(5)}, TypeError),
        ({"src": (True, 8)}, TypeError),
        ({"src": (None, 8)}, TypeError),
        ({"src": ("10.0.0.0", 8.0)}, TypeError),
        ({"src": ("10.0.0.0", None)}, TypeError),
        ({"src": ("10.0.0.0", -1)}, ValueError),
        ({"src": ("10.0.0.0", 33)}, ValueError),
        ({"src": ()}, ValueError),
        ({"src": ("10.0.0.0", 8, 9)}, ValueError),
        ({"src": "fe80::%eth0/64"}, ValueError),
        ({"src_ports": b"\x01\x02"}, TypeError),
        ({"src_ports": True}, TypeError),
        ({"protocol": True}, TypeError),
    ],
)
def test_rules_that_say_something_else(arguments: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        Rule("allow", **arguments)


def test_rules_take_integers_of_any_kind() -> None:
    rule = Rule("allow", src=0x0A000001, dst=(0x0A000000, 8), src_ports=np.uint16(80))
    assert (str(rule.src), str(rule.dst), rule.src_ports) == ("10.0.0.1/32", "10.0.0.0/8", (80, 80))
    same = Rule("allow", np.uint32(0x0A000001), (np.int64(0x0A000000), np.uint8(8)), None, 80)
    assert same == rule
    mask = Rule("allow", ("10.0.0.0", "255.0.0.0"), (b"\x0a\1\2\3", 32))
    assert (str(mask.src), str(mask.dst)) == ("10.0.0.0/8", "10.1.2.3/32")
