"""Routing tables from MRT table dumps (RFC 6396), read by the package mrtparse."""

from __future__ import annotations

import ipaddress
import os
import signal
import threading
from collections.abc import Iterator
from typing import IO, Any

from fastpath.errors import NotSupported, StoreError

# Attributes of BGP (RFC 4271, RFC 4760, RFC 6793).
_AS_PATH, _NEXT_HOP, _MP_REACH, _AS4_PATH = 2, 3, 14, 17
_DUMP, _DUMP_V2 = 12, 13
_PEERS = 1
# Subtypes of a dump and of a dump's second version that hold unicast routes.
_UNICAST = {_DUMP: (1, 2), _DUMP_V2: (2, 4, 8, 10)}


def is_mrt(head: bytes) -> bool:
    """Whether a file that begins so holds MRT records: no text has a NUL, as their types begin with."""
    return len(head) >= 6 and head[4] == 0 and head[5] != 0


def routes_of(
    file: IO[bytes], path: str | os.PathLike[str], hops: str, peer: str | None
) -> tuple[list[str], list[Any]]:
    """Prefixes of a dump and for each the next hop of one route to it: of `peer`, or else of the first."""
    if not isinstance(hops, str) or hops not in ("address", "origin"):
        raise ValueError(f"next_hops {hops!r} of an MRT table dump: 'address' or 'origin' was expected")
    wanted = None if peer is None else str(ipaddress.ip_address(peer))
    hop_of = _address if hops == "address" else _origin
    found: dict[str, Any] = {}
    peers: list[dict[str, Any]] = []
    for record in _records(file, path):
        kind, subtype = _number(record["type"]), _number(record["subtype"])
        if kind not in _UNICAST:
            raise StoreError(f"cannot read {os.fspath(path)!r}: a record of type {kind} is of no table dump")
        if (kind, subtype) == (_DUMP_V2, _PEERS):
            peers = record["peer_entries"]
        elif subtype in _UNICAST[kind]:
            prefix = f"{record['prefix']}/{record['length']}"
            entries = record["rib_entries"] if kind == _DUMP_V2 else [record]
            try:
                for entry in () if prefix in found else entries:
                    source = peers[entry["peer_index"]] if kind == _DUMP_V2 else record
                    if wanted is None or source["peer_ip"] == wanted:
                        attributes = {_number(one["type"]): one["value"] for one in entry["path_attributes"]}
                        found[prefix] = hop_of(attributes, source)
                        break
            except LookupError as error:
                raise StoreError(
                    f"cannot read {os.fspath(path)!r}: a route to {prefix} lacks parts"
                ) from error
    if wanted is not None and not found:
        raise ValueError(f"{os.fspath(path)!r} has no route of peer {wanted}")
    return list(found), list(found.values())


def _records(file: IO[bytes], path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    records = iter(_reader()(file))
    while True:
        try:
            record = next(records, None)
        except Exception as error:  # a damaged file makes the parser raise nearly anything
            raise StoreError(
                f"cannot read {os.fspath(path)!r}: a damaged record ({type(error).__name__}: {error})"
            ) from error
        if record is None:
            return
        if record.err is not None:
            raise StoreError(f"cannot read {os.fspath(path)!r}: {record.err_msg}")
        yield record.data


def _reader() -> Any:
    # When it is imported, mrtparse gives SIGPIPE its default action, which would end a program that writes to
    # a closed connection.
    action = signal.getsignal(signal.SIGPIPE)
    in_main = threading.current_thread() is threading.main_thread()
    try:
        from mrtparse import Reader
    except ImportError:
        raise NotSupported("MRT table dumps need an extra: pip install 'fastpath[mrt]'") from None
    except ValueError:
        raise NotSupported("the first MRT table dump of a program must be read in its main thread") from None
    if in_main:
        signal.signal(signal.SIGPIPE, action)
    return Reader


def _number(named: dict[int, str]) -> int:
    return next(iter(named))


def _address(attributes: dict[int, Any], source: dict[str, Any]) -> str:
    """The route's next hop; the peer's address where the route has none."""
    if _MP_REACH in attributes:
        return str(attributes[_MP_REACH]["next_hop"][0])
    return str(attributes.get(_NEXT_HOP, source["peer_ip"]))


def _origin(attributes: dict[int, Any], source: dict[str, Any]) -> int:
    """The last AS of the path (of a set, its first); the peer's where the path is empty."""
    path = attributes.get(_AS4_PATH) or attributes.get(_AS_PATH)
    if not path:
        return int(source["peer_as"])
    last = path[-1]
    is_set = _number(last["type"]) in (1, 4)
    return int(last["value"][0 if is_set else -1])
