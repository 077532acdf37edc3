"""Policy: against a linear scan and the ClassBench trace, edits in place, shadowed rules, misuse."""

from __future__ import annotations

import copy
import gzip
import ipaddress
import pickle
import random
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastpath import Decision, Policy, Rule
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


def test_inserting_before_the_same_rule_again_and_again() -> None:
    policy = Policy([Rule("deny", id="last")])
    for i in range(300):
        policy.insert(Rule("allow", dst_ports=i, id=i), before="last")
        assert policy.decide("10.0.0.1", "10.0.0.2", 6, 1, i) == ("allow", i)
    assert [rule.id for rule in policy] == [*range(300), "last"]
    assert policy.hits(7) == 1


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
