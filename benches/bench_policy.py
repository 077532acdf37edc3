"""Policy beside rte_acl: ClassBench acl1_1k, and generated sets of 10,000 and 100,000 rules, IPv4 and IPv6.

The generated sets keep the shape of acl1_1k: each rule is one of its rules with other addresses of the same
prefix lengths, in the order of its rules, which has the specific ones first (in a random order a rule for
everything hides most of the others). IPv6 has lengths four times as long. They are synthetic. Packets:

- `hits`: drawn from the rules, so each is sure to match one;
- `mixed`: each field of another rule;
- `random`: every field uniform, so most meet the widest rules alone.

rte_acl runs with AVX-512 for 32 packets at once, and huge pages where 3100 MiB of them are free. Rows say how
many bytes the compiled sides take (`extra_info`).
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import dpdk_peer
from fastpath import Policy, Rule
from native import pointer

ACL = Path(__file__).parent.parent / "tests" / "vectors" / "acl" / "acl1_1k"
RULE = np.dtype(
    [
        ("src", np.uint32, 4),
        ("dst", np.uint32, 4),
        ("sports", np.uint16, 2),
        ("dports", np.uint16, 2),
        ("protocol", np.uint16),
        ("slen", np.uint8),
        ("dlen", np.uint8),
    ]
)
PACKETS = 200_000
TRAFFIC = ["hits", "mixed", "random"]
FIELDS = {"src": "slen", "dst": "dlen", "sports": "", "dports": "", "protocol": ""}  # and prefix lengths
SIZES = {"1k": 1000, "10k": 10_000, "100k": 100_000}


def seeds():
    """The rules of ClassBench: addresses in the first word of each side."""
    pattern = re.compile(r"@(\S+)/(\d+)\s+(\S+)/(\d+)\s+(\d+) : (\d+)\s+(\d+) : (\d+)\s+0x(\w+)/0x(\w+)")
    rows = []
    for line in ACL.read_text().splitlines():
        src, slen, dst, dlen, s0, s1, d0, d1, protocol, mask = pattern.match(line).groups()
        words = [
            (int.from_bytes(bytes(map(int, address.split("."))), "big"), 0, 0, 0) for address in (src, dst)
        ]
        known = int(protocol, 16) if mask == "FF" else 256
        rows.append((*words, (int(s0), int(s1)), (int(d0), int(d1)), known, int(slen), int(dlen)))
    return np.array(rows, RULE)


def masks(lengths, words):
    """uint32[n, words] of prefix lengths."""
    bits = np.clip(lengths[:, None].astype(int) - 32 * np.arange(words), 0, 32)
    return ((2**32 - 1) << (32 - bits)).astype(np.uint32)


class Set:
    """Rules, and packets as columns and as rte_acl reads them."""

    def __init__(self, size: str, words: int) -> None:
        self.words = words
        rng = np.random.default_rng(SIZES[size])
        rules = seeds()
        if SIZES[size] > 1000:
            rules = rules[np.sort(rng.integers(0, len(rules), SIZES[size]))]
            for side in ("src", "dst"):
                rules[side][:, 0] ^= rng.integers(0, 4096, len(rules), dtype=np.uint32) << np.uint32(8)
        for side, length in (("src", "slen"), ("dst", "dlen")):
            if words == 4:
                rules[side][:, 1:] = rng.integers(0, 16, (len(rules), 3), dtype=np.uint32)
                rules[length] *= 4
            rules[side][:, :words] &= masks(rules[length], words)
            rules[side][:, words:] = 0
        self.rules = np.ascontiguousarray(rules)
        self.packets = {}
        for traffic in TRAFFIC:
            fields = {}
            picked = rng.integers(0, len(rules), PACKETS)
            for name, length in FIELDS.items():
                if traffic == "mixed":
                    picked = rng.integers(0, len(rules), PACKETS)
                rule = rules[picked]
                if length:
                    noise = rng.integers(0, 2**32, (PACKETS, words), dtype=np.uint32)
                    keep = masks(rule[length], words) if traffic != "random" else np.uint32(0)
                    fields[name] = rule[name][:, :words] & keep | noise & ~keep
                elif traffic == "random":
                    fields[name] = rng.integers(0, 256 if name == "protocol" else 65536, PACKETS)
                elif name == "protocol":
                    fields[name] = np.where(rule[name] == 256, 6, rule[name])
                else:
                    fields[name] = rng.integers(rule[name][:, 0], rule[name][:, 1].astype(int) + 1)
            self.packets[traffic] = fields

    def columns(self, traffic: str):
        fields = self.packets[traffic]
        sides = [
            fields[side][:, 0].copy()
            if self.words == 1
            else np.ascontiguousarray(fields[side].astype(">u4")).view(np.uint8).reshape(-1, 16)
            for side in ("src", "dst")
        ]
        ports = [fields[name].astype(np.uint16) for name in ("sports", "dports")]
        return [*sides, fields["protocol"].astype(np.uint8), *ports]

    def packed(self, traffic: str):
        fields = self.packets[traffic]
        layout = [
            ("protocol", "u1"),
            ("pad", "u1", 3),
            ("src", ">u4", self.words),
            ("dst", ">u4", self.words),
        ]
        packets = np.zeros(PACKETS, np.dtype([*layout, ("sports", ">u2"), ("dports", ">u2")]))
        for name, values in fields.items():
            packets[name] = values
        return packets

    def policy(self) -> Policy:
        def prefix(words, length):
            address = int.from_bytes(words[: self.words].astype(">u4").tobytes(), "big")
            return (address.to_bytes(4 * self.words, "big"), int(length))

        return Policy(
            Rule(
                "allow",
                prefix(rule["src"], rule["slen"]),
                prefix(rule["dst"], rule["dlen"]),
                None if rule["protocol"] == 256 else int(rule["protocol"]),
                tuple(rule["sports"].tolist()),
                tuple(rule["dports"].tolist()),
                id=i + 1,
            )
            for i, rule in enumerate(self.rules)
        )


@pytest.fixture(scope="module", params=[f"{size}-IPv{family}" for family in (4, 6) for size in SIZES])
def rules(request):
    size, family = request.param.split("-IPv")
    made = Set(size, 1 if family == "4" else 4)
    made.name = f"{len(made.rules):,} rules, IPv{family}"
    return made


@pytest.fixture(scope="module")
def policy(rules):
    made = rules.policy()
    made.compile()
    return made


@pytest.fixture(scope="session")
def dpdk(tmp_path_factory):
    return dpdk_peer.start_hash_and_acl(tmp_path_factory.mktemp("dpdk"))


@pytest.fixture(scope="module")
def built(dpdk, rules):
    taken = dpdk.peer_acl_build(pointer(rules.rules), len(rules.rules), rules.words)
    if taken == 0:
        pytest.skip("rte_acl cannot build this set")
    return taken


@pytest.mark.parametrize("traffic", TRAFFIC)
class TestDecideMany:
    @pytest.fixture(autouse=True)
    def group(self, benchmark, rules, traffic):
        benchmark.group = f"policy: decide_many, {rules.name}, {traffic}"
        family = 4 if rules.words == 1 else 6
        benchmark.extra_info.update(series=f"IPv{family}, {traffic} packets", size=len(rules.rules))

    def test_fastpath(self, rules, policy, traffic, measure, benchmark):
        columns = rules.columns(traffic)
        out = np.empty(PACKETS, np.uint32)
        benchmark.extra_info["bytes"] = policy.nbytes
        measure(lambda: policy.decide_many(*columns, out=out), operations=PACKETS)
        assert traffic != "hits" or out.all()

    def test_rte_acl(self, dpdk, rules, built, traffic, measure, benchmark):
        packets = rules.packed(traffic)
        out = np.zeros(PACKETS, np.uint32)
        arguments = pointer(packets), PACKETS, rules.words, pointer(out)
        benchmark.extra_info["bytes"] = built
        measure(lambda: dpdk.peer_acl_classify(*arguments), operations=PACKETS)
        assert traffic != "hits" or out.all()


class TestUpdate:
    @pytest.fixture(autouse=True)
    def group(self, benchmark, rules):
        benchmark.group = f"policy: one rule out and in, {rules.name}"

    def test_fastpath(self, rules, policy, measure):
        listed = list(policy)
        at = len(listed) // 2
        rule, after = listed[at], listed[at + 1].id

        def edit():
            policy.delete(rule.id)
            policy.insert(rule, before=after)

        measure(edit)

    def test_rte_acl_build(self, dpdk, rules, built, benchmark):
        arguments = pointer(rules.rules), len(rules.rules), rules.words
        benchmark.pedantic(dpdk.peer_acl_build, args=arguments, rounds=2)


class TestBuild:
    @pytest.fixture(autouse=True)
    def group(self, benchmark, rules):
        benchmark.group = f"policy: compile all, {rules.name}"

    def test_fastpath(self, policy, benchmark):
        benchmark.pedantic(policy.compile, rounds=2)

    def test_rte_acl_build(self, dpdk, rules, built, benchmark):
        arguments = pointer(rules.rules), len(rules.rules), rules.words
        benchmark.pedantic(dpdk.peer_acl_build, args=arguments, rounds=2)
