"""What the registry holds and hands out: frozen values that check themselves."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, SupportsIndex, TypeAlias

Address: TypeAlias = str | bytes | int | ipaddress.IPv4Address | ipaddress.IPv6Address
Health: TypeAlias = Literal["passing", "warning", "critical"]
EventKind: TypeAlias = Literal["register", "deregister", "expire", "health", "maintenance", "drain"]
MetaValue: TypeAlias = str | int | float | bool | None

HEALTH_STATES = ("passing", "warning", "critical")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?", re.ASCII)
_MAX_ID = 200


class ReadOnlyDict(dict[str, MetaValue]):
    """A dict that refuses to change; JSON, pickle and copies take it as any dict."""

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("meta is read-only; register the instance again with other meta")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[type[ReadOnlyDict], tuple[dict[str, MetaValue]]]:
        return ReadOnlyDict, (dict(self),)

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))


def check_str(value: object, what: str) -> str:
    """`value` if it is a str."""
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a str, not {type(value).__name__}: {value!r}")
    return value


def check_int(value: object, what: str, low: int, high: int) -> int:
    """`value` as an int within `low` to `high`; a bool is none."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise TypeError(f"{what} must be an int, not {type(value).__name__}: {value!r}")
    number = value.__index__()
    if not low <= number <= high:
        raise ValueError(f"{what} must be {low} to {high}, not {number}")
    return number


def check_seconds(value: object, what: str, *, zero: bool = False) -> float:
    """`value` as a finite, positive float; `zero` allows 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{what} must be a number of seconds, not {type(value).__name__}: {value!r}")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds) or seconds < 0 or (seconds == 0 and not zero):
        raise ValueError(
            f"{what} must be a {'non-negative' if zero else 'positive'} number of seconds, not {value!r}"
        )
    return seconds


def check_label(value: object, what: str) -> str:
    """Lower-case form of a name that is legal as one DNS label."""
    name = check_str(value, what)
    # Only A to Z: other letters may fold into ASCII ones (the Kelvin sign into k).
    name = name.lower() if name.isascii() else ""
    if not _LABEL.fullmatch(name):
        raise ValueError(
            f"{what} must be a DNS label (1 to 63 letters, digits, '-' or '_', "
            f"a letter or digit at both ends), not {value!r}"
        )
    return name


def check_text(value: object, what: str) -> str:
    """A name that people type and that ends up in logs and DNS names: printable, no spaces."""
    text = check_str(value, what)
    if not 0 < len(text) <= _MAX_ID or not text.isprintable() or " " in text:
        raise ValueError(f"{what} must be 1 to {_MAX_ID} printable characters without spaces, not {value!r}")
    return text


def check_address(value: object) -> str:
    """Canonical text of an IPv4 or IPv6 address."""
    if isinstance(value, bool) or not isinstance(
        value, str | bytes | int | ipaddress.IPv4Address | ipaddress.IPv6Address
    ):
        raise TypeError(
            f"address must be a str, ipaddress object, bytes or int, not {type(value).__name__}: {value!r}"
        )
    try:
        parsed = ipaddress.IPv4Address(value) if isinstance(value, int) else ipaddress.ip_address(value)
    except ValueError:
        raise ValueError(f"address must be an IPv4 or IPv6 address, not {value!r}") from None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.scope_id is not None:
        raise ValueError(f"address must not carry a scope id, as {value!r} does")
    return str(parsed)


def _check_tags(value: object) -> tuple[str, ...]:
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise TypeError(f"tags must be an iterable of str, not {type(value).__name__}: {value!r}")
    return tuple(dict.fromkeys(check_text(tag, "a tag") for tag in value))


def _check_meta(value: object) -> Mapping[str, MetaValue]:
    if not isinstance(value, Mapping):
        raise TypeError(f"meta must be a mapping, not {type(value).__name__}: {value!r}")
    for key, item in value.items():
        check_str(key, "a key of meta")
        if item is not None and not isinstance(item, str | int | float | bool):
            raise TypeError(
                f"meta[{key!r}] must be a str, number, bool or None, not {type(item).__name__}: {item!r}"
            )
    return ReadOnlyDict(value)


@dataclass(frozen=True, slots=True)
class Instance:
    """One place where a service can be reached.

    Parameters
    ----------
    id : str
        Unique in a registry; at most 200 printable characters without spaces.
    service : str
        A DNS label; kept in lower case.
    address : str, bytes, int or ipaddress object
        IPv4 or IPv6 address; kept as canonical text.
    port : int
        0 to 65535.
    weight : int
        Relative share, 0 to 65535; 0 means draining: no new picks.
    tags : iterable of str
        Kept in order, without repetitions.
    meta : mapping of str to str, number, bool or None
        Kept as a read-only copy.
    zone : str, optional
        Where it runs.
    priority : int
        0 to 65535; lower is preferred.
    health : {"passing", "warning", "critical"}
        "warning" still gets traffic, "critical" does not.
    note : str
        What the last health report said.
    maintenance : bool
        Taken out by an operator; `reason` says why.
    draining : bool
        On its way out: named nowhere, kept for what still runs on it.
    ttl_s : float, optional
        Term of its lease in seconds; None: it stays until deregistered.
    revision : int
        The registry's revision of its last change.

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong kind or outside its range; the message names it.

    Notes
    -----
    Immutable, hashable, picklable; safe to share between threads.
    """

    id: str
    service: str
    address: str
    port: int
    weight: int = 1
    tags: tuple[str, ...] = ()
    meta: Mapping[str, MetaValue] = field(default_factory=dict)
    zone: str | None = None
    priority: int = 0
    health: Health = "passing"
    note: str = ""
    maintenance: bool = False
    reason: str = ""
    draining: bool = False
    ttl_s: float | None = None
    revision: int = 0

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "id", check_text(self.id, "id"))
        put(self, "service", check_label(self.service, "service"))
        put(self, "address", check_address(self.address))
        put(self, "port", check_int(self.port, "port", 0, 65535))
        put(self, "weight", check_int(self.weight, "weight", 0, 65535))
        put(self, "tags", _check_tags(self.tags))
        put(self, "meta", _check_meta(self.meta))
        if self.zone is not None:
            check_text(self.zone, "zone")
        put(self, "priority", check_int(self.priority, "priority", 0, 65535))
        check_health(self.health)
        check_str(self.note, "note")
        check_str(self.reason, "reason")
        for name in ("maintenance", "draining"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be a bool, not {getattr(self, name)!r}")
        if self.ttl_s is not None:
            put(self, "ttl_s", check_seconds(self.ttl_s, "ttl_s"))
        put(self, "revision", check_int(self.revision, "revision", 0, 2**63 - 1))

    @property
    def available(self) -> bool:
        """Whether discovery may name it: not critical, not in maintenance, not draining, weight above 0."""
        return self.health != "critical" and not self.maintenance and not self.draining and self.weight > 0

    def has_tag(self, tag: str) -> bool:
        """Whether one of its tags equals `tag`, ignoring case (as DNS does)."""
        wanted = tag.lower()
        return any(own.lower() == wanted for own in self.tags)

    def as_dict(self) -> dict[str, Any]:
        """Its fields as plain data, ready for ``json.dumps``; ``Instance(**d)`` is the way back."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__} | {
            "tags": list(self.tags),
            "meta": dict(self.meta),
        }


def altered(instance: Instance, **fields: Any) -> Instance:
    """A copy with other fields, which the caller has checked; `dataclasses.replace` would check all anew."""
    copy = object.__new__(Instance)
    put = object.__setattr__
    for name in Instance.__slots__:
        put(copy, name, fields[name] if name in fields else getattr(instance, name))
    return copy


def check_health(value: object) -> Health:
    """`value` if it is one of the three words."""
    if check_str(value, "health") not in HEALTH_STATES:
        raise ValueError(f"health must be 'passing', 'warning' or 'critical', not {value!r}")
    return value  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class Event:
    """One change of the registry: what happened to which instance.

    `kind` is "register" (new or replaced), "deregister", "expire", "health", "maintenance" or "drain";
    `instance` is the instance after the change, or as it was last when it is gone.
    """

    revision: int
    kind: EventKind
    instance: Instance

    @property
    def gone(self) -> bool:
        """Whether the instance left the registry."""
        return self.kind in ("deregister", "expire")


@dataclass(frozen=True, slots=True)
class Changes:
    """What a watch saw.

    Parameters
    ----------
    revision : int
        Pass it as `since` to the next watch.
    events : tuple of Event
        In order, without gaps; empty when the time ran out.
    resync : bool
        True when the log no longer reaches back to `since` (or `since` is of another registry): read the
        instances anew, then watch from `revision`.
    """

    revision: int
    events: tuple[Event, ...] = ()
    resync: bool = False


def select(
    instances: Iterable[Instance], *, tag: str | None, zone: str | None, healthy: bool
) -> tuple[Instance, ...]:
    """Those that fit, in the order given."""
    return tuple(
        instance
        for instance in instances
        if (not healthy or instance.available)
        and (tag is None or instance.has_tag(tag))
        and (zone is None or instance.zone == zone)
    )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A registry at one revision; later changes do not touch it."""

    revision: int
    datacenter: str
    all_instances: tuple[Instance, ...]

    def services(self) -> dict[str, tuple[str, ...]]:
        """Names of services with the sorted union of their instances' tags."""
        tags: dict[str, set[str]] = {}
        for instance in self.all_instances:
            tags.setdefault(instance.service, set()).update(instance.tags)
        return {name: tuple(sorted(own)) for name, own in tags.items()}

    def instances(
        self, service: str, *, tag: str | None = None, zone: str | None = None, healthy: bool = True
    ) -> tuple[Instance, ...]:
        """As `Registry.instances`."""
        name = check_str(service, "service").lower()
        return select(
            (i for i in self.all_instances if i.service == name), tag=tag, zone=zone, healthy=healthy
        )
