"""``fastpath lookup``: load a routing table, answer addresses from arguments or standard input."""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import os
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fastpath.addresses import parse_ipv4, parse_ipv6
from fastpath.cli.output import progress
from fastpath.tables import Fib

EXAMPLES = {
    "lookup": "  fastpath lookup --routes routes.txt.gz 1.1.1.1 2606:4700::1111\n"
    "  cut -d' ' -f1 access.log | fastpath lookup --routes routes.txt"
}
CHUNK = 4 << 20
MISS = b"-"


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Options of `lookup`."""
    parser.add_argument(
        "--routes",
        required=True,
        metavar="FILE",
        help="a prefix a line, then optionally its next hop; '#' begins a comment; .gz is unpacked",
    )
    parser.add_argument("addresses", nargs="*", metavar="ADDRESS", help="default: standard input, one a line")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def _read(path: str) -> bytes:
    """The file's bytes, unpacked; a bar follows the bytes on disk."""
    size = Path(path).stat().st_size
    parts = []
    with Path(path).open("rb") as raw, progress(f"reading {path}", size) as bar:
        file: BinaryIO | gzip.GzipFile = gzip.GzipFile(fileobj=raw) if path.endswith(".gz") else raw
        try:
            while part := file.read(CHUNK):
                parts.append(part)
                bar(raw.tell() if raw.seekable() else 0)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path}: not a whole gzip file: {error}") from None
    return b"".join(parts)


def load_routes(path: str) -> tuple[Fib, list[bytes]]:
    """The table, and the line of each route id: ``prefix`` or ``prefix TAB next hop`` (id 0 is a miss)."""
    text = _read(path)
    lines: list[bytes]
    if b"#" in text or b" " in text or b"\t" in text:
        fields = [line.split(b"#", 1)[0].split(None, 1) for line in text.splitlines()]
        fields = [parts for parts in fields if parts]
        prefixes = b"\n".join(parts[0] for parts in fields)
        lines = [b"\t".join(part.strip() for part in parts) for parts in fields]
    else:
        lines = text.split()
        prefixes = b"\n".join(lines)
    fib = Fib(dtype="uint32")
    if lines:
        try:
            fib.insert_many(prefixes, np.arange(1, len(lines) + 1, dtype=np.uint32))
        except ValueError as error:
            raise ValueError(f"{path}: {_first_bad_line(text) or error}") from None
    return fib, [MISS, *lines]


def _first_bad_line(text: bytes) -> str:
    """Which line of the file is no prefix, counted as an editor counts; empty if each is one."""
    fib = Fib(dtype="uint32")
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split(b"#", 1)[0].split(None, 1)
        try:
            if fields:
                fib.insert(fields[0].decode(errors="backslashreplace"), 1)
        except ValueError as error:
            return f"line {number}: {error}"
    return ""


def _chunks(file: BinaryIO) -> Iterator[list[bytes]]:
    """Lines of the input, some hundred thousand at a time; a pipe's lines are passed on as they come."""
    rest = b""
    while part := file.read1(CHUNK) if hasattr(file, "read1") else file.read(CHUNK):
        rest += part
        cut = rest.rfind(b"\n") + 1
        if cut:
            yield rest[:cut].split()
            rest = rest[cut:]
        elif len(rest) > CHUNK:
            raise ValueError(f"standard input: a line of over {CHUNK:,} bytes, not an address")
    if rest.strip():
        yield rest.split()


def _ids(fib: Fib, addresses: list[bytes]) -> tuple[np.ndarray, list[int]]:
    """Route id of each address, and the positions of those that are no addresses."""
    joined = b"\n".join(addresses)
    try:
        if b":" not in joined:
            return fib.lookup_many(parse_ipv4(joined)), []
        if all(b":" in address for address in addresses):
            return fib.lookup_many(parse_ipv6(joined)), []
    except ValueError:
        pass
    return _ids_one_by_one(fib, addresses)


def _ids_one_by_one(fib: Fib, addresses: list[bytes]) -> tuple[np.ndarray, list[int]]:
    """The same for a chunk that mixes families or holds lines that are no addresses."""
    ids = np.zeros(len(addresses), np.uint32)
    wrong = []
    for position, address in enumerate(addresses):
        try:
            ids[position] = fib.lookup(address.decode()) or 0
        except ValueError:
            wrong.append(position)
    return ids, wrong


def run(options: argparse.Namespace) -> int:
    """Print a line an address: the address, the prefix that matched (or -), its next hop."""
    fib, lines = load_routes(options.routes)
    chunks: Iterable[list[bytes]]
    if options.addresses:
        chunks = [[os.fsencode(address) for address in options.addresses]]
    else:
        chunks = _chunks(sys.stdin.buffer)
    status = 0
    read = 0
    out = sys.stdout.buffer
    for addresses in chunks:
        ids, wrong = _ids(fib, addresses)
        for position in wrong:
            text = addresses[position].decode(errors="replace")
            print(
                f"fastpath lookup: address {read + position + 1}: {text!r} is not an IP address",
                file=sys.stderr,
            )
            status = 1
        skipped = set(wrong)
        answers = [lines[i] for i in ids.tolist()]
        pairs: Iterable[tuple[bytes, bytes]] = zip(addresses, answers, strict=True)
        if skipped:
            pairs = itertools.compress(pairs, (i not in skipped for i in range(len(addresses))))
        if options.json:
            for address, line in pairs:
                prefix, _, next_hop = line.decode(errors="replace").partition("\t")
                answer = {
                    "address": address.decode(),
                    "prefix": None if line == MISS else prefix,
                    "next_hop": next_hop or None,
                }
                out.write(json.dumps(answer).encode() + b"\n")
        else:
            out.write(b"".join(b"%b\t%b\n" % pair for pair in pairs))
        out.flush()
        read += len(addresses)
    return status
