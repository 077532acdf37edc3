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
        instance.weight,
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

    def __call__(self, event: Event | None) -> None:
        if event is None or event.instance.service != self._service:
            return
        balancer = self._balancer()
        if balancer is None:
            return
        if event.gone:
            del self._known[event.instance.id]
            balancer.remove(event.instance.id)
        else:
            self.follow(balancer, event.instance)

    def follow(self, balancer: Balancer, new: Instance) -> None:
        """Make the member of this id what the instance says."""
        id, backend = new.id, _backend(new)
        old = self._known.get(id)
        self._known[id] = new
        if old is None:
            balancer.add(backend)
        elif dataclasses.replace(_backend(old), weight=new.weight) != backend:
            # One call, so that no pick sees the service without it.
            balancer.update([_backend(instance) for instance in self._known.values()])
        elif old.weight != new.weight:
            balancer.set_weight(id, new.weight)
        if _healthy(new) != (old is None or _healthy(old)):
            balancer.set_healthy(id, _healthy(new))
        if new.draining != (old is not None and old.draining):
            balancer.drain(id, new.draining)


def following_balancer(registry: Registry, service: str, policy: str, options: dict[str, Any]) -> Balancer:
    """The work of `Registry.balancer`."""
    balancer = Balancer((), policy, **options)
    follower = _Follower(service, balancer)
    with registry.reading():
        for instance in registry.instances(service, healthy=False):
            follower.follow(balancer, instance)
        stop = registry.subscribe(follower)
    weakref.finalize(balancer, stop)
    return balancer
