"""The compiled balancer beside its twin: the same picks through every edit, flip and lease."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fastpath import Backend, Balancer
from fastpath import _balancer as compiled
from fastpath.reference import balancer as reference
from fastpath.reference.balancer import HASH_POLICIES, ReferenceBalancer

POLICIES = (
    "round_robin",
    "weighted_round_robin",
    "random",
    "weighted_random",
    "least_request",
    "power_of_two",
    "peak_ewma",
    *HASH_POLICIES,
)
# Hashes spread by the twin's own mixing; few, so that keys come back.
KEYS = [reference.draw(99, i) for i in range(40)]
IDS = [f"b{i}" for i in range(8)]
weights = st.sampled_from([0, 1, 1, 2, 3, 5, 7])


def wanted_backends(balancer: Balancer, wanted: dict[str, int]) -> list[Backend]:
    """Those who stay where they are keep their place."""
    return [
        dataclasses.replace(balancer.get(id) or Backend(id, zone="here"), weight=weight)
        for id, weight in wanted.items()
    ]


class Machine(RuleBasedStateMachine):
    policy = ""

    @initialize(
        seed=st.integers(0, (1 << 64) - 1),
        bound=st.sampled_from([None, 1.0, 1.25, 2.0]),
        limit=st.sampled_from([None, 2]),
        mode=st.sampled_from(["all", "fail"]),
        threshold=st.sampled_from([0.5, 0.0]),
        slow_start_s=st.sampled_from([0.0, 10.0]),
        subset=st.sampled_from([None, None, 1, 3, 100]),
        start=st.sampled_from([1000.0, -1e7]),
    )
    def begin(
        self,
        seed: int,
        bound: float | None,
        limit: int | None,
        mode: str,
        threshold: float,
        slow_start_s: float,
        subset: int | None,
        start: float,
    ) -> None:
        self.now = start
        options: dict[str, Any] = {
            "seed": seed,
            "table_size": 251,
            "points_per_weight": 5,
            "load_bound": bound if self.policy in HASH_POLICIES else None,
            "max_in_flight": limit,
            "panic_mode": mode,
            "panic_threshold": threshold,
            "slow_start_s": slow_start_s,
            "subset_size": subset,
            "clock": lambda: self.now,
        }
        self.real = Balancer((), self.policy, local_zone="here", **options)
        self.twin = ReferenceBalancer(self.policy, **options)
        self.leases: list[Any] = []
        self.began: dict[Any, float] = {}

    def both_pick(self, key: int | None) -> Any:
        explained = self.real.explain(key)
        before = self.real.position
        backend = self.real.pick(key)
        expected = self.twin.pick(key)
        assert (backend.id if backend else None) == expected
        assert explained.backend == backend
        assert self.real.position == self.twin.position
        assert self.real.position >= before
        return backend

    @rule(
        id=st.sampled_from(IDS),
        weight=weights,
        priority=st.sampled_from([0, 0, 0, 1]),
        zone=st.sampled_from(["here", "here", "there"]),
    )
    def add(self, id: str, weight: int, priority: int, zone: str) -> None:
        backend = Backend(id, weight=weight, priority=priority, zone=zone)
        if id in self.twin.members:
            with pytest.raises(ValueError, match="is there already"):
                self.real.add(backend)
            with pytest.raises(ValueError, match="is there already"):
                self.twin.add(id)
        else:
            self.real.add(backend)
            self.twin.add(id, weight, priority, zone == "here")

    @rule(id=st.sampled_from(IDS))
    def remove(self, id: str) -> None:
        if id in self.twin.members and not self.twin.members[id].in_flight:
            self.real.remove(id)
            self.twin.remove(id)
        elif id not in self.twin.members:
            with pytest.raises(KeyError):
                self.real.remove(id)
            with pytest.raises(KeyError):
                self.twin.remove(id)

    @rule(id=st.sampled_from(IDS), weight=weights)
    def set_weight(self, id: str, weight: int) -> None:
        if id in self.twin.members:
            self.real.set_weight(id, weight)
            self.twin.set_weight(id, weight)

    @rule(more=st.sampled_from([0.001, 0.5, 3.0, 20.0]))
    def wait(self, more: float) -> None:
        self.now += more

    @rule(id=st.sampled_from(IDS), ok=st.booleans(), latency_s=st.sampled_from([0.0, 0.01, 0.2, 5.0]))
    def report(self, id: str, ok: bool, latency_s: float) -> None:
        if id in self.twin.members:
            self.real.report(id, ok, latency_s)
            self.twin.report(id, ok, latency_s)

    @rule(wanted=st.dictionaries(st.sampled_from(IDS), weights, max_size=6))
    def update(self, wanted: dict[str, int]) -> None:
        if self.leases:
            return
        held = {id: member.weight for id, member in self.twin.members.items()}
        change = self.real.update(wanted_backends(self.real, wanted))
        assert change.added == tuple(id for id in wanted if id not in held)
        assert change.removed == tuple(id for id in held if id not in wanted)
        assert 0 <= change.moved_fraction <= 1
        for id in change.added:
            self.twin.add(id, wanted[id])
        for id in change.changed:
            self.twin.set_weight(id, wanted[id])
        for id in change.removed:
            self.twin.remove(id)

    @rule(id=st.sampled_from(IDS), healthy=st.booleans())
    def set_healthy(self, id: str, healthy: bool) -> None:
        if id in self.twin.members:
            self.real.set_healthy(id, healthy)
            self.twin.members[id].healthy = healthy

    @rule(id=st.sampled_from(IDS), on=st.booleans())
    def drain(self, id: str, on: bool) -> None:
        if id in self.twin.members:
            self.real.drain(id, on)
            self.twin.members[id].draining = on

    @rule(key=st.sampled_from(KEYS), keyed=st.booleans())
    def pick(self, key: int, keyed: bool) -> None:
        self.both_pick(key if keyed else None)

    @rule(key=st.sampled_from(KEYS))
    def acquire(self, key: int) -> None:
        expected = self.twin.pick(key)
        lease = self.real.acquire(key)
        assert (lease.backend.id if lease else None) == expected
        if lease:
            self.twin.members[lease.backend.id].in_flight += 1
            self.leases.append(lease)
            self.began[lease] = self.now

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.leases:
            lease = self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1)))
            self.twin.members[lease.backend.id].in_flight -= 1
            if self.policy == "peak_ewma":
                self.twin.report(lease.backend.id, True, self.now - self.began.pop(lease))
            lease.release()
            lease.release()

    @rule(n=st.integers(0, 30))
    def pick_many(self, n: int) -> None:
        ids = self.real.pick_many(n)
        values = self.real.values
        for id in ids:
            expected = self.twin.pick()
            assert (values[id].id if id else None) == expected
        assert self.real.position == self.twin.position

    @rule()
    def pick_many_hashes(self) -> None:
        if self.policy in HASH_POLICIES:
            ids = self.real.pick_many(np.array(KEYS, dtype=np.uint64))
            known = set(self.twin.known)
            for key, id in zip(KEYS, ids, strict=True):
                expected = self.twin.pick(key)
                assert (self.real.values[id].id if id else None) == expected
            self.twin.known = known

    @rule(key=st.sampled_from(KEYS))
    def picks_are_distinct(self, key: int) -> None:
        position = self.twin.position
        first = self.twin.pick(key)
        walk = [backend.id for backend in self.real.picks(key)]
        assert walk[:1] == ([first] if first else [])
        assert len(walk) == len(set(walk))
        self.real.position = self.twin.position = max(position, self.twin.position)

    @invariant()
    def counts_agree(self) -> None:
        if hasattr(self, "real"):
            assert len(self.real) == len(self.twin.members)
            assert self.real.in_flight() == len(self.leases)
            for member in self.twin.members.values():
                assert self.real.in_flight(member.id) == member.in_flight


def machine(policy: str) -> type[RuleBasedStateMachine]:
    return type(f"Machine_{policy}", (Machine,), {"policy": policy})


@pytest.mark.parametrize("policy", POLICIES)
def test_picks_agree(policy: str) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        machine(policy),
        settings=settings(
            max_examples=15,
            stateful_step_count=30,
            deadline=None,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


small_weights = st.lists(st.integers(1, 12), min_size=1, max_size=6)


@given(small_weights)
def test_schedules(some: list[int]) -> None:
    assert compiled.smooth_schedule(some) == reference.smooth_schedule(some)
    assert compiled.even_schedule(some) == reference.even_schedule(some)
    order = reference.even_schedule(some)
    assert reference.deviation(order, some) < 1
    starts = reference.even_starts(order, some)
    assert compiled.even_starts(order) == starts
    assert starts[0] == 0


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(0, 1 << 40))
@settings(max_examples=40, deadline=None)
def test_no_prefix_is_a_pick_off(some: list[int], start: int) -> None:
    backends = [(str(i), weight) for i, weight in enumerate(some)]
    balancer = Balancer(backends, seed=1)
    balancer.position = start * sum(some)
    anywhere = Balancer()
    for backend in backends:
        anywhere.add(backend)
    for one in (balancer, Balancer(backends), anywhere):
        order = [id - 1 for id in one.pick_many(sum(some)).tolist()]
        assert reference.deviation(order, some) < Fraction(1)


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=6),
    st.sampled_from([1.0, 1.4, 2.0]),
    st.sampled_from([0.0, 0.3, 0.5, 1.0]),
)
def test_priority_loads(pairs: list[tuple[int, int]], factor: float, threshold: float) -> None:
    totals = [max(pair) for pair in pairs]
    healthy = [min(pair) for pair in pairs]
    loads = compiled.priority_loads(healthy, totals, factor, threshold)
    assert loads == reference.priority_loads(healthy, totals, round(factor * 100), threshold * 100)
    assert sum(load for load, _ in loads) in (0, 100)


@given(st.lists(st.sampled_from([1, 2, 3, 100, 12345]), min_size=1, max_size=60), st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_tables_with_weights_far_apart(some: list[int], salt: int) -> None:
    names = [f"{salt}-{i}" for i in range(len(some))]
    every_slot = np.arange(251, dtype=np.uint64)
    for policy, table in (
        ("maglev", reference.maglev_table(names, some, 251)),
        ("stable", reference.stable_table(names, some, 251, 0.05)),
    ):
        balancer = Balancer(zip(names, some, strict=True), policy, table_size=251)
        assert (balancer.pick_many(every_slot) - 1).tolist() == table


@given(st.integers(0, (1 << 64) - 1), st.integers(1, 10000))
def test_jump(key: int, buckets: int) -> None:
    assert compiled.jump_hash(key, buckets) == reference.jump_hash(key, buckets)
