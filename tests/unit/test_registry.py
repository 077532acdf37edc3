"""The registry: changes, leases, health, watches, the file."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import gc
import ipaddress
import json
import pickle
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from pathlib import Path

import pytest

from fastpath import Changes, Instance, NotSupported, Registry, StoreError
from fastpath.registry import Event


class ManualClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def registry(clock: ManualClock):
    with Registry(clock=clock) as registry:
        yield registry


def eventually(condition, timeout_s: float = 5.0) -> bool:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.005)
    return condition()


def ids(instances) -> list[str]:
    return [instance.id for instance in instances]


# ---- registering


def test_register_returns_the_instance(registry: Registry) -> None:
    web = registry.register(
        "web",
        "10.0.0.1",
        8000,
        id="w1",
        weight=5,
        tags=["v1", "blue", "v1"],
        meta={"k": 1},
        zone="a",
        priority=2,
    )
    assert web == Instance("w1", "web", "10.0.0.1", 8000, 5, ("v1", "blue"), {"k": 1}, "a", 2, revision=1)
    assert registry.instances("web") == (web,)
    assert registry.get("w1") is web
    assert registry.revision == 1
    assert registry.services() == {"web": ("blue", "v1")}


def test_names_ignore_case(registry: Registry) -> None:
    registry.register("Web", "10.0.0.1", 80, tags=["Blue"])
    assert registry.services() == {"web": ("Blue",)}
    assert len(registry.instances("WEB", tag="bLUE")) == 1
    assert registry.instances("web", tag="green") == ()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("10.0.0.1", "10.0.0.1"),
        (ipaddress.ip_address("10.0.0.1"), "10.0.0.1"),
        (b"\x0a\0\0\1", "10.0.0.1"),
        (0x0A000001, "10.0.0.1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        (b"\x20\x01\x0d\xb8" + bytes(11) + b"\1", "2001:db8::1"),
        ("::ffff:10.0.0.1", str(ipaddress.ip_address("::ffff:10.0.0.1"))),
    ],
)
def test_addresses_become_canonical(registry: Registry, given, kept: str) -> None:
    assert registry.register("web", given, 80).address == kept
    assert len(registry.find_address(given)) == 1


def test_default_ids_make_registration_idempotent(registry: Registry) -> None:
    first = registry.register("web", "10.0.0.1", 80)
    assert registry.register("web", "10.0.0.1", 80) == first
    assert registry.revision == 1
    other = registry.register("web", "2001:db8::1", 80)
    assert {first.id, other.id} == {"web-10-0-0-1-80", "web-2001-db8--1-80"}


def test_same_id_replaces_and_keeps_its_place(registry: Registry) -> None:
    registry.register("web", "10.0.0.1", 80, id="a")
    registry.register("web", "10.0.0.2", 80, id="b")
    registry.set_health("a", "critical", "no answer")
    registry.drain("a")
    new = registry.register("web", "10.0.0.3", 81, id="a", weight=3)
    assert (new.health, new.note, new.draining) == ("passing", "", False)
    assert ids(registry.instances("web")) == ["a", "b"]
    assert registry.find_address("10.0.0.1") == ()
    assert ids(registry.find_address("10.0.0.3")) == ["a"]


def test_same_id_may_move_to_another_service(registry: Registry) -> None:
    registry.register("web", "10.0.0.1", 80, id="a")
    registry.register("api", "10.0.0.1", 80, id="a")
    assert registry.instances("web") == ()
    assert ids(registry.instances("api")) == ["a"]
    assert [(e.kind, e.instance.service) for e in registry.watch(since=1).events] == [
        ("deregister", "web"),
        ("register", "api"),
    ]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"service": ""}, ValueError),
        ({"service": "a.b"}, ValueError),
        ({"service": "-a"}, ValueError),
        ({"service": "_a"}, ValueError),
        ({"service": "a" * 64}, ValueError),
        ({"service": "ü"}, ValueError),
        ({"service": "web\n"}, ValueError),
        ({"service": "\u212aelvin"}, ValueError),
        ({"service": None}, TypeError),
        ({"service": b"web"}, TypeError),
        ({"address": ""}, ValueError),
        ({"address": "localhost"}, ValueError),
        ({"address": "10.0.0.256"}, ValueError),
        ({"address": "10.0.0.1/32"}, ValueError),
        ({"address": "fe80::1%eth0"}, ValueError),
        ({"address": b"\x0a\0\0"}, ValueError),
        ({"address": -1}, ValueError),
        ({"address": 2**32}, ValueError),
        ({"address": True}, TypeError),
        ({"address": None}, TypeError),
        ({"address": 1.5}, TypeError),
        ({"port": -1}, ValueError),
        ({"port": 65536}, ValueError),
        ({"port": "80"}, TypeError),
        ({"port": True}, TypeError),
        ({"port": 80.0}, TypeError),
        ({"id": ""}, ValueError),
        ({"id": "a b"}, ValueError),
        ({"id": "a\0"}, ValueError),
        ({"id": "a" * 201}, ValueError),
        ({"id": 7}, TypeError),
        ({"weight": -1}, ValueError),
        ({"weight": 65536}, ValueError),
        ({"weight": 0.5}, TypeError),
        ({"tags": "blue"}, TypeError),
        ({"tags": [1]}, TypeError),
        ({"tags": [""]}, ValueError),
        ({"tags": 5}, TypeError),
        ({"meta": []}, TypeError),
        ({"meta": {1: "a"}}, TypeError),
        ({"meta": {"a": []}}, TypeError),
        ({"zone": ""}, ValueError),
        ({"zone": 1}, TypeError),
        ({"priority": -1}, ValueError),
        ({"ttl_s": 0}, ValueError),
        ({"ttl_s": -1.0}, ValueError),
        ({"ttl_s": float("nan")}, ValueError),
        ({"ttl_s": float("inf")}, ValueError),
        ({"ttl_s": 10**400}, ValueError),
        ({"ttl_s": "2"}, TypeError),
        ({"ttl_s": True}, TypeError),
        ({"check": {"http": "http://x"}}, NotSupported),
        ({"check": {}}, NotSupported),
        ({"check": "ttl"}, TypeError),
        ({"check": {"ttl_s": 1.0}, "ttl_s": 1.0}, ValueError),
        ({"check": {"ttl_s": 0}}, ValueError),
    ],
)
def test_bad_registrations_are_refused_and_change_nothing(registry: Registry, arguments, error) -> None:
    with pytest.raises(error) as caught:
        registry.register(**({"service": "web", "address": "10.0.0.1", "port": 80} | arguments))
    assert str(caught.value)
    assert registry.revision == 0
    assert registry.services() == {}


def test_bad_arguments_elsewhere(registry: Registry) -> None:
    registry.register("web", "10.0.0.1", 80, id="a")
    for call in (
        lambda: registry.renew("b"),
        lambda: registry.deregister("b"),
        lambda: registry.set_health("b", "passing"),
        lambda: registry.maintenance("b", True),
        lambda: registry.drain("b"),
        lambda: registry.remaining_s("b"),
    ):
        with pytest.raises(KeyError, match="'b'"):
            call()
    for call in (
        lambda: registry.renew(1),
        lambda: registry.get(None),
        lambda: registry.instances(b"web"),
        lambda: registry.instances("web", tag=1),
        lambda: registry.instances("web", zone=1),
        lambda: registry.set_health("a", None),
        lambda: registry.set_health("a", "passing", 5),
        lambda: registry.maintenance("a", 1),
        lambda: registry.drain("a", "soon"),
        lambda: registry.watch(5),
        lambda: registry.watch(since="0"),
        lambda: registry.watch(timeout_s="1"),
        lambda: registry.subscribe(None),
        lambda: registry.balancer(5),
        lambda: Registry(5),
        lambda: Registry(b"x"),
        lambda: Registry(clock=5),
        lambda: Registry(datacenter=None),
        lambda: Registry(log_size=None),
    ):
        with pytest.raises(TypeError):
            call()
    for call in (
        lambda: registry.set_health("a", "up"),
        lambda: registry.drain("a", -1),
        lambda: registry.watch(since=-1),
        lambda: registry.watch(timeout_s=-1),
        lambda: registry.watch(timeout_s=float("nan")),
        lambda: registry.find_address("x"),
        lambda: registry.balancer("a.b"),
        lambda: Registry(""),
        lambda: Registry("a\0b"),
        lambda: Registry(datacenter="a.b"),
        lambda: Registry(datacenter="service"),
        lambda: Registry(log_size=0),
    ):
        with pytest.raises(ValueError):
            call()
    assert registry.revision == 1


# ---- health


def test_health_decides_who_is_named(registry: Registry) -> None:
    for name in "abcde":
        registry.register("web", "10.0.0.1", 80, id=name)
    registry.register("web", "10.0.0.1", 80, id="f", weight=0)
    registry.set_health("a", "warning", "slow")
    registry.set_health("b", "critical")
    registry.maintenance("c", True, "disk")
    registry.drain("d")
    assert ids(registry.instances("web")) == ["a", "e"]
    assert ids(registry.instances("web", healthy=False)) == list("abcdef")
    assert registry.get("a").note == "slow"
    assert registry.get("c").reason == "disk"
    registry.set_health("b", "passing")
    registry.maintenance("c", False)
    assert ids(registry.instances("web")) == ["a", "b", "c", "e"]
    assert registry.get("c").reason == ""


def test_saying_the_same_again_is_no_change(registry: Registry) -> None:
    registry.register("web", "10.0.0.1", 80, id="a")
    registry.set_health("a", "passing")
    registry.maintenance("a", False)
    assert registry.revision == 1
    registry.drain("a")
    registry.drain("a")
    assert registry.revision == 2


def test_maintenance_survives_registration(registry: Registry) -> None:
    registry.register("web", "10.0.0.1", 80, id="a")
    registry.maintenance("a", True, "disk")
    again = registry.register("web", "10.0.0.1", 80, id="a", weight=2)
    assert (again.maintenance, again.reason) == (True, "disk")
    assert registry.instances("web") == ()


def test_zone_and_tag_filters(registry: Registry) -> None:
    registry.register("web", "10.0.0.1", 80, id="a", zone="x", tags=["t"])
    registry.register("web", "10.0.0.2", 80, id="b", zone="y", tags=["t"])
    registry.register("web", "10.0.0.3", 80, id="c")
    assert ids(registry.instances("web", zone="x")) == ["a"]
    assert ids(registry.instances("web", tag="t", zone="y")) == ["b"]
    assert registry.instances("none") == ()


# ---- time


def test_leases_end_on_time(registry: Registry, clock: ManualClock) -> None:
    registry.register("web", "10.0.0.1", 80, id="a", ttl_s=2.0)
    registry.register("web", "10.0.0.2", 80, id="b")
    registry.register("web", "10.0.0.3", 80, id="c", check={"ttl_s": 3})
    clock.now += 1.9
    assert registry.remaining_s("a") == pytest.approx(0.1)
    assert registry.remaining_s("b") is None
    registry.renew("a")
    registry.renew("b")
    clock.now += 1.9
    assert ids(registry.instances("web")) == ["a", "b"]
    clock.now += 0.1
    assert registry.expire() in (0, 1)
    assert ids(registry.instances("web")) == ["b"]
    assert [(e.kind, e.instance.id) for e in registry.watch(since=3).events] == [
        ("expire", "c"),
        ("expire", "a"),
    ]
    with pytest.raises(KeyError):
        registry.renew("a")


def test_registering_again_sets_the_lease(registry: Registry, clock: ManualClock) -> None:
    registry.register("web", "10.0.0.1", 80, id="a", ttl_s=100)
    registry.register("web", "10.0.0.1", 80, id="a", ttl_s=1)
    clock.now += 1
    assert registry.instances("web") == ()
    registry.register("web", "10.0.0.1", 80, id="a", ttl_s=1)
    registry.register("web", "10.0.0.1", 80, id="a")
    clock.now += 1000
    assert ids(registry.instances("web")) == ["a"]


def test_drain_with_deadline(registry: Registry, clock: ManualClock) -> None:
    registry.register("web", "10.0.0.1", 80, id="a")
    registry.register("web", "10.0.0.2", 80, id="b")
    registry.drain("a", 5)
    registry.drain("b", 5)
    registry.drain("b")
    clock.now += 4.9
    assert registry.get("a").draining
    clock.now += 0.1
    assert registry.get("a") is None
    assert registry.get("b").draining
    assert registry.watch(since=registry.revision - 1).events[0].kind == "deregister"


def test_the_timer_expires_without_being_asked() -> None:
    with Registry() as registry:
        seen: list[str] = []
        registry.subscribe(lambda event: event and seen.append(event.kind))
        registry.register("web", "10.0.0.1", 80, id="a", ttl_s=60)
        registry.register("web", "10.0.0.1", 80, id="b", ttl_s=0.05)
        assert eventually(lambda: seen == ["register", "register", "expire"])


def test_many_renewals_hold_little() -> None:
    with Registry() as registry:
        registry.register("web", "10.0.0.1", 80, id="a", ttl_s=60)
        for n in range(2000):
            registry.renew("a")
            registry.register("web", "10.0.0.2", 80, id=f"x{n}", ttl_s=60)
            registry.deregister(f"x{n}")
        assert len(registry._deadlines._heap) < 200


def test_a_forgotten_registry_goes_with_its_timer() -> None:
    registry = Registry()
    registry.register("web", "10.0.0.1", 80, ttl_s=60)
    gone = weakref.ref(registry)
    del registry
    gc.collect()
    assert eventually(lambda: gone() is None)
    assert eventually(lambda: not any(t.name == "fastpath-registry" for t in threading.enumerate()))


# ---- following


def test_watch_gives_what_is_there_at_once(registry: Registry) -> None:
    assert registry.watch(timeout_s=0) == Changes(0)
    a = registry.register("web", "10.0.0.1", 80, id="a")
    registry.register("api", "10.0.0.1", 80, id="b")
    changes = registry.watch("web")
    assert changes.revision == 2
    assert [(e.revision, e.kind, e.instance) for e in changes.events] == [(1, "register", a)]
    assert registry.watch("web", since=1, timeout_s=0.01) == Changes(2)
    assert registry.watch("none", timeout_s=0) == Changes(2)


def test_watch_wakes_on_a_change() -> None:
    with Registry() as registry:
        results: list[Changes] = []
        thread = threading.Thread(target=lambda: results.append(registry.watch("web", timeout_s=10)))
        thread.start()
        registry.register("api", "10.0.0.1", 80)
        registry.register("web", "10.0.0.1", 80)
        thread.join(10)
        assert [e.instance.service for e in results[0].events] == ["web"]


def test_watch_wakes_when_a_lease_ends() -> None:
    with Registry() as registry:
        registry.register("web", "10.0.0.1", 80, ttl_s=0.05)
        changes = registry.watch("web", since=1, timeout_s=10)
        assert [e.kind for e in changes.events] == ["expire"]
        assert changes.events[0].gone


def test_a_late_watcher_is_told_to_resync(clock: ManualClock) -> None:
    with Registry(clock=clock, log_size=3) as registry:
        for n in range(5):
            registry.register("web", "10.0.0.1", 80 + n)
        assert registry.watch(since=1) == Changes(5, (), True)
        assert [e.revision for e in registry.watch(since=2).events] == [3, 4, 5]
        assert registry.watch(since=6).resync


def test_close_ends_watches() -> None:
    registry = Registry()
    errors: list[BaseException] = []

    def watch() -> None:
        try:
            registry.watch()
        except ValueError as error:
            errors.append(error)

    thread = threading.Thread(target=watch)
    thread.start()
    registry.close()
    thread.join(10)
    assert "closed" in str(errors[0])
    registry.close()
    for call in (
        lambda: registry.register("web", "10.0.0.1", 80),
        lambda: registry.instances("web"),
        lambda: registry.watch(timeout_s=0),
        registry.snapshot,
        registry.__enter__,
    ):
        with pytest.raises(ValueError, match="closed"):
            call()
    assert "closed" in repr(registry)
    assert registry.revision == 0


def test_awatch_follows_until_close() -> None:
    async def main() -> list[str]:
        registry = Registry()
        registry.register("web", "10.0.0.1", 80, id="a")
        seen: list[str] = []

        async def follow() -> None:
            async for changes in registry.awatch("web"):
                seen.extend(event.kind for event in changes.events)

        task = asyncio.create_task(follow())
        await asyncio.sleep(0.01)
        thread = threading.Thread(target=registry.set_health, args=("a", "critical"))
        thread.start()
        thread.join()
        registry.register("api", "10.0.0.1", 80)
        registry.deregister("a")
        while len(seen) < 3:
            await asyncio.sleep(0.001)
        registry.close()
        await asyncio.wait_for(task, 10)
        return seen

    assert asyncio.run(main()) == ["register", "health", "deregister"]


def test_awatch_may_be_left() -> None:
    async def main(registry: Registry) -> None:
        registry.register("web", "10.0.0.1", 80)
        stream = registry.awatch()
        assert (await anext(stream)).revision == 1
        await stream.aclose()

    with Registry() as registry:
        asyncio.run(main(registry))
        assert registry._listeners == {}
        registry.register("web", "10.0.0.2", 80)


def test_a_failing_listener_disturbs_nobody(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[int] = []

    def fail(_: object) -> None:
        raise RuntimeError("listener trouble")

    stop = registry.subscribe(fail)
    registry.subscribe(lambda event: event and seen.append(event.revision))
    registry.register("web", "10.0.0.1", 80)
    assert seen == [1]
    assert "listener trouble" in caplog.text
    stop()
    stop()
    registry.register("web", "10.0.0.2", 80)
    assert seen == [1, 2]


def test_a_listener_may_change_the_registry(clock: ManualClock) -> None:
    with Registry(clock=clock) as registry:
        seen: list[tuple[int, str] | None] = []

        def object_to(event: Event | None) -> None:
            if event is not None and (event.kind == "drain" or event.instance.port == 80) and not event.gone:
                registry.deregister(event.instance.id)

        registry.subscribe(object_to)
        registry.subscribe(lambda event: seen.append(event and (event.revision, event.kind)))
        registry.register("web", "10.0.0.1", 80, ttl_s=1.0)
        registry.register("web", "10.0.0.1", 81, id="b")
        registry.drain("b", 1.0)
        clock.now += 5.0
        assert registry.instances("web", healthy=False) == ()
        assert registry.expire() == 0
    assert seen == [
        (1, "register"),
        (2, "deregister"),
        (3, "register"),
        (4, "drain"),
        (5, "deregister"),
        None,
    ]


def test_a_failing_clock_changes_nothing() -> None:
    trouble = [False]

    def clock() -> float:
        if trouble[0]:
            raise RuntimeError("clock trouble")
        return 0.0

    with Registry(clock=clock) as registry:
        trouble[0] = True
        with pytest.raises(RuntimeError, match="clock trouble"):
            registry.register("web", "10.0.0.1", 80, ttl_s=1.0)
        trouble[0] = False
        assert registry.revision == 0
        assert registry.services() == {}


def test_a_registry_is_not_copied(registry: Registry) -> None:
    for refused in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="snapshot"):
            refused(registry)


def test_snapshots_stand_still(registry: Registry) -> None:
    registry.register("web", "10.0.0.1", 80, id="a", tags=["t"])
    snapshot = registry.snapshot()
    registry.deregister("a")
    assert snapshot.revision == 1
    assert snapshot.datacenter == "dc1"
    assert ids(snapshot.instances("WEB", tag="T")) == ["a"]
    assert snapshot.services() == {"web": ("t",)}
    assert registry.services() == {}


def test_reading_holds_changes_off(registry: Registry) -> None:
    started = threading.Event()

    def change() -> None:
        started.set()
        registry.register("web", "10.0.0.1", 80)

    thread = threading.Thread(target=change)
    with registry.reading() as revision:
        thread.start()
        started.wait(10)
        time.sleep(0.01)
        assert registry.revision == revision == 0
    thread.join(10)
    assert registry.revision == 1


def test_threads_see_every_change_once_and_in_order() -> None:
    with Registry(log_size=10**6) as registry:
        seen: list[int] = []

        def follow() -> None:
            since = 0
            while since < 800:
                changes = registry.watch(since=since, timeout_s=10)
                seen.extend(event.revision for event in changes.events)
                since = changes.revision

        def change(n: int) -> None:
            for i in range(100):
                registry.register("web", "10.0.0.1", 80, id=f"{n}-{i}", ttl_s=60)
                assert registry.renew(f"{n}-{i}") in registry.instances("web")
                registry.deregister(f"{n}-{i}")

        threads = [threading.Thread(target=follow)] + [
            threading.Thread(target=change, args=(n,)) for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert seen == list(range(1, 801))
        assert registry.services() == {}


# ---- values


def test_instances_are_plain_frozen_values(registry: Registry) -> None:
    web = registry.register("web", "10.0.0.1", 80, id="a", meta={"k": "v"}, tags=["t"])
    assert pickle.loads(pickle.dumps(web)) == web
    assert Instance(**json.loads(json.dumps(web.as_dict()))) == web
    assert Instance(**dataclasses.asdict(web)) == web
    assert hash(web) == hash(dataclasses.replace(web))
    with pytest.raises(dataclasses.FrozenInstanceError):
        web.port = 5
    for call in (
        lambda: web.meta.update(a=1),
        lambda: web.meta.__setitem__("a", 1),
        lambda: web.meta.clear(),
        lambda: web.meta.pop("k"),
    ):
        with pytest.raises(TypeError, match="read-only"):
            call()
    assert pickle.loads(pickle.dumps(registry.snapshot())) == registry.snapshot()


@pytest.mark.parametrize(
    "fields",
    [
        {"health": "up"},
        {"maintenance": 1},
        {"draining": None},
        {"note": 5},
        {"revision": -1},
        {"reason": None},
    ],
)
def test_instances_check_themselves(fields) -> None:
    with pytest.raises((TypeError, ValueError)):
        Instance("a", "web", "10.0.0.1", 80, **fields)


# ---- the file


def test_a_durable_registry_comes_back(tmp_path: Path, clock: ManualClock) -> None:
    path = tmp_path / "registry.db"
    with Registry(path, clock=clock) as registry:
        registry.register(
            "web", "10.0.0.2", 80, id="b", weight=3, tags=["t"], meta={"k": 1.5}, zone="z", ttl_s=10
        )
        registry.register("web", "10.0.0.1", 80, id="a")
        registry.register("web", "10.0.0.3", 80, id="c")
        registry.register("web", "10.0.0.4", 80, id="d")
        registry.register(
            "web", "10.0.0.2", 81, id="b", weight=3, tags=["t"], meta={"k": 1.5}, zone="z", ttl_s=10
        )
        registry.maintenance("a", True, "disk")
        registry.set_health("c", "warning", "slow")
        registry.drain("d", 5)
        registry.register("api", "10.0.0.4", 80, id="gone")
        registry.deregister("gone")
        clock.now += 4
        before = registry.snapshot()
    clock.now += 100
    with Registry(str(path), clock=clock) as registry:
        assert registry.snapshot() == before
        assert registry.remaining_s("b") == 10
        assert registry.watch(since=0).resync
        assert registry.watch(since=registry.revision, timeout_s=0) == Changes(before.revision)
        clock.now += 5
        assert ids(registry.instances("web", healthy=False)) == ["b", "a", "c"]
        clock.now += 5
        assert registry.get("b") is None
    with Registry(path, clock=clock) as registry:
        assert registry.revision == before.revision + 2


def test_a_file_has_one_owner(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    with Registry(path):
        with pytest.raises(StoreError, match="holds it"):
            Registry(path)
    with Registry(path):
        pass


def test_foreign_files_are_refused_and_left_alone(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("not a database, but long enough to look at\n" * 100)
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE mine (x)")
    db.close()
    newer = tmp_path / "newer.db"
    with Registry(newer):
        pass
    db = sqlite3.connect(newer)
    db.execute("PRAGMA user_version = 99")
    db.close()
    for path, words in ((text, "not a database"), (other, "another program"), (newer, "format 99")):
        before = path.read_bytes()
        with pytest.raises(StoreError, match=words):
            Registry(path)
        assert path.read_bytes() == before
    for path in (tmp_path, tmp_path / "absent" / "registry.db"):
        with pytest.raises(StoreError):
            Registry(path)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE instance SET body = 'x'",
        "UPDATE instance SET body = '[]'",
        "UPDATE instance SET body = '{}'",
        "UPDATE instance SET body = replace(body, '80', '99999')",
        "UPDATE instance SET id = 'other'",
        "UPDATE registry SET revision = 'x'",
        "DELETE FROM registry",
        "DROP TABLE instance",
    ],
)
def test_altered_files_are_refused(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "registry.db"
    with Registry(path) as registry:
        registry.register("web", "10.0.0.1", 80, id="a")
    db = sqlite3.connect(path)
    db.execute(statement)
    db.commit()
    db.close()
    with pytest.raises(StoreError):
        Registry(path)


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    with Registry(path) as registry:
        for n in range(200):
            registry.register("web", "10.0.0.1", n)
    whole = path.read_bytes()
    for size in (100, 4096, len(whole) // 2):
        path.write_bytes(whole[:size])
        with pytest.raises(StoreError):
            Registry(path)


def test_a_failed_write_changes_nothing(tmp_path: Path, clock: ManualClock) -> None:
    with Registry(tmp_path / "registry.db", clock=clock) as registry:
        registry.register("web", "10.0.0.1", 80, id="a", ttl_s=5)
        registry._store._db.execute("PRAGMA query_only = 1")
        before = registry.snapshot()
        for call in (
            lambda: registry.register("web", "10.0.0.2", 80),
            lambda: registry.set_health("a", "critical"),
            lambda: registry.drain("a", 1),
            lambda: registry.deregister("a"),
        ):
            with pytest.raises(StoreError, match="cannot write"):
                call()
        assert registry.snapshot() == before
        clock.now += 5
        assert registry.instances("web") == ()


def test_a_killed_process_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    program = """
        import os, signal, sys
        from fastpath.registry import Registry
        registry = Registry(sys.argv[1])
        for n in range(50):
            registry.register("web", "10.0.0.1", n)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(program), path], check=False, timeout=60)
    assert ran.returncode == -signal.SIGKILL
    with Registry(path) as registry:
        assert registry.revision == len(registry.instances("web")) == 50


def test_a_new_drain_term_keeps_the_revision(tmp_path: Path, clock: ManualClock) -> None:
    path = tmp_path / "registry.db"
    with Registry(path, clock=clock) as registry:
        registry.register("web", "10.0.0.1", 80, id="a")
        registry.drain("a")
        registry.register("web", "10.0.0.2", 80, id="b")
        registry.drain("a", 3)
        assert registry.revision == 3
    with Registry(path, clock=clock) as registry:
        assert registry.revision == 3
        clock.now += 3
        assert registry.get("a") is None


def test_the_child_of_a_fork_leaves_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    code = f"""
import os, sys, fastpath
registry = fastpath.Registry({str(path)!r})
registry.register("web", "10.0.0.1", 80, id="before")
if os.fork() == 0:
    try:
        registry.register("web", "10.0.0.1", 81)
    except ValueError as error:
        assert "closed" in str(error)
        sys.exit(0)
    os._exit(1)
assert os.wait()[1] == 0
registry.register("web", "10.0.0.1", 82, id="after")
os.kill(os.getpid(), 9)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (-9, "")
    with Registry(path) as registry:
        assert [instance.id for instance in registry.instances("web")] == ["before", "after"]


def test_the_child_of_a_fork_goes_on_in_memory() -> None:
    code = """
import os, sys, fastpath, threading
registry = fastpath.Registry()
registry.register("web", "10.0.0.1", 80, id="short", ttl_s=0.3)
busy = threading.Thread(target=lambda: [registry.register("web", "10.0.0.1", n) for n in range(1000, 4000)])
busy.start()
for _ in range(5):
    if os.fork() == 0:
        seen = threading.Event()
        registry.subscribe(lambda event: event and event.gone and seen.set())
        gone = registry.get("short") is None or seen.wait(30)
        registry.register("web", "10.0.0.2", 80)
        os._exit(0 if gone else 1)
    assert os.wait()[1] == 0
busy.join()
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_moving_an_id_to_another_service_is_one_transaction(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    told: list[tuple[str, str, int]] = []
    with Registry(path) as registry:
        registry.register("web", "10.0.0.1", 80, id="x", ttl_s=60)
        registry.register("web", "10.0.0.2", 80, id="y")
        registry.drain("x", 30)
        registry.subscribe(
            lambda event: event and told.append((event.kind, event.instance.service, event.revision))
        )
        put, registry._store.put = registry._store.put, _fail  # type: ignore[method-assign, union-attr]
        with pytest.raises(StoreError):
            registry.register("api", "10.0.0.1", 80, id="x")
        assert [i.id for i in registry.instances("web", healthy=False)] == ["x", "y"]
        assert registry.instances("api") == ()
        assert registry.revision == 3
        assert told == []
        registry._store.put = put  # type: ignore[method-assign, union-attr]
        moved = registry.register("api", "10.0.0.1", 80, id="x")
        assert told == [("deregister", "web", 4), ("register", "api", 5)]
        assert moved.revision == registry.revision == 5
        assert not moved.draining
        assert registry.remaining_s("x") is None
        assert [event.revision for event in registry.watch(since=3).events] == [4, 5]
    with Registry(path) as registry:
        assert [(i.id, i.service) for i in registry.snapshot().all_instances] == [("y", "web"), ("x", "api")]
        assert registry.revision == 5


def _fail(*_: object, **__: object) -> None:
    raise StoreError("disk full")


def test_a_listener_may_change_what_moved() -> None:
    registry = Registry()
    registry.register("web", "10.0.0.1", 80, id="x")

    def listen(event: Event | None) -> None:
        if event is not None and event.kind == "deregister":
            registry.set_health("x", "critical")

    registry.subscribe(listen)
    registry.register("api", "10.0.0.1", 80, id="x")
    assert registry.get("x").health == "critical"  # type: ignore[union-attr]
    assert [event.kind for event in registry.watch(since=1).events] == ["deregister", "register", "health"]
