"""`Resolver`: names of services answered from a registry, as records, as instances, as DNS messages."""

from __future__ import annotations

import math
import random
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from fastpath._engine import DnsResponder
from fastpath.dns.images import ORDERS, Image, image_of, servfail
from fastpath.dns.names import labels_of, labels_of_wire, text_of
from fastpath.dns.records import Record, type_name, type_number
from fastpath.dns.zone import Zone, apex_of
from fastpath.errors import NXDOMAIN, NoAnswer, ResolveError
from fastpath.registry import Event, Instance, Registry
from fastpath.registry.types import Address, check_address, check_int, check_seconds, check_str

if TYPE_CHECKING:
    from fastpath.balance import Balancer

_T = TypeVar("_T")
_MAX_TTL_S = 2**31 - 1
# No registry gets here, so an image of this revision is never kept.
_NO_REVISION = 2**64 - 1
# An instance may leave between the pick and the look at it.
_PICK_TRIES = 8


@dataclass(frozen=True, slots=True)
class Answer:
    """What a query found: records in answer order, their TTL in seconds, the registry's revision."""

    records: tuple[Record, ...]
    ttl_s: int
    revision: int
    additional: tuple[Record, ...] = ()

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)


def _check_ttl(value: object, what: str) -> int:
    seconds = math.floor(check_seconds(value, what, zero=True))
    if seconds > _MAX_TTL_S:
        raise ValueError(f"{what} must be at most {_MAX_TTL_S}, not {value!r}")
    return seconds


class Resolver:
    """Answers names of a registry's services.

    Parameters
    ----------
    registry : Registry
        Where the instances are. Only available ones are named: not critical, in maintenance or draining, and
        of weight above 0; names of one instance (``ID.node``) and of addresses answer always.
    domain : str
        What the names end in.
    ttl_s : float
        TTL of records, in whole seconds (a fraction is cut off); 0: nobody caches, changes are seen at once.
    negative_ttl_s : float
        TTL of "no such name" and "no such record".
    order : {"weighted", "random", "registered"}
        How records of one answer are ordered, within each priority (lower first): at random in proportion to
        the weights, at random, or as registered.
    limit : int, optional
        Most records in an answer; together with "weighted", a draw of so many.
    edns_size : int
        Largest UDP answer, for clients that allow it (512 to 4096). The default avoids fragments (RFC 9715).
    ns_addresses : iterable of addresses
        Addresses of this server, answered for ``ns.DOMAIN``.
    seed : int, optional
        Makes the order of `query` and `resolve` repeatable; messages draw from a source of their own.

    Notes
    -----
    Safe to call from any thread. `respond` takes about two microseconds for a name that was asked before at
    the same revision, some tens for others. The forms of names are listed in `fastpath.dns.zone.Zone`.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        domain: str = "consul",
        ttl_s: float = 0,
        negative_ttl_s: float = 1,
        order: str = "weighted",
        limit: int | None = None,
        edns_size: int = 1232,
        ns_addresses: Iterable[Address] = (),
        seed: int | None = None,
    ) -> None:
        if not isinstance(registry, Registry):
            raise TypeError(f"registry must be a Registry, not {type(registry).__name__}: {registry!r}")
        if check_str(order, "order") not in ORDERS:
            raise ValueError(f"order must be 'weighted', 'random' or 'registered', not {order!r}")
        if isinstance(ns_addresses, str | bytes) or not isinstance(ns_addresses, Iterable):
            raise TypeError(f"ns_addresses must be an iterable of addresses, not {ns_addresses!r}")
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
            raise TypeError(f"seed must be None or an int, not {type(seed).__name__}: {seed!r}")
        self._registry = registry
        self._domain = apex_of(domain)
        self._order = order
        self._limit = None if limit is None else check_int(limit, "limit", 1, 65535)
        self._zone = Zone(
            registry,
            self._domain,
            _check_ttl(ttl_s, "ttl_s"),
            _check_ttl(negative_ttl_s, "negative_ttl_s"),
            tuple(check_address(address) for address in ns_addresses),
        )
        self._random = random.Random(seed)
        self._balancers: dict[tuple[str, bool], Balancer] = {}
        self._responder = DnsResponder(
            _weak_image_maker(weakref.ref(self)), check_int(edns_size, "edns_size", 512, 4096)
        )
        with registry.reading() as revision:
            stop = registry.subscribe(_weak_listener(weakref.ref(self._responder)))
            self._responder.all_changed(revision)
        weakref.finalize(self, stop)

    @property
    def registry(self) -> Registry:
        """Where the instances are."""
        return self._registry

    @property
    def domain(self) -> str:
        """What the names end in, without a dot at the end."""
        return text_of(self._domain).removesuffix(".")

    @property
    def stats(self) -> dict[str, int]:
        """Counters of `respond`, named as in `DnsServer.stats`; a server counts its own."""
        return self._responder.stats()

    def query(self, name: str, rdtype: str | int = "A") -> Answer:
        """The records of a name.

        Parameters
        ----------
        name : str
            Case and a dot at the end do not matter; see `fastpath.dns.zone.Zone` for the forms.
        rdtype : str or int
            "A", "AAAA", "SRV", "PTR", "SOA", "NS", "ANY", "TYPEn" or a number.

        Returns
        -------
        Answer

        Raises
        ------
        NXDOMAIN
            No such name: no such service, or none of its instances is available.
        NoAnswer
            The name exists without records of this type.
        ResolveError
            The name is not under the domain.
        TypeError, ValueError
            Not a name, not a type.
        """
        labels = labels_of(name)
        number = type_number(rdtype)
        found = self._zone.find(labels, number)
        if not found.exists:
            if found.soa is None:
                raise ResolveError(
                    f"{name!r} is not under {self.domain!r}; the names of a service are like "
                    f"'NAME.service.{self.domain}', and `resolve` takes its bare name"
                )
            raise NXDOMAIN(f"{name!r}: no such name, or no instance behind it is available")
        if not found.entries:
            raise NoAnswer(f"{name!r} exists, but has no {type_name(number)} record")
        entries = self._drawn(found.entries, lambda entry: (entry.priority, entry.weight))
        return Answer(
            tuple(entry.record for entry in entries),
            min(entry.record.ttl_s for entry in entries),
            found.revision,
            tuple(dict.fromkeys(entry.additional for entry in entries if entry.additional is not None)),
        )

    def resolve(self, service: str, *, tag: str | None = None) -> list[Instance]:
        """The available instances of a service (with a tag) in answer order; empty if there are none."""
        found = self._registry.instances(service, tag=tag)
        return self._drawn(found, lambda instance: (instance.priority, instance.weight))

    def pick(self, service: str, key: bytes | str | int | None = None) -> Instance | None:
        """One available instance: drawn by weight, or, with a key, the same one for the same key (Maglev).

        Keys move to other instances only as far as instances come and go. None if there is no instance.
        """
        name = check_str(service, "service").lower()
        if key is not None and (isinstance(key, bool) or not isinstance(key, bytes | str | int)):
            raise TypeError(f"key must be None, bytes, str or int, not {type(key).__name__}: {key!r}")
        if not self._registry.instances(name, healthy=False):
            for keyed in (False, True):
                self._balancers.pop((name, keyed), None)
            return None
        balancer = self._balancers.get((name, key is not None))
        if balancer is None:
            policy = "weighted_random" if key is None else "maglev"
            # Like a query, it names nobody rather than one that is not available.
            balancer = self._registry.balancer(name, policy, panic_threshold=0.0)
            self._balancers[name, key is not None] = balancer
        for _ in range(_PICK_TRIES):
            backend = balancer.pick(key)
            if backend is None:
                break
            instance = self._registry.get(backend.id)
            if instance is not None:
                return instance
        return None

    def respond(
        self, message: bytes | bytearray | memoryview, *, max_size: int = 512, client: Address | None = None
    ) -> bytes:
        """Answer a whole DNS message with a whole DNS message.

        Parameters
        ----------
        message : bytes
            What came in; any bytes at all.
        max_size : int
            Largest answer without EDNS: 512 for UDP, 65535 for TCP. A client that announces more with EDNS
            gets up to `edns_size`.
        client : address, optional
            Who asks. Answers do not depend on it.

        Returns
        -------
        bytes
            An answer with the question's bytes as they came. Records that do not fit set TC. Malformed
            messages get FORMERR, what is not a query NOTIMP, names elsewhere REFUSED, trouble SERVFAIL.
            Empty: nothing may be sent, since the message has no header or is itself an answer.

        Raises
        ------
        TypeError, ValueError
            `message` is not bytes, `max_size` is not 512 to 65535, `client` is no address; never for what the
            bytes say.
        """
        if not isinstance(message, bytes):
            if not isinstance(message, bytearray | memoryview):
                raise TypeError(f"message must be bytes, not {type(message).__name__}: {message!r}")
            message = bytes(message)
        if client is not None:
            check_address(client)
        size = check_int(max_size, "max_size", 512, 65535)
        _ = self._registry.revision  # a clock that has moved ends leases now
        return self._responder.respond(message, size)

    def __repr__(self) -> str:
        return f"<Resolver of {self.domain!r} over {self._registry!r}>"

    def _drawn(self, items: Sequence[_T], key: Callable[[_T], tuple[int, int]]) -> list[_T]:
        """`items` in answer order; `key` gives (priority, weight)."""
        if self._order == "registered":
            ordered = sorted(items, key=lambda item: key(item)[0])
        else:
            ranks = []
            for n, item in enumerate(items):
                priority, weight = key(item)
                # Drawn without replacement in proportion to the weights (Efraimidis and Spirakis, 2006).
                draw = self._random.expovariate(1.0)
                ranks.append((priority, draw / weight if self._order == "weighted" else draw, n))
            ordered = [items[n] for _, _, n in sorted(ranks)]
        return ordered if self._limit is None else ordered[: self._limit]

    def _image(self, name: bytes, rdtype: int) -> Image:
        if self._registry.closed:
            return servfail(_NO_REVISION)
        labels = labels_of_wire(name)
        return image_of(labels, self._zone.find(labels, rdtype), self._order, self._limit)


def _weak_image_maker(reference: weakref.ref[Resolver]) -> Callable[[bytes, int], Image]:
    """What the engine calls. Weak, since the collector cannot see cycles through the engine."""

    def make(name: bytes, rdtype: int) -> Image:
        resolver = reference()
        return servfail(_NO_REVISION) if resolver is None else resolver._image(name, rdtype)

    return make


def _weak_listener(reference: weakref.ref[DnsResponder]) -> Callable[[Event | None], None]:
    def listen(event: Event | None) -> None:
        responder = reference()
        if responder is None:
            return
        if event is None:
            responder.all_changed(_NO_REVISION)
        else:
            responder.changed(event.revision, event.instance.service)

    return listen
