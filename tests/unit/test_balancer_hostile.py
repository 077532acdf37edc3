"""The balancer beside hostile callers: odd numbers, code of theirs that runs in between, clocks, memory."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import gc
import itertools
import json
import pickle
import subprocess
import sys
import threading
from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from fastpath import Backend, Balancer, OutlierDetection
from fastpath.balance import Reason
from fastpath.reference.balancer import ReferenceBalancer, ring

HASH_POLICIES = ("maglev", "ketama", "rendezvous", "jump", "stable")
WEB = [("a", 5), ("b", 1), ("c", 1)]


class Clock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


# --- leases -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, pickle.dumps])
def test_leases_are_not_copied(how: Any) -> None:
    balancer = Balancer(WEB, "power_of_two")
    lease = balancer.acquire()
    with pytest.raises(TypeError, match="a Lease cannot be copied"):
        how(lease)
    lease.release()
    with pytest.raises(TypeError, match="a Lease cannot be copied"):
        how(lease)
    assert balancer.in_flight() == 0


def test_a_cancelled_request_is_no_success() -> None:
    clock = Clock()
    balancer = Balancer(
        ["a", "b"], "peak_ewma", clock=clock, outlier=OutlierDetection(consecutive_failures=2)
    )

    async def hang(seconds: float) -> str:
        async with balancer.acquire() as lease:
            clock.now += seconds
            await asyncio.sleep(3600)
        return lease.backend.id

    async def give_up(seconds: float) -> None:
        task = asyncio.create_task(hang(seconds))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    balancer.report("a", False)
    balancer.report("b", False)
    asyncio.run(give_up(5.0))
    assert balancer.in_flight() == 0
    # It counts as that slow, and does not wipe out the failure before.
    assert max(balancer.status(id).latency_s for id in "ab") == pytest.approx(5.0)
    balancer.report("a", False)
    balancer.report("b", False)
    assert balancer.status("a").ejected or balancer.status("b").ejected


def test_a_short_cancelled_request_says_nothing() -> None:
    clock = Clock()
    balancer = Balancer(["a"], "peak_ewma", clock=clock)
    balancer.report("a", True, 2.0)
    with pytest.raises(KeyboardInterrupt), balancer.acquire():
        raise KeyboardInterrupt
    assert balancer.status("a").latency_s == 2.0
    assert balancer.in_flight() == 0


def test_threads_that_die_leak_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    balancer = Balancer(WEB, "least_request")

    def die() -> None:
        lease = balancer.acquire()
        other = [lease]
        other.append(other)  # left to the collector
        raise RuntimeError("out")

    threads = [threading.Thread(target=die) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()
    assert balancer.in_flight() == 0
    assert [balancer.in_flight(id) for id in "abc"] == [0, 0, 0]


def test_members_come_and_go_without_growth() -> None:
    balancer = Balancer(WEB, "round_robin")
    balancer.add("stuck")
    held = [lease for lease in (balancer.acquire() for _ in range(8)) if lease.backend.id == "stuck"]
    assert held
    balancer.remove("stuck")
    resting = 256
    for i in range(resting + 1):
        balancer.add(f"first{i}")
        balancer.remove(f"first{i}")
    balancer.pick()
    before = balancer.nbytes
    for i in range(100_000):
        balancer.add(f"x{i}")
        if i % 7 == 0:
            balancer.acquire().release()
        balancer.remove(f"x{i}")
    assert balancer.nbytes <= before + 256
    assert len(balancer.values) <= 8 + resting
    assert balancer.in_flight() == len(held)
    for lease in held:
        lease.release()
    # The id of the one that is gone is free now.
    for i in range(20):
        balancer.add(f"y{i}")
        balancer.remove(f"y{i}")
    assert len(balancer.values) <= 8 + resting


def test_max_in_flight_holds_among_threads() -> None:
    balancer = Balancer([str(i) for i in range(5)], "power_of_two", max_in_flight=3)
    highest: Counter[str] = Counter()

    def work() -> None:
        for _ in range(300):
            with balancer.acquire() as lease:
                if lease:
                    id = lease.backend.id
                    highest[id] = max(highest[id], balancer.in_flight(id))

    threads = [threading.Thread(target=work) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(highest.values()) <= 3
    assert balancer.in_flight() == 0
    assert not any(balancer.status(str(i)).full for i in range(5))


# --- numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("latency", [float("nan"), float("inf"), -1.0, -0.001, 10**400, 1e10])
def test_latencies_out_of_range(latency: Any) -> None:
    balancer = Balancer(WEB, "peak_ewma")
    with pytest.raises(ValueError, match="latency_s must be"):
        balancer.report("a", True, latency)
    with pytest.raises(TypeError, match="latency_s must be a number"):
        balancer.report("a", True, "1")
    assert balancer.status("a").latency_s == 0.0


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -1, 1e-19, 5e-324, 2**32 + 1, 10**400])
def test_weights_out_of_range(weight: Any) -> None:
    with pytest.raises(ValueError, match="weight must be"):
        Backend("a", weight=weight)
    balancer = Balancer(WEB)
    with pytest.raises(ValueError, match="weight must be"):
        balancer.set_weight("a", weight)
    assert balancer["a"].weight == 5


def test_numbers_of_numpy_and_fractions_are_numbers() -> None:
    weights = np.array([2, 3], dtype=np.int64)
    balancer = Balancer(zip(["a", "b"], weights, strict=True), "weighted_random", seed=np.uint64(5))
    assert [type(backend.weight) for backend in balancer] == [int, int]
    balancer.set_weight("a", np.float32(0.5))
    balancer.set_weight("b", Fraction(1, 2))
    assert {backend.weight for backend in balancer} == {0.5}
    assert pickle.loads(pickle.dumps(balancer)).pick() == balancer.pick()
    Balancer(WEB, "peak_ewma").report("a", np.True_, np.float32(0.25))


@pytest.mark.parametrize("policy", [policy for policy in Balancer.POLICIES if policy != "jump"])
def test_weights_as_far_apart_as_they_may_be(policy: str) -> None:
    options = {"points_per_weight": 1} if policy == "ketama" else {}
    small = [("a", 1e-18), ("b", 1e-18), ("c", 2**20)]
    balancer = Balancer(small, policy, table_size=251, seed=3, **options)
    picks = Counter(balancer.pick().id for _ in range(300))
    assert sum(picks.values()) == 300
    if "round_robin" != policy != "random":
        assert picks["c"] >= 290
    balancer.set_healthy("c", False)
    assert balancer.pick(7).id in ("a", "b", "c")
    # All of them small.
    balancer = Balancer([("a", 1e-18), ("b", 2e-18)], policy, table_size=251, seed=3)
    assert {balancer.pick(str(k)).id for k in range(100)} == {"a", "b"}


def test_a_load_bound_after_a_heavy_backend_is_gone() -> None:
    balancer = Balancer([("heavy", 2**32), ("light", 1e-9)], "maglev", load_bound=1.0, panic_threshold=0)
    for _ in range(1000):
        balancer.set_healthy("heavy", False)
        balancer.set_healthy("heavy", True)
    balancer.set_healthy("heavy", False)
    leases = [balancer.acquire(key) for key in range(5)]
    # Whoever is left has all the share there is.
    assert balancer.in_flight("light") == 5
    del leases


# --- arrays -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["maglev", "ketama", "jump", "rendezvous"])
@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("n", [1000, 20000])
def test_out_may_overlap_the_hashes(policy: str, down: bool, n: int) -> None:
    if policy == "rendezvous":
        n = 1000
    balancer = Balancer([f"b{i}" for i in range(50)], policy, seed=1)
    balancer.set_healthy("b7", not down)
    hashes = np.random.default_rng(1).integers(0, 1 << 64, n, dtype=np.uint64)
    expected = balancer.pick_many(hashes)
    for start in (0, 1, n // 2, n - 1, n):
        memory = hashes.copy()
        out = memory.view(np.uint32)[start : start + n]
        assert balancer.pick_many(memory, out=out) is out
        assert (out == expected).all()
    keys = np.random.default_rng(2).integers(0, 256, (n, 16), dtype=np.uint8)
    expected = balancer.pick_many(keys)
    for start in (0, 1, 3 * n):
        memory = keys.copy()
        out = memory.reshape(-1).view(np.uint32)[start : start + n]
        assert (balancer.pick_many(memory, out=out) == expected).all()


def test_arrays_that_are_not_aligned() -> None:
    balancer = Balancer([f"b{i}" for i in range(50)], "maglev")
    hashes = np.random.default_rng(1).integers(0, 1 << 64, 100, dtype=np.uint64)
    shifted = np.frombuffer(b"x" + hashes.tobytes(), dtype=np.uint8)[1:].view(np.uint64)
    assert not shifted.flags.aligned
    assert (balancer.pick_many(shifted) == balancer.pick_many(hashes)).all()
    out = np.zeros(401, dtype=np.uint8)[1:].view(np.uint32)
    with pytest.raises(ValueError, match="aligned"):
        balancer.pick_many(hashes, out=out)
    read_only = np.zeros(100, dtype=np.uint32)
    read_only.flags.writeable = False
    with pytest.raises(ValueError, match="writable"):
        balancer.pick_many(hashes, out=read_only)


def test_keys_that_change_their_list() -> None:
    keys: list[Any] = []

    class Key:
        def __index__(self) -> int:
            keys.clear()
            return 5

    balancer = Balancer(WEB, "maglev")
    keys.extend(Key() for _ in range(100))
    assert set(balancer.pick_many(keys).tolist()) == {balancer.pick_many([5])[0]}


# --- code of the user in between ----------------------------------------------------------------------------


def test_a_key_that_removes_its_backend() -> None:
    balancer = Balancer(["a", "b"], "maglev")

    class Key:
        def __init__(self, victim: str) -> None:
            self.victim = victim

        def __index__(self) -> int:
            if self.victim in balancer:
                balancer.remove(self.victim)
            return 3

    victim = balancer.pick(3).id
    lease = balancer.acquire(Key(victim))
    assert lease.backend.id in balancer
    assert balancer.in_flight(lease.backend.id) == 1


def test_a_clock_that_removes_a_backend() -> None:
    ids: list[str] = []

    def clock() -> float:
        if ids:
            balancer.remove(ids.pop())
        return 5.0

    balancer = Balancer(list("abcde"), "round_robin", slow_start_s=1.0, clock=clock)
    balancer.add("f")
    for id in "abcde":
        ids.append(id)
        assert balancer.pick() is not None


def test_a_backend_whose_end_picks() -> None:
    balancer = Balancer(["a", "b"], "round_robin")
    seen = []

    class Last:
        def __del__(self) -> None:
            seen.append(balancer.pick())

    balancer.add(Backend("x", metadata={"last": Last()}))
    assert not seen
    balancer.update(["a", "b"])
    gc.collect()
    assert seen
    assert all(backend is not None for backend in seen)


@pytest.mark.parametrize("policy", ["peak_ewma", "round_robin"])
@pytest.mark.parametrize("time", [float("nan"), float("inf"), -float("inf")])
def test_clocks_that_are_no_clocks(policy: str, time: float) -> None:
    clock = Clock()
    balancer = Balancer(WEB, policy, clock=clock, slow_start_s=5.0, outlier=OutlierDetection())
    balancer.add("d")
    lease = balancer.acquire()
    clock.now = time
    with pytest.raises(ValueError, match="clock must return finite"):
        balancer.report("a", True, 0.1)
    with pytest.raises(ValueError, match="clock must return finite"):
        lease.release()
    assert balancer.in_flight() == 0
    clock.now = 2000.0
    assert balancer.pick() is not None
    clock.now = "now"  # type: ignore[assignment]
    with pytest.raises(TypeError):
        balancer.report("a", True, 0.1)


def test_a_clock_that_goes_back() -> None:
    clock = Clock(1e6)
    balancer = Balancer(
        ["a", "b"],
        "peak_ewma",
        seed=1,
        clock=clock,
        slow_start_s=10.0,
        outlier=OutlierDetection(jitter_s=0.0),
    )
    balancer.report("a", True, 1.0)
    balancer.report("b", True, 0.001)
    clock.now = 10.0
    # Costs that were measured before are not ahead of those measured now.
    balancer.report("b", True, 5.0)
    assert [balancer.pick().id for _ in range(20)] == ["a"] * 20
    # Time goes on from there: a falls behind b again as it is measured to be fast.
    for _ in range(50):
        clock.now += 10.0
        balancer.report("a", True, 0.5)
        balancer.report("b", True, 0.001)
    assert [balancer.pick().id for _ in range(20)] == ["b"] * 20
    balancer.add("c")
    clock.now = 0.0
    assert balancer.status("c").effective_weight == pytest.approx(0.1)
    assert balancer.pick() is not None


@pytest.mark.parametrize("decay_s", [1e-6, 0.01, 10.0])
def test_latencies_are_compared_over_long_times(decay_s: float) -> None:
    clock = Clock(0.0)
    balancer = Balancer(["slow", "fast"], "peak_ewma", seed=1, clock=clock, decay_s=decay_s)
    for _ in range(30):
        balancer.report("slow", True, 0.2)
        balancer.report("fast", True, 0.1)
        assert {balancer.pick().id for _ in range(10)} == {"fast"}
        clock.now += 150.0 * decay_s
        # One that was slow long ago is tried again before one that is fast now.
        balancer.report("fast", True, 0.1)
        assert {balancer.pick().id for _ in range(10)} == {"slow"}


# --- members ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "compat"), [("jump", None), ("ketama", "nginx")])
def test_an_edit_that_is_refused_changes_nothing(policy: str, compat: str | None) -> None:
    balancer = Balancer(["a", "b", "c"], policy, compat=compat, seed=1, slow_start_s=5.0)
    balancer.set_healthy("b", False)
    balancer.drain("c")
    leases = [balancer.acquire(key) for key in range(10)]
    counts = [balancer.in_flight(id) for id in "abc"]
    before = [balancer.explain(key) for key in range(100)]
    values = balancer.values
    for edit in (
        lambda: balancer.update({"b": 1 << 31, "c": 1, "d": 1}),
        lambda: balancer.add(("e", 1 << 31)),
        lambda: balancer.set_weight("a", (1 << 31) - 1),
    ):
        with pytest.raises(ValueError, match=r"more than|at most"):
            edit()
        assert [balancer.explain(key) for key in range(100)] == before
        assert balancer.values == values
        assert [balancer.in_flight(id) for id in "abc"] == counts
        assert not balancer.status("b").healthy
        assert balancer.status("c").draining
    for lease in leases:
        lease.release()
    assert balancer.in_flight() == 0


@pytest.mark.parametrize("policy", Balancer.POLICIES)
def test_a_full_zone_is_no_dead_end(policy: str) -> None:
    backends = [Backend("here", zone="x"), Backend("there", zone="y"), Backend("last", zone="x", priority=1)]
    balancer = Balancer(backends, policy, local_zone="x", max_in_flight=1, table_size=251)
    assert [backend.id for backend in balancer.picks(5)] == ["here", "there", "last"]
    leases = [balancer.acquire(5) for _ in range(4)]
    assert [lease.backend.id for lease in leases if lease] == ["here", "there", "last"]
    assert balancer.explain(5).reason == Reason.OVERLOADED
    leases[0].release()
    assert balancer.pick(5).id == "here"
    leases[1].release()
    leases.append(balancer.acquire(5))
    explained = balancer.explain(5)
    assert (explained.backend.id, explained.reason) == ("there", Reason.SPILLED_ZONE)
    leases.append(balancer.acquire(5))
    leases[2].release()
    explained = balancer.explain(5)
    assert (explained.backend.id, explained.reason) == ("last", Reason.FAILOVER)


@pytest.mark.parametrize("policy", ["maglev", "stable", "ketama", "rendezvous", "jump"])
def test_every_reason(policy: str) -> None:
    clock = Clock()
    key = 12345

    def made(backends: Any, **options: Any) -> Balancer:
        return Balancer(backends, policy, seed=1, table_size=251, clock=clock, **options)

    def reason(balancer: Balancer, own: str | None = None) -> Reason:
        explained = balancer.explain(key)
        backend = balancer.pick(key)
        assert explained.backend == backend
        assert own is None or backend.id != own
        return explained.reason

    balancer = made(list("abcde"))
    own = balancer.pick(key).id
    assert reason(balancer) == Reason.OK
    balancer.set_healthy(own, False)
    assert reason(balancer, own) == Reason.REHASHED
    balancer.set_healthy(own, True)
    balancer.drain(own)
    assert reason(balancer) == Reason.DRAIN_STICKY
    balancer.drain(own, False)
    for id in "abc":
        balancer.set_healthy(id, False)
    assert reason(balancer) == Reason.PANIC
    assert reason(made([])) == Reason.EMPTY
    assert reason(made([("a", 0)])) == Reason.EMPTY

    nobody = made(list("ab"), panic_mode="fail")
    for id in "ab":
        nobody.set_healthy(id, False)
    assert reason(nobody) == Reason.NONE_HEALTHY

    full = made(list("ab"), max_in_flight=1)
    leases = [full.acquire(key), full.acquire(key)]
    assert reason(full) == Reason.OVERLOADED

    bounded = made(list("abcde"), load_bound=1.0)
    leases += [bounded.acquire(key)]
    assert reason(bounded, leases[-1].backend.id) == Reason.OVER_BOUND

    warming = made([id for id in "abcde" if id != own], slow_start_s=100.0)
    warming.add(own)
    reasons = Counter(warming.explain(k * 7919).reason for k in range(300))
    assert set(reasons) == {Reason.OK, Reason.SLOW_START}

    priorities = made([Backend("p", priority=0), Backend("q", priority=1)])
    priorities.set_healthy("p", False)
    assert reason(priorities) == Reason.FAILOVER
    zones = made([Backend("p", zone="x"), Backend("q", zone="y")], local_zone="x")
    zones.set_healthy("p", False)
    assert reason(zones) == Reason.SPILLED_ZONE


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 63, 64, 65, 200, 600])
def test_least_request_is_exact(n: int) -> None:
    random = np.random.default_rng(n)
    weights = {f"b{i}": int(random.integers(1, 4)) for i in range(n)}
    balancer = Balancer(weights, "least_request", seed=n, panic_threshold=0.0)
    leases: dict[str, list[Any]] = {id: [] for id in weights}
    up = dict.fromkeys(weights, True)
    for _ in range(400):
        id = f"b{random.integers(n)}"
        match random.integers(5):
            case 0:
                up[id] = not up[id]
                balancer.set_healthy(id, up[id])
            case 1 if leases[id]:
                leases[id].pop().release()
            case _:
                loads = {id: Fraction(len(leases[id]), weights[id]) for id in weights if up[id]}
                explained = balancer.explain().backend
                lease = balancer.acquire()
                assert lease.backend == explained
                if not loads:
                    assert not lease
                    continue
                assert loads[lease.backend.id] == min(loads.values())
                leases[lease.backend.id].append(lease)


def test_least_request_breaks_ties_by_weight() -> None:
    # Chi-square, 99 degrees of freedom, false alarm once in 10**6 seeds; the seed is fixed.
    balancer = Balancer([(f"b{i}", 1 + i % 5) for i in range(100)], "least_request", seed=11)
    ids = balancer.pick_many(100_000)
    counts = np.bincount(ids, minlength=101)[1:]
    expected = np.array([1 + i % 5 for i in range(100)]) / 300 * 100_000
    assert ((counts - expected) ** 2 / expected).sum() < 180.0


@pytest.mark.parametrize("policy", ["ketama", "rendezvous", "jump", "maglev", "stable"])
def test_picks_without_a_key_have_the_shares_of_the_layout(policy: str) -> None:
    balancer = Balancer([("a", 5), ("b", 2), ("c", 1)], policy, seed=9)
    hashes = np.random.default_rng(3).integers(0, 1 << 64, 50_000, dtype=np.uint64)
    shares = balancer.distribution(hashes)
    counts = np.bincount(balancer.pick_many(50_000), minlength=4)[1:] / 50_000
    # Both sides are samples of 50,000: their difference has a deviation below 0.0032; 5.5 of them: once in
    # 10**7 seeds, and the seeds are fixed.
    assert np.abs(counts - [shares[id] for id in "abc"]).max() < 0.0176
    balancer.set_healthy("a", False)
    assert {balancer.pick().id for _ in range(200)} == {"b", "c"}


@pytest.mark.parametrize("policy", ["round_robin", "weighted_random", "power_of_two", "least_request"])
def test_bytes_of_a_backend(policy: str) -> None:
    backends = [Backend(f"10.0.{i // 250}.{i % 250}:8080", weight=1 + i % 7) for i in range(5000)]
    balancer = Balancer(backends, policy)
    balancer.pick()
    assert balancer.nbytes / len(backends) <= 64 + 2  # what is there once: some kilobytes


@pytest.mark.parametrize("slots", [2, 3, 251, 65537, 524309, 655373, 1048573, 1048583])
def test_the_slot_of_every_hash(slots: int) -> None:
    balancer = Balancer([f"b{i}" for i in range(5)], "maglev", table_size=slots)
    random = np.random.default_rng(slots)
    hashes = random.integers(0, 1 << 64, 2000, dtype=np.uint64)
    # Around multiples of the slots, where a quotient could be off by one.
    multiples = hashes // np.uint64(slots) * np.uint64(slots)
    edges = np.array([0, 1, slots - 1, slots, (1 << 32) - 1, 1 << 32, (1 << 64) - 1], dtype=np.uint64)
    hashes = np.concatenate([hashes, multiples, multiples - np.uint64(1), edges])
    places = balancer.pick_many(np.arange(slots, dtype=np.uint64))
    assert (balancer.pick_many(hashes) == places[hashes % np.uint64(slots)]).all()
    values = balancer.values
    assert [balancer.pick(int(hash)).id for hash in hashes[-200:]] == [
        values[places[int(hash) % slots]].id for hash in hashes[-200:]
    ]


@pytest.mark.parametrize("n", [1, 3, 31, 32, 33, 63, 64, 65, 100, 1000])
def test_rendezvous_is_the_best_score(n: int) -> None:
    weights = {f"b{i}": 1 + i % 7 for i in range(n)}
    balancer = Balancer(weights, "rendezvous")
    twin = ReferenceBalancer("rendezvous")
    for id, weight in weights.items():
        twin.add(id, weight)
    hashes = np.random.default_rng(n).integers(0, 1 << 64, 60, dtype=np.uint64)
    values = balancer.values
    ids = balancer.pick_many(hashes)
    for hash, id in zip(hashes.tolist(), ids, strict=True):
        assert twin.pick(hash) == values[id].id == balancer.pick(hash).id == balancer.explain(hash).backend.id


def test_moved_fraction_of_another_systems_scores() -> None:
    balancer = Balancer(["a", "b", "c", "d"], "rendezvous", compat="pymemcache")
    keys = [str(i) for i in range(2000)]
    balancer.set_healthy("b", False)
    before = [balancer.pick(key).id for key in keys]
    change = balancer.update(["a", "b", "c"])
    moved = sum(one != balancer.pick(key).id for key, one in zip(keys, before, strict=True)) / len(keys)
    assert change.moved_fraction == pytest.approx(moved, abs=0.05)


def test_subsets_of_zones_and_priorities() -> None:
    zones = itertools.cycle("xyz")
    backends = [Backend(f"b{i}", zone=next(zones), priority=i % 2, weight=1 + i % 3) for i in range(60)]
    for size in (1, 7, 60, 1000):
        balancer = Balancer(backends, "power_of_two", seed=4, local_zone="x", subset_size=size)
        inside = [b.id for b in balancer if balancer.status(b.id).in_subset]
        assert len(inside) == min(size, 60)
        assert {b.id for b in balancer.picks()} == set(inside)


# --- failures, ejections ------------------------------------------------------------------------------------


@pytest.mark.parametrize("latency_s", [0.01, 2.0, 10.0, 60.0])
def test_who_fails_fast_beside_who_takes_long(latency_s: float) -> None:
    clock = Clock()
    balancer = Balancer(["ok1", "ok2", "bad"], "peak_ewma", clock=clock, seed=1)
    picked: Counter[str] = Counter()
    for _ in range(3000):
        id = balancer.pick().id
        clock.now += 0.01
        balancer.report(id, id != "bad", 0.0001 if id == "bad" else latency_s)
        picked[id] += 1
    assert picked["bad"] <= 10
    # What one failure costs does not raise what the next one costs.
    for _ in range(100):
        balancer.report("bad", False, 0.0001)
        balancer.report("ok1", False, 0.0001)
    assert balancer.status("bad").latency_s <= max(1.0, 8 * latency_s) + 1e-6
    balancer.report("ok1", True, latency_s)
    balancer.report("bad", False, 0.0001)
    assert balancer.status("bad").latency_s <= max(1.0, 8 * latency_s) + 1e-6


@pytest.mark.parametrize("latency_s", [2.0, 60.0])
def test_who_fails_fast_has_no_queue(latency_s: float) -> None:
    clock = Clock()
    balancer = Balancer(["ok1", "ok2", "bad"], "peak_ewma", clock=clock, seed=1)
    running: list[tuple[float, Any]] = []
    picked: Counter[str] = Counter()
    for i in range(4000):
        clock.now += latency_s / 20
        while running and running[0][0] <= clock.now:
            running.pop(0)[1].release()
        lease = balancer.acquire()
        if lease.backend.id == "bad":
            lease.fail()
        else:
            running.append((clock.now + latency_s, lease))
        picked[lease.backend.id] += i >= 1000
    assert picked["bad"] < 3000 * 0.15


def ejected(balancer: Balancer) -> int:
    return sum(balancer.status(backend.id).ejected for backend in balancer)


@pytest.mark.parametrize(
    ("n", "most", "expected"),
    [(3, 0.5, 1), (4, 0.5, 2), (10, 0.35, 3), (10, 0.99, 9), (10, 0.1, 1), (100, 0.29, 29), (50, 0.01, 1)]
    + [(10, 0.0, 0), (1, 0.0, 0), (10, 1.0, 10)],
)
def test_the_share_that_may_be_ejected(n: int, most: float, expected: int) -> None:
    outlier = OutlierDetection(consecutive_failures=1, max_ejected=most)
    balancer = Balancer([str(i) for i in range(n)], outlier=outlier)
    for i in range(n):
        balancer.report(str(i), ok=False)
        balancer.report(str(i), ok=False)
    assert ejected(balancer) == expected


@pytest.mark.parametrize("meanwhile", ["picks", "nothing", "reports"])
def test_ejections_are_forgotten_by_and_by(meanwhile: str) -> None:
    clock = Clock()
    outlier = OutlierDetection(consecutive_failures=1, interval_s=10.0, base_ejection_s=30.0, jitter_s=0.0)
    balancer = Balancer(["a", "b"], outlier=outlier, clock=clock)

    def eject() -> float:
        """How long it lasts."""
        began = clock.now
        balancer.report("a", ok=False)
        assert balancer.status("a").ejected
        while balancer.status("a").ejected:
            clock.now += 1.0
        return clock.now - began

    def calm(intervals: int) -> None:
        for _ in range(intervals):
            clock.now += 10.0
            if meanwhile == "picks":
                balancer.pick()
            elif meanwhile == "reports":
                balancer.report("a", ok=True)
                balancer.report("b", ok=True)

    assert [eject() for _ in range(4)] == [30.0, 60.0, 90.0, 120.0]
    calm(2)
    assert eject() == 90.0
    calm(10)
    assert eject() == 30.0


def test_failures_in_a_row_are_in_a_row() -> None:
    balancer = Balancer(["a", "b"], outlier=OutlierDetection(consecutive_failures=3))
    for ok in [False, False, True] * 5:
        balancer.report("a", ok=ok)
    assert ejected(balancer) == 0
    for _ in range(3):
        balancer.report("a", ok=False)
    assert balancer.status("a").ejected


def swept(rates: dict[str, float], requests: int, **options: Any) -> list[str]:
    """Who is ejected when the interval is over."""
    clock = Clock()
    outlier = OutlierDetection(**{"consecutive_failures": 0, "jitter_s": 0.0, "max_ejected": 0.5, **options})
    balancer = Balancer(list(rates), outlier=outlier, clock=clock)
    for i in range(requests):
        for id, rate in rates.items():
            balancer.report(id, ok=i < rate * requests)
    clock.now += outlier.interval_s
    balancer.pick()
    return [id for id in rates if balancer.status(id).ejected]


FIVE = dict.fromkeys("abcde", 1.0)


def test_who_fails_most_of_the_time_is_ejected() -> None:
    rates = {**FIVE, "a": 0.1, "b": 0.2}
    assert swept(rates, 100, stdev_factor=0.0) == ["a"]
    assert swept(rates, 100, stdev_factor=0.0, failure_share=0.8) == ["a", "b"]
    assert swept(rates, 100, stdev_factor=0.0, failure_share=0.0) == []
    assert swept(rates, 100, stdev_factor=0.0, failure_share=0.95) == []


def test_rates_of_few_requests_or_hosts_say_nothing() -> None:
    rates = {**FIVE, "a": 0.0}
    for rule in ({"stdev_factor": 0.0}, {"failure_share": 0.0}):
        assert swept(rates, 100, **rule) == ["a"]
        assert swept(rates, 99, **rule) == []
        assert swept(rates, 99, min_requests=99, **rule) == ["a"]
        assert swept(rates, 100, min_hosts=6, **rule) == []
        assert swept({id: rates[id] for id in "abcd"}, 100, **rule) == []
        assert swept({id: rates[id] for id in "abcd"}, 100, min_hosts=4, stdev_factor=1.5) == ["a"]


def test_who_is_out_does_not_count_for_the_mean() -> None:
    clock = Clock()
    outlier = OutlierDetection(
        consecutive_failures=60, failure_share=0.0, jitter_s=0.0, max_ejected=0.5, stdev_factor=1.5
    )
    balancer = Balancer(list("abcdef"), outlier=outlier, clock=clock)
    for i in range(100):
        balancer.report("a", ok=False)
        balancer.report("b", ok=i % 2 == 0)
        for id in "cdef":
            balancer.report(id, ok=True)
    assert balancer.status("a").ejected
    clock.now += 10.0
    balancer.pick()
    # Without a: mean 90, deviation 20, limit 60. With it the limit would be 75 - 1.5 * 38 = 18.
    assert balancer.status("b").ejected


def test_a_fork_beside_an_edit() -> None:
    program = """
import os, signal, threading
from fastpath import Balancer
balancer, stop = Balancer([f"n{i}" for i in range(300)], "maglev", table_size=1021), threading.Event()
def edit():
    k = 0
    while not stop.is_set():
        k += 1
        balancer.update([f"n{i}" for i in range(300)] + [f"x{k % 3}"])
thread = threading.Thread(target=edit)
thread.start()
statuses = []
for i in range(20):
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)
        balancer.set_weight("n0", 2)
        balancer.acquire("k").release()
        os._exit(0)
    statuses.append(os.waitpid(pid, 0)[1])
stop.set()
thread.join()
assert statuses == [0] * 20, statuses
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


# --- keys and what moves ------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", HASH_POLICIES)
def test_new_keys_leave_a_drained_backend_beside_slow_start(policy: str) -> None:
    clock = Clock()
    balancer = Balancer(["a", "b"], policy, seed=1, slow_start_s=100.0, clock=clock)
    old = [f"old{i}" for i in range(300)]
    mine = {key for key in old if balancer.pick(key).id == "a"}
    clock.now += 1000.0
    balancer.add("c")
    balancer.drain("a")
    for i in range(2000):
        key = f"k{i}"
        first = balancer.pick(key).id
        assert first != "a"
        assert balancer.values[balancer.pick_many([key])[0]].id == first
        assert balancer.pick(key).id == first
    # Keys that were picked for it stay, unless they are the new one's by now.
    assert {key for key in old if balancer.pick(key).id == "a"} <= mine
    assert sum(balancer.pick(key).id == "a" for key in mine) >= len(mine) * 0.8


@pytest.mark.parametrize("policy", HASH_POLICIES)
def test_a_key_is_known_where_it_was_picked_for(policy: str) -> None:
    balancer = Balancer(list("abcd"), policy, seed=1)
    own = {key: balancer.explain(key).backend.id for key in range(0, 1 << 64, (1 << 64) // 300)}
    balancer.set_healthy("a", False)
    elsewhere = {key: balancer.pick(key).id for key, id in own.items() if id == "a"}
    balancer.set_healthy("a", True)
    balancer.drain("a")
    # None of them was at a, and all stay at who has them.
    assert {key: balancer.pick(key).id for key in elsewhere} == elsewhere
    balancer.drain("a", False)
    balancer.set_healthy("a", False)
    balancer.drain("b")
    assert {key: balancer.pick(key).id for key in elsewhere} == elsewhere


@pytest.mark.parametrize("policy", HASH_POLICIES)
@pytest.mark.parametrize("empty", ["", b"", bytearray(), memoryview(b"")])
def test_an_empty_key_is_no_key(policy: str, empty: Any) -> None:
    made = [f"b{i}" for i in range(8)]
    balancer, twin = Balancer(made, policy, seed=1), Balancer(made, policy, seed=1)
    keyless = [twin.pick() for _ in range(100)]
    assert len(set(keyless)) == 8
    explained = []
    for _ in range(100):
        explained.append(balancer.explain(empty).backend)
        assert balancer.pick(empty) == explained[-1]
    assert explained == keyless
    assert next(balancer.picks(empty)) == twin.pick()
    balancer.position = 0
    values = balancer.values
    assert [values[id] for id in balancer.pick_many(np.zeros((50, 0), np.uint8))] == keyless[:50]
    assert [values[id] for id in balancer.pick_many([empty] * 50)] == keyless[50:]
    mixed = [empty, "a", empty, b"b", 7, empty, 0] * 5
    ids = balancer.pick_many(mixed)
    balancer.position = 100
    assert [balancer.pick(key) for key in mixed] == [values[id] for id in ids]
    with pytest.raises(TypeError):
        balancer.pick_many(np.zeros((5, 0), np.float64))


@pytest.mark.parametrize("compat", ["nginx", "envoy", "libmemcached"])
def test_an_empty_key_is_no_key_to_other_systems_layouts(compat: str) -> None:
    balancer = Balancer([f"b{i}" for i in range(8)], "ketama", compat=compat, seed=1)
    assert len({balancer.pick("").id for _ in range(200)}) == 8
    assert len(set(balancer.pick_many([""] * 200))) == 8
    assert len(set(balancer.pick_many(np.zeros((200, 0), np.uint8)))) == 8
    # The hash that an empty key would have is a hash like others.
    assert len({balancer.pick(0).id for _ in range(20)}) == 1
    assert len(set(balancer.pick_many([0] * 20))) == 1


@pytest.mark.parametrize("policy", Balancer.POLICIES)
def test_a_distribution_advances_nothing(policy: str) -> None:
    balancer = Balancer([("a", 1), ("b", 2), ("c", 0)], policy, seed=3)
    hashes = np.arange(300, dtype=np.uint64)
    for asked in (hashes, 300, ["x", "", b"y"] * 100):
        position = balancer.position
        shares = balancer.distribution(asked)
        assert balancer.position == position
        ids = balancer.pick_many(asked)
        assert shares == {id: np.mean(ids == i) for i, id in enumerate("abc", 1)}
    with pytest.raises(TypeError):
        balancer.distribution(np.zeros(3, np.float64))
    # Nor is a key remembered, so that a backend that drains would keep it.
    if policy in HASH_POLICIES:
        fresh = [f"fresh{i}" for i in range(100)]
        balancer.distribution(fresh)
        balancer.drain("a")
        assert all(balancer.pick(key).id == "b" for key in fresh)


def test_batches_of_another_systems_scores_remember_nothing() -> None:
    balancer = Balancer(["a", "b"], "rendezvous", compat="pymemcache")
    keys = [f"k{i}" for i in range(100)]
    assert len(set(balancer.pick_many(keys))) == 2
    balancer.pick_many(np.frombuffer(b"".join(b"%03d" % i for i in range(100)), np.uint8).reshape(100, 3))
    balancer.drain("a")
    assert {balancer.pick(key).id for key in keys} == {"b"}
    assert {balancer.pick(f"{i:03}").id for i in range(100)} == {"b"}


@pytest.mark.parametrize("policy", HASH_POLICIES)
@pytest.mark.parametrize("panic", [0.0, 0.9])
def test_a_failover_is_seen_as_one(policy: str, panic: float) -> None:
    backends = [Backend(f"p{p}-{i}", priority=p) for p in (0, 1) for i in range(4)]
    balancer = Balancer(backends, policy, seed=1, panic_threshold=panic)
    for id in ("p0-0", "p0-1", "p0-2", "p0-3", "p1-0", "p1-1"):
        balancer.set_healthy(id, False)
    panics = panic == 0.9
    reasons = Counter()
    for key in range(0, 1 << 64, (1 << 64) // 400):
        explained = balancer.explain(key)
        assert explained.backend.priority == 1 or panics
        reasons[explained.reason] += 1
    assert set(reasons) == {Reason.PANIC if panics else Reason.FAILOVER}


@pytest.mark.parametrize("policy", HASH_POLICIES)
def test_a_spill_is_seen_as_one(policy: str) -> None:
    backends = [Backend(f"{zone}{i}", zone=zone) for zone in "xy" for i in range(4)]
    balancer = Balancer(backends, policy, seed=1, local_zone="x")
    for id in ("x0", "x1", "x2", "y0"):
        balancer.set_healthy(id, False)
    for key in range(0, 1 << 64, (1 << 64) // 400):
        explained = balancer.explain(key)
        assert (explained.reason == Reason.SPILLED_ZONE) == (explained.backend.zone == "y")


def measured(balancer: Balancer, hashes: Any) -> list[str]:
    balancer.position = 0
    ids = balancer.pick_many(hashes)
    return [balancer.values[id].id if id else "" for id in ids]


@pytest.mark.parametrize("policy", Balancer.POLICIES)
@pytest.mark.parametrize("how", ["healthy", "unhealthy", "drained", "full", "second", "outside", "zone"])
def test_moved_fraction_is_what_moves(policy: str, how: str) -> None:
    ids = [f"n{i}" for i in range(10)]
    victim = "n0"
    options: dict[str, Any] = {}
    if how == "outside":
        options["subset_size"] = 3
    if how == "full":
        options["max_in_flight"] = 1
    if how == "zone":
        options["local_zone"] = "z"
    backends = [
        Backend(id, priority=int(how == "second" and id == victim), zone="z" if id < "n5" else "y")
        for id in ids
    ]
    balancer = Balancer(backends, policy, seed=2, **options)
    if how == "outside":
        victim = next(id for id in ids if not balancer.status(id).in_subset)
    if how == "unhealthy":
        balancer.set_healthy(victim, False)
    if how == "drained":
        balancer.drain(victim)
    leases = []
    while how == "full" and not balancer.status(victim).full:
        lease = balancer.acquire()
        leases += [lease] if lease.backend.id == victim else []
    n = 4000 if policy == "rendezvous" else 20000
    hashes = np.random.default_rng(9).integers(0, 1 << 64, n, dtype=np.uint64)
    before = measured(balancer, hashes)
    change = balancer.update([backend for backend in backends if backend.id != victim])
    after = measured(balancer, hashes)
    if policy in HASH_POLICIES:
        moved = sum(map(str.__ne__, before, after)) / n
    else:
        one, other = Counter(before), Counter(after)
        moved = sum(abs(one[id] - other[id]) for id in ids) / 2 / n
    # Two samples, of which those of rendezvous are 4,096 and 4,000 hashes.
    assert change.moved_fraction == pytest.approx(moved, abs=0.035 if policy == "rendezvous" else 0.012)
    # Who takes no picks leaves nothing behind, where the layout does not move by itself.
    if how not in ("healthy", "zone") and policy not in ("maglev", "stable", "jump"):
        assert change.moved_fraction == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("policy", Balancer.POLICIES)
def test_moved_fraction_from_and_to_nobody(policy: str) -> None:
    balancer = Balancer((), policy, seed=1)
    assert balancer.update([]).moved_fraction == 0.0
    assert balancer.update(["a", "b"]).moved_fraction == pytest.approx(1.0)
    assert balancer.update([("a", 0), ("b", 0)]).moved_fraction == pytest.approx(1.0)
    assert balancer.update(["a"]).moved_fraction == pytest.approx(1.0)
    assert balancer.update([]).moved_fraction == pytest.approx(1.0)
    balancer = Balancer(["a"], policy, panic_mode="fail")
    balancer.set_healthy("a", False)
    assert balancer.update(["a", Backend("b", priority=1)]).moved_fraction == pytest.approx(1.0)


@pytest.mark.parametrize("policy", [policy for policy in Balancer.POLICIES if policy != "ketama"])
def test_moved_fraction_in_slow_start(policy: str) -> None:
    clock = Clock()
    balancer = Balancer(list("abc"), policy, seed=1, slow_start_s=100.0, clock=clock)
    change = balancer.update(list("abcd"))
    # The tenth of a share that it takes at once.
    assert change.moved_fraction == pytest.approx(0.1 / 3.1, abs=0.01)


# --- ids and leases of who is gone --------------------------------------------------------------------------


def test_ids_of_a_batch_stay_with_their_backends() -> None:
    balancer = Balancer(list("abc"), "round_robin")
    ids = balancer.pick_many(300)
    names = [balancer.values[id].id for id in ids]
    members = list("abc")
    for i in range(200):
        members = [*members[1:], f"n{i}"]
        balancer.update(members)
        for id, name in enumerate("abc", 1):
            backend = balancer.values[id]
            assert backend is None or backend.id == name
    assert set(names) == set("abc")
    assert len(balancer.values) <= 300


def test_an_id_rests_until_256_others_have_been_given_back() -> None:
    balancer = Balancer(["a", "b"], "round_robin")
    balancer.remove("a")
    assert balancer.values[1] is None
    for i in range(256):
        balancer.add(f"n{i}")
        balancer.remove(f"n{i}")
        assert balancer.values[1] is None
    balancer.add("late")
    assert balancer.values[1].id == "late"


@pytest.mark.parametrize("policy", Balancer.POLICIES)
def test_leases_count_when_their_backend_comes_back(policy: str) -> None:
    balancer = Balancer(["a", "b"], policy, max_in_flight=2, seed=1)
    leases = [balancer.acquire(key) for key in range(40)]
    assert [balancer.in_flight(id) for id in "ab"] == [2, 2]
    balancer.remove("a")
    with pytest.raises(KeyError):
        balancer.in_flight("a")
    balancer.add(("a", 3))
    assert balancer.in_flight("a") == 2
    assert balancer.in_flight() == 4
    assert balancer.status("a").full
    assert not balancer.acquire()
    mine = [lease for lease in leases if lease and lease.backend.id == "a"]
    mine.pop().release()
    assert balancer.pick().id == "a"
    assert balancer.in_flight("a") == 1
    # Twice, and through an update; who stays away meanwhile is another matter.
    balancer.update(["b"])
    balancer.add("c")
    assert balancer.in_flight("c") == 0
    balancer.update(["a", "b", "c"])
    assert balancer.in_flight("a") == 1
    balancer.remove("a")
    mine.pop().release()
    balancer.add("a")
    assert balancer.in_flight("a") == 0
    for lease in leases:
        lease.release()
    assert balancer.in_flight() == 0
    assert [balancer.in_flight(id) for id in "abc"] == [0, 0, 0]
    assert not any(balancer.status(id).full for id in "abc")


def test_members_with_leases_come_and_go() -> None:
    random = np.random.default_rng(5)
    balancer = Balancer([f"m{i}" for i in range(8)], "least_request", max_in_flight=4)
    held: list[Any] = []
    for _ in range(4000):
        id = f"m{random.integers(8)}"
        match random.integers(4):
            case 0 if id in balancer:
                balancer.remove(id)
            case 1 if id not in balancer:
                balancer.add(id)
            case 2 if held:
                held.pop(random.integers(len(held))).release()
            case _:
                lease = balancer.acquire()
                held += [lease] if lease else []
        counts = Counter(lease.backend.id for lease in held)
        assert max(counts.values(), default=0) <= 4
        for backend in balancer:
            assert balancer.in_flight(backend.id) == counts[backend.id]
        assert balancer.in_flight() == len(held)


# --- weights of rings and of jump ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "weights",
    [[1e-3, 2e-3], [1e-6, 2e-6], [1e-18, 3e-18], [1e5, 2e5], [2.0**32, 2.0**31], [0.3, 0.7, 1.1]]
    + [[2.0**32, 1.0], [1.0, 1.0, 1e-4], [1e-18, 2.0**32]],
)
def test_rings_keep_the_shares_of_any_weights(weights: list[float]) -> None:
    balancer = Balancer([(f"w{i}", weight) for i, weight in enumerate(weights)], "ketama")
    hashes = np.random.default_rng(9).integers(0, 1 << 64, 50_000, dtype=np.uint64)
    shares = np.bincount(balancer.pick_many(hashes), minlength=len(weights) + 1)[1:] / len(hashes)
    # 160 points own a share that is off by 1 / sqrt(160) of it, or 8 %.
    for share, weight in zip(shares, weights, strict=True):
        assert share == pytest.approx(weight / sum(weights), rel=0.25, abs=0.001)


def test_a_part_of_a_point_is_worth_its_part() -> None:
    hashes = np.random.default_rng(9).integers(0, 1 << 64, 20_000, dtype=np.uint64)
    counts = []
    for salt in range(200):
        balancer = Balancer([(f"{salt}a", 1), (f"{salt}b", 1), (f"{salt}c", 0.002)], "ketama")
        before = balancer.pick_many(hashes)
        counts.append(np.count_nonzero(before == 3))
        balancer.remove(f"{salt}c")
        after = balancer.pick_many(hashes)
        # It took from others, and moved nothing among them.
        assert np.array_equal(before[before != 3], after[before != 3])
    # 0.32 points of 320: a thousandth. Arcs are exponential, so the mean is off by 1 / sqrt(200) of it.
    assert np.mean(counts) / len(hashes) == pytest.approx(0.001, rel=0.3)


def test_ring_points_of_the_twin() -> None:
    for weights in ([1.0, 0.3, 2.51], [0.01, 0.003, 1e-5], [0.5, 0.25], [1.0, 1e-3, 1e-3, 1e-3], [3e5, 1e5]):
        points = 7 if max(weights) < 1000 else 1000
        balancer = Balancer(
            [(f"r{i}", weight) for i, weight in enumerate(weights)], "ketama", points_per_weight=points
        )
        [(_, _, _, _, _, hashes, owners)] = balancer._tiers()
        expected = ring([f"r{i}" for i in range(len(weights))], weights, points)
        assert list(zip(hashes, [owner - 1 for owner in owners], strict=True)) == expected


@pytest.mark.parametrize("order", ["abc", "bca", "cab"])
def test_a_raise_of_jump_in_slow_start_follows_the_weight(order: str) -> None:
    clock = Clock()
    balancer = Balancer(list(order), "jump", seed=1, slow_start_s=100.0, clock=clock)
    hashes = np.random.default_rng(3).integers(0, 1 << 64, 40_000, dtype=np.uint64)
    mine = 1 + order.index("a")
    seen = [balancer.pick_many(hashes)]
    balancer.set_weight("a", 3)
    for elapsed in range(0, 111, 10):
        clock.now = 1000.0 + elapsed
        seen.append(balancer.pick_many(hashes))
        weight = balancer.status("a").effective_weight
        assert np.mean(seen[-1] == mine) == pytest.approx(weight / (2 + weight), abs=0.01)
        assert np.array_equal(
            seen[-1][:200], [balancer.values.index(balancer.pick(int(h))) for h in hashes[:200]]
        )
    assert (np.diff(np.array(seen).astype(np.int64), axis=0) != 0).sum(axis=0).max() == 1


def test_metadata_stays_as_it_was_given() -> None:
    given = {"zone": "a", "tags": ["x"]}
    backend = Backend("a", metadata=given)
    given["zone"] = "b"
    assert backend.metadata == {"zone": "a", "tags": ["x"]}
    assert Backend("a", metadata=dict(backend.metadata)) == backend
    assert hash(backend) == hash(Backend("a"))
    changes: list[Any] = [
        lambda m: m.__setitem__("zone", "c"),
        lambda m: m.__delitem__("zone"),
        lambda m: m.update(zone="c"),
        lambda m: m.pop("zone"),
        lambda m: m.popitem(),
        lambda m: m.setdefault("y", 1),
        lambda m: m.clear(),
        lambda m: m.__ior__({"y": 1}),
    ]
    for change in changes:
        with pytest.raises(TypeError, match="cannot be changed"):
            change(backend.metadata)
    for twin in (copy.copy(backend), copy.deepcopy(backend), pickle.loads(pickle.dumps(backend))):
        assert twin == backend
        assert twin.metadata == backend.metadata
        with pytest.raises(TypeError, match="cannot be changed"):
            twin.metadata["y"] = 1
    assert dataclasses.asdict(backend)["metadata"] == {"zone": "a", "tags": ["x"]}
    assert dataclasses.replace(backend, weight=2).metadata == backend.metadata
    assert json.loads(json.dumps(backend.metadata)) == backend.metadata
    assert repr(backend.metadata) == "{'zone': 'a', 'tags': ['x']}"


@pytest.mark.parametrize("policy", Balancer.POLICIES)
def test_a_panic_that_fails_does_so_every_time(policy: str) -> None:
    balancer = Balancer([str(i) for i in range(10)], policy, panic_mode="fail", seed=1)
    for _ in range(3):
        for healthy in (False, True):
            for i in range(6):
                balancer.set_healthy(str(i), healthy)
            for picked in ([balancer.pick() for _ in range(30)], [balancer.pick(key) for key in range(30)]):
                assert all(picked) if healthy else not any(picked)
            assert bool(balancer.pick_many(50).all()) == healthy == bool(balancer.pick_many(50).any())


def test_more_priorities_than_sixteen_bits_number() -> None:
    first = [Backend(str(i), priority=i) for i in range(65_536)]
    balancer = Balancer(
        [*first, Backend("x", priority=65_536), Backend("y", priority=65_536)], "least_request"
    )
    balancer.set_healthy("x", False)
    lease = balancer.acquire()
    assert lease.backend.id == "0"
    lease.release()
    assert (balancer.in_flight("0"), balancer.in_flight("x")) == (0, 0)


def test_ties_of_fractional_loads_are_the_same_for_explain_and_pick() -> None:
    balancer = Balancer([("a", 0.1), ("b", 0.3), ("c", 5)], "least_request", seed=1)
    leases = [balancer.acquire() for _ in range(60)]
    for _ in range(300):
        told = balancer.explain().backend
        assert balancer.pick() == told
    for lease in leases:
        told = balancer.explain().backend
        assert balancer.pick() == told
        lease.release()


def test_batches_of_pymemcache_beside_edits() -> None:
    """Its scores are made from the backends' names, which an edit moves."""
    balancer = Balancer([f"{i:040}" for i in range(40)], "rendezvous", compat="pymemcache")
    hashes = np.random.default_rng(1).integers(0, 2**63, 20_000, dtype=np.uint64)
    stop = threading.Event()

    def edit() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            balancer.add(f"{number:0400}")
            balancer.remove(f"{number:0400}")

    thread = threading.Thread(target=edit)
    thread.start()
    try:
        known = set(balancer.pick_many(hashes).tolist())
        for _ in range(20):
            known |= set(balancer.pick_many(hashes).tolist())
    finally:
        stop.set()
        thread.join()
    assert 0 not in known


# --- several priorities at a time ---------------------------------------------------------------------------

EVEN = [1] * 8
WHOLE = [5, 1, 1, 2, 3, 1, 2, 4]
BROKEN = [1.25, 0.3, 1.1, 0.7, 1.05, 0.45, 0.9, 1.3]  # without a period


def counted(balancer: Balancer, n: int) -> dict[str, float]:
    ids = balancer.pick_many(n)
    values = balancer.values
    return {values[id].id if id else "": int(count) / n for id, count in enumerate(np.bincount(ids)) if count}


@pytest.mark.parametrize("ill", [(), (0,), (0, 1, 2), (5, 7)])
@pytest.mark.parametrize(
    ("policy", "weights"),
    [("round_robin", EVEN), ("weighted_round_robin", WHOLE), ("weighted_round_robin", BROKEN)],
)
def test_who_is_ill_leaves_its_share_to_all(policy: str, weights: list[float], ill: tuple[int, ...]) -> None:
    backends = [Backend(f"{p}-{i}", weight=w, priority=p) for p in (0, 1) for i, w in enumerate(weights)]
    balancer = Balancer(backends, policy, seed=3, overprovisioning=1.0)
    for i in (*ill, 6):
        balancer.set_healthy(f"0-{i}", False)
    if ill:
        balancer.set_healthy("1-3", False)
    got = counted(balancer, 40000)
    first = 100 * (7 - len(ill)) // 8 / 100
    for p, load, out in ((0, first, (*ill, 6)), (1, 1 - first, (3,) if ill else ())):
        able = {f"{p}-{i}": w for i, w in enumerate(weights) if i not in out}
        for id, weight in able.items():
            # Places are taken in turns; where there is no period they are drawn, with a deviation of 0.002.
            assert got.pop(id) == pytest.approx(load * weight / sum(able.values()), abs=0.009)
    assert not got


def test_shares_of_round_robin_beside_an_ill_one_are_exact() -> None:
    backends = [Backend(f"{p}-{i}", priority=p) for p in (0, 1) for i in range(10)]
    balancer = Balancer(backends, "round_robin", seed=1, overprovisioning=1.0)
    balancer.set_healthy("0-4", False)
    n = 100 * 10 * 10  # ten turns of every place
    got = counted(balancer, n)
    # In ten turns, what the ill one leaves reaches each of the ten once; itself once, and that one goes on.
    for i in range(10):
        assert got.get(f"0-{i}", 0.0) * n == pytest.approx(0 if i == 4 else 0.9 * n / 9, abs=n / 1000)
        assert got[f"1-{i}"] * n == pytest.approx(0.1 * n / 10, abs=1)


@pytest.mark.parametrize("policy", ["round_robin", "weighted_round_robin"])
def test_moved_fraction_beside_a_loaded_priority(policy: str) -> None:
    backends = [Backend(f"{p}-{i}", priority=p) for p in (0, 1) for i in range(8)]
    balancer = Balancer(backends, policy, seed=1, overprovisioning=1.0)
    for i in range(3):
        balancer.set_healthy(f"0-{i}", False)
    before = counted(balancer, 40000)
    change = balancer.update([backend for backend in backends if backend.id != "0-5"])
    after = counted(balancer, 40000)
    moved = sum(abs(before.get(id, 0) - after.get(id, 0)) for id in before.keys() | after.keys()) / 2
    assert change.moved_fraction == pytest.approx(moved, abs=0.005)


@pytest.mark.parametrize("policy", ["round_robin", "weighted_round_robin"])
def test_what_a_full_priority_leaves_goes_to_all(policy: str) -> None:
    # Twenty divides the hundred of the pattern: the positions of the second priority meet places unevenly.
    backends = [Backend(f"0-{i}", priority=0) for i in range(20)] + [Backend("1", priority=1)]
    balancer = Balancer(backends, policy, seed=1, overprovisioning=1.0, max_in_flight=1)
    for i in range(10):
        balancer.set_healthy(f"0-{i}", False)
    lease = balancer.acquire()
    while lease.backend.id != "1":
        lease.release()
        lease = balancer.acquire()
    got = counted(balancer, 40000)
    assert set(got) == {f"0-{i}" for i in range(10, 20)}
    assert max(got.values()) < 1.05 * min(got.values())
    lease.release()


@pytest.mark.parametrize("policy", ["round_robin", "weighted_round_robin", "maglev"])
def test_a_priority_that_fails_in_panic_is_not_taken_over(policy: str) -> None:
    backends = [Backend(f"{p}-{i}", priority=p) for p in (0, 1) for i in range(4)]
    balancer = Balancer(backends, policy, seed=1, overprovisioning=1.0, panic_mode="fail")
    for id in ("0-0", "0-1", "0-2", "1-0", "1-1"):
        balancer.set_healthy(id, False)
    # A quarter and a half are healthy: a third and two thirds of the traffic, and the first one panics.
    got = counted(balancer, 10000)
    assert got.pop("") == pytest.approx(0.34, abs=0.02)
    assert set(got) == {"1-2", "1-3"}


@pytest.mark.parametrize("policy", Balancer.POLICIES)
def test_everybody_is_picked_in_panic(policy: str) -> None:
    balancer = Balancer([str(i) for i in range(5)], policy, seed=1)
    for i in range(4):
        balancer.set_healthy(str(i), False)
    leases = [balancer.acquire(i << 54 if policy in HASH_POLICIES else None) for i in range(1000)]
    counts = Counter(lease.backend.id for lease in leases)
    assert set(counts) == set("01234")
    assert min(counts.values()) > 100


@pytest.mark.parametrize("policy", Balancer.POLICIES)
def test_a_zone_that_changes(policy: str) -> None:
    balancer = Balancer([Backend(id, zone="x") for id in "abcd"], policy, seed=1, local_zone="x")
    balancer.update([Backend(id, zone="x" if id in "ab" else "y") for id in "abcd"])
    assert {balancer.pick().id for _ in range(200)} == {"a", "b"}


# --- clocks, points and leases at their limits --------------------------------------------------------------


@pytest.mark.parametrize("start", [-1e9, -1e6, -2500.0, 0.0, 1e9])
def test_latencies_by_clocks_that_begin_anywhere(start: float) -> None:
    clock = Clock(start)
    balancer = Balancer(["fast", "slow"], "peak_ewma", seed=1, clock=clock)
    balancer.report("slow", True, 1.0)
    balancer.report("fast", True, 0.01)
    for _ in range(3):
        assert {balancer.pick().id for _ in range(100)} == {"fast"}
        clock.now += 5.0
    assert balancer.status("slow").latency_s == pytest.approx(np.exp(-1.5))
    balancer.report("fast", False)
    assert balancer.status("fast").latency_s == pytest.approx(max(1.0, 8 * np.exp(-1.5)))
    assert {balancer.pick().id for _ in range(100)} == {"slow"}


def test_what_failures_cost_is_forgotten_over_long_times() -> None:
    clock = Clock()
    balancer = Balancer(["a", "b"], "peak_ewma", seed=1, clock=clock)
    balancer.report("a", True, 3.0)
    clock.now += 1000 * 10.0  # as many decay times
    balancer.report("a", True, 0.001)
    balancer.report("b", False)
    assert balancer.status("b").latency_s == pytest.approx(1.0)


def test_a_ring_of_one_owner_among_many() -> None:
    options = {"compat": "envoy", "min_ring_size": 1, "max_ring_size": 1}
    balancer = Balancer([("tiny", 1e-9), ("all", 1.0)], "ketama", seed=1, **options)
    owner = {balancer.pick(key).id for key in range(0, 1 << 64, (1 << 64) // 50)}
    assert len(owner) == 1
    assert {balancer.pick().id for _ in range(200)} == owner
    assert set(counted(balancer, 10000)) == owner


def test_a_retry_budget_of_decimals_is_whole() -> None:
    balancer = Balancer(["a"], retry_budget=0.29, min_retries=0)
    leases = [balancer.acquire() for _ in range(100)]
    retries = [balancer.acquire(retry=True) for _ in range(28)]
    for lease in leases[:28]:
        lease.release()
    assert all(retries)
    assert balancer.in_flight() == 100
    assert balancer.acquire(retry=True)  # 0.29 * 100 is below 29 in doubles


def test_a_request_that_was_given_up_early_lowers_no_cost() -> None:
    clock = Clock()
    balancer = Balancer(["a"], "peak_ewma", clock=clock)
    balancer.report("a", True, 2.0)
    clock.now += 5.0
    with pytest.raises(KeyboardInterrupt), balancer.acquire():
        clock.now += 0.1
        raise KeyboardInterrupt
    assert balancer.status("a").latency_s == pytest.approx(2.0 * np.exp(-0.51))


def failing(clock: Clock, **changes: Any) -> Balancer:
    settings = {"consecutive_failures": 2, "base_ejection_s": 10.0, "max_ejected": 0.1, "jitter_s": 0.0}
    outlier = OutlierDetection(**{**settings, **changes})
    return Balancer([str(i) for i in range(10)], seed=1, clock=clock, outlier=outlier)


def test_reports_alone_eject_again() -> None:
    clock = Clock()
    balancer = failing(clock)
    for _ in range(2):
        balancer.report("0", False)
    clock.now += 10.5
    for _ in range(2):
        balancer.report("0", False)
    clock.now += 10.5  # the second one takes twice as long
    assert balancer.status("0").ejected


def test_an_ejection_is_never_shorter_than_its_base() -> None:
    clock = Clock()
    balancer = failing(clock, base_ejection_s=600.0, max_ejection_s=300.0)
    for _ in range(2):
        balancer.report("0", False)
    clock.now += 590.0
    assert balancer.status("0").ejected
    clock.now += 11.0
    assert not balancer.status("0").ejected


def test_rates_are_those_of_one_interval() -> None:
    clock = Clock()
    settings = {"consecutive_failures": 0, "stdev_factor": 0.0, "min_hosts": 1, "min_requests": 10}
    balancer = failing(clock, interval_s=10.0, base_ejection_s=100.0, **settings)
    for _ in range(100):
        balancer.report("0", True)
    clock.now += 11.0
    balancer.pick()
    for _ in range(100):
        balancer.report("0", False)
    clock.now += 11.0
    assert balancer.status("0").ejected


def test_who_is_removed_is_ejected_no_more() -> None:
    balancer = failing(Clock())
    for _ in range(2):
        balancer.report("0", False)
    balancer.remove("0")
    for _ in range(2):
        balancer.report("1", False)
    assert balancer.status("1").ejected  # one in ten may be


def test_who_comes_back_has_no_record() -> None:
    balancer = failing(Clock())
    leases = [balancer.acquire() for _ in range(10)]  # by which it gets its id again
    balancer.report("0", False)
    balancer.remove("0")
    balancer.add("0")
    balancer.report("0", False)
    assert not balancer.status("0").ejected
    balancer.report("0", False)
    assert balancer.status("0").ejected
    for lease in leases:
        lease.release()


def test_ids_with_leases_do_not_rest() -> None:
    balancer = Balancer(["a"], "round_robin")
    lease = balancer.acquire()
    id = balancer._slot("a")
    balancer.remove("a")
    for i in range(600):
        balancer.add(f"x{i}")
        assert balancer._slot(f"x{i}") != id
        balancer.remove(f"x{i}")
    lease.release()
    for i in range(600):
        balancer.add(f"y{i}")
        again = balancer._slot(f"y{i}") == id
        balancer.remove(f"y{i}")
        if again:
            break
    assert again
