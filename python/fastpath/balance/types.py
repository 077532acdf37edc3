"""What goes into a balancer and what comes out of it, as plain values."""

from __future__ import annotations

import enum
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn


def checked_weight(weight: object, what: str = "weight") -> float:
    """A weight as an int or a float; raises what every part of the room raises for a bad one."""
    if isinstance(weight, bool) or not isinstance(weight, numbers.Real):
        raise TypeError(f"{what} must be a number, got {type(weight).__name__}")
    number: Any = weight
    if number != 0 and not _LEAST_WEIGHT <= number <= 1 << 32:  # also refuses NaN
        raise ValueError(f"{what} must be 0, or {_LEAST_WEIGHT}..2**32, got {weight}")
    return int(number) if isinstance(weight, numbers.Integral) else float(number)


# Ratios of weights stay far from where sums of doubles forget the smaller.
_LEAST_WEIGHT = 1e-18


def weight_from_load(qps: float, utilization: float, eps: float = 0.0, error_penalty: float = 1.0) -> float:
    """The weight of a backend that reports its own load: qps / (utilization + eps / qps * error_penalty).

    Parameters
    ----------
    qps, eps : float
        Requests and errors a second.
    utilization : float
        Share of its capacity in use, above 0.
    error_penalty : float
        How much load an error counts as.

    Returns
    -------
    float
        0.0 while nothing is reported. For ``Balancer.set_weight``. Source: gRPC proposal A58.
    """
    for name, value in (
        ("qps", qps),
        ("utilization", utilization),
        ("eps", eps),
        ("error_penalty", error_penalty),
    ):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{name} must be a number, got {type(value).__name__}")
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name} must be finite and not negative, got {value}")
    if qps == 0:
        return 0.0
    load = utilization + eps / qps * error_penalty
    return qps / load if load > 0 else 0.0


class _Metadata(dict[str, Any]):
    """A dict that is what it was; like any other in comparisons, copies, pickles and JSON."""

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError(
            "metadata of a Backend cannot be changed; dataclasses.replace() makes another Backend"
        )

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return _Metadata, (dict(self),)


_NO_METADATA = _Metadata()


def _no_metadata() -> Mapping[str, Any]:
    return _NO_METADATA


@dataclass(frozen=True, slots=True)
class Backend:
    """One thing that a balancer may pick.

    Parameters
    ----------
    id : str
        Its name in the balancer; hash policies place it by this, so it should outlive a restart.
    address, port
        Where it is. Compatible modes of other systems place it by ``address:port``.
    weight : int or float
        Its share relative to the others, 1e-18..2**32. 0 means draining: no new picks. The policy ``jump``
        and the compatible modes ``nginx`` and ``lvs`` take whole numbers only.
    zone : str, optional
        Where it runs; see ``local_zone`` of the balancer.
    priority : int
        0 is first; the next one takes what the healthy ones before cannot.
    metadata : mapping
        Whatever belongs to it; not read by the balancer. Copied, into a dict that cannot be changed.
    """

    id: str
    address: str = ""
    port: int = 0
    weight: float = 1
    zone: str | None = None
    priority: int = 0
    metadata: Mapping[str, Any] = field(default_factory=_no_metadata, hash=False)

    def __post_init__(self) -> None:
        if not isinstance(self.id, str):
            raise TypeError(f"id must be a str, got {type(self.id).__name__}")
        if not self.id:
            raise ValueError("id must not be empty")
        if not isinstance(self.address, str):
            raise TypeError(f"address must be a str, got {type(self.address).__name__}")
        for name, value, low, high in (
            ("port", self.port, 0, 65535),
            ("priority", self.priority, 0, 1 << 30),
        ):
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be an int, got {type(value).__name__}")
            if not low <= value <= high:
                raise ValueError(f"{name} must be {low}..{high}, got {value}")
        object.__setattr__(self, "weight", checked_weight(self.weight))
        if self.zone is not None and not isinstance(self.zone, str):
            raise TypeError(f"zone must be a str or None, got {type(self.zone).__name__}")
        if not isinstance(self.metadata, Mapping):
            raise TypeError(f"metadata must be a mapping, got {type(self.metadata).__name__}")
        if not isinstance(self.metadata, _Metadata):
            object.__setattr__(self, "metadata", _Metadata(self.metadata))


class Reason(enum.IntEnum):
    """Why a pick went where it went."""

    OK = 0
    PANIC = 1
    """Too few are healthy, so health is ignored."""
    FAILOVER = 2
    """A priority that is not the first."""
    SPILLED_ZONE = 3
    """Another zone than the local one."""
    REHASHED = 4
    """The key's own backend is out of order."""
    OVER_BOUND = 5
    """The key's own backend is at its load bound."""
    SLOW_START = 6
    """The key's own backend is still being warmed up."""
    DRAIN_STICKY = 7
    """The backend drains, but knows this key."""
    NONE_HEALTHY = 8
    OVERLOADED = 9
    """All that are left have ``max_in_flight`` requests."""
    EMPTY = 10
    """There is no backend with a weight."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answer that ``pick`` would give, and why.

    Parameters
    ----------
    backend : Backend or None
        The same answer.
    reason : Reason
        Why it is this one.
    considered : tuple of (str, Reason)
        Ids of the backends that were looked at, in order, with what was found.
    """

    backend: Backend | None
    reason: Reason
    considered: tuple[tuple[str, Reason], ...] = ()


@dataclass(frozen=True, slots=True)
class Status:
    """How one member stands now.

    Parameters
    ----------
    healthy, draining, ejected, full, in_subset : bool
        What ``set_healthy`` and ``drain`` said; out by outlier detection; at ``max_in_flight``; in the
        subset.
    effective_weight : float
        The weight as far as slow start has brought it.
    in_flight : int
        Leases.
    latency_s : float
        ``peak_ewma``: what is remembered of latencies, 0 before the first.
    """

    healthy: bool
    draining: bool
    ejected: bool
    full: bool
    in_subset: bool
    effective_weight: float
    in_flight: int
    latency_s: float


@dataclass(frozen=True, slots=True)
class Change:
    """What an ``update`` did.

    Parameters
    ----------
    moved_fraction : float
        Measured, not estimated, with health, draining and slow start as they are. Hash policies: the share of
        keys, unknown ones, whose backend is another one now (every slot of a table, 65,536 sampled hashes of
        other layouts, 4,096 of ``rendezvous``). Others: the share of picks that goes elsewhere. Nobody counts
        as another one.
    added, removed, changed : tuple of str
        Ids.
    """

    moved_fraction: float
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OutlierDetection:
    """When a backend that fails is left out for a while (after Envoy's outlier detection).

    Parameters
    ----------
    consecutive_failures : int
        So many in a row eject at once; 0: never.
    interval_s : float
        How often rates are compared.
    base_ejection_s, max_ejection_s : float
        The n-th ejection lasts n times the base, up to the maximum; n falls by one for every interval
        since the last one was over.
    max_ejected : float
        Share of the backends that may be out at once, never exceeded but for one, who always may. 0 turns
        ejection off.
    stdev_factor : float
        Eject whose success rate is below the mean by more than so many standard deviations; 0: never.
    failure_share : float
        Eject who fails at least this share; 0: never.
    min_hosts, min_requests : int
        Rates are compared when so many backends had so many requests in the interval.
    jitter_s : float
        Every ejection lasts up to so much longer, so that not all come back at once.
    """

    consecutive_failures: int = 5
    interval_s: float = 10.0
    base_ejection_s: float = 30.0
    max_ejection_s: float = 300.0
    max_ejected: float = 0.1
    stdev_factor: float = 1.9
    failure_share: float = 0.85
    min_hosts: int = 5
    min_requests: int = 100
    jitter_s: float = 3.0

    def __post_init__(self) -> None:
        for name in ("consecutive_failures", "min_hosts", "min_requests"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be an int, got {type(value).__name__}")
            if not 0 <= value <= 60000:
                raise ValueError(f"{name} must be 0..60000, got {value}")
        for name, high in (
            ("interval_s", 1e9),
            ("base_ejection_s", 1e9),
            ("max_ejection_s", 1e9),
            ("max_ejected", 1.0),
            ("stdev_factor", 1e9),
            ("failure_share", 1.0),
            ("jitter_s", 1e9),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"{name} must be a number, got {type(value).__name__}")
            if not 0 <= value <= high:
                raise ValueError(f"{name} must be 0..{high:g}, got {value}")
        if self.interval_s == 0:
            raise ValueError("interval_s must be above 0, got 0")
