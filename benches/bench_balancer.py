"""The balancer: one pick, one lease, many picks, and what an edit costs."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from fastpath import Backend, Balancer, OutlierDetection

BACKENDS = [Backend(f"10.0.{i // 250}.{i % 250}:80", weight=1 + i % 7) for i in range(10000)]
CONSTANT = [
    "round_robin",
    "weighted_round_robin",
    "random",
    "weighted_random",
    "power_of_two",
    "peak_ewma",
    "maglev",
    "ketama",
    "stable",
]
SIZES = [10, 100, 1000, 10000]
HASHED = ["maglev", "ketama", "stable", "jump", "rendezvous"]
BATCH = 1 << 20
KEY = b"0123456789abcdef"


def made(policy: str, n: int = 100, **options) -> Balancer:
    balancer = Balancer(BACKENDS[:n], policy, seed=1, **options)
    balancer.pick()
    return balancer


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("policy", [*CONSTANT, "jump", "least_request", "rendezvous"])
@pytest.mark.benchmark(group="pick()")
def test_fastpath_pick(measure, policy: str, n: int) -> None:
    measure(made(policy, n).pick)


@pytest.mark.parametrize("policy", ["weighted_round_robin", "power_of_two", "peak_ewma"])
@pytest.mark.benchmark(group="pick()")
def test_fastpath_pick_with_outlier_detection(measure, policy: str) -> None:
    balancer = made(policy, outlier=OutlierDetection())
    balancer.report(BACKENDS[0].id)
    measure(balancer.pick)


@pytest.mark.benchmark(group="pick()")
def test_limit_an_empty_cython_method(measure) -> None:
    lease = made("random").acquire()
    lease.release()
    measure(lease.release)


@pytest.mark.benchmark(group="pick()")
def test_random_choices(measure) -> None:
    weights = list(itertools.accumulate(backend.weight for backend in BACKENDS[:100]))
    measure(lambda: random.choices(BACKENDS[:100], cum_weights=weights))


@pytest.mark.benchmark(group="pick()")
def test_numpy_choice(measure, rng: np.random.Generator) -> None:
    weights = np.array([backend.weight for backend in BACKENDS[:100]], dtype=float)
    shares = weights / weights.sum()
    measure(lambda: rng.choice(100, p=shares))


@pytest.mark.benchmark(group="pick()")
def test_itertools_cycle(measure) -> None:
    measure(itertools.cycle(BACKENDS[:100]).__next__)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("policy", HASHED)
@pytest.mark.benchmark(group="pick(16-byte key)")
def test_fastpath_pick_key(measure, policy: str, n: int) -> None:
    measure(made(policy, n).pick, KEY)


@pytest.mark.parametrize("n", [100, 10000])
@pytest.mark.parametrize("policy", HASHED)
@pytest.mark.benchmark(group="pick(one of 65536 keys)")
def test_fastpath_pick_keys(measure, policy: str, n: int) -> None:
    keys = itertools.cycle([b"%016d" % i for i in range(65536)]).__next__
    pick = made(policy, n).pick
    measure(lambda: pick(keys()))


@pytest.mark.benchmark(group="pick(one of 65536 keys)")
def test_uhashring_keys(measure) -> None:
    uhashring = pytest.importorskip("uhashring")
    ring = uhashring.HashRing([backend.id for backend in BACKENDS[:100]])
    keys = itertools.cycle([f"{i:016}" for i in range(65536)]).__next__
    measure(lambda: ring.get_node(keys()))


@pytest.mark.parametrize("n", [10, 100, 1000])
@pytest.mark.benchmark(group="pick(16-byte key)")
def test_uhashring(measure, n: int) -> None:
    uhashring = pytest.importorskip("uhashring")
    ring = uhashring.HashRing([backend.id for backend in BACKENDS[:n]])
    measure(ring.get_node, KEY.decode())


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.benchmark(group="pick(int)")
def test_jump_consistent_hash(measure, n: int) -> None:
    jump = pytest.importorskip("jump")
    buckets = sum(backend.weight for backend in BACKENDS[:n])
    measure(jump.hash, 0xDEAD10CC, buckets)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("policy", ["jump", "maglev"])
@pytest.mark.benchmark(group="pick(int)")
def test_fastpath_pick_int(measure, policy: str, n: int) -> None:
    measure(made(policy, n).pick, 0xDEAD10CC)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("policy", ["power_of_two", "least_request", "peak_ewma", "maglev"])
@pytest.mark.benchmark(group="acquire and release")
def test_fastpath_lease(measure, policy: str, n: int) -> None:
    acquire = made(policy, n).acquire
    measure(lambda: acquire().release())


@pytest.mark.benchmark(group="acquire and release")
def test_fastpath_lease_with_bound(measure) -> None:
    acquire = made("maglev", load_bound=1.25).acquire
    measure(lambda: acquire(KEY).release())


@pytest.mark.parametrize("policy", ["maglev", "weighted_round_robin", "least_request"])
@pytest.mark.benchmark(group="health flip")
def test_fastpath_set_healthy(measure, policy: str) -> None:
    balancer = made(policy, 10000)
    flip, id = balancer.set_healthy, BACKENDS[5].id

    def there_and_back() -> None:
        flip(id, False)
        flip(id, True)

    measure(there_and_back, operations=2)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("policy", [*CONSTANT, "jump", "rendezvous"])
@pytest.mark.benchmark(group="pick_many(n)")
def test_fastpath_pick_many(measure, policy: str, n: int) -> None:
    out = np.empty(BATCH, dtype=np.uint32)
    balancer = made(policy, n)
    measure(lambda: balancer.pick_many(BATCH, out=out), operations=BATCH)


@pytest.mark.benchmark(group="pick_many(n)")
def test_numpy_choice_by_weight(measure, rng: np.random.Generator) -> None:
    weights = np.array([backend.weight for backend in BACKENDS[:100]], dtype=float)
    measure(lambda: rng.choice(100, size=BATCH, p=weights / weights.sum()), operations=BATCH)


@pytest.mark.benchmark(group="pick_many(n)")
def test_random_choices_many(measure) -> None:
    weights = list(itertools.accumulate(backend.weight for backend in BACKENDS[:100]))
    measure(lambda: random.choices(BACKENDS[:100], cum_weights=weights, k=BATCH), operations=BATCH)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("down", [0, 1])
@pytest.mark.parametrize("policy", ["maglev", "ketama", "stable", "jump"])
@pytest.mark.benchmark(group="pick_many(hashes)")
def test_fastpath_pick_many_hashes(measure, rng: np.random.Generator, policy: str, down: int, n: int) -> None:
    hashes = rng.integers(0, 1 << 64, BATCH, dtype=np.uint64)
    out = np.empty(BATCH, dtype=np.uint32)
    balancer = made(policy, n)
    for backend in BACKENDS[:down]:
        balancer.set_healthy(backend.id, False)
    measure(lambda: balancer.pick_many(hashes, out=out), operations=BATCH)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.benchmark(group="pick_many(16-byte keys)")
def test_fastpath_pick_many_keys(measure, rng: np.random.Generator, n: int) -> None:
    keys = rng.integers(0, 256, (BATCH, 16), dtype=np.uint8)
    out = np.empty(BATCH, dtype=np.uint32)
    balancer = made("maglev", n)
    measure(lambda: balancer.pick_many(keys, out=out), operations=BATCH)


@pytest.mark.parametrize("n", [100, 1000, 10000])
@pytest.mark.parametrize(
    "policy", ["weighted_round_robin", "weighted_random", "maglev", "stable", "repaired"]
)
@pytest.mark.benchmark(group="one weight changed")
def test_fastpath_rebuild(measure, policy: str, n: int) -> None:
    options = {"repair": True} if policy == "repaired" else {}
    balancer = made("stable" if policy == "repaired" else policy, n, **options)
    weights = itertools.cycle([8, 9])

    def change() -> None:
        balancer.set_weight(BACKENDS[0].id, next(weights))
        balancer.pick()

    measure(change)


@pytest.mark.benchmark(group="one weight changed")
def test_uhashring_rebuild(measure) -> None:
    uhashring = pytest.importorskip("uhashring")
    nodes = {backend.id: backend.weight for backend in BACKENDS[:100]}
    measure(lambda: uhashring.HashRing(nodes))


@pytest.mark.benchmark(group="bytes a backend (in extra_info)")
def test_fastpath_bytes(benchmark) -> None:
    for policy in Balancer.POLICIES:
        for n in SIZES:
            balancer = made(policy, n, **({"sticky_keys": 0} if policy in HASHED else {}))
            benchmark.extra_info[f"{policy}, {n}"] = round(balancer.nbytes / n, 1)
    benchmark(lambda: balancer.nbytes)
