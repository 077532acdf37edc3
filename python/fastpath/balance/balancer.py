"""The balancer: members and options. Picks are in the compiled `Core`."""

from __future__ import annotations

import dataclasses
import numbers
import os
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from fastpath import forking
from fastpath._balancer import Compat, Core, Policy, is_prime
from fastpath.balance.types import (
    Backend,
    Change,
    Explanation,
    OutlierDetection,
    Reason,
    Status,
    checked_weight,
)

_HASH_POLICIES = ("maglev", "ketama", "rendezvous", "jump", "stable")
_COMPAT = {
    "weighted_round_robin": ("nginx", "lvs", "grpc"),
    "maglev": ("envoy",),
    "ketama": ("nginx", "envoy", "libmemcached"),
    "rendezvous": ("pymemcache",),
}
# Placed by ``address:port``, as the other system does, if there is an address.
_BY_ADDRESS = ("nginx", "envoy", "libmemcached")
_DEFAULT_PORT = 11211  # libmemcached leaves it out of what it hashes


# Processes that fork after making a balancer would otherwise all go on at the same position.
_unseeded: weakref.WeakSet[Balancer] = weakref.WeakSet()


def _part_ways() -> None:
    for balancer in _unseeded:
        balancer._start_near(secrets.randbits(62))


os.register_at_fork(after_in_child=_part_ways)


def _number(name: str, value: object, low: float, high: float, *, whole: bool = False) -> Any:
    kind = numbers.Integral if whole else numbers.Real
    if isinstance(value, bool) or not isinstance(value, kind):
        raise TypeError(f"{name} must be {'an int' if whole else 'a number'}, got {type(value).__name__}")
    number: Any = value
    if not low <= number <= high:
        raise ValueError(f"{name} must be {low:g}..{high:g}, got {value}")
    return int(number) if isinstance(value, numbers.Integral) else float(number)


def _limit(name: str, value: object) -> int:
    limit: int = 0 if value is None else _number(name, value, 1, 1 << 30, whole=True)
    return limit


def _backend(item: object) -> Backend:
    if isinstance(item, Backend):
        return item
    if isinstance(item, str):
        return Backend(item)
    if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str):
        return Backend(item[0], weight=item[1])
    raise TypeError(f"a backend is a Backend, an id or an (id, weight) pair, got {item!r}")


def _backends(items: object) -> list[Backend]:
    """A list of backends without a duplicate id, from backends, ids, (id, weight) pairs or a mapping."""
    if isinstance(items, Mapping):
        items = list(items.items())
    if isinstance(items, (str, bytes)) or not isinstance(items, Iterable):
        raise TypeError(f"backends must be an iterable of Backend, got {type(items).__name__}")
    made = [_backend(item) for item in items]
    seen: set[str] = set()
    for backend in made:
        if backend.id in seen:
            raise ValueError(f"backend {backend.id!r} is given twice")
        seen.add(backend.id)
    return made


class Balancer(Core):
    """Picks one of many backends, in nanoseconds, and stays right under load.

    Parameters
    ----------
    backends : iterable of Backend
        Also ids, ``(id, weight)`` pairs, or a mapping of id to weight.
    policy : str
        ``round_robin``, ``weighted_round_robin`` (smooth: no prefix of the picks is a whole pick away from
        its share, counted from the start, while the period of the weights is at most 65,536 picks, all
        members are open and one priority or zone takes all picks; of members that are out while priorities
        or zones share the picks, others take the places at random),
        ``random``, ``weighted_random``,
        ``least_request`` (the least of all), ``power_of_two`` (two different ones drawn by weight; the one
        with less load), ``peak_ewma`` (the same by latency); by key: ``maglev``, ``ketama``, ``rendezvous``,
        ``jump`` (whole weights only), ``stable`` (a table of slots like ``maglev`` that moves hardly more
        keys than it must).
    seed : int, optional
        0..2**64-1. The picks are a function of seed and position, and start at position 0. Without a seed
        both are random, also after a fork, so that many processes do not start with the same backend. It also
        chooses the subset.
    table_size : int
        Slots of ``maglev`` and ``stable``: a prime, at least 100 for every backend to balance well.
    load_bound : float, optional
        Hash policies: no backend is given more than this times its share of the leases in flight (1.25 is
        usual); further keys go to their next backend.
    slow_start_s : float
        A backend that joins, or whose weight is raised, goes from the weight it had to the new one over this
        time; no table changes meanwhile. A key that is to become its own stays where it was until then, so
        that every key moves once, and none leaves a backend whose weight is raised, but for those that the
        policy's layout moves anyway (many with ``jump``, hardly any with ``maglev``, none with the others).
        With ``jump`` these leave it as others come. If another weight is raised, or somebody joins, before
        it is over, part of the keys that moved go back, and move again.
        The table from before is kept meanwhile. ``round_robin`` and ``random`` ramp who joins only, for
        weights mean nothing to them.
    panic_threshold, panic_mode, overprovisioning
        As Envoy: when the healthy share is below the threshold, health is ignored (``"all"``) or nobody is
        picked (``"fail"``); a priority takes all traffic while its healthy share times the overprovisioning
        factor is at least 1. A priority is counted as a whole, whatever the zones in it.
    local_zone : str, optional
        Backends of this zone come first within their priority; what their healthy share (times the factor)
        cannot take spills over to the other zones.
    subset_size : int, optional
        Use only so many, chosen by the seed: one change of members changes at most one of them.
    max_in_flight : int, optional
        A backend with so many leases gets no picks. When a zone or a priority is full, the others take over.
    outlier : OutlierDetection, optional
        Leave out who fails; fed by leases and ``report``.
    compat : str, optional
        Follow another system bit for bit: ``nginx``, ``lvs``, ``grpc`` (weighted_round_robin, from position
        0), ``envoy`` (maglev, ketama), ``nginx``, ``libmemcached`` (ketama), ``pymemcache`` (rendezvous).
    hash_function : str
        For ``compat="envoy"`` rings: ``"xxhash"`` or ``"murmur2"``.
    points_per_weight, min_ring_size, max_ring_size : int
        Rings: points for one unit of weight; limits of Envoy's. A fraction of a point owns such a part of its
        arc. Weights that are all below 1, or would give more than 2**24 points, are taken times a power of
        two; an edit across such a border moves keys of everybody.
    slack : float
        ``stable``: how far above its share a backend may go.
    repair : bool
        ``stable``: start from the table before and move only what must move. Balancers with different
        histories then disagree.
    sticky_keys : int
        How many keys of ``pick`` and ``acquire`` (not of ``pick_many``) a hash policy remembers, each with
        the backend that it got, so that one that drains keeps its own: a power of two; 0: none. 8 bytes each
        (512 KiB as it is). Of so
        many keys fewer than one in a thousand is lost; of more, those that were picked last are known.
    slow_start_min, slow_start_aggression : float
        Where slow start begins, and its curve (1: linear), as Envoy's.
    decay_s, failure_latency_s : float
        ``peak_ewma``: how long a latency is remembered; what a failure counts as at least. It also counts
        as at least eight times the slowest remembered answer of all, behind as many requests as are in
        flight on average.
    retry_budget, min_retries
        See ``acquire``.
    clock : callable
        Seconds; for slow start, ejections and latencies.

    Notes
    -----
    Any number of threads may pick while one writes; writers queue. Edits of members take effect on the next
    pick, in one rebuild; flips of health are a flag. A copy, or a pickle, has the members with their health
    and draining, the seed and the position, and thereby the same picks next; leases, measurements, slow
    start, the keys remembered and the table that ``repair`` goes on from begin anew. Policies: nginx (smooth
    weighted round robin), Vose (alias tables), Mitzenmacher (two choices), Finagle (peak EWMA), Eisenbud et
    al. (Maglev), Karger et al. (rings), Thaler and Ravishankar (rendezvous), Lamping and Veach (jump),
    Mirrokni et al. (bounded load).
    """

    POLICIES: ClassVar[tuple[str, ...]] = tuple(policy.name for policy in Policy)

    def __init__(
        self,
        backends: Iterable[Backend | str | tuple[str, float]] | Mapping[str, float] = (),
        policy: str = "weighted_round_robin",
        *,
        seed: int | None = None,
        table_size: int = 65537,
        load_bound: float | None = None,
        slow_start_s: float = 0.0,
        panic_threshold: float = 0.5,
        panic_mode: str = "all",
        overprovisioning: float = 1.4,
        local_zone: str | None = None,
        subset_size: int | None = None,
        max_in_flight: int | None = None,
        outlier: OutlierDetection | None = None,
        compat: str | None = None,
        hash_function: str = "xxhash",
        points_per_weight: int = 160,
        min_ring_size: int = 1024,
        max_ring_size: int = 8388608,
        slack: float = 0.05,
        repair: bool = False,
        sticky_keys: int = 65536,
        slow_start_min: float = 0.1,
        slow_start_aggression: float = 1.0,
        decay_s: float = 10.0,
        failure_latency_s: float = 1.0,
        retry_budget: float = 0.2,
        min_retries: int = 3,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if policy not in self.POLICIES:
            raise ValueError(f"policy must be one of {', '.join(self.POLICIES)}; got {policy!r}")
        if compat is not None and compat not in _COMPAT.get(policy, ()):
            known = ", ".join(_COMPAT.get(policy, ())) or "none"
            raise ValueError(f"compat modes of {policy}: {known}; got {compat!r}")
        if hash_function not in ("xxhash", "murmur2"):
            raise ValueError(f"hash_function must be 'xxhash' or 'murmur2', got {hash_function!r}")
        if hash_function == "murmur2" and (policy, compat) != ("ketama", "envoy"):
            raise ValueError("hash_function='murmur2' goes with policy 'ketama' and compat='envoy'")
        if panic_mode not in ("all", "fail"):
            raise ValueError(f"panic_mode must be 'all' or 'fail', got {panic_mode!r}")
        if local_zone is not None and not isinstance(local_zone, str):
            raise TypeError(f"local_zone must be a str or None, got {type(local_zone).__name__}")
        if outlier is not None and not isinstance(outlier, OutlierDetection):
            raise TypeError(f"outlier must be an OutlierDetection, got {type(outlier).__name__}")
        if not callable(clock):
            raise TypeError(f"clock must be callable, got {type(clock).__name__}")
        if load_bound is not None and policy not in _HASH_POLICIES:
            raise ValueError(f"load_bound goes with {', '.join(_HASH_POLICIES)}; got policy {policy!r}")
        table_size = _number("table_size", table_size, 2, 5000011, whole=True)
        if policy in ("maglev", "stable") and not is_prime(table_size):
            raise ValueError(f"table_size must be a prime number, got {table_size}")
        sticky_keys = _number("sticky_keys", sticky_keys, 0, 1 << 28, whole=True)
        if sticky_keys & (sticky_keys - 1) or sticky_keys == 1:
            raise ValueError(f"sticky_keys must be 0 or a power of two above 1, got {sticky_keys}")
        given = None if seed is None else _number("seed", seed, 0, (1 << 64) - 1, whole=True)
        mode = "none" if compat is None else compat if hash_function == "xxhash" else "envoy_murmur2"
        # By the names of the core's structs.
        table = {
            "policy": Policy[policy],
            "compat": Compat[mode],
            "slots": table_size,
            "points": _number("points_per_weight", points_per_weight, 1, 1 << 20, whole=True),
            "ring_min": _number("min_ring_size", min_ring_size, 1, 8388608, whole=True),
            "ring_max": _number("max_ring_size", max_ring_size, 1, 8388608, whole=True),
            "slack": _number("slack", slack, 0, 10),
            "repair": bool(repair),
        }
        core = {
            "table": table,
            "seed": secrets.randbits(64) if given is None else given,
            "load_bound": 0.0 if load_bound is None else _number("load_bound", load_bound, 1.0, 1e6),
            "slow_start_s": _number("slow_start_s", slow_start_s, 0, 1e9),
            "slow_start_min": _number("slow_start_min", slow_start_min, 0, 1),
            "slow_start_aggression": _number("slow_start_aggression", slow_start_aggression, 1e-3, 1e3),
            "panic_threshold": _number("panic_threshold", panic_threshold, 0, 1) * 100.0,
            "panic_fail": panic_mode == "fail",
            "overprovisioning": round(_number("overprovisioning", overprovisioning, 1, 1e6) * 100),
            "subset_size": _limit("subset_size", subset_size),
            "max_in_flight": _limit("max_in_flight", max_in_flight),
            "sticky_bits": sticky_keys.bit_length() - 1 if sticky_keys else 0,
            "decay_s": _number("decay_s", decay_s, 1e-6, 1e9),
            "failure_latency_s": _number("failure_latency_s", failure_latency_s, 0, 1e9),
            "retry_budget": _number("retry_budget", retry_budget, 0, 1),
            "min_retries": _number("min_retries", min_retries, 0, 1 << 30, whole=True),
            "outlier": {"on": outlier is not None, **dataclasses.asdict(outlier or OutlierDetection())},
        }
        self._lock = threading.RLock()
        self.policy = policy
        self._compat_name = compat
        self._local_zone = local_zone
        self._subset_size = subset_size
        self._whole = policy == "jump" or compat in ("nginx", "lvs")
        # These tables can turn out too large, which the edit that caused it must say.
        self._checked = self._whole or (policy == "ketama" and compat is not None)
        self._options = {
            "seed": seed,
            "table_size": table_size,
            "load_bound": load_bound,
            "slow_start_s": slow_start_s,
            "panic_threshold": panic_threshold,
            "panic_mode": panic_mode,
            "overprovisioning": overprovisioning,
            "local_zone": local_zone,
            "subset_size": subset_size,
            "max_in_flight": max_in_flight,
            "outlier": outlier,
            "compat": compat,
            "hash_function": hash_function,
            "points_per_weight": points_per_weight,
            "min_ring_size": min_ring_size,
            "max_ring_size": max_ring_size,
            "slack": slack,
            "repair": bool(repair),
            "sticky_keys": sticky_keys,
            "slow_start_min": slow_start_min,
            "slow_start_aggression": slow_start_aggression,
            "decay_s": decay_s,
            "failure_latency_s": failure_latency_s,
            "retry_budget": retry_budget,
            "min_retries": min_retries,
            "clock": clock,
        }
        self._begin(core, 0, clock)
        forking.protect(self, forking.EDITED)
        rows = [self._row(backend) for backend in _backends(backends)]
        self._check(backend for backend, _, _ in rows)
        self._apply(rows, [], [], False)
        if given is None and compat is None:
            self._start_near(secrets.randbits(62))
            _unseeded.add(self)

    def _lock_for_fork(self) -> bool:
        return self._lock.acquire(timeout=forking.PATIENCE_S)

    def _unlock_after_fork(self) -> None:
        self._lock.release()

    def _unlock_in_child(self) -> None:
        self._forget_readers()
        self._lock.release()

    # --- members -------------------------------------------------------------------------------------------

    def _key(self, backend: Backend) -> bytes:
        if self._compat_name not in _BY_ADDRESS or not backend.address:
            return backend.id.encode()
        address = backend.address
        if self._compat_name == "libmemcached":
            bare = backend.port in (0, _DEFAULT_PORT)
            return (address if bare else f"{address}:{backend.port}").encode()
        if not backend.port:
            return address.encode()
        return (f"[{address}]:{backend.port}" if ":" in address else f"{address}:{backend.port}").encode()

    def _local(self, backend: Backend) -> bool:
        return self._local_zone is None or backend.zone == self._local_zone

    def _row(self, backend: Backend) -> tuple[Backend, bytes, bool]:
        """What the core wants to know of a member."""
        if self._whole and backend.weight != int(backend.weight):
            raise ValueError(f"{self.policy} takes whole weights here, got {backend.weight} ({backend.id!r})")
        return backend, self._key(backend), self._local(backend)

    def _check(self, backends: Iterable[Backend]) -> None:
        """Raises ValueError where a table would be too large."""
        if not self._checked:
            return
        groups: dict[tuple[int, bool], list[float]] = {}
        for backend in backends:
            if backend.weight > 0:
                groups.setdefault((backend.priority, self._local(backend)), []).append(backend.weight)
        for weights in groups.values():
            self._check_size(sorted(weights, reverse=True)[: self._subset_size])

    def _edit(
        self,
        added: Iterable[Backend] = (),
        changed: Iterable[Backend] = (),
        removed: Iterable[str] = (),
    ) -> None:
        """One edit, of which nothing is done if anything of it is wrong."""
        rows = [self._row(backend) for backend in added], [self._row(backend) for backend in changed]
        gone = dict.fromkeys(self[id].id for id in removed)
        if self._checked:
            after = {backend.id: backend for backend in self}
            after.update((backend.id, backend) for some in rows for backend, _, _ in some)
            self._check(backend for id, backend in after.items() if id not in gone)
        self._apply(*rows, list(gone), True)

    def __getitem__(self, id: str) -> Backend:
        return self._member(id)

    def get(self, id: str) -> Backend | None:
        """The member of this id, or None."""
        return self._member(id) if id in self else None

    def add(self, backend: Backend | str | tuple[str, float]) -> None:
        """Adds one member.

        Raises
        ------
        ValueError
            There is one of this id, or the table would be too large.
        """
        made = _backend(backend)
        with self._lock:
            if made.id in self:
                raise ValueError(f"backend {made.id!r} is there already; update() or set_weight() changes it")
            self._edit(added=[made])

    def remove(self, id: str) -> None:
        """Removes one member; its leases end as they would have, and count again if it is added meanwhile.

        Raises
        ------
        KeyError
            No such backend.
        """
        with self._lock:
            self._edit(removed=[id])

    def update(self, backends: Iterable[Backend | str | tuple[str, float]] | Mapping[str, float]) -> Change:
        """Makes the members equal to `backends`: adds, removes and changes what differs, by id.

        Health, leases and measurements of those who stay are kept. Nobody sees a state in between.

        Returns
        -------
        Change
            With the measured share of keys or picks that moved.
        """
        wanted = {backend.id: backend for backend in _backends(backends)}
        with self._lock:
            held = {backend.id: backend for backend in self}
            added = [backend for id, backend in wanted.items() if id not in held]
            removed = [id for id in held if id not in wanted]
            changed = [backend for id, backend in wanted.items() if id in held and held[id] != backend]
            before = self._sample()
            self._edit(added, changed, removed)
            return Change(
                self._moved(before, self._sample()),
                tuple(backend.id for backend in added),
                tuple(removed),
                tuple(backend.id for backend in changed),
            )

    def _moved(self, before: np.ndarray[Any, Any], after: np.ndarray[Any, Any]) -> float:
        if before.dtype == np.uint32:
            return float(np.count_nonzero(before != after)) / before.size
        size = max(before.size, after.size)
        padded = [np.pad(shares, (0, size - shares.size)) for shares in (before, after)]
        return min(1.0, float(np.abs(padded[0] - padded[1]).sum()) / 2)

    def set_weight(self, id: str, weight: float) -> None:
        """Changes one weight; 0 means no new picks. A raise follows ``slow_start_s``.

        A weight of 0 takes the member out of the table, which moves the keys that it was picked for (and
        with ``jump`` many others): ``drain`` keeps them.

        Raises
        ------
        KeyError
            No such backend.
        ValueError
            The weight is negative or not finite, or the table would be too large.
        """
        checked_weight(weight)
        with self._lock:
            self._edit(changed=[dataclasses.replace(self[id], weight=weight)])

    def drain(self, id: str, on: bool = True) -> None:
        """No new picks for this member, but for keys of a hash policy that it was picked for lately.

        A hash policy remembers the last keys (``sticky_keys``) of ``pick`` and ``acquire``, but none of
        ``pick_many``; those stay where they are, new ones go elsewhere, until the member is removed. The
        table does not change. ``on=False`` ends it.

        Raises
        ------
        KeyError
            No such backend.
        """
        with self._lock:
            self._set_draining(id, bool(on))

    # --- what would be ------------------------------------------------------------------------------------

    def picks(self, key: bytes | str | int | None = None) -> Iterator[Backend]:
        """Distinct backends, best first: the pick, and then whom to try when it fails.

        Advances like one ``pick``.
        """
        position = self.position
        first = self.pick(key)
        return self._others(key, position, first)

    def _others(
        self, key: bytes | str | int | None, position: int, first: Backend | None
    ) -> Iterator[Backend]:
        exclude: list[int] = []
        backend = first
        while backend is not None:
            if backend.id in self:
                exclude.append(self._slot(backend.id))
            yield backend
            id, _ = self._decide(key, position, exclude, None)
            backend = self.values[id]

    def explain(self, key: bytes | str | int | None = None) -> Explanation:
        """The answer that ``pick(key)`` would give now, and why. Nothing is advanced."""
        trace: list[tuple[int, int]] = []
        id, reason = self._decide(key, self.position, [], trace)
        values = self.values
        considered = []
        for slot, verdict in trace:
            backend = values[slot]
            if backend is not None:
                considered.append((backend.id, Reason(verdict)))
        return Explanation(values[id], Reason(reason), tuple(considered))

    def status(self, id: str) -> Status:
        """How one member stands now.

        Raises
        ------
        KeyError
            No such backend.
        """
        flags, weight, in_flight, latency_s = self._status(id)
        return Status(
            healthy=not flags & 1,
            draining=bool(flags & 4),
            ejected=bool(flags & 2),
            full=bool(flags & 8),
            in_subset=not flags & 64,
            effective_weight=weight,
            in_flight=in_flight,
            latency_s=latency_s,
        )

    def distribution(self, hashes: Any) -> dict[str, float]:
        """The share of the hashes (uint64[n], or what ``pick_many`` takes) that each member would get now.

        Nothing is advanced or remembered.
        """
        ids = self._look(hashes)
        values = self.values
        counts = np.bincount(ids, minlength=len(values))
        total = max(len(ids), 1)
        return {backend.id: int(counts[i]) / total for i, backend in enumerate(values) if backend is not None}

    @property
    def options(self) -> dict[str, Any]:
        """The options it was made with."""
        return dict(self._options)

    def __repr__(self) -> str:
        return f"<Balancer {self.policy}, {len(self)} backends>"

    def __reduce__(self) -> tuple[Any, ...]:
        with self._lock:
            status = {backend.id: self.status(backend.id) for backend in self}
            state = (self.seed, self.position, status)
            return (_revive, (type(self), list(self), self.policy, self._options, state))


def _revive(
    kind: type[Balancer],
    backends: list[Backend],
    policy: str,
    options: dict[str, Any],
    state: tuple[int, int, dict[str, Status]],
) -> Balancer:
    """A copy: what the notes of `Balancer` say."""
    seed, position, statuses = state
    balancer = kind(backends, policy, **{**options, "seed": seed})
    if options["seed"] is None:
        _unseeded.add(balancer)
    balancer.position = position
    for id, status in statuses.items():
        balancer.set_healthy(id, status.healthy)
        balancer.drain(id, status.draining)
    return balancer
