"""The registry: who offers which service where, for how long, and in what health."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeAlias

from fastpath import forking
from fastpath.errors import NotSupported, StoreError
from fastpath.registry.deadlines import Deadlines
from fastpath.registry.store import Store
from fastpath.registry.types import (
    Address,
    Changes,
    Event,
    EventKind,
    Health,
    Instance,
    MetaValue,
    Snapshot,
    altered,
    check_address,
    check_health,
    check_int,
    check_label,
    check_seconds,
    check_str,
    select,
)

if TYPE_CHECKING:
    from fastpath.balance import Balancer

_log = logging.getLogger("fastpath.registry")
_REAL_CLOCKS = (time.monotonic, time.perf_counter, time.time)
# How often the timer looks at a clock that does not run with real time.
_POLL_S = 0.02
# Words with a meaning of their own in DNS names below the domain.
_RESERVED_DATACENTERS = frozenset({"service", "node", "addr", "dc", "ns"})
_Due: TypeAlias = tuple[Literal["lease", "drain"], str]


class _Index:
    """Instances by something they share, in order of registration."""

    def __init__(self, key: Callable[[Instance], Hashable]) -> None:
        self._key = key
        self._found: dict[Hashable, dict[str, Instance]] = {}

    def add(self, instance: Instance) -> None:
        self._found.setdefault(self._key(instance), {})[instance.id] = instance

    def discard(self, instance: Instance) -> None:
        key = self._key(instance)
        sharing = self._found[key]
        del sharing[instance.id]
        if not sharing:
            del self._found[key]

    def find(self, key: Hashable) -> tuple[Instance, ...]:
        return tuple(self._found.get(key, {}).values())


def _check_ttl(ttl_s: object, check: object) -> float | None:
    if check is not None:
        if not isinstance(check, Mapping):
            raise TypeError(f"check must be None or a mapping, not {type(check).__name__}: {check!r}")
        if set(check) != {"ttl_s"}:
            raise NotSupported(
                f"check={dict(check)!r}: only {{'ttl_s': seconds}} is supported, a lease that `renew` keeps "
                "alive; run other checks outside and report them with `set_health`"
            )
        if ttl_s is not None:
            raise ValueError("give ttl_s or check={'ttl_s': ...}, not both")
        ttl_s = check["ttl_s"]
    return None if ttl_s is None else check_seconds(ttl_s, "ttl_s")


def _default_id(service: str, address: str, port: int) -> str:
    return f"{service}-{address.replace('.', '-').replace(':', '-')}-{port}"


class Registry:
    """Services and their instances, with leases, health and watches.

    Parameters
    ----------
    path : str or os.PathLike, optional
        Keep it in this SQLite file, made if absent and held exclusively while open; None keeps it in memory.
        After a reopen every lease gets a fresh full term.
    datacenter : str
        A DNS label; part of names such as ``web.service.dc1.consul``.
    clock : callable returning float
        Seconds; leases and drains follow it. With another clock than those of `time`, a read right after the
        clock moved sees what expired.
    log_size : int
        How many events are kept for `watch`; an older `since` is told to resync.

    Raises
    ------
    StoreError
        The file is foreign, damaged, held by another registry, or cannot be written.

    Notes
    -----
    Every method may be called from any thread. A change costs some microseconds in memory and one small
    SQLite transaction with `path`; `renew` writes nothing. A background thread (daemon, started by the first
    lease) ends leases on time, so watchers, balancers and DNS servers hear of it without anybody asking.
    A child of ``os.fork`` goes on with a copy of its own, or, with `path`, gets a registry that is closed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        datacenter: str = "dc1",
        clock: Callable[[], float] = time.monotonic,
        log_size: int = 4096,
    ) -> None:
        self._datacenter = check_label(datacenter, "datacenter")
        if self._datacenter in _RESERVED_DATACENTERS:
            raise ValueError(
                f"datacenter must not be {datacenter!r}: that word has a meaning of its own in DNS names"
            )
        if not callable(clock):
            raise TypeError(
                f"clock must be a callable that returns seconds, not {type(clock).__name__}: {clock!r}"
            )
        self._clock = clock
        self._log: deque[Event] = deque(maxlen=check_int(log_size, "log_size", 1, 2**31))
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._timer_wake = threading.Condition(self._lock)
        self._timer_started = False
        self._closed = False
        self._revision = 0
        self._instances: dict[str, Instance] = {}
        self._by_service = _Index(lambda instance: instance.service)
        self._by_address = _Index(lambda instance: instance.address)
        self._by_folded_id = _Index(lambda instance: instance.id.lower())
        self._deadlines: Deadlines[_Due] = Deadlines()
        self._drain_terms: dict[str, float] = {}
        self._listeners: dict[int, Callable[[Event | None], None]] = {}
        self._next_listener = 0
        self._untold: deque[Event | None] = deque()
        self._telling = False
        self._store = None if path is None else Store(path)
        if self._store is not None:
            self._load(self._store)
        forking.protect(self, forking.LISTENED)

    def _lock_for_fork(self) -> bool:
        return self._lock.acquire(timeout=forking.PATIENCE_S)

    def _unlock_after_fork(self) -> None:
        self._lock.release()

    def _unlock_in_child(self) -> None:
        self._timer_started = False
        if self._store is not None and not self._closed:
            self._closed = True
            self._store.abandon()
        self._lock.release()

    def _load(self, store: Store) -> None:
        try:
            self._revision, loaded = store.load()
        except BaseException:
            store.close()
            raise
        with self._lock:
            now = self._clock()
            for instance, drain_s in loaded:
                self._put(instance)
                self._lend(instance, now)
                if drain_s is not None:
                    self._drain_terms[instance.id] = drain_s
                    self._set_deadline(("drain", instance.id), now + drain_s)

    # ---- changes

    def register(
        self,
        service: str,
        address: Address,
        port: int,
        *,
        id: str | None = None,
        weight: int = 1,
        tags: Iterable[str] = (),
        meta: Mapping[str, MetaValue] | None = None,
        zone: str | None = None,
        priority: int = 0,
        ttl_s: float | None = None,
        check: Mapping[str, float] | None = None,
    ) -> Instance:
        """Add an instance, or replace the one with the same id.

        Parameters
        ----------
        service, address, port, weight, tags, meta, zone, priority
            As in `Instance`.
        id : str, optional
            None makes it of service, address and port, so that a restart replaces its predecessor.
        ttl_s : float, optional
            It leaves by itself unless `renew` is called within so many seconds; None: it stays.
        check : mapping, optional
            ``{"ttl_s": seconds}``, the same as `ttl_s`.

        Returns
        -------
        Instance

        Raises
        ------
        TypeError, ValueError
            An argument of the wrong kind or outside its range.
        NotSupported
            A `check` of another kind.
        StoreError
            The file cannot be written; nothing has changed then.

        Notes
        -----
        A replaced instance is passing again and no longer draining, but stays in maintenance until
        `maintenance` ends it. Registering the same again renews the lease and changes nothing else, not even
        the revision.
        """
        ttl_s = _check_ttl(ttl_s, check)
        service, address = check_label(service, "service"), check_address(address)
        port = check_int(port, "port", 0, 65535)
        fresh = Instance(
            _default_id(service, address, port) if id is None else id,
            service,
            address,
            port,
            weight,
            tags,  # type: ignore[arg-type]  # Instance makes it a tuple
            {} if meta is None else meta,
            zone,
            priority,
            ttl_s=ttl_s,
        )
        with self._locked():
            now = self._clock()
            old = self._instances.get(fresh.id)
            if old is not None:
                fresh = altered(fresh, maintenance=old.maintenance, reason=old.reason, revision=old.revision)
            if old is not None and old.service != fresh.service:
                fresh = self._move(old, fresh)
            elif fresh != old:
                fresh = self._change(fresh, "register", None)
                self._end_drain(fresh.id)
            self._lend(fresh, now)
            return fresh

    def renew(self, id: str) -> Instance:
        """Start the lease of an instance anew; without a lease it does nothing.

        Raises
        ------
        KeyError
            It is not registered, or its lease has run out: register it again.
        """
        with self._locked():
            instance = self._known(id)
            self._lend(instance, self._clock())
            return instance

    def deregister(self, id: str) -> Instance:
        """Take an instance out; returns it as it was. KeyError if it is not registered."""
        with self._locked():
            instance = self._known(id)
            self._remove(instance, "deregister")
            return instance

    def set_health(self, id: str, health: Health, note: str = "") -> Instance:
        """Report an instance's health: "warning" still gets traffic, "critical" does not.

        Raises
        ------
        KeyError
            It is not registered.
        ValueError
            Another word than "passing", "warning" and "critical".
        """
        check_health(health)
        check_str(note, "note")
        return self._alter(id, "health", health=health, note=note)

    def maintenance(self, id: str, on: bool, reason: str = "") -> Instance:
        """Take an instance out of answers by an operator's word, or back in; survives re-registration."""
        if not isinstance(on, bool):
            raise TypeError(f"on must be a bool, not {type(on).__name__}: {on!r}")
        check_str(reason, "reason")
        return self._alter(id, "maintenance", maintenance=on, reason=reason if on else "")

    def drain(self, id: str, deadline_s: float | None = None) -> Instance:
        """Send nothing new to an instance; deregister it after `deadline_s` seconds, if given.

        Draining again replaces the deadline; registering again ends the drain.
        """
        term = None if deadline_s is None else check_seconds(deadline_s, "deadline_s", zero=True)
        with self._locked():
            now = self._clock()
            instance = self._known(id)
            if not instance.draining:
                instance = self._change(altered(instance, draining=True), "drain", term)
            elif self._store is not None:
                self._store.put(instance, term, self._revision)
            if term is None or id not in self._instances:
                self._end_drain(id)
            else:
                self._drain_terms[id] = term
                self._set_deadline(("drain", id), now + term)
            return instance

    def expire(self) -> int:
        """Take out what is due by the clock now; returns how many. Reads and the timer do it too."""
        with self._locked():
            before = self._revision
            self._expire()
            return self._revision - before

    # ---- reads

    @property
    def revision(self) -> int:
        """Grows by one with every change; DNS serials, watches and snapshots carry it."""
        with self._lock:
            if not self._closed:
                self._expire()
            return self._revision

    @property
    def datacenter(self) -> str:
        """The data centre's name, in lower case."""
        return self._datacenter

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def services(self) -> dict[str, tuple[str, ...]]:
        """Names of all services with the sorted union of their instances' tags, whatever their health."""
        return self.snapshot().services()

    def instances(
        self, service: str, *, tag: str | None = None, zone: str | None = None, healthy: bool = True
    ) -> tuple[Instance, ...]:
        """The instances of a service in order of registration.

        Parameters
        ----------
        service : str
            Case does not matter; an unknown service has no instances.
        tag, zone : str, optional
            Only those that carry this tag (ignoring case), run in this zone.
        healthy : bool
            Only those discovery may name: not critical, in maintenance or draining, and of weight above 0.
        """
        name = check_str(service, "service").lower()
        for value, what in ((tag, "tag"), (zone, "zone")):
            if value is not None:
                check_str(value, what)
        with self._locked():
            found = self._by_service.find(name)
        return select(found, tag=tag, zone=zone, healthy=healthy)

    def get(self, id: str) -> Instance | None:
        """The instance with this id, or None."""
        check_str(id, "id")
        with self._locked():
            return self._instances.get(id)

    def find_id(self, id: str) -> tuple[Instance, ...]:
        """The instances whose id is this one but for case; names in DNS have none."""
        folded = check_str(id, "id").lower()
        with self._locked():
            return self._by_folded_id.find(folded)

    def find_address(self, address: Address) -> tuple[Instance, ...]:
        """The instances at an address."""
        canonical = check_address(address)
        with self._locked():
            return self._by_address.find(canonical)

    def remaining_s(self, id: str) -> float | None:
        """Seconds until the lease of an instance runs out; None without a lease. KeyError if unknown."""
        with self._locked():
            self._known(id)
            at = self._deadlines.get(("lease", id))
            return None if at is None else at - self._clock()

    def snapshot(self) -> Snapshot:
        """Everything at one revision, unaffected by later changes. Costs one pass over the instances."""
        with self._locked():
            return Snapshot(self._revision, self._datacenter, tuple(self._instances.values()))

    @contextmanager
    def reading(self) -> Iterator[int]:
        """Hold changes off while several reads must agree; gives their revision. Keep it short."""
        with self._locked():
            yield self._revision

    # ---- following

    def watch(self, service: str | None = None, *, since: int = 0, timeout_s: float | None = None) -> Changes:
        """Wait for changes after revision `since`.

        Parameters
        ----------
        service : str, optional
            Only changes of this service; None: of all.
        since : int
            The `revision` of the last `Changes`; 0 to begin with.
        timeout_s : float, optional
            Return without events after so long; 0 never waits, None waits for ever.

        Returns
        -------
        Changes
            At once when there are changes already. Events come in order and without gaps; where that is no
            longer possible, `resync` is True.

        Raises
        ------
        ValueError
            The registry is closed, or gets closed meanwhile.
        """
        name = None if service is None else check_str(service, "service").lower()
        check_int(since, "since", 0, 2**63 - 1)
        end = None
        if timeout_s is not None:
            end = time.monotonic() + check_seconds(timeout_s, "timeout_s", zero=True)
        with self._lock:
            while True:
                self._check_open()
                self._expire()
                changes = self._changes(name, since)
                if changes.events or changes.resync:
                    return changes
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0:
                    return changes
                # threading refuses waits of more than some hundred years.
                self._changed.wait(None if left is None else min(left, 1e6))

    async def awatch(self, service: str | None = None, *, since: int = 0) -> AsyncIterator[Changes]:
        """``async for changes in registry.awatch("web")``: `watch` without a thread; ends at close."""
        name = None if service is None else check_str(service, "service").lower()
        check_int(since, "since", 0, 2**63 - 1)
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()

        def wake(_: Event | None) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(changed.set)

        stop = self.subscribe(wake)
        try:
            while True:
                changed.clear()
                with self._lock:
                    if self._closed:
                        return
                    self._expire()
                    changes = self._changes(name, since)
                since = changes.revision
                if changes.events or changes.resync:
                    yield changes
                else:
                    await changed.wait()
        finally:
            stop()

    def subscribe(self, listener: Callable[[Event | None], None]) -> Callable[[], None]:
        """Call `listener(event)` at every change, ``listener(None)`` at close; returns what ends it.

        It is called under the registry's lock, in order, by the thread that made the change: it must be quick
        and must not wait for another thread that uses the registry. What it changes itself is told to all
        once they have heard of the change before. What it raises is logged.
        """
        if not callable(listener):
            raise TypeError(f"listener must be callable, not {type(listener).__name__}: {listener!r}")
        with self._locked():
            key = self._next_listener
            self._next_listener += 1
            self._listeners[key] = listener

        def stop() -> None:
            with self._lock:
                self._listeners.pop(key, None)

        return stop

    def balancer(self, service: str, policy: str = "weighted_round_robin", **options: Any) -> Balancer:
        """A `Balancer` over the service that follows the registry by itself, as long as it is referenced.

        Every instance is a backend of the same id, address, port, weight, zone, priority and metadata.
        Critical instances and those in maintenance are unhealthy backends, draining ones drain.
        `options` go to `Balancer`.
        """
        name = check_label(service, "service")
        from fastpath.registry.follow import following_balancer

        return following_balancer(self, name, policy, options)

    # ---- lifetime

    def close(self) -> None:
        """Wake all watchers and release the file; later calls raise ValueError, but for `close` itself."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._store is not None:
                self._store.close()
            self._changed.notify_all()
            self._timer_wake.notify_all()
            self._tell(None)

    def __enter__(self) -> Registry:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a registry is shared, not copied or pickled; `snapshot` gives what it holds")

    def __repr__(self) -> str:
        with self._lock:
            where = "memory" if self._store is None else repr(self._store.path)
            state = (
                "closed" if self._closed else f"{len(self._instances)} instances, revision {self._revision}"
            )
            return f"<Registry {self._datacenter} in {where}: {state}>"

    # ---- below: the lock is held

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lock:
            self._check_open()
            self._expire()
            yield

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("the registry is closed")

    def _known(self, id: str) -> Instance:
        instance = self._instances.get(check_str(id, "id"))
        if instance is None:
            raise KeyError(f"no instance with id {id!r} is registered (or its lease has run out)")
        return instance

    def _alter(self, id: str, kind: EventKind, **fields: object) -> Instance:
        with self._locked():
            old = self._known(id)
            new = altered(old, **fields)
            return old if new == old else self._change(new, kind, self._drain_terms.get(id))

    def _change(self, instance: Instance, kind: EventKind, drain_s: float | None) -> Instance:
        """Write, apply, publish."""
        instance = altered(instance, revision=self._revision + 1)
        if self._store is not None:
            self._store.put(instance, drain_s, instance.revision)
        old = self._instances.get(instance.id)
        if old is not None and old.address != instance.address:
            self._by_address.discard(old)
        self._put(instance)
        self._publish(Event(instance.revision, kind, instance))
        return instance

    def _move(self, old: Instance, fresh: Instance) -> Instance:
        """An id goes to another service: out of the one and new in the other, in one transaction."""
        left, came = self._revision + 1, self._revision + 2
        fresh = altered(fresh, revision=came)
        if self._store is not None:
            self._store.put(fresh, None, came, anew=True)
        self._forget(old)
        self._put(fresh)
        gone = Event(left, "deregister", altered(old, revision=left))
        self._publish(gone, Event(came, "register", fresh))
        return fresh

    def _put(self, instance: Instance) -> None:
        self._instances[instance.id] = instance
        for index in (self._by_service, self._by_address, self._by_folded_id):
            index.add(instance)

    def _remove(self, instance: Instance, kind: EventKind) -> None:
        revision = self._revision + 1
        if self._store is not None:
            self._store.remove(instance.id, revision)
        self._take_out(instance, kind, revision)

    def _take_out(self, instance: Instance, kind: EventKind, revision: int) -> None:
        self._forget(instance)
        self._publish(Event(revision, kind, altered(instance, revision=revision)))

    def _forget(self, instance: Instance) -> None:
        del self._instances[instance.id]
        for index in (self._by_service, self._by_address, self._by_folded_id):
            index.discard(instance)
        self._deadlines.discard(("lease", instance.id))
        self._end_drain(instance.id)

    def _end_drain(self, id: str) -> None:
        self._drain_terms.pop(id, None)
        self._deadlines.discard(("drain", id))

    def _publish(self, *events: Event) -> None:
        self._revision = events[-1].revision
        self._log.extend(events)
        self._changed.notify_all()
        self._tell(*events)

    def _tell(self, *events: Event | None) -> None:
        self._untold.extend(events)
        if self._telling:
            return  # a listener made this change; the loop below, further up the stack, comes to it
        self._telling = True
        try:
            while self._untold:
                event = self._untold.popleft()
                for listener in list(self._listeners.values()):
                    try:
                        listener(event)
                    except Exception:
                        _log.exception("a listener failed on %r", event)
                if event is None:
                    self._listeners.clear()
        finally:
            self._telling = False

    def _changes(self, service: str | None, since: int) -> Changes:
        first = self._revision - len(self._log)
        if not first <= since <= self._revision:
            return Changes(self._revision, (), resync=True)
        events = islice(self._log, since - first, None)
        return Changes(
            self._revision, tuple(event for event in events if service in (None, event.instance.service))
        )

    def _lend(self, instance: Instance, now: float) -> None:
        # A listener may have taken it out again.
        if instance.ttl_s is None or instance.id not in self._instances:
            self._deadlines.discard(("lease", instance.id))
        else:
            self._set_deadline(("lease", instance.id), now + instance.ttl_s)

    def _set_deadline(self, key: _Due, at: float) -> None:
        self._deadlines.set(key, at)
        if not self._timer_started:
            self._start_timer()
        elif at == self._deadlines.next():
            self._timer_wake.notify_all()

    def _start_timer(self) -> None:
        self._timer_started = True
        reference = weakref.ref(self)
        weakref.finalize(self, _notify, self._timer_wake)
        threading.Thread(
            target=_run_timer, args=(reference, self._timer_wake), name="fastpath-registry", daemon=True
        ).start()

    def _expire(self) -> None:
        if not len(self._deadlines):
            return
        if not self._timer_started:
            self._start_timer()  # the child of a fork has none
        now = self._clock()
        while (due := self._deadlines.pop_due(now)) is not None:
            kind, id = due
            instance, revision = self._instances[id], self._revision + 1
            if self._store is not None:
                try:
                    self._store.remove(id, revision)
                except StoreError:
                    # What is over is over, whatever the disk says; a later reopen ends it again.
                    _log.exception("an instance whose time is over stays in the file")
            self._take_out(instance, "expire" if kind == "lease" else "deregister", revision)

    def _timer_delay(self) -> float | None:
        """Do what is due; seconds until the next look, None when nothing is pending."""
        self._expire()
        at = self._deadlines.next()
        if at is None:
            return None
        delay = max(0.0, min(at - self._clock(), 1e6))
        return delay if self._clock in _REAL_CLOCKS else min(delay, _POLL_S)


def _notify(condition: threading.Condition) -> None:
    with condition:
        condition.notify_all()


def _run_timer(reference: weakref.ref[Registry], wake: threading.Condition) -> None:
    """The timer thread: holds the registry by a weak reference, so a forgotten registry takes it along."""
    while True:
        with wake:
            registry = reference()
            if registry is None or registry.closed:
                return
            try:
                delay = registry._timer_delay()
            except Exception:
                _log.exception("the timer failed; trying again")
                delay = 1.0
            del registry
            if reference() is None:
                return
            wake.wait(delay)
