"""Saved forwarding tables, and tables from text."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import ipaddress
import json
import mmap
import os
import re
import secrets
import stat
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from fastpath.errors import StoreError

_ADDRESSES = {
    "IPv4Address": ipaddress.IPv4Address,
    "IPv6Address": ipaddress.IPv6Address,
    "IPv4Network": ipaddress.IPv4Network,
    "IPv6Network": ipaddress.IPv6Network,
}


def _to_json(value: Any) -> Any:
    """A next hop as JSON that tells its type; nothing that would run code when it is read."""
    if value is None or type(value) in (bool, str, int, float):
        return value
    if type(value) is bytes:
        return {"bytes": base64.b85encode(value).decode()}
    if type(value) is tuple:
        return {"tuple": [_to_json(part) for part in value]}
    if type(value) is _ADDRESSES.get(type(value).__name__):
        return {type(value).__name__: str(value)}
    raise TypeError(
        "a saved table keeps next hops of type str, int, float, bool, bytes, tuple, and of the types of "
        f"ipaddress, not {type(value).__name__} (pickle keeps any)"
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


class StoredValues(Sequence[Any]):
    """Next hops by id as a saved table holds them: each is made when it is first asked for.

    Behind a header, the ends of their bytes, then these: ``s`` and a text, or ``j`` and JSON.
    """

    def __init__(self, ends: NDArray[np.uint64], contents: NDArray[np.uint8]) -> None:
        self._ends = ends
        self._contents = contents
        self._known: dict[int, Any] = {0: None}

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, number: Any) -> Any:
        try:
            return self._known[number]
        except KeyError:
            pass
        if not 0 < number < len(self._ends):
            raise IndexError(f"next hop {number} of {len(self._ends)}")
        written = self._contents[int(self._ends[number - 1]) : int(self._ends[number])].tobytes()
        try:
            if written[:1] == b"s":
                value: Any = written[1:].decode("utf-8", "surrogatepass")
            else:
                value = _from_json(json.loads(written[1:]))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise StoreError(f"next hop {number} of a saved table cannot be read: {error}") from error
        self._known[number] = value
        return value


def _written(value: Any) -> bytes:
    if type(value) is str:
        return b"s" + value.encode("utf-8", "surrogatepass")
    try:
        return b"j" + json.dumps(_to_json(value)).encode()
    except RecursionError:
        raise ValueError("a next hop is a tuple of tuples, too many for one another") from None


def describe(strict: bool, plain: bool, values: Any, highest: int) -> bytes:
    """What a saved table holds beside its nodes, whose highest id is told; a plain one has no values."""
    written = [b"", *map(_written, values[1:])] if values else []
    ends = np.cumsum(np.fromiter(map(len, written), np.uint64, len(written)), dtype=np.uint64)
    header = json.dumps(
        {"strict": strict, "plain": plain, "values": len(written), "highest": highest}
    ).encode()
    header += b" " * (-len(header) % 8)
    return b"".join([len(header).to_bytes(8, "little"), header, ends.tobytes(), *written])


def described(extra: NDArray[np.uint8]) -> tuple[bool, bool, StoredValues | None]:
    """Read what :func:`describe` wrote."""
    start = 8 + int.from_bytes(extra[:8].tobytes(), "little")
    content = json.loads(extra[8:start].tobytes())
    count = int(content["values"])
    end = start + 8 * count
    ends = extra[start:end].view(np.uint64)
    strict, plain = bool(content["strict"]), bool(content["plain"])
    if plain:
        return strict, plain, None
    if not len(ends) == count > content["highest"] >= 0 or ends[-1] != len(extra) - end:
        raise ValueError("its next hops do not fit its contents")
    return strict, plain, StoredValues(ends, extra[end:])


_NOT_REGULAR = "it is no regular file"


def write_whole(path: str | os.PathLike[str], contents: bytes) -> None:
    """Write a file so that it is there in full or not at all, with the mode of the one that it replaces."""
    named = os.fsdecode(path)
    try:
        # A symbolic link stays one: what it leads to is replaced, also where nothing is there yet.
        target = Path(os.path.realpath(named))
        mode = _mode_of(target)
        fresh = target.parent / f".{target.name}.{secrets.token_hex(8)}"
        least = 0o666 if mode is None else mode & 0o666
        with open(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, least), "wb") as file:
            try:
                file.write(contents)
                file.flush()
                if mode is not None:
                    os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
                os.replace(fresh, target)
            except BaseException:
                os.unlink(fresh)
                raise
    except OSError as error:
        raise StoreError(f"cannot write {named!r}: {error.strerror}") from error
    except ValueError as error:
        raise StoreError(f"cannot write {named!r}: {error}") from error


def _mode_of(target: Path) -> int | None:
    """The permissions of a file; None where there is none."""
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode):
        raise ValueError(f"{_NOT_REGULAR}, which would be replaced")
    return stat.S_IMODE(mode)


def mapped(path: str | os.PathLike[str]) -> mmap.mmap:
    """A file's contents, shared with every process that maps it."""
    try:
        # A pipe would be waited for.
        with open(path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ValueError(f"{_NOT_REGULAR}, and so no saved table")
            if status.st_size == 0:
                raise ValueError("it is empty")
            flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
            return mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ)
    except OSError as error:
        raise StoreError(f"cannot open {os.fspath(path)!r}: {error.strerror}") from error
    except ValueError as error:
        raise StoreError(f"cannot open {os.fspath(path)!r}: {error}") from error


@contextmanager
def unpacked(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A file for reading, plain, gzip or bzip2 by its first bytes."""
    try:
        with _opened(path) as opened:
            # A pipe is read to its end first: what it holds is looked at twice.
            raw = opened if opened.seekable() else io.BytesIO(opened.read())
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


def _opened(path: str | os.PathLike[str]) -> IO[bytes]:
    try:
        return open(path, "rb")
    except ValueError as error:  # a path with a NUL
        raise StoreError(f"cannot read {os.fspath(path)!r}: {error}") from error


_BLANKS = " \t\r"


def _shown(text: str | bytes) -> str:
    return repr(text[:80])[:80]


def _decoded(written: bytes, line: int) -> str:
    try:
        return written.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"line {line}: {_shown(written)} is not UTF-8") from error


def lines_of(text: bytes) -> tuple[bytes, list[int], list[str] | None]:
    """The prefixes of a text, one a line, the numbers of their lines, and their next hops.

    The next hops are None where no line has one. The prefixes stand in lines of the same numbers.
    """
    prefixes, numbers, hops = [], [], []
    for number, line in enumerate(text.split(b"\n"), 1):
        row = line.strip(_BLANKS.encode())
        if row.startswith(b"#"):
            row = b""
        prefix, *rest = re.split(rb"[ \t]+", row, maxsplit=1)
        prefixes.append(prefix)
        if row:
            numbers.append(number)
        if rest:
            hops.append(_decoded(rest[0], number))
    if not hops:
        return text, numbers, None
    if len(hops) != len(numbers):
        raise ValueError(f"{len(numbers) - len(hops)} of {len(numbers)} prefixes have no next hop")
    return b"\n".join(prefixes), numbers, hops


def integer_hop(text: str, line: int) -> int:
    """A next hop of a table of integers."""
    if not re.fullmatch("[0-9]{1,10}", text) or int(text) > 0xFFFFFFFF:
        raise ValueError(f"line {line}: {_shown(text)} is not a next hop from 0 to 4294967295")
    return int(text)


def changes_of(changes: str | bytes) -> Iterator[tuple[int, str, str | None]]:
    """Line number, prefix and next hop (None: delete it) of each line of a textual diff."""
    lines: Sequence[str | bytes] = changes.split(b"\n") if isinstance(changes, bytes) else changes.split("\n")
    for number, line in enumerate(lines, 1):
        row = (_decoded(line, number) if isinstance(line, bytes) else line).strip(_BLANKS)
        if not row or row.startswith("#"):
            continue
        words = re.split("[ \t]+", row, maxsplit=2)
        if (words[0], len(words)) not in (("+", 3), ("-", 2)):
            raise ValueError(f"line {number}: {_shown(row)} is neither '+ PREFIX NEXT_HOP' nor '- PREFIX'")
        yield number, words[1], words[2] if words[0] == "+" else None
