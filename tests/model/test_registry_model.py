"""The registry against a plain dict of deadlines, through leases, drains, re-registration and reopening."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fastpath.registry import Instance, Registry

ids = st.sampled_from(["a", "b"])
services = st.sampled_from(["web", "api"])


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class RegistryMachine(RuleBasedStateMachine):
    """`known` maps an id to its fields, `lease` and `drain` to when they end."""

    @initialize(durable=st.booleans())
    def begin(self, durable: bool) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "registry.db" if durable else None
        self.clock = Clock()
        self.open()
        self.known: dict[str, dict[str, Any]] = {}
        self.lease: dict[str, float] = {}
        self.drain_at: dict[str, float] = {}
        self.drain_term: dict[str, float] = {}
        self.since = 0
        self.mirror: dict[str, Instance] = {}

    def open(self) -> None:
        self.registry = Registry(self.path, clock=self.clock)
        self.balancer = self.registry.balancer("web", "round_robin", panic_threshold=0.0)

    def forget(self, id: str) -> None:
        for table in (self.known, self.lease, self.drain_at, self.drain_term):
            table.pop(id, None)

    @rule(
        id=ids,
        service=services,
        host=st.integers(1, 3),
        weight=st.integers(0, 2),
        ttl_s=st.sampled_from([None, 1.0, 3.0, 3.0]),
    )
    def register(self, id: str, service: str, host: int, weight: int, ttl_s: float | None) -> None:
        made = self.registry.register(service, f"10.0.0.{host}", 80, id=id, weight=weight, ttl_s=ttl_s)
        old = self.known.get(id, {"maintenance": False})
        if old.get("service", service) != service:
            self.forget(id)
        self.known[id] = {
            "service": service,
            "address": f"10.0.0.{host}",
            "weight": weight,
            "health": "passing",
            "maintenance": old["maintenance"],
            "draining": False,
            "ttl_s": ttl_s,
        }
        for table in (self.lease, self.drain_at, self.drain_term):
            table.pop(id, None)
        if ttl_s is not None:
            self.lease[id] = self.clock.now + ttl_s
        assert made == self.registry.get(id)

    def change(self, id: str, call: Any) -> bool:
        if id in self.known:
            call()
            return True
        with pytest.raises(KeyError):
            call()
        return False

    @rule(id=ids)
    def renew(self, id: str) -> None:
        if self.change(id, lambda: self.registry.renew(id)) and id in self.lease:
            self.lease[id] = self.clock.now + self.known[id]["ttl_s"]

    @rule(id=ids)
    def deregister(self, id: str) -> None:
        if self.change(id, lambda: self.registry.deregister(id)):
            self.forget(id)

    @rule(id=ids, health=st.sampled_from(["passing", "warning", "critical"]))
    def set_health(self, id: str, health: str) -> None:
        if self.change(id, lambda: self.registry.set_health(id, health)):
            self.known[id]["health"] = health

    @rule(id=ids, on=st.booleans())
    def maintenance(self, id: str, on: bool) -> None:
        if self.change(id, lambda: self.registry.maintenance(id, on)):
            self.known[id]["maintenance"] = on

    @rule(id=ids, deadline_s=st.sampled_from([None, 0.0, 2.0]))
    def drain(self, id: str, deadline_s: float | None) -> None:
        if self.change(id, lambda: self.registry.drain(id, deadline_s)):
            self.known[id]["draining"] = True
            self.drain_at.pop(id, None)
            self.drain_term.pop(id, None)
            if deadline_s is not None:
                self.drain_term[id] = deadline_s
                self.drain_at[id] = self.clock.now + deadline_s
                self.pass_time(0.0)

    @rule(seconds=st.sampled_from([0.75, 2.5]))
    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        for table in (self.lease, self.drain_at):
            for id in [id for id, at in table.items() if at <= self.clock.now]:
                self.forget(id)

    @rule()
    def reopen(self) -> None:
        if self.path is None:
            return
        revision = self.registry.revision
        self.registry.close()
        self.open()
        assert self.registry.revision == revision
        for id in self.lease:
            self.lease[id] = self.clock.now + self.known[id]["ttl_s"]
        for id, term in self.drain_term.items():
            self.drain_at[id] = self.clock.now + term

    @invariant()
    def same_instances(self) -> None:
        for service in ("web", "api"):
            expected = [id for id, fields in self.known.items() if fields["service"] == service]
            found = self.registry.instances(service, healthy=False)
            assert [instance.id for instance in found] == expected
            for instance in found:
                fields = self.known[instance.id]
                assert {name: getattr(instance, name) for name in fields} == fields
                left = self.lease.get(instance.id)
                assert self.registry.remaining_s(instance.id) == (
                    None if left is None else left - self.clock.now
                )
                assert instance in self.registry.find_address(instance.address)
                assert self.registry.find_id(instance.id.upper()) == (instance,)
            named = [i.id for i in self.registry.instances(service)]
            assert named == [
                id
                for id in expected
                if self.known[id]["health"] != "critical"
                and not self.known[id]["maintenance"]
                and not self.known[id]["draining"]
                and self.known[id]["weight"] > 0
            ]

    @invariant()
    def balancer_follows(self) -> None:
        available = {instance.id: instance for instance in self.registry.instances("web")}
        picks = [self.balancer.pick() for _ in range(len(available) + 1)]
        if not available:
            assert picks == [None]
        else:
            assert {backend.id for backend in picks if backend is not None} == set(available)
        for backend in filter(None, picks):
            instance = available[backend.id]
            assert (backend.address, backend.weight) == (instance.address, instance.weight)

    @invariant()
    def events_tell_everything(self) -> None:
        changes = self.registry.watch(since=self.since, timeout_s=0)
        if changes.resync:
            self.mirror = {i.id: i for i in self.registry.snapshot().all_instances}
        assert changes.resync or [e.revision for e in changes.events] == list(
            range(self.since + 1, changes.revision + 1)
        )
        for event in changes.events:
            assert event.instance.revision == event.revision
            if event.gone:
                del self.mirror[event.instance.id]
            else:
                self.mirror[event.instance.id] = event.instance
        assert self.mirror == {i.id: i for i in self.registry.snapshot().all_instances}
        self.since = changes.revision

    def teardown(self) -> None:
        self.registry.close()
        self.folder.cleanup()


RegistryMachine.TestCase.settings = settings(max_examples=50, stateful_step_count=50, deadline=None)
TestRegistryMachine = RegistryMachine.TestCase
