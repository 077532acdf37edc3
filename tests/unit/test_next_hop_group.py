"""NextHopGroup: shares, resilience, and its place in a Fib."""

from __future__ import annotations

import copy
import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath import Fib
from fastpath.addresses import parse_ipv4
from fastpath.tables import NextHopGroup

MEMBERS = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 20), min_size=1)


@given(MEMBERS, st.integers(8, 300))
def test_shares_follow_the_weights(weights, buckets) -> None:
    group = NextHopGroup(weights.items(), buckets=buckets)
    assert group.members == tuple(weights)
    total = sum(weights.values())
    for member, weight in weights.items():
        share = group.buckets.count(member)
        assert share >= 1
        assert share == 1 or abs(share - buckets * weight / total) < 1 or 1 in Counter(group.buckets).values()
    assert group == NextHopGroup(weights.items(), buckets=buckets)
    for copied in (copy.copy(group), pickle.loads(pickle.dumps(group))):
        assert copied == group
        assert hash(copied) == hash(group)


@given(MEMBERS, MEMBERS)
def test_only_what_must_move_moves(before, after) -> None:
    group = NextHopGroup(before.items(), buckets=64)
    other, moved = group.with_members(after.items())
    needed = sum(max(0, other.buckets.count(m) - group.buckets.count(m)) for m in after)
    assert moved == needed / 64
    fresh = NextHopGroup(after.items(), buckets=64)
    assert all(abs(other.buckets.count(m) - fresh.buckets.count(m)) <= 1 for m in after)


def test_in_a_table() -> None:
    group = NextHopGroup([("left", 3), "right"], buckets=4)
    fib = Fib()
    fib.insert("10.0.0.0/8", group)
    fib.insert("11.0.0.0/8", "alone")
    addresses = parse_ipv4(["10.0.0.1"] * 4 + ["11.0.0.1", "12.0.0.1"])
    hashes = np.array([0, 1, 2, 2**64 - 1, 5, 6], np.uint64)
    ids = fib.lookup_many(addresses, hashes, default=77)
    assert [fib.values[i] for i in ids[:5]] == [*(group.member(h) for h in hashes[:4].tolist()), "alone"]
    assert ids[5] == 77
    assert fib.lookup("10.0.0.1") is group
    fib.insert("13.0.0.0/8", "later")
    assert fib.values[fib.lookup_many(parse_ipv4(["13.0.0.1"]), hashes[:1])[0]] == "later"
    out = np.empty(6, np.uint32)
    assert fib.lookup_many(addresses, hashes, out=out) is out
    for wrong, error in (
        (hashes.astype(np.int64), TypeError),
        ([1] * 6, TypeError),
        (hashes[:5], ValueError),
    ):
        with pytest.raises(error, match="hashes"):
            fib.lookup_many(addresses, wrong)
    with pytest.raises(TypeError, match="integers"):
        Fib(dtype="uint32").lookup_many(addresses, hashes)


@pytest.mark.parametrize(
    ("members", "buckets", "error"),
    [
        ([], 8, ValueError),
        (["a", "a"], 8, ValueError),
        ([("a", 0)], 8, ValueError),
        ([("a", -1)], 8, ValueError),
        ([("a", 1.5)], 8, TypeError),
        ([None], 8, ValueError),
        ([[]], 8, TypeError),
        (["a", "b"], 1, ValueError),
        (["a"], 0, ValueError),
        (["a"], "8", TypeError),
        (None, 8, TypeError),
    ],
)
def test_refused(members, buckets, error) -> None:
    with pytest.raises(error):
        NextHopGroup(members, buckets=buckets)
    if buckets == 8:
        with pytest.raises(error):
            NextHopGroup(["x"]).with_members(members)


def test_answers_may_be_written_over_the_hashes() -> None:
    fib = Fib()
    fib.insert("0.0.0.0/0", NextHopGroup(["a", "b", "c"], buckets=32))
    rng = np.random.default_rng(1)
    asked = rng.integers(0, 2**32, 500, dtype=np.uint32)
    for at in (0, 1, 250, 500):
        hashes = rng.integers(0, 2**63, 500, dtype=np.uint64)
        expected = fib.lookup_many(asked, hashes.copy())
        assert np.array_equal(
            fib.lookup_many(asked, hashes, out=hashes.view(np.uint32)[at : at + 500]), expected
        )
