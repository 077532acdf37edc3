"""The registry: what a heartbeat, a change and a read cost."""

from __future__ import annotations

import itertools

import pytest

from fastpath.registry import Registry


@pytest.fixture(params=["memory", "sqlite"])
def registry(request, tmp_path):
    with Registry(tmp_path / "registry.db" if request.param == "sqlite" else None) as registry:
        for n in range(1000):
            registry.register(f"s{n % 100}", f"10.0.{n // 250}.{n % 250}", 8000, id=f"i{n}", ttl_s=60)
        yield registry


@pytest.mark.benchmark(group="change, 1000 instances")
def test_fastpath_register_and_deregister(measure, registry: Registry) -> None:
    def change() -> None:
        registry.register("web", "10.1.0.1", 80, id="x", ttl_s=60)
        registry.deregister("x")

    measure(change)


@pytest.mark.benchmark(group="change, 1000 instances")
def test_fastpath_set_health(measure, registry: Registry) -> None:
    states = itertools.cycle(["critical", "passing"])
    measure(lambda: registry.set_health("i5", next(states)))


@pytest.mark.benchmark(group="renew")
def test_fastpath_renew(measure, registry: Registry) -> None:
    measure(registry.renew, "i5")


@pytest.mark.benchmark(group="read 10 instances")
def test_fastpath_instances(measure, registry: Registry) -> None:
    assert len(registry.instances("s5")) == 10
    measure(registry.instances, "s5")
