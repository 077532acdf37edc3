"""Balancers that follow a registry, and `Resolver.pick` on top of them."""

from __future__ import annotations

import gc
import time
import weakref
from collections import Counter

import pytest

from fastpath import Balancer, Registry
from fastpath.dns import Resolver


@pytest.fixture
def registry():
    with Registry() as registry:
        registry.register("web", "10.0.0.1", 8000, id="a", weight=5, zone="z", meta={"k": "v"})
        registry.register("web", "10.0.0.2", 8000, id="b")
        registry.register("web", "10.0.0.3", 8000, id="c")
        registry.register("api", "10.0.0.9", 8000, id="x")
        yield registry


def picked(balancer: Balancer, n: int = 70) -> dict[str, int]:
    return dict(Counter(None if (b := balancer.pick()) is None else b.id for _ in range(n)))


def test_it_starts_with_what_is_there(registry: Registry) -> None:
    balancer = registry.balancer("WEB")
    assert balancer.policy == "weighted_round_robin"
    assert picked(balancer) == {"a": 50, "b": 10, "c": 10}
    backend = next(b for b in balancer.values[1:] if b is not None and b.id == "a")
    assert (backend.address, backend.port, backend.weight, backend.zone) == ("10.0.0.1", 8000, 5, "z")
    assert backend.metadata == {"k": "v"}


def test_it_follows_every_change(registry: Registry) -> None:
    balancer = registry.balancer("web", policy="weighted_round_robin", seed=1)
    registry.set_health("a", "critical")
    assert picked(balancer, 10) == {"b": 5, "c": 5}
    registry.set_health("a", "warning")
    registry.maintenance("b", True)
    assert picked(balancer, 60) == {"a": 50, "c": 10}
    registry.maintenance("b", False)
    registry.drain("c")
    assert picked(balancer, 60) == {"a": 50, "b": 10}
    registry.register("web", "10.0.0.3", 8000, id="c", weight=2)
    assert picked(balancer, 80) == {"a": 50, "b": 10, "c": 20}
    registry.register("web", "10.0.0.33", 8001, id="c")
    assert picked(balancer) == {"a": 50, "b": 10, "c": 10}
    assert {b.address for b in (balancer.pick() for _ in range(7))} >= {"10.0.0.33"}
    registry.register("web", "10.0.0.4", 8000, id="d")
    registry.deregister("a")
    assert picked(balancer, 30) == {"b": 10, "c": 10, "d": 10}
    registry.register("api", "10.0.0.4", 8000, id="d")
    assert picked(balancer, 20) == {"b": 10, "c": 10}
    registry.register("web", "10.0.0.5", 8000, id="e", weight=0)
    assert picked(balancer, 20) == {"b": 10, "c": 10}


def test_it_starts_with_flags(registry: Registry) -> None:
    registry.set_health("a", "critical")
    registry.drain("b")
    assert picked(registry.balancer("web", panic_threshold=0.0), 10) == {"c": 10}


def test_leases_leave_by_themselves(registry: Registry) -> None:
    balancer = registry.balancer("short")
    assert balancer.pick() is None
    registry.register("short", "10.0.0.7", 80, id="s", ttl_s=0.5)
    assert balancer.pick().id == "s"
    end = time.monotonic() + 10
    while balancer.pick() is not None:
        assert time.monotonic() < end
        time.sleep(0.005)


def test_forgotten_balancers_are_not_followed(registry: Registry) -> None:
    balancer = registry.balancer("web")
    assert len(registry._listeners) == 1
    gone = weakref.ref(balancer)
    del balancer
    gc.collect()
    assert gone() is None
    assert registry._listeners == {}


def test_bad_policies_and_options(registry: Registry) -> None:
    with pytest.raises(ValueError):
        registry.balancer("web", "no_such_policy")
    with pytest.raises(TypeError):
        registry.balancer("web", no_such_option=1)
    assert registry._listeners == {}


def test_a_closed_registry_leaves_the_balancer_as_it_is(registry: Registry) -> None:
    balancer = registry.balancer("web")
    registry.close()
    assert picked(balancer) == {"a": 50, "b": 10, "c": 10}


def test_resolver_pick(registry: Registry) -> None:
    resolver = Resolver(registry)
    assert resolver.pick("none") is None
    counts = Counter(resolver.pick("WEB").id for _ in range(3500))
    assert 2370 < counts["a"] < 2630
    keyed = {n: resolver.pick("web", f"user-{n}").id for n in range(200)}
    assert set(keyed.values()) == {"a", "b", "c"}
    assert {n: resolver.pick("web", f"user-{n}").id for n in range(200)} == keyed
    registry.set_health("b", "critical")
    after = {n: resolver.pick("web", f"user-{n}").id for n in range(200)}
    assert "b" not in after.values()
    assert sum(after[n] != keyed[n] for n in keyed if keyed[n] != "b") <= 20
    registry.set_health("a", "critical")
    registry.set_health("c", "critical")
    assert resolver.pick("web") is None
    assert resolver.pick("web", b"key") is None
    for id in "abc":
        registry.deregister(id)
    assert resolver.pick("web") is None
    assert resolver._balancers == {}
