"""Fib from MRT table dumps, made here from the format's description (RFC 6396, RFC 4271, RFC 8050)."""

from __future__ import annotations

import bz2
import gzip
import ipaddress
import random
import struct
import subprocess
import sys

import numpy as np
import pytest

from fastpath import Fib
from fastpath.errors import NotSupported, StoreError


def record(kind: int, subtype: int, body: bytes) -> bytes:
    return struct.pack(">IHHI", 1_700_000_000, kind, subtype, len(body)) + body


def peers(*addresses: str) -> bytes:
    body = b"\xc6\x33\x64\x01" + struct.pack(">H", 4) + b"view" + struct.pack(">H", len(addresses))
    for number, text in enumerate(addresses):
        address = ipaddress.ip_address(text)
        kind = 2 | (address.version == 6)
        body += bytes([kind]) + b"\1\2\3\4" + address.packed + struct.pack(">I", 64500 + number)
    return record(13, 1, body)


def attribute(kind: int, body: bytes, flags: int = 0x40) -> bytes:
    return bytes([flags, kind, len(body)]) + body


def path(*numbers: int, kind: int = 2, width: str = ">I") -> bytes:
    return bytes([kind, len(numbers)]) + b"".join(struct.pack(width, number) for number in numbers)


def attributes(hop: str | None, as_path: bytes) -> bytes:
    made = attribute(1, b"\0") + attribute(2, as_path)
    if hop is None:
        return made
    packed = ipaddress.ip_address(hop).packed
    if len(packed) == 4:
        return made + attribute(3, packed)
    return made + attribute(14, bytes([16]) + packed, 0x80)


def route(prefix: str, *entries: tuple[int, str | None, bytes], add_path: bool = False) -> bytes:
    network = ipaddress.ip_network(prefix)
    packed = network.network_address.packed[: (network.prefixlen + 7) // 8]
    body = struct.pack(">IB", 0, network.prefixlen) + packed + struct.pack(">H", len(entries))
    for peer, hop, as_path in entries:
        made = attributes(hop, as_path)
        body += struct.pack(">HI", peer, 1_600_000_000) + (b"\0\0\0\7" if add_path else b"")
        body += struct.pack(">H", len(made)) + made
    return record(13, (2 if network.version == 4 else 4) + (6 if add_path else 0), body)


def old_route(prefix: str, peer: str, hop: str, as_path: bytes) -> bytes:
    network, made = ipaddress.ip_network(prefix), attributes(hop, as_path)
    body = struct.pack(">HH", 0, 0) + network.network_address.packed + bytes([network.prefixlen, 1])
    body += struct.pack(">I", 1_600_000_000) + ipaddress.ip_address(peer).packed + struct.pack(">H", 64500)
    return record(12, 1, body + struct.pack(">H", len(made)) + made)


PEERS = "192.0.2.1", "2001:db8::1"
DUMP = (
    peers(*PEERS)
    + route("0.0.0.0/0", (0, "192.0.2.1", path(64500)))
    + route("10.0.0.0/8", (0, "192.0.2.1", path(64500, 64510)), (1, "192.0.2.9", path(64501, 64520)))
    + route("10.128.0.0/9", (1, "192.0.2.9", path(64501) + path(64530, 64531, kind=1)))
    + record(13, 3, route("10.0.0.0/9", (0, "192.0.2.7", path(64500)))[12:])  # multicast: another table
    + route("10.1.0.0/16", (0, None, b""))
    + route("2001:db8::/32", (1, "2001:db8::9", path(4_200_000_000)))
    + route("192.0.2.0/24", (0, "192.0.2.3", path(64502)), add_path=True)
)
ADDRESSES = {
    "0.0.0.0/0": "192.0.2.1",
    "10.0.0.0/8": "192.0.2.1",
    "10.1.0.0/16": "192.0.2.1",
    "10.128.0.0/9": "192.0.2.9",
    "192.0.2.0/24": "192.0.2.3",
    "2001:db8::/32": "2001:db8::9",
}
ORIGINS = {
    "0.0.0.0/0": 64500,
    "10.0.0.0/8": 64510,
    "10.1.0.0/16": 64500,
    "10.128.0.0/9": 64530,
    "192.0.2.0/24": 64502,
    "2001:db8::/32": 4_200_000_000,
}


def held(fib: Fib) -> dict[str, object]:
    return {str(network): hop for network, hop in fib.items()}


@pytest.fixture
def dump(tmp_path):
    file = tmp_path / "rib"
    file.write_bytes(DUMP)
    return file


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress])
def test_table_dump(tmp_path, pack) -> None:
    file = tmp_path / "rib"
    file.write_bytes(pack(DUMP))
    assert held(Fib.from_file(file)) == held(Fib.from_file(str(file), "address")) == ADDRESSES
    assert held(Fib.from_file(file, "origin")) == held(Fib.from_file(file, dtype="uint32")) == ORIGINS
    assert Fib.from_file(file).lookup("10.200.0.1") == "192.0.2.9"


def test_one_peer(dump) -> None:
    assert held(Fib.from_file(dump, peer="2001:0db8::1")) == {
        "10.0.0.0/8": "192.0.2.9",
        "10.128.0.0/9": "192.0.2.9",
        "2001:db8::/32": "2001:db8::9",
    }
    with pytest.raises(ValueError, match=r"no route of peer 192\.0\.2\.77"):
        Fib.from_file(dump, peer="192.0.2.77")
    with pytest.raises(ValueError, match="nonsense"):
        Fib.from_file(dump, peer="nonsense")


def test_first_version(tmp_path) -> None:
    file = tmp_path / "rib"
    file.write_bytes(
        old_route("10.0.0.0/8", "192.0.2.1", "192.0.2.5", path(64500, 64510, width=">H"))
        + old_route("10.0.0.0/8", "192.0.2.2", "192.0.2.6", path(64501, width=">H"))
        + old_route("11.0.0.0/8", "192.0.2.2", "192.0.2.6", path(64501, width=">H"))
    )
    assert held(Fib.from_file(file)) == {"10.0.0.0/8": "192.0.2.5", "11.0.0.0/8": "192.0.2.6"}
    assert held(Fib.from_file(file, "origin", peer="192.0.2.2")) == {"10.0.0.0/8": 64501, "11.0.0.0/8": 64501}


def test_refused(tmp_path, dump) -> None:
    for wrong in ("hop", ["a"] * 6, 1, np.arange(6)):
        with pytest.raises(ValueError, match="'address' or 'origin'"):
            Fib.from_file(dump, wrong)
    with pytest.raises(TypeError, match="next hop"):
        Fib.from_file(dump, "address", dtype="uint32")
    updates = tmp_path / "updates"
    updates.write_bytes(record(16, 0, struct.pack(">HHHH", 1, 2, 0, 1) + bytes(8) + struct.pack(">HH", 1, 2)))
    with pytest.raises(StoreError, match="type 16 is of no table dump"):
        Fib.from_file(updates)
    text = tmp_path / "text"
    text.write_text("10.0.0.0/8\n")
    with pytest.raises(ValueError, match="no MRT table dump"):
        Fib.from_file(text, peer="192.0.2.1")


def test_damaged_dumps(tmp_path) -> None:
    """Cut anywhere but between records, a dump is refused; altered, it is refused or read, never worse."""
    file = tmp_path / "rib"
    ends, at = set(), 0
    while at < len(DUMP):
        at += 12 + int.from_bytes(DUMP[at + 8 : at + 12], "big")
        ends.add(at)
    for size in range(6, len(DUMP)):
        file.write_bytes(DUMP[:size])
        if size in ends:
            assert len(Fib.from_file(file)) < 7
            continue
        with pytest.raises(StoreError):
            Fib.from_file(file)
    for pack in (gzip.compress, bz2.compress):
        packed = pack(DUMP)
        for size in range(10, len(packed), 9):
            file.write_bytes(packed[:size])
            with pytest.raises(StoreError):
                Fib.from_file(file)
    rng = random.Random(1)
    for source in (DUMP, gzip.compress(DUMP), bz2.compress(DUMP)):
        for _ in range(400):
            altered = bytearray(source)
            for _ in range(rng.choice([1, 1, 2, 8])):
                altered[rng.randrange(len(altered))] ^= rng.randrange(1, 256)
            file.write_bytes(altered)
            try:
                Fib.from_file(file)
            except (StoreError, ValueError):
                pass


def test_without_the_extra(dump, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "mrtparse", None)
    with pytest.raises(NotSupported, match=r"fastpath\[mrt\]"):
        Fib.from_file(dump)


def test_signals_stay_as_they_were(dump) -> None:
    """The parser changes what a broken pipe does when it is imported; in a process of its own, to see it."""
    code = (
        "import signal, sys, threading; from fastpath import Fib, errors\n"
        "def first():\n"
        "    try: Fib.from_file(sys.argv[1])\n"
        "    except errors.NotSupported as error: print(error)\n"
        "thread = threading.Thread(target=first); thread.start(); thread.join()\n"
        "assert len(Fib.from_file(sys.argv[1])) == 6\n"
        "assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN\n"
        "thread = threading.Thread(target=first); thread.start(); thread.join()\n"
    )
    told = subprocess.run([sys.executable, "-c", code, str(dump)], capture_output=True, text=True, check=True)
    assert told.stdout == "the first MRT table dump of a program must be read in its main thread\n"
