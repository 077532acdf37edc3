"""Longest-prefix match: which next hop an address goes to."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from fastpath._fib import FibCore
from fastpath.errors import StoreError
from fastpath.forking import protect
from fastpath.tables.fib_file import (
    changes_of,
    describe,
    described,
    integer_hop,
    lines_of,
    mapped,
    unpacked,
    write_whole,
)
from fastpath.tables.mrt import is_mrt
from fastpath.tables.mrt import routes_of as routes_of_mrt

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = str | int | bytes | ipaddress.IPv4Address | ipaddress.IPv6Address
Prefix = str | Network | tuple[Address, int] | Address

_NETWORKS = ipaddress.IPv4Network, ipaddress.IPv6Network
_INTERFACES = ipaddress.IPv4Interface, ipaddress.IPv6Interface

# Addresses, prefix lengths and ids of prefixes of one family.
Prefixes = tuple[NDArray[Any], NDArray[np.uint8], NDArray[np.uint32]]
Families = tuple[Prefixes, Prefixes]

__all__ = ["ArrayDiff", "Diff", "Fib"]


class Diff(NamedTuple):
    """What makes one table into another; see :meth:`Fib.diff`."""

    added: list[tuple[Network, Any]]
    removed: list[tuple[Network, Any]]
    changed: list[tuple[Network, Any, Any]]


class ArrayDiff(NamedTuple):
    """A :class:`Diff` of one family as arrays; see :meth:`Fib.diff_arrays`."""

    added: Prefixes
    removed: Prefixes
    changed: tuple[NDArray[Any], NDArray[np.uint8], NDArray[np.uint32], NDArray[np.uint32]]


def _keys(addresses: NDArray[Any], lengths: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    """Prefixes of one family as values that sort as they do: address, then length + 1."""
    if addresses.ndim == 1:
        addresses = addresses.astype(">u4").view(np.uint8).reshape(-1, 4)
    keys = np.concatenate([addresses, lengths[:, None] + 1], axis=1)
    return np.ascontiguousarray(keys).view(f"S{keys.shape[1]}").ravel()


def _network(addresses: NDArray[Any], lengths: NDArray[np.uint8], row: int) -> Network:
    if addresses.ndim == 1:
        return ipaddress.IPv4Network((int(addresses[row]), int(lengths[row])))
    return ipaddress.IPv6Network((addresses[row].tobytes(), int(lengths[row])))


def _compact(families: Families, hops: Any) -> tuple[Families, list[Any] | None]:
    """The same with next hops in use alone, numbered anew where others were among them."""
    if hops is None:
        return families, None
    used = np.zeros(len(hops), bool)
    for part in families:
        used[part[2]] = True
    values = [None, *map(hops.__getitem__, np.flatnonzero(used).tolist())]
    if used[1 : len(values)].all():
        return families, values
    fresh = np.cumsum(used, dtype=np.uint32)
    four, six = ((addresses, lengths, fresh[ids]) for addresses, lengths, ids in families)
    return (four, six), values


def _hop(hops: Any, number: int) -> Any:
    return number if hops is None else hops[number]


def _numbered(ids: NDArray[np.uint32], hops: Any, others: NDArray[np.uint32], other: Any) -> NDArray[Any]:
    """Numbers for the ids of one table that are equal to ids of another where the next hops are."""
    if hops is other:
        return ids
    distinct, rows = np.unique(ids, return_inverse=True)
    mine = [_hop(hops, number) for number in distinct.tolist()]
    known = {_hop(other, number): number for number in np.unique(others).tolist()}
    return np.array([known.get(hop, -1) for hop in mine], np.int64)[rows]


def _compared(here: Prefixes, hops: Any, there: Prefixes, other: Any) -> ArrayDiff:
    """Of one family of two tables what makes the one into the other."""
    mine, theirs = _keys(*here[:2]), _keys(*there[:2])
    _, left, right = np.intersect1d(mine, theirs, assume_unique=True, return_indices=True)
    gone, new = np.ones(len(mine), bool), np.ones(len(theirs), bool)
    gone[left] = False
    new[right] = False
    differ = _numbered(here[2], hops, there[2], other)[left] != there[2][right]
    left, right = left[differ], right[differ]
    return ArrayDiff(
        (there[0][new], there[1][new], there[2][new]),
        (here[0][gone], here[1][gone], here[2][gone]),
        (here[0][left], here[1][left], here[2][left], there[2][right]),
    )


def _checked_family(family: object) -> None:
    if family not in (4, 6):
        raise ValueError(f"family {family!r}: 4 or 6 was expected")


def _checked(other: object) -> None:
    if not isinstance(other, Fib):
        raise TypeError(f"expected a Fib, not {type(other).__name__}")


class Fib(FibCore):
    """A forwarding table: longest-prefix match over IPv4 and IPv6 prefixes in one object.

    Addresses are ``str``, :mod:`ipaddress` objects, packed ``bytes`` or (IPv4) ``int``; prefixes are ``str``,
    :mod:`ipaddress` networks or interfaces or ``(address, prefixlen)``, and an address alone is a prefix of
    full length.
    IPv4 and IPv6 never match each other; ``::ffff:a.b.c.d`` is IPv6.

    As a mapping, ``fib[prefix]`` is the prefix's own next hop and ``fib[address]`` the longest match;
    iteration gives the prefixes as networks, IPv4 first, in address order.

    Parameters
    ----------
    strict
        Refuse prefixes with host bits set (``ValueError``), as :func:`ipaddress.ip_network` does. ``False``
        masks them.
    dtype
        ``None``: next hops are any hashable objects but ``None``; array calls answer with ids, 0 for "no
        entry", and ``values[id]`` is the object. ``"uint32"``: next hops are integers from 0 to 2**32 - 1,
        and array calls answer with these.

    Notes
    -----
    Threads: any number of readers beside one writer at a time; writers queue on a lock, readers never wait,
    and each address is answered as before or as after a write.

    Memory: about 7.7 bytes a prefix for a full IPv4 Internet table with distinct next hops, 3.9 with 500 of
    them (packed, in tables that were filled at once). An object that was a next hop keeps its id, and is
    kept, until the table is cleared (outside of a transaction), which begins with id 1 again; copies, pickles
    and files have those in use alone, numbered anew where others were among them. dtype="uint32" keeps
    nothing.

    Source: intervals and ranks per node of 8 address bits, after Zec, Rizzo and Mikuc, "DXR: towards a
    billion routing lookups per second in software" (CCR 2012) and Asai and Ohara, "Poptrie" (SIGCOMM 2015).

    Examples
    --------
    >>> fib = Fib()
    >>> fib["10.0.0.0/8"] = "backbone"
    >>> fib["10.1.0.0/16"] = "office"
    >>> fib.lookup("10.1.2.3"), fib.lookup("10.9.9.9"), fib.lookup("192.0.2.1")
    ('office', 'backbone', None)

    """

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]

    def __new__(cls, **options: Any) -> Self:
        """Make the table known to forks, however it is made."""
        table = super().__new__(cls, **options)
        protect(table)
        return table

    def __init__(self, *, strict: bool = True, dtype: Any = None) -> None:
        super().__init__()

    # --- mapping ---

    def __getitem__(self, key: Prefix) -> Any:
        missing = object()
        if _is_address(key):
            found = self.match(key)
            if found is None:
                raise KeyError(key)
            return found[1]
        value = self.get(key, missing)
        if value is missing:
            raise KeyError(key)
        return value

    def __setitem__(self, prefix: Prefix, next_hop: Hashable) -> None:
        self.insert(prefix, next_hop)

    def __delitem__(self, prefix: Prefix) -> None:
        self.delete(prefix)

    def __contains__(self, key: Prefix) -> bool:
        if _is_address(key):
            return self.match(key) is not None
        missing = object()
        return self.get(key, missing) is not missing

    def __iter__(self) -> Iterator[Network]:
        return iter(self._networks())

    def keys(self) -> Iterator[Network]:
        """Prefixes as networks, IPv4 first, by address and then shortest first; as of the call."""
        return iter(self)

    def items(self) -> Iterator[tuple[Network, Any]]:
        """Pairs of network and next hop in the order of :meth:`keys`; as of the call."""
        return iter(self._items())

    def covering(self, prefix_or_address: Prefix) -> Iterator[tuple[Network, Any]]:
        """Prefixes that contain this one or are it, least specific first, with their next hops."""
        return iter(self._covering(prefix_or_address))

    def covered(self, prefix: Prefix) -> Iterator[tuple[Network, Any]]:
        """Prefixes within this one, itself included, in address order, with their next hops."""
        return iter(self._covered(prefix))

    def to_arrays(self, family: int = 4) -> Prefixes:
        """Return the prefixes of one family as arrays, by address and then shortest first.

        Parameters
        ----------
        family
            4 or 6.

        Returns
        -------
        (uint32[n] or uint8[n,16], uint8[n], uint32[n])
            Addresses, prefix lengths, and ids (with dtype="uint32" next hops): as :meth:`insert_many`
            takes them.

        Notes
        -----
        Cost: about 20 nanoseconds a prefix.

        """
        _checked_family(family)
        return self._arrays(family)

    def covering_arrays(self, prefix_or_address: Prefix) -> Prefixes:
        """:meth:`covering` as arrays, in the form of :meth:`to_arrays`."""
        return self._covering_arrays(prefix_or_address)

    def covered_arrays(self, prefix: Prefix) -> Prefixes:
        """:meth:`covered` as arrays, in the form of :meth:`to_arrays`."""
        return self._covered_arrays(prefix)

    def parent(self, prefix: Prefix) -> tuple[Network, Any] | None:
        """Return the longest prefix that contains this one and is not it, with its next hop."""
        above = [item for item in self._covering(prefix) if item[0].prefixlen < self._length(prefix)]
        return above[-1] if above else None

    def children(self, prefix: Prefix) -> Iterator[tuple[Network, Any]]:
        """Prefixes within this one that no other one of them contains, in address order, with next hops.

        Cost: a pass over the prefixes within; only children become objects.
        """
        return iter(self._children(prefix))

    @staticmethod
    def _length(prefix: Prefix) -> int:
        if isinstance(prefix, tuple):
            return prefix[1]
        if isinstance(prefix, _NETWORKS):
            return prefix.prefixlen
        if isinstance(prefix, _INTERFACES):
            return prefix.network.prefixlen
        if isinstance(prefix, str) and "/" in prefix:
            return int(prefix.partition("/")[2])
        if isinstance(prefix, str):
            return 128 if ":" in prefix else 32
        if isinstance(prefix, bytes):
            return 8 * len(prefix)
        return prefix.max_prefixlen if isinstance(prefix, ipaddress.IPv6Address) else 32

    # --- changes that show all at once, and views that do not change ---

    def transaction(self) -> AbstractContextManager[Fib]:
        """All of the changes within, or none.

        The block's thread changes the table; every reader, that thread included, sees it as it was, until the
        block ends and all changes show at once. An exception forgets them and goes on. Other writers wait.

        A fork copies an open transaction if the forking thread has it, and rolls it back in the child if not.

        Cost: copies the roots (about 0.1 ms); each change then costs about twice as much as alone.

        Raises
        ------
        RuntimeError
            This thread has a transaction open already, or this one was entered before.

        Examples
        --------
        >>> fib = Fib()
        >>> with fib.transaction() as change:
        ...     change.insert("10.0.0.0/8", "a")
        ...     change.insert("11.0.0.0/8", "b")

        """
        return _Transaction(self._changes())

    @contextmanager
    def _changes(self) -> Iterator[Fib]:
        self._begin()
        try:
            yield self
        except BaseException:
            self._end(commit=False)
            raise
        self._end(commit=True)

    def snapshot(self) -> Fib:
        """Return the table as it is now, read-only and unaffected by later writes.

        It shares the nodes: taking one costs a copy of the roots (about 0.1 ms, 1 MB), whatever the size.
        It is of the table's own class, with the same attributes.
        """
        taken = super().snapshot()
        if hasattr(self, "__dict__"):
            taken.__setstate__(vars(self))
        return taken

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table to a file that :meth:`open` reads in place.

        It is there in full or not at all: it takes the place of an older file, whose mode it has, once it is
        on the disk. Symbolic links are followed.

        Raises
        ------
        StoreError
            The file cannot be written, or what is there is no regular file; it is then unchanged.
        TypeError
            A next hop is not of type str, int, float, bool, bytes or tuple, or an address or a network of
            ipaddress; a subclass would come back as what it derives from (pickle keeps any).
        ValueError
            A next hop is a tuple of tuples of tuples, too many for one another.

        """
        now = self.snapshot()
        highest = 0
        if not self.plain:
            families, hops = now._cut()
            _, values = _compact(families, hops)
            if len(values or ()) < len(hops):
                now = now.copy()
            highest = len(values or ()) - 1
        write_whole(path, now._saved(describe(self.strict, self.plain, now.values, highest)))

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Fib:
        """Return a saved table, read-only, ready at once: read in place, its memory shared by processes.

        As long as it is open, the file may be replaced or deleted (:meth:`save` replaces it), but not
        written into. Open only files that you trust: the checksum finds accidents, and a file that was made
        to deceive can make the process read what it should not, and end it. Next hops are read when they are
        first asked for; one that cannot be read raises ``StoreError`` then.

        Raises
        ------
        StoreError
            There is no such file, or it is truncated, altered, or no saved table (a pipe never is).

        """
        fib = cls()
        try:
            extra = fib._open(mapped(path))
            fib._adopt(*described(extra))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise StoreError(f"cannot open {os.fspath(path)!r}: {error}") from error
        return fib

    @classmethod
    def from_file(
        cls, path: str | os.PathLike[str], next_hops: Any = None, *, peer: str | None = None, **options: Any
    ) -> Fib:
        """Return a table from a file, plain, gzip or bzip2: text, or an MRT table dump.

        Parameters
        ----------
        path
            The file. A text has a prefix a line, perhaps with a next hop behind it; empty lines and lines
            that begin with ``#`` do not count. A table dump (RFC 6396, both versions) needs the extra
            ``mrt``; its IPv4 and IPv6 unicast routes are read.
        next_hops
            Of a text of prefixes alone: one next hop for each, or uint32[n]; default 1, 2, 3 ... Of a dump:
            ``"address"``, the routes' next hops as str (default), or ``"origin"``, the number of the AS that
            each route comes from (default with dtype="uint32").
        peer
            Of a dump: the address of the peer whose routes are read. Default: of each prefix the first route.
        options
            As for :class:`Fib`.

        Raises
        ------
        StoreError
            The file cannot be read, or is a dump that is damaged, or that mrtparse does not read: one with
            IPv4 routes whose next hop is an IPv6 address (RFC 8950).
        ValueError
            A line (the message names it and the file) is no prefix, or its next hop is not UTF-8; only some
            of the lines have next hops; the text has next hops of its own, and others were given; with
            dtype="uint32" one is not from 0 to 2**32 - 1; the dump has no route of the peer.
        NotSupported
            The file is a dump, and the extra is not installed.

        Notes
        -----
        Cost of a dump: about 30 microseconds a prefix and 15 for each further peer's route to it, as it is
        read in Python.

        """
        fib = cls(**options)
        with unpacked(path) as file:
            head = file.read(12)
            file.seek(0)
            if is_mrt(head):
                chosen = ("origin" if fib.plain else "address") if next_hops is None else next_hops
                fib.insert_many(*routes_of_mrt(file, path, chosen, peer))
                return fib
            text = file.read()
        if peer is not None:
            raise ValueError(f"peer {peer!r} was given, and {os.fspath(path)!r} is no MRT table dump")
        try:
            fib._read(text, next_hops)
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)!r}: {error}") from error
        return fib

    def _read(self, text: bytes, next_hops: Any) -> None:
        try:
            if next_hops is None:
                self._insert_numbered(text)
            else:
                self.insert_many(text, next_hops)
        except ValueError:
            prefixes, lines, hops = lines_of(text)
            if hops is None:
                raise
            if next_hops is not None:
                raise ValueError("it has next hops of its own, and others were given too") from None
            if self.plain:
                self.insert_many(prefixes, list(map(integer_hop, hops, lines)))
            else:
                self.insert_many(prefixes, hops)

    def update_from(self, changes: str | bytes) -> tuple[int, int]:
        """Apply a textual diff in one transaction: ``+ PREFIX NEXT_HOP`` and ``- PREFIX`` lines.

        Returns
        -------
        (inserted, deleted)

        Raises
        ------
        ValueError
            A line has another form; the message names it, and nothing has changed.
        KeyError
            A prefix to delete is not there; nothing has changed.
        RuntimeError
            This thread has a transaction open.

        """
        if not isinstance(changes, (str, bytes)):
            raise TypeError(f"expected changes as str or bytes, not {type(changes).__name__}")
        inserted = deleted = 0
        with self.transaction():
            for number, prefix, hop in changes_of(changes):
                try:
                    if hop is None:
                        self.delete(prefix)
                        deleted += 1
                    else:
                        self.insert(prefix, integer_hop(hop, number) if self.plain else hop)
                        inserted += 1
                except ValueError as error:
                    told = str(error)
                    raise ValueError(
                        told if told.startswith("line ") else f"line {number}: {told}"
                    ) from error
                except KeyError as error:
                    raise KeyError(f"line {number}: {error.args[0]}") from error
        return inserted, deleted

    # --- two tables ---

    def overlaps(self, other: Fib) -> bool:
        """Whether some address matches in both tables."""
        _checked(other)
        here, there = self.snapshot(), other.snapshot()
        return any(
            one._holds_any(two.to_arrays(family)[0])
            for one, two in ((here, there), (there, here))
            for family in (4, 6)
        )

    def _holds_any(self, addresses: NDArray[Any]) -> bool:
        found = self.lookup_many(addresses, default=0) == self.lookup_many(addresses, default=1)
        return bool(found.any())

    def union(self, other: Fib) -> Fib:
        """Return a table with the prefixes of both; where both have one, the other's next hop."""
        _checked(other)
        both = self.copy()
        if self.plain != other.plain:
            raise TypeError("one table holds integers (dtype='uint32') and the other objects")
        families, hops = other._cut()
        for addresses, lengths, ids in families:
            both.insert_many((addresses, lengths), ids if hops is None else [hops[i] for i in ids.tolist()])
        return both

    def diff(self, other: Fib) -> Diff:
        """Return what makes this table into the other one.

        Returns
        -------
        Diff
            ``added`` and ``removed``: lists of (network, next hop); ``changed``: list of (network, this
            table's next hop, the other's). Each in address order, IPv4 first.

        """
        _checked(other)
        changes = Diff([], [], [])
        (here, mine), (there, theirs) = self._cuts(other)
        for parts in (_compared(here[i], mine, there[i], theirs) for i in (0, 1)):
            for rows, hops, listed in (
                (parts.added, theirs, changes.added),
                (parts.removed, mine, changes.removed),
            ):
                addresses, lengths, ids = rows
                listed += [
                    (_network(addresses, lengths, i), _hop(hops, hop)) for i, hop in enumerate(ids.tolist())
                ]
            addresses, lengths, old, new = parts.changed
            changes.changed.extend(
                (_network(addresses, lengths, i), _hop(mine, before), _hop(theirs, after))
                for i, (before, after) in enumerate(zip(old.tolist(), new.tolist(), strict=True))
            )
        return changes

    def _cuts(self, other: Fib) -> tuple[tuple[Families, Any], tuple[Families, Any]]:
        """Both tables, each as of one moment."""
        here = self._cut()
        return here, here if self is other else other._cut()

    def diff_arrays(self, other: Fib, family: int = 4) -> ArrayDiff:
        """Return what makes this table into the other one, of one family, as arrays.

        Parameters
        ----------
        other
            The other table.
        family
            4 or 6.

        Returns
        -------
        ArrayDiff
            ``added`` and ``removed``: (addresses, lengths, ids) as of :meth:`to_arrays`, the ids being the
            other table's for ``added``; ``changed``: (addresses, lengths, this table's ids, the other's).

        Notes
        -----
        Cost: about 0.3 seconds for two full Internet tables.

        """
        _checked(other)
        _checked_family(family)
        (here, mine), (there, theirs) = self._cuts(other)
        row = (4, 6).index(family)
        return _compared(here[row], mine, there[row], theirs)

    def aggregate(self) -> Fib:
        """Return a table with the fewest prefixes that gives every address the same next hop.

        Source: Draves, King, Venkatachary and Zill, "Constructing optimal IP routing tables" (INFOCOM 1999),
        with the rule that no prefix may cover an address that has none.
        """
        smaller = Fib(strict=self.strict, dtype="uint32" if self.plain else None)
        smaller._restore(*_compact(*self._cut(aggregated=True)))
        return smaller

    def stats(self) -> dict[str, Any]:
        """Sizes: prefixes a family and a length, bytes, distinct next hops."""
        ((_, lengths4, ids4), (_, lengths6, ids6)), _ = self._cut()
        v4, v6 = np.bincount(lengths4), np.bincount(lengths6)
        return {
            "ipv4": len(lengths4),
            "ipv6": len(lengths6),
            "ipv4_lengths": {length: n for length, n in enumerate(v4.tolist()) if n},
            "ipv6_lengths": {length: n for length, n in enumerate(v6.tolist()) if n},
            "nbytes": self.nbytes,
            "next_hops": len(np.unique(np.concatenate([ids4, ids6]))),
        }

    # --- as a value ---

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Fib):
            return NotImplemented
        (here, mine), (there, theirs) = self._cuts(other)
        return all(
            np.array_equal(left[0], right[0])
            and np.array_equal(left[1], right[1])
            and np.array_equal(_numbered(left[2], mine, right[2], theirs), right[2])
            for left, right in zip(here, there, strict=True)
        )

    def __repr__(self) -> str:
        v4, v6 = self._sizes()
        options = ("" if self.strict else " strict=False") + (" dtype=uint32" if self.plain else "")
        return f"<Fib{options}: {v4:,} IPv4 and {v6:,} IPv6 prefixes, {self.nbytes:,} bytes>"

    def __reduce__(self) -> tuple[Any, ...]:
        families, values = _compact(*self._cut())
        made_of = (self.strict, self.plain, families, values, type(self))
        return _restored, made_of, getattr(self, "__dict__", None)

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        vars(self).update(attributes)

    def copy(self) -> Fib:
        """An independent table with the same entries; of a class of its own, with the same attributes."""
        families, values = _compact(*self._cut())
        table = _restored(self.strict, self.plain, families, values, type(self))
        if hasattr(self, "__dict__"):
            table.__setstate__(vars(self))
        return table

    __copy__ = copy

    def update(self, entries: Mapping[Any, Any] | Iterable[tuple[Prefix, Any]]) -> None:
        """Insert the entries of a mapping from prefix to next hop, of another table, or of pairs."""
        pairs = entries.items() if isinstance(entries, (Mapping, Fib)) else entries
        if isinstance(pairs, (str, bytes)) or not isinstance(pairs, Iterable):
            raise TypeError(
                f"expected a mapping, a table or pairs of prefix and next hop, not {type(entries).__name__}"
            )
        prefixes, next_hops = [], []
        for row, pair in enumerate(pairs):
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise TypeError(f"row {row}: expected a pair of prefix and next hop, not {pair!r:.80}")
            prefixes.append(pair[0])
            next_hops.append(pair[1])
        self.insert_many(prefixes, next_hops)


class _Transaction(AbstractContextManager[Fib]):
    """A context manager to be entered once."""

    def __init__(self, steps: Any) -> None:
        self._steps = steps
        self._entered = False

    def __enter__(self) -> Fib:
        if self._entered:
            raise RuntimeError("this transaction was entered before: transaction() begins another one")
        self._entered = True
        table: Fib = self._steps.__enter__()
        return table

    def __exit__(self, *raised: Any) -> Any:
        return self._steps.__exit__(*raised)

    def __call__(self, function: Any) -> Any:
        """Make every call of a function a transaction of its own."""
        return self._steps(function)


def _is_address(key: object) -> bool:
    if isinstance(key, str):
        return "/" not in key
    return not isinstance(key, (tuple, *_NETWORKS, *_INTERFACES))


def _restored(strict: bool, plain: bool, families: Any, values: Any, kind: type[Fib] = Fib) -> Fib:
    fib = kind.__new__(kind, strict=strict, dtype="uint32" if plain else None)
    fib._restore(families, values)
    return fib
