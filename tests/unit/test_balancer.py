"""The balancer's calls: members, options, hostile arguments, leases, threads."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import subprocess
import sys
import threading
import weakref
from collections import Counter
from typing import Any

import numpy as np
import pytest

from fastpath import Backend, Balancer, Change, Lease, OutlierDetection, hash64
from fastpath._balancer import jump_hash
from fastpath.balance import Reason, Status, weight_from_load

HASH_POLICIES = ("maglev", "ketama", "rendezvous", "jump", "stable")
WEB = [("a", 5), ("b", 1), ("c", 1)]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def shares(balancer: Balancer, n: int = 7000) -> dict[str, float]:
    ids = balancer.pick_many(n)
    return {balancer.values[i].id: c / n for i, c in enumerate(np.bincount(ids)) if i and c}


# --- plain use ----------------------------------------------------------------------------------------------


def test_exact_shares_from_any_start() -> None:
    for _ in range(20):
        balancer = Balancer(WEB)
        assert Counter(balancer.pick().id for _ in range(700)) == {"a": 500, "b": 100, "c": 100}


@pytest.mark.parametrize("policy", Balancer.POLICIES)
def test_nobody(policy: str) -> None:
    balancer = Balancer((), policy)
    assert balancer.pick() is None
    assert balancer.pick(b"key") is None
    assert list(balancer.picks("key")) == []
    assert balancer.pick_many(3).tolist() == [0, 0, 0]
    assert balancer.values == (None,)
    explained = balancer.explain("key")
    assert (explained.backend, explained.reason, explained.considered) == (None, Reason.EMPTY, ())
    lease = balancer.acquire("key")
    assert not lease
    assert lease.backend is None
    assert lease.released
    assert balancer.update([]) == Change(0.0, (), (), ())
    balancer.add(Backend("a", weight=0))
    assert balancer.pick() is None
    balancer.set_weight("a", 1)
    assert balancer.pick().id == "a"
    balancer.set_weight("a", 0)
    assert balancer.pick(5) is None
    assert balancer.explain(5).reason == Reason.EMPTY


@pytest.mark.parametrize("policy", Balancer.POLICIES)
def test_health_weights_and_drain(policy: str) -> None:
    balancer = Balancer(["a", "b", "c", "d", "e"], policy)
    nbytes = balancer.nbytes
    keys = list(range(0, 1 << 64, (1 << 64) // 500))
    before = [balancer.pick(key).id for key in keys] if policy in HASH_POLICIES else None
    balancer.set_healthy("a", False)
    picked = {balancer.pick(key).id for key in keys} | {balancer.pick().id for _ in range(500)}
    assert picked == {"b", "c", "d", "e"}
    balancer.set_healthy("a", True)
    if before:
        assert [balancer.pick(key).id for key in keys] == before
    balancer.set_weight("b", 0)
    assert "b" not in {balancer.values[id].id for id in balancer.pick_many(500)}
    balancer.drain("c")
    assert "c" not in {balancer.values[id].id for id in balancer.pick_many(500)}
    balancer.drain("c", False)
    assert "c" in {balancer.values[id].id for id in balancer.pick_many(500)}
    balancer.remove("c")
    assert "c" not in balancer
    assert "c" not in {balancer.values[id].id for id in balancer.pick_many(500)}
    assert nbytes > 0


def test_panic() -> None:
    balancer = Balancer(["a", "b", "c"], "round_robin")
    balancer.set_healthy("a", False)
    assert set(shares(balancer)) == {"b", "c"}
    balancer.set_healthy("b", False)
    assert set(shares(balancer)) == {"a", "b", "c"}
    assert balancer.explain().reason == Reason.PANIC
    failing = Balancer(["a", "b", "c"], panic_mode="fail")
    for id in "ab":
        failing.set_healthy(id, False)
    assert failing.pick() is None
    assert failing.explain().reason == Reason.NONE_HEALTHY
    never = Balancer(["a", "b", "c"], panic_threshold=0)
    for id in "ab":
        never.set_healthy(id, False)
    assert set(shares(never)) == {"c"}
    never.set_healthy("c", False)
    assert never.pick() is None


def test_priorities_split_as_envoy() -> None:
    made = [Backend(f"p{p}-{i}", priority=p) for p in (0, 1) for i in range(100)]
    for policy in ("round_robin", "random", "maglev"):
        balancer = Balancer(made, policy)
        for i in range(50):
            balancer.set_healthy(f"p0-{i}", False)
        n = 20000
        hashes = np.random.default_rng(1).integers(0, 1 << 64, n, dtype=np.uint64)
        ids = balancer.pick_many(hashes)
        first = sum(balancer.values[id].priority == 0 for id in ids) / n
        assert first == pytest.approx(0.7, abs=0.02)
        reasons = {balancer.explain(int(h)).reason for h in hashes[:50]}
        if policy == "maglev":
            assert reasons >= {Reason.OK, Reason.FAILOVER}


def test_many_priorities() -> None:
    made = [Backend(str(i), priority=i) for i in range(700)]
    for policy in ("random", "maglev"):
        balancer = Balancer(made, policy, table_size=251)
        for i in range(300):
            balancer.set_healthy(str(i), False)
        assert {balancer.pick(k).id for k in range(50)} == {"300"}
        balancer.remove("300")
        assert {balancer.pick(k).id for k in range(50)} == {"301"}


def test_flips_outside_of_the_tables() -> None:
    balancer = Balancer(["a", "b", "c"], subset_size=1, seed=1, max_in_flight=1)
    lease = balancer.acquire()
    for id in "abc":
        balancer.set_healthy(id, False)
        balancer.set_weight(id, 0)
        balancer.set_healthy(id, True)
        balancer.drain(id)
    assert balancer.pick() is None
    balancer.remove(lease.backend.id)
    lease.release()
    for id in set("abc") - {lease.backend.id}:
        balancer.set_healthy(id, False)
        balancer.remove(id)
    assert balancer.pick() is None
    assert balancer.in_flight() == 0


def test_extra_probes_of_bounded_load_are_few() -> None:
    balancer = Balancer([str(i) for i in range(100)], "maglev", load_bound=1.25)
    leases = [balancer.acquire(hash64(str(i))) for i in range(2000)]
    probes = [len(balancer.explain(hash64(f"k{i}")).considered) for i in range(2000)]
    assert sum(probes) / len(probes) < 2
    assert max(balancer.in_flight(str(i)) for i in range(100)) <= 25
    assert len(leases) == 2000


def test_local_zone_first_then_spill_with_weights() -> None:
    made = [Backend(f"l{i}", zone="here", weight=1 + i % 2) for i in range(10)]
    made += [Backend(f"r{i}", zone="there") for i in range(10)]
    balancer = Balancer(made, local_zone="here")
    got = shares(balancer, 15000)
    assert set(got) == {f"l{i}" for i in range(10)}
    assert got["l1"] == pytest.approx(2 * got["l0"], rel=0.01)
    for i in range(5):
        balancer.set_healthy(f"l{i}", False)
    got = shares(balancer, 20000)
    assert sum(share for id, share in got.items() if id[0] == "l") == pytest.approx(0.7, abs=0.001)
    assert {balancer.explain().reason for _ in range(100) if balancer.pick()} == {
        Reason.OK,
        Reason.SPILLED_ZONE,
    }


# --- keys ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", HASH_POLICIES)
def test_keys(policy: str) -> None:
    balancer = Balancer([str(i) for i in range(10)], policy)
    for key in ("user-17", " ", "ü", "x" * 1000):
        data = key.encode()
        same = {balancer.pick(k).id for k in (key, data, bytearray(data), memoryview(data), hash64(data))}
        assert len(same) == 1
    keys = [f"key{i}".encode() for i in range(300)]
    one_by_one = [balancer.pick(key).id for key in keys]
    hashes = np.array([hash64(key) for key in keys], dtype=np.uint64)
    for many in (keys, hashes, np.array([np.uint64(h) for h in hashes] * 2)[::2][:0]):
        ids = balancer.pick_many(many)
        assert [balancer.values[id].id for id in ids] == one_by_one[: len(ids)]
    fixed = np.frombuffer(b"".join(key.ljust(16) for key in keys), dtype=np.uint8).reshape(-1, 16)
    ids = balancer.pick_many(fixed)
    assert [balancer.values[id].id for id in ids] == [balancer.pick(key.ljust(16)).id for key in keys]
    # Without a key: by the table, at random.
    assert len({balancer.pick().id for _ in range(300)}) == 10
    assert len({balancer.pick(None).id for _ in range(300)}) == 10


@pytest.mark.parametrize("key", [1.5, True, [], object(), (1,), {}])
def test_keys_of_another_kind(key: Any) -> None:
    balancer = Balancer(WEB, "maglev")
    for call in (balancer.pick, balancer.picks, balancer.acquire, balancer.explain):
        with pytest.raises(TypeError, match="key must be bytes, str or an int"):
            call(key)
    assert Balancer(WEB).pick(key) is not None


@pytest.mark.parametrize("key", [-1, 1 << 64, -(1 << 70)])
def test_hashes_out_of_range(key: int) -> None:
    balancer = Balancer(WEB, "maglev")
    with pytest.raises(ValueError, match=r"0\.\.2\*\*64-1"):
        balancer.pick(key)
    assert balancer.pick((1 << 64) - 1) is not None
    assert balancer.pick(np.uint64(7)) == balancer.pick(7)


@pytest.mark.parametrize(
    ("what", "error"),
    [
        (-1, ValueError),
        (1 << 60, ValueError),
        (1.5, TypeError),
        (None, TypeError),
        ("abc", TypeError),
        (b"abc", TypeError),
        (True, TypeError),
        ([True], TypeError),
        ([1.5], TypeError),
        ([-1], ValueError),
        (np.zeros(3, dtype=np.int64), TypeError),
        (np.zeros(3, dtype=np.float64), TypeError),
        (np.zeros(3, dtype=np.uint32), TypeError),
        (np.zeros(3, dtype=np.uint8), TypeError),
        (np.zeros((3, 3), dtype=np.uint64), ValueError),
        (np.zeros((3, 3, 3), dtype=np.uint8), ValueError),
        (np.zeros((), dtype=np.uint64), (TypeError, ValueError)),
        (np.zeros(3, dtype=">u8"), TypeError),
        (np.zeros(3, dtype=object), TypeError),
    ],
)
@pytest.mark.parametrize("policy", ["maglev", "round_robin"])
def test_pick_many_arguments(what: Any, error: Any, policy: str) -> None:
    with pytest.raises(error):
        Balancer(WEB, policy).pick_many(what)


def test_pick_many_out_and_strides() -> None:
    balancer = Balancer(WEB, "maglev")
    hashes = np.random.default_rng(0).integers(0, 1 << 64, 40, dtype=np.uint64)
    out = np.empty(20, dtype=np.uint32)
    assert balancer.pick_many(hashes[::2], out=out) is out
    assert out.tolist() == balancer.pick_many(hashes[::2].copy()).tolist()
    assert balancer.pick_many(0).size == 0
    assert balancer.pick_many(np.empty(0, dtype=np.uint64)).size == 0
    for bad, error in [
        (np.empty(3, dtype=np.uint32), ValueError),
        (np.empty(40, dtype=np.uint32)[::2], ValueError),
        (np.empty((20, 1), dtype=np.uint32), ValueError),
        (np.empty(20, dtype=np.int32), TypeError),
        ([0] * 20, TypeError),
    ]:
        with pytest.raises(error, match="out must be"):
            balancer.pick_many(hashes[::2], out=bad)
    frozen = np.empty(20, dtype=np.uint32)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="writable"):
        balancer.pick_many(20, out=frozen)


@pytest.mark.parametrize("policy", Balancer.POLICIES)
@pytest.mark.parametrize("n", [1, 7, 8, 9, 1000, 20000])
def test_pick_many_is_pick_many_times(policy: str, n: int) -> None:
    made = [(str(i), 1 + i % 3) for i in range(12)]
    balancer, twin = Balancer(made, policy, seed=5), Balancer(made, policy, seed=5)
    for down in ([], ["1", "7"]):
        for id in down:
            balancer.set_healthy(id, False)
            twin.set_healthy(id, False)
        ids = balancer.pick_many(n)
        step = max(1, n // 50)
        if step == 1:
            assert [balancer.values[id] for id in ids] == [twin.pick() for _ in range(n)]
            assert balancer.position == twin.position
        hashes = np.random.default_rng(n).integers(0, 1 << 64, n, dtype=np.uint64)
        if policy in HASH_POLICIES:
            ids = balancer.pick_many(hashes)
            for i in range(0, n, step):
                assert balancer.values[ids[i]] == twin.pick(int(hashes[i]))


@pytest.mark.parametrize("weight", [1, 700, 9000])
def test_points_of_rings_of_every_size(weight: int) -> None:
    balancer = Balancer([("a", weight), ("b", weight // 3 + 1)], "ketama")
    *_, points, owners = balancer._tiers()[0]
    ring = np.array(points, dtype=np.uint64)
    # Of points with equal hashes the first counts, and after the last comes the first.
    rng = np.random.default_rng(weight)
    some = rng.choice(ring, 3000)
    hashes = np.concatenate([rng.integers(0, 1 << 64, 3001, dtype=np.uint64), some, some + np.uint64(1)])
    wanted = np.array(owners)[np.searchsorted(ring, hashes) % len(ring)]
    assert balancer.pick_many(hashes).tolist() == wanted.tolist()
    assert [balancer.pick(int(h)) for h in hashes[::17]] == [balancer.values[id] for id in wanted[::17]]


def test_many_buckets_of_jump() -> None:
    hashes = np.random.default_rng(3).integers(0, 1 << 64, 1000, dtype=np.uint64)
    for n in (1, 2, 3, 11, 1000, 100_003):
        balancer = Balancer([("a", n), ("b", 1)], "jump")
        wanted = ["b" if jump_hash(int(h), n + 1) == n else "a" for h in hashes]
        assert [balancer.values[id].id for id in balancer.pick_many(hashes)] == wanted
    for key, bucket in ((0, 2147483648), (1, 3094789146), (0xDEAD10CC, 1321988195), (1 << 63, 1119800965)):
        assert jump_hash(key, 0xFFFFFFFF) == bucket


# --- replay, copies -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", Balancer.POLICIES)
def test_seed_and_position_replay(policy: str) -> None:
    balancer = Balancer(WEB, policy)
    position = balancer.position
    first = [balancer.pick().id for _ in range(50)]
    balancer.position = position
    assert [balancer.pick().id for _ in range(50)] == first
    again = Balancer(WEB, policy, seed=balancer.seed)
    again.position = position
    assert [again.pick().id for _ in range(50)] == first
    assert Balancer(WEB, policy, seed=3).position == 0
    for bad, error in [(-1, ValueError), (1 << 64, ValueError), (1.5, TypeError)]:
        with pytest.raises(error):
            balancer.position = bad


@pytest.mark.parametrize("policy", Balancer.POLICIES)
@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda b: pickle.loads(pickle.dumps(b))])
def test_copies(policy: str, how: Any) -> None:
    balancer = Balancer(
        [Backend("a", "10.0.0.1", 80, 5, "z", 0, {"k": [1]}), ("b", 1), ("c", 1)], policy, table_size=251
    )
    balancer.set_healthy("b", False)
    balancer.drain("c")
    twin = how(balancer)
    assert list(twin) == list(balancer)
    assert [twin.pick() for _ in range(20)] == [balancer.pick() for _ in range(20)]
    assert [twin.pick(k) for k in range(20)] == [balancer.pick(k) for k in range(20)]
    assert twin.options == {**balancer.options, "seed": balancer.seed}
    twin.remove("a")
    assert "a" in balancer


def test_start_is_random_unless_seeded() -> None:
    made = [str(i) for i in range(64)]
    assert len({Balancer(made).pick().id for _ in range(64)}) > 10
    assert {Balancer(made, seed=9).pick().id for _ in range(5)} == {"0"}


def test_forks_part_ways() -> None:
    program = """
import copy, os
from fastpath import Balancer
free, fixed = Balancer(["a"]), Balancer(["a"], seed=3)
fixed.pick()
copied = copy.copy(free)
was = free.position
assert copied.position == was
pid = os.fork()
if pid == 0:
    os._exit(0 if len({free.position, copied.position, was}) == 3 and fixed.position == 1 else 1)
assert free.position == copied.position == was
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


# --- members ------------------------------------------------------------------------------------------------


def test_forms_of_backends() -> None:
    for made in (WEB, dict(WEB), [Backend(id, weight=w) for id, w in WEB], iter(WEB)):
        assert [(b.id, b.weight) for b in Balancer(made)] == WEB
    balancer = Balancer(["a", "b"])
    assert len(balancer) == 2
    assert "a" in balancer
    assert "z" not in balancer
    assert 5 not in balancer
    assert balancer["a"] == Backend("a")
    assert balancer.get("z") is None
    assert repr(balancer) == "<Balancer weighted_round_robin, 2 backends>"
    assert weakref.ref(balancer)() is balancer


@pytest.mark.parametrize(
    ("made", "error"),
    [
        ("abc", TypeError),
        (b"abc", TypeError),
        (5, TypeError),
        ([5], TypeError),
        ([None], TypeError),
        ([("a", "b")], TypeError),
        ([("a", -1)], ValueError),
        ([("a", float("nan"))], ValueError),
        ([("a", float("inf"))], ValueError),
        ([("a", True)], TypeError),
        (["a", "a"], ValueError),
        ([""], ValueError),
    ],
)
def test_backends_of_another_kind(made: Any, error: Any) -> None:
    with pytest.raises(error):
        Balancer(made)
    balancer = Balancer(WEB)
    with pytest.raises(error):
        balancer.update(made)
    assert [(b.id, b.weight) for b in balancer] == WEB


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("id", 5, TypeError),
        ("address", 5, TypeError),
        ("port", "80", TypeError),
        ("port", -1, ValueError),
        ("port", 65536, ValueError),
        ("weight", "1", TypeError),
        ("weight", -0.5, ValueError),
        ("zone", 5, TypeError),
        ("priority", -1, ValueError),
        ("priority", 1.0, TypeError),
        ("metadata", [], TypeError),
    ],
)
def test_backend_fields(field: str, value: Any, error: Any) -> None:
    with pytest.raises(error, match=field):
        Backend(**{"id": "a", field: value})


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"policy": "nonsense"}, ValueError),
        ({"policy": 5}, ValueError),
        ({"seed": -1}, ValueError),
        ({"seed": 1 << 64}, ValueError),
        ({"seed": "1"}, TypeError),
        ({"policy": "maglev", "table_size": 65536}, ValueError),
        ({"policy": "maglev", "table_size": 0}, ValueError),
        ({"table_size": 1.5}, TypeError),
        ({"load_bound": 1.25}, ValueError),
        ({"policy": "maglev", "load_bound": 0.9}, ValueError),
        ({"policy": "maglev", "load_bound": "x"}, TypeError),
        ({"slow_start_s": -1}, ValueError),
        ({"panic_threshold": 50}, ValueError),
        ({"panic_mode": "maybe"}, ValueError),
        ({"overprovisioning": 0.5}, ValueError),
        ({"local_zone": 5}, TypeError),
        ({"subset_size": 0}, ValueError),
        ({"max_in_flight": 0}, ValueError),
        ({"outlier": {}}, TypeError),
        ({"compat": "envoy"}, ValueError),
        ({"policy": "maglev", "compat": "nginx"}, ValueError),
        ({"hash_function": "md5"}, ValueError),
        ({"hash_function": "murmur2"}, ValueError),
        ({"sticky_keys": 3}, ValueError),
        ({"clock": 5}, TypeError),
        ({"nonsense": 1}, TypeError),
    ],
)
def test_options(options: dict[str, Any], error: Any) -> None:
    with pytest.raises(error):
        Balancer(WEB, **options)


def test_initialised_once_or_not_at_all() -> None:
    raw = Balancer.__new__(Balancer)
    assert raw.pick() is None
    assert len(raw) == 0
    balancer = Balancer(WEB)
    with pytest.raises(TypeError, match="once"):
        balancer.__init__(WEB)
    with pytest.raises(TypeError, match="acquire"):
        Lease()


@pytest.mark.parametrize(
    "call", ["remove", "drain", "in_flight", "report", "status", "set_weight", "set_healthy", "__getitem__"]
)
@pytest.mark.parametrize("id", ["nobody", "", 5, None])
def test_unknown_ids(call: str, id: Any) -> None:
    balancer = Balancer(WEB)
    extra = (1,) if call in ("set_weight", "set_healthy") else ()
    if call == "in_flight" and id is None:
        assert balancer.in_flight(id) == 0
        return
    with pytest.raises(KeyError, match=f"no backend {id!r}"):
        getattr(balancer, call)(id, *extra)
    with pytest.raises((KeyError, TypeError)):
        getattr(balancer, call)([], *extra)


def test_tables_that_would_be_too_large() -> None:
    for options in (
        {"policy": "jump"},
        {"policy": "ketama", "compat": "nginx"},
        {"compat": "nginx"},
        {"compat": "lvs"},
    ):
        balancer = Balancer(WEB, **options)
        expected = [balancer.explain(k).backend.id for k in range(20)]
        for edit in (
            lambda b=balancer: b.set_weight("a", (1 << 32) - 1),
            lambda b=balancer: b.add(("d", (1 << 32) - 1)),
            lambda b=balancer: b.update([("a", (1 << 32) - 1), ("x", 2)]),
        ):
            with pytest.raises(ValueError, match=r"more than|at most|above"):
                edit()
            assert {b.id: b.weight for b in balancer} == dict(WEB)
            assert balancer.pick() is not None
        if "policy" in options:
            assert [balancer.explain(k).backend.id for k in range(20)] == expected
    with pytest.raises(ValueError, match="whole weights"):
        Balancer([("a", 1.5)], "jump")


def test_update_is_a_difference() -> None:
    balancer = Balancer(["a", "b", "c", "d"], "maglev")
    balancer.set_healthy("a", False)
    lease = balancer.acquire()
    ids = {backend.id: balancer.values.index(backend) for backend in balancer}
    change = balancer.update(["a", Backend("b", "10.0.0.2"), "c", "e"])
    assert (change.added, change.removed, change.changed) == (("e",), ("d",), ("b",))
    assert 0.25 <= change.moved_fraction < 0.6
    assert not balancer.status("a").healthy
    assert balancer["b"].address == "10.0.0.2"
    assert all(balancer.values[ids[id]].id == id for id in "abc")
    lease.release()
    assert balancer.in_flight() == 0
    assert balancer.update(list(balancer)).moved_fraction == 0.0


@pytest.mark.parametrize("policy", Balancer.POLICIES)
def test_moved_fraction_is_measured(policy: str) -> None:
    made = [f"backend-{i}" for i in range(20)]
    balancer = Balancer(made, policy)
    change = balancer.update(made[:-1])
    low, high = (0.02, 0.09) if policy == "ketama" else (0.04, 0.09)
    assert low <= change.moved_fraction <= high
    if policy in HASH_POLICIES:
        n = 20000
        hashes = np.random.default_rng(3).integers(0, 1 << 64, n, dtype=np.uint64)
        before = balancer.pick_many(hashes)
        change = balancer.update(made)
        moved = np.count_nonzero(before != balancer.pick_many(hashes)) / n
        assert change.moved_fraction == pytest.approx(moved, abs=0.012)


@pytest.mark.parametrize("repair", [False, True])
def test_stable_moves_little(repair: bool) -> None:
    made = {f"backend-{i}": 10 for i in range(500)}
    balancer = Balancer(made, "stable", repair=repair)
    slots = balancer.pick_many(np.arange(65537, dtype=np.uint64))
    counts = np.bincount(slots)[1:]
    assert counts.max() / counts.mean() < 1.06
    gone = "backend-250"
    own = counts[[b.id for b in balancer].index(gone)] / 65537
    fewer = {id: weight for id, weight in made.items() if id != gone}
    removed = balancer.update(fewer).moved_fraction / own
    added = balancer.update(made).moved_fraction * 500
    nudged = balancer.update({**made, "backend-7": 11}).moved_fraction
    optimum = 11 / 5001 - 10 / 5000
    if repair:
        assert removed == pytest.approx(1.0)
        assert added <= 1.01
        assert nudged <= 1.1 * optimum
    else:
        assert removed < 1.45
        assert added < 1.45
        assert nudged < 2.5 * optimum


def test_subset_changes_by_one() -> None:
    made = [f"b{i}" for i in range(100)]
    balancer = Balancer(made, "round_robin", subset_size=20, seed=11)
    inside = {balancer.values[id].id for id in balancer.pick_many(100)}
    assert len(inside) == 20
    for gone in made[:10]:
        balancer.remove(gone)
        now = {balancer.values[id].id for id in balancer.pick_many(100)}
        assert len(now) == 20
        assert len(inside - now) <= 1
        inside = now
    assert sum(balancer.status(id).in_subset for id in made[10:]) == 20
    assert len({Balancer(made, subset_size=1, seed=s).pick().id for s in range(30)}) > 15


# --- statistics ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["random", "weighted_random", "power_of_two", "least_request", "maglev"])
@pytest.mark.parametrize("down", [(), ("w0",)])
def test_shares_by_chi_square(policy: str, down: tuple[str, ...]) -> None:
    """Seeded; the threshold is exceeded by chance once in about 10**6 runs of a right balancer."""
    weights = {f"w{i}": w for i, w in enumerate([50, 1, 2, 3, 4, 10])}
    balancer = Balancer(weights, policy, seed=12345)
    for id in down:
        balancer.set_healthy(id, False)
        del weights[id]
    if policy == "random":
        weights = dict.fromkeys(weights, 1)
    n = 200000
    got = Counter(balancer.values[id].id for id in balancer.pick_many(n))
    assert set(got) == set(weights)
    total = sum(weights.values())
    chi = sum((got[id] - n * w / total) ** 2 / (n * w / total) for id, w in weights.items())
    # 5 or 4 degrees of freedom; a table of 65,537 slots adds its own rounding to maglev.
    assert chi < (60 if policy == "maglev" else 36)


def test_float_weights_and_long_periods() -> None:
    for weights in (
        {"a": 1.1, "b": 1.0},
        {"a": 100003, "b": 70001},
        {"a": 1e6, **{f"x{i}": 1 for i in range(50)}},
    ):
        for policy in ("weighted_round_robin", "weighted_random", "maglev", "stable", "rendezvous"):
            balancer = Balancer(weights, policy, seed=1)
            got = shares(balancer, 100000)
            total = sum(weights.values())
            assert got["a"] == pytest.approx(weights["a"] / total, abs=0.012)


# --- leases -------------------------------------------------------------------------------------------------


def test_leases() -> None:
    balancer = Balancer(["a"], "power_of_two")
    with balancer.acquire("key") as lease:
        assert lease.backend.id == "a"
        assert bool(lease)
        assert not lease.released
        assert balancer.in_flight("a") == balancer.in_flight() == 1
        assert "held" in repr(lease)
    assert balancer.in_flight("a") == 0
    lease.release()
    lease.fail()
    assert lease.released
    assert balancer.in_flight("a") == 0
    dropped = balancer.acquire()
    assert balancer.in_flight() == 1
    del dropped
    gc.collect()
    assert balancer.in_flight() == 0
    with pytest.raises(RuntimeError), balancer.acquire():
        raise RuntimeError
    assert balancer.in_flight() == 0


def test_a_lease_outlives_its_backend() -> None:
    balancer = Balancer(["a", "b"], "round_robin", seed=0)
    lease = balancer.acquire()
    balancer.remove(lease.backend.id)
    balancer.add("c")
    assert balancer.in_flight("c") == 0
    assert balancer.in_flight() == 1
    lease.release()
    assert balancer.in_flight() == 0
    assert balancer.in_flight("c") == 0
    lease = balancer.acquire()
    del balancer
    lease.release()


def test_leases_in_asyncio() -> None:
    async def main() -> None:
        balancer = Balancer(["a", "b"], "least_request")

        async def request() -> str:
            async with balancer.acquire() as lease:
                await asyncio.sleep(0)
                return lease.backend.id

        got = await asyncio.gather(*(request() for _ in range(100)))
        assert Counter(got) == {"a": 50, "b": 50}
        assert balancer.in_flight() == 0
        task = asyncio.ensure_future(request())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert balancer.in_flight() == 0

    asyncio.run(main())


def test_least_request_and_power_of_two_follow_load() -> None:
    for policy in ("least_request", "power_of_two"):
        balancer = Balancer({"a": 3, "b": 1}, policy, seed=2)
        leases = [balancer.acquire() for _ in range(400)]
        assert balancer.in_flight("a") == pytest.approx(300, abs=3)
        for lease in leases:
            lease.release()


def test_power_of_two_keeps_close_together() -> None:
    balancer = Balancer([str(i) for i in range(100)], "power_of_two", seed=4)
    leases = [balancer.acquire() for _ in range(10000)]
    assert max(balancer.in_flight(str(i)) for i in range(100)) <= 100 + 5
    assert len(leases) == 10000


def test_max_in_flight() -> None:
    balancer = Balancer(["a", "b"], max_in_flight=2)
    leases = [balancer.acquire() for _ in range(5)]
    assert [bool(lease) for lease in leases] == [True] * 4 + [False]
    assert balancer.explain().reason == Reason.OVERLOADED
    assert balancer.status("a").full
    leases[0].release()
    assert balancer.pick() == leases[0].backend


def test_retry_budget() -> None:
    balancer = Balancer(["a", "b"], min_retries=2, retry_budget=0.5)
    retries = [balancer.acquire(retry=True) for _ in range(4)]
    assert [bool(lease) for lease in retries] == [True, True, False, False]
    running = [balancer.acquire() for _ in range(10)]
    more = [balancer.acquire(retry=True) for _ in range(20)]
    assert sum(map(bool, more)) == 7
    for lease in retries + more + running:
        lease.release()
    assert bool(balancer.acquire(retry=True))


@pytest.mark.parametrize("budget", [0.0, 0.07, 0.2, 0.29, 0.5])
def test_retry_budget_is_a_share_of_what_is_in_flight(budget: float) -> None:
    for n in (0, 1, 4, 5, 9, 10, 20, 100):
        for least in (0, 3):
            balancer = Balancer(["a", "b"], min_retries=least, retry_budget=budget)
            running = [balancer.acquire() for _ in range(n)]
            granted: list[Lease] = []
            while lease := balancer.acquire(retry=True):
                granted.append(lease)
            wanted = 0
            while wanted < max(least, int(round(budget * 100) * (n + wanted) // 100)):
                wanted += 1
            assert len(granted) == wanted
            assert len(granted) <= max(least, budget * balancer.in_flight() + 1e-9)
            assert len(running) == n


@pytest.mark.parametrize("policy", HASH_POLICIES)
@pytest.mark.parametrize("bound", [1.0, 1.25, 2.0])
def test_load_bound_holds(policy: str, bound: float) -> None:
    weights = {str(i): 1 + i % 2 for i in range(20)}
    balancer = Balancer(weights, policy, load_bound=bound)
    total = sum(weights.values())
    leases = []
    for i in range(600):
        # Half of the requests ask for one key.
        lease = balancer.acquire("hot" if i % 2 else f"key{i}")
        leases.append(lease)
        cap = -(-bound * (i + 1) * weights[lease.backend.id] // total)
        assert balancer.in_flight(lease.backend.id) <= cap + 1e-9
    assert balancer.explain("hot").reason in (Reason.OVER_BOUND, Reason.OK)
    for lease in leases:
        lease.release()
    assert balancer.explain("hot").reason == Reason.OK


# --- draining, slow start, outliers -------------------------------------------------------------------------


@pytest.mark.parametrize("policy", HASH_POLICIES)
def test_draining_keeps_keys_that_are_known(policy: str) -> None:
    balancer = Balancer([str(i) for i in range(5)], policy)
    old = [f"old{i}" for i in range(200)]
    new = [f"new{i}" for i in range(200)]
    before = {key: balancer.pick(key).id for key in old}
    balancer.drain("3")
    assert {key: balancer.pick(key).id for key in old} == before
    assert "3" in before.values()
    assert "3" not in {balancer.pick(key).id for key in new}
    assert "3" not in {balancer.pick(key).id for key in new}
    sticky = next(key for key in old if before[key] == "3")
    assert balancer.explain(sticky).reason == Reason.DRAIN_STICKY
    balancer.remove("3")
    assert balancer.pick(sticky).id != "3"
    forgetful = Balancer([str(i) for i in range(5)], policy, sticky_keys=0)
    for key in old:
        forgetful.pick(key)
    forgetful.drain("3")
    assert "3" not in {forgetful.pick(key).id for key in old}


@pytest.mark.parametrize("policy", HASH_POLICIES)
def test_draining_keeps_keys_when_others_take_over(policy: str) -> None:
    def kept(balancer: Balancer, drained: list[str], ill: list[str]) -> None:
        keys = [f"key{i}" for i in range(400)]
        before = {key: balancer.pick(key).id for key in keys}
        for id in drained:
            balancer.drain(id)
        for id in ill:
            balancer.set_healthy(id, False)
        mine = {key for key in keys if before[key] in drained and before[key] not in ill}
        assert len(mine) > 50
        for key in sorted(mine):
            assert balancer.explain(key).backend.id == before[key]
            assert balancer.pick(key).id == before[key]
        new = {backend.id for i in range(400) if (backend := balancer.pick(f"new{i}")) is not None}
        assert not new & set(drained)

    two = [Backend("a"), Backend("b"), Backend("c", priority=1), Backend("d", priority=1)]
    kept(Balancer(two, policy, seed=1), ["a", "b"], [])
    kept(Balancer(two, policy, seed=1), ["a"], ["b"])
    near = [Backend(id, zone="x" if id in "abcde" else "y") for id in "abcdefghij"]
    kept(Balancer(near, policy, seed=1, local_zone="x"), ["a", "b", "c", "d", "e"], [])
    kept(Balancer(near, policy, seed=1, local_zone="x"), ["b"], ["c", "d"])
    four = ["a", "b", "c", "d"]
    kept(Balancer(four, policy, seed=1, panic_mode="fail"), four, [])
    kept(Balancer(four, policy, seed=1, panic_mode="fail"), ["a"], ["b", "c"])
    # A key that was elsewhere for a while, and is back, does not follow who drains there.
    balancer = Balancer(two, policy, seed=1)
    for ill in (True, False):
        for id in "ab":
            balancer.set_healthy(id, not ill)
        before = {key: balancer.pick(key).id for key in range(200)}
    balancer.drain("c")
    assert {key: balancer.pick(key).id for key in range(200)} == before
    # Nobody has to be ill for everybody to drain.
    balancer = Balancer(["a", "b"], policy, seed=1)
    balancer.pick(b"k")
    balancer.drain("a")
    balancer.drain("b")
    assert balancer.explain(b"k").reason == Reason.DRAIN_STICKY


def test_as_many_keys_are_remembered_as_asked_for() -> None:
    clock = iter(range(1 << 30))
    for kept in (4096, 65536):
        balancer = Balancer(["a", "b", "c", "d"], "maglev", seed=1, sticky_keys=kept)
        # The oldest go first: of the keys before, none needs to be known.
        for _ in range(4 * kept):
            balancer.pick(f"before{next(clock)}")
        keys = [f"key{i}" for i in range(kept)]
        before = [balancer.pick(key).id for key in keys]
        balancer.drain("b")
        mine = [key for key, id in zip(keys, before, strict=True) if id == "b"]
        lost = sum(balancer.pick(key).id != "b" for key in mine)
        assert lost <= len(mine) / 100
        new = [balancer.pick(f"new{i}").id for i in range(20000)]
        assert "b" not in new
    assert balancer.nbytes < 8 * 65536 + 65537 * 2 + 20000


@pytest.mark.parametrize("policy", [p for p in Balancer.POLICIES if p != "peak_ewma"])
def test_slow_start(policy: str) -> None:
    clock = Clock()
    balancer = Balancer(["a", "b", "c"], policy, slow_start_s=100.0, seed=7, clock=clock)
    assert balancer.status("a").effective_weight == 1
    balancer.add("new")
    hashes = np.random.default_rng(5).integers(0, 1 << 64, 12000, dtype=np.uint64)
    mine = balancer.values.index(Backend("new"))
    held: set[int] = set()
    for elapsed, factor in [(0, 0.1), (25, 0.25), (50, 0.5), (75, 0.75), (100, 1.0), (200, 1.0)]:
        clock.now = 1000.0 + elapsed
        assert balancer.status("new").effective_weight == pytest.approx(factor)
        picked = np.flatnonzero(balancer.pick_many(hashes) == mine)
        spread = 0.05 if policy == "ketama" else 0.02
        assert len(picked) / 12000 == pytest.approx(factor / (3 + factor), abs=spread)
        if policy in HASH_POLICIES:
            # A key moves once, and stays.
            assert held <= set(picked.tolist())
            held = set(picked.tolist())
    balancer.set_weight("new", 4)
    if policy in ("round_robin", "random"):
        assert balancer.status("new").effective_weight == 4
        return
    assert balancer.status("new").effective_weight == pytest.approx(1 + 3 * 0.1)
    clock.now += 50
    assert balancer.status("new").effective_weight == pytest.approx(2.5)
    balancer.set_weight("new", 2)
    assert balancer.status("new").effective_weight == 2


@pytest.mark.parametrize("policy", [p for p in Balancer.POLICIES if p != "peak_ewma"])
def test_a_raise_in_slow_start_takes_nothing_away(policy: str) -> None:
    clock = Clock()
    balancer = Balancer([f"b{i}" for i in range(5)], policy, slow_start_s=100.0, seed=1, clock=clock)
    hashes = np.random.default_rng(3).integers(0, 1 << 64, 10000, dtype=np.uint64)
    mine = balancer.values.index(Backend("b0"))
    before = balancer.pick_many(hashes)
    even = policy in ("round_robin", "random")
    balancer.set_weight("b0", 4)
    share = np.mean(before == mine)
    seen = [before]
    for elapsed in range(0, 101, 10):
        clock.now = 1000.0 + elapsed
        picked = balancer.pick_many(hashes)
        reached = 1 if even else 1 + 3 * max(0.1, elapsed / 100)
        # The parts of a ring are not exact, and a weight edit of jump moves keys from everybody to everybody.
        spread = {"ketama": 0.04, "jump": 0.07}.get(policy, 0.02)
        assert np.mean(picked == mine) == pytest.approx(reached / (4 + reached), abs=spread)
        seen.append(picked)
    if policy in HASH_POLICIES:
        moves = (np.diff(np.array(seen).astype(np.int64), axis=0) != 0).sum(axis=0)
        assert moves.max() == 1
        if policy != "jump":
            assert np.count_nonzero((before == mine) & (seen[1] != mine)) <= (policy == "maglev") * 2
            assert np.mean(seen[1] == mine) >= share
            assert np.count_nonzero((before != seen[-1]) & (seen[-1] != mine)) <= len(hashes) / 500


@pytest.mark.parametrize("policy", HASH_POLICIES)
def test_a_key_moves_once_to_a_backend_that_joins(policy: str) -> None:
    clock = Clock()
    balancer = Balancer(
        [f"b{i}" for i in range(5)], policy, slow_start_s=100.0, clock=clock, repair=policy == "stable"
    )
    hashes = np.random.default_rng(4).integers(0, 1 << 64, 5000, dtype=np.uint64)
    seen = [balancer.pick_many(hashes)]
    balancer.add("new")
    for elapsed in range(0, 101, 20):
        clock.now = 1000.0 + elapsed
        seen.append(balancer.pick_many(hashes))
    moves = (np.diff(np.array(seen).astype(np.int64), axis=0) != 0).sum(axis=0)
    assert moves.max() == 1
    # Who moved is at the new one, but for what the layout of Maglev moves by itself.
    elsewhere = np.count_nonzero((seen[0] != seen[-1]) & (seen[-1] != balancer.values.index(Backend("new"))))
    assert elsewhere <= len(hashes) * (0.03 if policy == "maglev" else 0)


def test_peak_ewma_shuns_the_slow_and_the_failing() -> None:
    clock = Clock()
    balancer = Balancer(["fast", "slow", "broken"], "peak_ewma", clock=clock, seed=1)
    for _ in range(300):
        lease = balancer.acquire()
        name = lease.backend.id
        clock.now += {"fast": 0.01, "slow": 0.1, "broken": 0.0001}[name]
        lease.fail() if name == "broken" else lease.release()
    got = Counter()
    for _ in range(300):
        lease = balancer.acquire()
        got[lease.backend.id] += 1
        clock.now += {"fast": 0.01, "slow": 0.1, "broken": 0.0001}[lease.backend.id]
        lease.fail() if lease.backend.id == "broken" else lease.release()
    assert got["fast"] > got["slow"] > got["broken"]
    assert balancer.status("broken").latency_s > balancer.status("slow").latency_s > 0.05
    # Forgotten in time.
    clock.now += 1000
    assert balancer.status("broken").latency_s < 1e-6
    for bad, error in [
        (-1, ValueError),
        (float("nan"), ValueError),
        (float("inf"), ValueError),
        ("x", TypeError),
    ]:
        with pytest.raises(error, match="latency_s"):
            balancer.report("fast", True, bad)


def test_outliers_are_ejected_and_come_back() -> None:
    clock = Clock()
    outlier = OutlierDetection(consecutive_failures=3, jitter_s=0, max_ejected=0.5)
    balancer = Balancer([str(i) for i in range(4)], "round_robin", outlier=outlier, clock=clock)
    for id in ("0", "1", "2"):
        for _ in range(3):
            balancer.report(id, ok=False)
    assert [balancer.status(str(i)).ejected for i in range(4)] == [True, True, False, False]
    assert {balancer.pick().id for _ in range(20)} == {"2", "3"}
    clock.now += 31
    assert {balancer.pick().id for _ in range(20)} == {"0", "1", "2", "3"}
    # The second time is longer, and leases report by themselves.
    balancer.set_healthy("1", False)
    failed = 0
    while failed < 3:
        lease = balancer.acquire()
        if lease.backend.id == "0":
            lease.fail()
            failed += 1
        else:
            lease.release()
    assert balancer.status("0").ejected
    clock.now += 31
    assert balancer.status("0").ejected
    clock.now += 30
    assert not balancer.status("0").ejected


def test_success_rates_far_below_the_mean_are_ejected() -> None:
    clock = Clock()
    outlier = OutlierDetection(consecutive_failures=0, failure_share=0.0, jitter_s=0, max_ejected=0.5)
    balancer = Balancer([str(i) for i in range(5)], outlier=outlier, clock=clock)
    for i in range(100):
        for id in "01234":
            balancer.report(id, ok=id != "0" or i % 2 == 0)
    clock.now += outlier.interval_s
    balancer.pick()
    # Rates of 50 and four times 100: the mean is 90, the deviation 20, and 90 - 1.9 * 20 = 52.
    assert [balancer.status(id).ejected for id in "01234"] == [True, False, False, False, False]


def test_outlier_jitter_spreads_the_return() -> None:
    clock = Clock()
    outlier = OutlierDetection(consecutive_failures=1, max_ejected=1.0, jitter_s=10.0)
    balancer = Balancer([str(i) for i in range(50)], outlier=outlier, clock=clock)
    for i in range(50):
        balancer.report(str(i), ok=False)
    clock.now += 35
    out = sum(balancer.status(str(i)).ejected for i in range(50))
    assert 10 < out < 40


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("consecutive_failures", -1, ValueError),
        ("consecutive_failures", 1.5, TypeError),
        ("interval_s", 0, ValueError),
        ("max_ejected", 2, ValueError),
        ("base_ejection_s", "x", TypeError),
    ],
)
def test_outlier_fields(field: str, value: Any, error: Any) -> None:
    with pytest.raises(error, match=field):
        OutlierDetection(**{field: value})


def test_weight_from_load_arguments() -> None:
    assert weight_from_load(0, 0.5) == 0.0
    assert weight_from_load(100, 0.0) == 0.0
    for bad, error in [(-1, ValueError), (float("nan"), ValueError), ("x", TypeError)]:
        with pytest.raises(error):
            weight_from_load(bad, 0.5)


def test_explain_and_distribution() -> None:
    balancer = Balancer([str(i) for i in range(4)], "maglev")
    balancer.set_healthy("1", False)
    hashes = np.random.default_rng(2).integers(0, 1 << 64, 4000, dtype=np.uint64)
    spread = balancer.distribution(hashes)
    assert set(spread) == {"0", "1", "2", "3"}
    assert spread["1"] == 0.0
    assert sum(spread.values()) == pytest.approx(1.0)
    reasons = Counter(balancer.explain(int(h)).reason for h in hashes)
    assert set(reasons) == {Reason.OK, Reason.REHASHED}
    assert reasons[Reason.REHASHED] == pytest.approx(1000, abs=150)
    moved = next(int(h) for h in hashes if balancer.explain(int(h)).reason == Reason.REHASHED)
    explained = balancer.explain(moved)
    assert explained.considered[0] == ("1", Reason.REHASHED)
    assert explained.considered[-1] == (explained.backend.id, Reason.OK)
    assert isinstance(balancer.status("1"), Status)


# --- threads ------------------------------------------------------------------------------------------------


def test_64_threads_count_exactly() -> None:
    for policy in ("weighted_round_robin", "power_of_two", "least_request"):
        balancer = Balancer({str(i): 1 for i in range(10)}, policy)
        totals: Counter[str] = Counter()
        lock = threading.Lock()

        def work(balancer: Balancer = balancer, totals: Counter[str] = totals, lock: Any = lock) -> None:
            mine: Counter[str] = Counter()
            for i in range(200):
                with balancer.acquire() as lease:
                    mine[lease.backend.id] += 1
                if i % 50 == 0:
                    # Dropped: a thread that dies does not leak.
                    balancer.acquire()
            with lock:
                totals.update(mine)

        threads = [threading.Thread(target=work) for _ in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        gc.collect()
        assert balancer.in_flight() == 0
        assert all(balancer.in_flight(str(i)) == 0 for i in range(10))
        assert totals.total() == 64 * 200


def test_an_update_is_seen_whole() -> None:
    balancer = Balancer(["a", "b"], "round_robin")
    stop = threading.Event()
    problems: list[str] = []

    def read() -> None:
        while not stop.is_set():
            ids = {backend.id for backend in balancer.picks()}
            if not ids:
                problems.append("nobody")
            if balancer.pick() is None:
                problems.append("none")

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for i in range(300):
        balancer.update(["a", "b"] if i % 2 else [f"c{i}", f"d{i}", f"e{i}"])
    stop.set()
    for thread in threads:
        thread.join()
    assert not problems


def test_batches_beside_a_writer() -> None:
    for policy in ("maglev", "weighted_random", "weighted_round_robin", "ketama", "power_of_two", "stable"):
        balancer = Balancer({str(i): 1 + i % 3 for i in range(20)}, policy, table_size=1009)
        hashes = np.random.default_rng(1).integers(0, 1 << 64, 20000, dtype=np.uint64)
        stop = threading.Event()
        problems: list[str] = []

        def read(
            balancer: Balancer = balancer,
            hashes: Any = hashes,
            stop: threading.Event = stop,
            problems: list[str] = problems,
        ) -> None:
            while not stop.is_set():
                for ids in (balancer.pick_many(hashes), balancer.pick_many(20000)):
                    if ids.min() == 0 or ids.max() > 20 + 150:
                        problems.append(f"{ids.min()}..{ids.max()}")

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        for i in range(150):
            balancer.set_healthy(str(i % 10), i % 3 == 0)
            balancer.add((f"new{i}", 2))
            balancer.set_weight("15", 1 + i % 5)
            balancer.pick(i)
            balancer.remove(f"new{i}")
        stop.set()
        for thread in threads:
            thread.join()
        assert not problems


@pytest.mark.parametrize(
    "weights",
    [
        {"a": 0.1, "b": 0.15, "c": 0.6, "d": 0.6, "e": 0.7},
        {"a": 0.7, "b": 0.2, "c": 0.1},
        {"a": 1 / 3, "b": 2 / 3, "c": 1.0},
        {"a": 1e-6, "b": 3.5e-6},
    ],
)
def test_decimal_weights_are_smooth(weights: dict[str, float]) -> None:
    balancer = Balancer(weights, seed=0)
    total = sum(weights.values())
    seen = dict.fromkeys(weights, 0)
    for step in range(1, 1001):
        seen[balancer.pick().id] += 1
        for id, weight in weights.items():
            assert abs(seen[id] - step * weight / total) < 1


@pytest.mark.parametrize("policy", Balancer.POLICIES)
def test_the_chosen_one_is_among_those_considered(policy: str) -> None:
    backends = [Backend(f"{p}-{i}", priority=p) for p in (0, 1) for i in range(100)]
    balancer = Balancer(backends, policy, seed=1, panic_threshold=0)
    for backend in backends:
        balancer.set_healthy(backend.id, backend.id in ("0-1", "1-2", "1-3"))
    for i in range(100):
        told = balancer.explain(i)
        considered = [id for id, _ in told.considered]
        assert told.backend.id in considered
        assert len(set(considered)) == len(considered)
        assert balancer.pick(i) == told.backend
