"""Policy beside rte_acl: ClassBench acl1_1k with its trace, and generated sets of 10,000 and 100,000 rules.

The generated sets keep the shape of acl1_1k: each rule is one of its rules with other addresses of the same
prefix lengths; packets are drawn from the rules. They are synthetic.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import dpdk_peer
from fastpath import Policy, Rule

ACL = Path(__file__).parent.parent / "tests" / "vectors" / "acl" / "acl1_1k"
RULE = np.dtype(
    [
        ("src", np.uint32),
        ("dst", np.uint32),
        ("sports", np.uint16, 2),
        ("dports", np.uint16, 2),
        ("protocol", np.uint16),
        ("slen", np.uint8),
        ("dlen", np.uint8),
    ]
)
PACKET = np.dtype(
    [("protocol", "u1"), ("pad", "u1", 3), ("src", ">u4"), ("dst", ">u4"), ("sport", ">u2"), ("dport", ">u2")]
)
PACKETS = 200_000


def seeds():
    pattern = re.compile(r"@(\S+)/(\d+)\s+(\S+)/(\d+)\s+(\d+) : (\d+)\s+(\d+) : (\d+)\s+0x(\w+)/0x(\w+)")
    rows = []
    for line in ACL.read_text().splitlines():
        src, slen, dst, dlen, s0, s1, d0, d1, protocol, mask = pattern.match(line).groups()
        packed = [int.from_bytes(bytes(map(int, address.split("."))), "big") for address in (src, dst)]
        known = int(protocol, 16) if mask == "FF" else 256
        rows.append((*packed, (int(s0), int(s1)), (int(d0), int(d1)), known, int(slen), int(dlen)))
    return np.array(rows, RULE)


class Set:
    def __init__(self, n: int) -> None:
        rng = np.random.default_rng(n)
        rules = seeds()
        if n > 1000:
            rules = rules[
                np.sort(rng.integers(0, len(rules), n))
            ]  # in the order of the seeds: specific rules first
            for side, length in (("src", "slen"), ("dst", "dlen")):
                mask = ((2**32 - 1) << (32 - rules[length].astype(np.uint64))).astype(np.uint32)
                moved = rules[side] ^ (rng.integers(0, 4096, n, dtype=np.uint32) << np.uint32(8))
                rules[side] = moved & mask
        self.rules = np.ascontiguousarray(rules)
        picked = rules[rng.integers(0, len(rules), PACKETS)]
        self.packets = np.zeros(PACKETS, PACKET)
        for side, length in (("src", "slen"), ("dst", "dlen")):
            span = (1 << (32 - picked[length].astype(np.uint64))) - 1
            self.packets[side] = picked[side] | (rng.integers(0, 2**32, PACKETS, dtype=np.uint64) & span)
        for side, ports in (("sport", "sports"), ("dport", "dports")):
            self.packets[side] = rng.integers(picked[ports][:, 0], picked[ports][:, 1].astype(int) + 1)
        self.packets["protocol"] = np.where(picked["protocol"] == 256, 6, picked["protocol"])

    def policy(self) -> Policy:
        return Policy(
            Rule(
                "allow",
                (int(rule["src"]), int(rule["slen"])),
                (int(rule["dst"]), int(rule["dlen"])),
                None if rule["protocol"] == 256 else int(rule["protocol"]),
                tuple(rule["sports"].tolist()),
                tuple(rule["dports"].tolist()),
                id=i + 1,
            )
            for i, rule in enumerate(self.rules)
        )


@pytest.fixture(scope="module", params=[1000, 10_000, 100_000], ids=["1k", "10k", "100k"])
def rules(request):
    return Set(request.param)


@pytest.fixture(scope="module")
def policy(rules):
    return rules.policy()


@pytest.fixture(scope="session")
def dpdk(tmp_path_factory):
    return dpdk_peer.start(tmp_path_factory.mktemp("dpdk"))


class TestDecideMany:
    @pytest.fixture(autouse=True)
    def group(self, benchmark, rules):
        benchmark.group = f"policy: decide_many, {len(rules.rules):,} rules"

    def test_fastpath(self, rules, policy, measure):
        columns = [
            rules.packets[name].astype(dtype)
            for name, dtype in (
                ("src", np.uint32),
                ("dst", np.uint32),
                ("protocol", np.uint8),
                ("sport", np.uint16),
                ("dport", np.uint16),
            )
        ]
        out = np.empty(PACKETS, np.uint32)
        measure(lambda: policy.decide_many(*columns, out=out), operations=PACKETS)
        assert out.all()

    def test_rte_acl(self, dpdk, rules, policy, measure):
        if dpdk.peer_acl_build(dpdk_peer.pointer(rules.rules), len(rules.rules)) < 0:
            pytest.skip("rte_acl cannot build this set")
        out = np.zeros(PACKETS, np.uint32)
        arguments = dpdk_peer.pointer(rules.packets), PACKETS, dpdk_peer.pointer(out)
        measure(lambda: dpdk.peer_acl_classify(*arguments), operations=PACKETS)
        assert out.all()


class TestUpdate:
    @pytest.fixture(autouse=True)
    def group(self, benchmark, rules):
        benchmark.group = f"policy: one rule out and in, {len(rules.rules):,} rules"

    def test_fastpath(self, rules, policy, measure):
        listed = list(policy)
        at = len(listed) // 2
        rule, after = listed[at], listed[at + 1].id

        def edit():
            policy.delete(rule.id)
            policy.insert(rule, before=after)

        measure(edit)

    def test_rte_acl_build(self, dpdk, rules, benchmark):
        if dpdk.peer_acl_build(dpdk_peer.pointer(rules.rules), len(rules.rules)) < 0:
            pytest.skip("rte_acl cannot build this set")
        arguments = dpdk_peer.pointer(rules.rules), len(rules.rules)
        benchmark.pedantic(dpdk.peer_acl_build, args=arguments, rounds=2)
