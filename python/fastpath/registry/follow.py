"""Keeps a balancer equal to one service of a registry."""

from __future__ import annotations

import dataclasses
import weakref
from typing import TYPE_CHECKING, Any

from fastpath.balance import Backend, Balancer
from fastpath.registry.types import Event, Instance

if TYPE_CHECKING:
    from fastpath.registry.registry import Registry


def _backend(instance: Instance) -> Backend:
    return Backend(
        instance.id,
        instance.address,
        instance.port,
        0 if instance.draining else instance.weight,
        instance.zone,
        instance.priority,
        instance.meta,
    )


def _healthy(instance: Instance) -> bool:
    return instance.health != "critical" and not instance.maintenance


class _Follower:
    """A listener that does the least to the balancer: flags and weights are set in place."""

    def __init__(self, service: str, balancer: Balancer) -> None:
        self._service = service
        self._balancer = weakref.ref(balancer)
        self._known: dict[str, Instance] = {}

    def begin(self, instances: tuple[Instance, ...]) -> None:
        for instance in instances:
            self._apply(instance)

    def __call__(self, event: Event | None) -> None:
        if event is None or event.instance.service != self._service:
            return
        if not event.gone:
            self._apply(event.instance)
        elif self._known.pop(event.instance.id, None) is not None:
            balancer = self._balancer()
            if balancer is not None:
                balancer.remove(event.instance.id)

    def _apply(self, new: Instance) -> None:
        balancer = self._balancer()
        if balancer is None:
            return
        old = self._known.get(new.id)
        self._known[new.id] = new
        backend = _backend(new)
        if old is None:
            balancer.add(backend)
        elif _backend(old) != backend:
            if dataclasses.replace(_backend(old), weight=backend.weight) == backend:
                balancer.set_weight(new.id, backend.weight)
            else:
                # One call, so that no pick sees the service without it.
                balancer.update([_backend(instance) for instance in self._known.values()])
                for instance in self._known.values():
                    balancer.set_healthy(instance.id, _healthy(instance))
        if _healthy(new) != (True if old is None else _healthy(old)):
            balancer.set_healthy(new.id, _healthy(new))


def following_balancer(registry: Registry, service: str, policy: str, options: dict[str, Any]) -> Balancer:
    """The work of `Registry.balancer`."""
    balancer = Balancer((), policy, **options)
    follower = _Follower(service, balancer)
    with registry.reading():
        follower.begin(registry.instances(service, healthy=False))
        stop = registry.subscribe(follower)
    weakref.finalize(balancer, stop)
    return balancer
