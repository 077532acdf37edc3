"""Saved forwarding tables, and tables from text."""

from __future__ import annotations

import base64
import bz2
import gzip
import ipaddress
import json
import mmap
import os
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from fastpath.errors import StoreError

_ADDRESSES = {
    "IPv4Address": ipaddress.IPv4Address,
    "IPv6Address": ipaddress.IPv6Address,
    "IPv4Network": ipaddress.IPv4Network,
    "IPv6Network": ipaddress.IPv6Network,
}


def _to_json(value: Any) -> Any:
    """A next hop as JSON that tells its type; nothing that would run code when it is read."""
    if value is None or isinstance(value, (bool, str)) or type(value) in (int, float):
        return value
    if isinstance(value, bytes):
        return {"bytes": base64.b85encode(value).decode()}
    if isinstance(value, tuple):
        return {"tuple": [_to_json(part) for part in value]}
    if type(value).__name__ in _ADDRESSES:
        return {type(value).__name__: str(value)}
    raise TypeError(
        "a saved table keeps next hops of type str, int, float, bool, bytes, tuple and ipaddress, "
        f"not {type(value).__name__} (pickle keeps any)"
    )


def _from_json(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "bytes":
        return base64.b85decode(content)
    if kind == "tuple":
        return tuple(_from_json(part) for part in content)
    return _ADDRESSES[kind](content)


def describe(strict: bool, plain: bool, values: Any) -> bytes:
    """What a saved table holds beside its nodes."""
    values = None if plain else [_to_json(value) for value in values]
    return json.dumps({"strict": strict, "plain": plain, "values": values}).encode()


def described(extra: bytes) -> tuple[bool, bool, list[Any]]:
    """Read what :func:`describe` wrote."""
    content = json.loads(extra)
    values = [_from_json(value) for value in content["values"] or [None]]
    return bool(content["strict"]), bool(content["plain"]), values


def write_whole(path: str | os.PathLike[str], contents: bytes) -> None:
    """Write a file so that it is there in full or not at all."""
    target = Path(path)
    try:
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
            try:
                file.write(contents)
                file.flush()
                os.fsync(file.fileno())
                os.chmod(file.name, 0o644)
                os.replace(file.name, target)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        raise StoreError(f"cannot write {str(target)!r}: {error.strerror}") from error


def mapped(path: str | os.PathLike[str]) -> mmap.mmap:
    """A file's contents, shared with every process that maps it."""
    try:
        with open(path, "rb") as file:
            flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
            return mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ)
    except ValueError:
        raise StoreError(f"cannot open {os.fspath(path)!r}: it is empty") from None
    except OSError as error:
        raise StoreError(f"cannot open {os.fspath(path)!r}: {error.strerror}") from error


@contextmanager
def unpacked(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A file for reading, plain, gzip or bzip2 by its first bytes."""
    try:
        with open(path, "rb") as raw:
            head = raw.read(3)
            raw.seek(0)
            if head[:2] == b"\x1f\x8b":
                with gzip.GzipFile(fileobj=raw) as file:
                    yield cast(IO[bytes], file)
            elif head == b"BZh":
                with bz2.BZ2File(raw) as file:
                    yield file
            else:
                yield raw
    except (OSError, EOFError, zlib.error) as error:
        raise StoreError(f"cannot read {os.fspath(path)!r}: {error}") from error


def lines_of(text: bytes, path: str | os.PathLike[str]) -> tuple[bytes, list[str] | None]:
    """The prefixes of a text, one a line, and their next hops if each line has one; None if none has."""
    rows = [row for line in text.splitlines() if (row := line.split(None, 1)) and not row[0].startswith(b"#")]
    hops = [row[1].strip() for row in rows if len(row) == 2]
    if not hops:
        return text, None
    if len(hops) != len(rows):
        raise ValueError(
            f"{os.fspath(path)!r}: {len(rows) - len(hops)} of {len(rows)} prefixes have no next hop"
        )
    return b"\n".join(row[0] for row in rows), [hop.decode("utf-8", "replace") for hop in hops]
