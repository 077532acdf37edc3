"""Header fields of many frames at once, and Internet checksums.

:func:`parse` gives a structured array (dtype :data:`DTYPE`): addresses, ports, VLANs, fragments, one row a
frame, zero where a frame has no such field. ``flags`` says what was found: see :class:`Flag`.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Iterable
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastpath._packets import (
    DTYPE,
    checksum,
    keys_of,
    parse_buffer,
    parse_list,
    pcap_records,
    updated_checksum,
)

__all__ = ["DTYPE", "Flag", "Frames", "checksum", "five_tuples", "parse", "read_pcap", "update_checksum"]


class Flag(enum.IntFlag):
    """What a frame holds."""

    VLAN = 1  #: an 802.1Q tag
    QINQ = 2  #: two of them
    ARP = 4  #: for IPv4 over Ethernet
    IPV4 = 8
    IPV6 = 16
    FRAGMENT = 32  #: part of a datagram
    LATER_FRAGMENT = 64  #: not the first: there are no ports
    TCP = 128  #: ports and TCP flags are there
    UDP = 256  #: ports are there
    SCTP = 512  #: ports are there
    ICMP = 1024  #: type and code are there (ICMP or ICMPv6)
    TRUNCATED = 2048  #: ends inside a header, or before the length that the IP header names
    MALFORMED = 4096  #: a header contradicts itself; nothing behind it is read


@dataclass(frozen=True, eq=False)
class Frames:
    """Frames inside one buffer; :func:`parse` checks that they are.

    Attributes
    ----------
    data : ndarray of uint8
    offsets, lengths : ndarray of uint64, shape (n,)
        Where each frame starts, and how many bytes of it there are.
    times_ns : ndarray of uint64, shape (n,)
        When each was captured, in nanoseconds since 1970.
    """

    data: NDArray[np.uint8]
    offsets: NDArray[np.uint64]
    lengths: NDArray[np.uint64]
    times_ns: NDArray[np.uint64]

    @property
    def times_s(self) -> NDArray[np.float64]:
        """When each was captured, in seconds since 1970: a float64 of today's seconds ends at 240 ns."""
        return self.times_ns / 1e9

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, index: int) -> bytes:
        start = int(self.offsets[index])
        return self.data[start : start + int(self.lengths[index])].tobytes()


def parse(
    frames: Frames | bytes | NDArray[np.uint8] | Iterable[bytes],
    offsets: Any = None,
    *,
    out: NDArray[np.void] | None = None,
) -> NDArray[np.void]:
    """Header fields of many Ethernet frames.

    Parameters
    ----------
    frames : Frames, list of bytes, or one buffer (bytes or uint8 array)
        Frames start with the destination address and have no check sequence.
    offsets : integer array of shape (n + 1,)
        For one buffer: frame ``i`` is ``frames[offsets[i]:offsets[i + 1]]``.
    out : ndarray of :data:`DTYPE`, shape (n,), optional
        Where to write. Large batches are several times faster with it: fresh memory costs more than parsing.

    Returns
    -------
    ndarray of :data:`DTYPE`, shape (n,)
        Read are Ethernet, up to two VLAN tags, ARP, IPv4 with options, IPv6 with extension headers, TCP, UDP,
        SCTP, ICMP. A frame that ends early or makes no sense is marked, never an error.

    Raises
    ------
    TypeError
        Frames are not bytes, or offsets not integers.
    ValueError
        Offsets are not ascending, or a frame leaves the buffer.

    Notes
    -----
    Releases the GIL for buffers. About 12 ns a frame.
    """
    if isinstance(frames, Frames):
        if offsets is not None:
            raise TypeError("offsets belong to one buffer of frames")
        data = _checked_bytes(frames.data)
        starts, lengths = _whole(frames.offsets, "offsets"), _whole(frames.lengths, "lengths")
    elif isinstance(frames, bytes | bytearray | memoryview | np.ndarray):
        if offsets is None:
            raise TypeError("one buffer of frames needs offsets")
        data = _checked_bytes(frames if isinstance(frames, np.ndarray) else np.frombuffer(frames, np.uint8))
        limits = np.asarray(offsets)
        if limits.size and limits.dtype.kind not in "iu":
            raise TypeError(f"offsets must be integers, got an array of {limits.dtype}")
        if limits.ndim != 1 or len(limits) == 0:
            raise ValueError(f"offsets must have shape (n + 1,), got {limits.shape}")
        if int(limits[0]) < 0 or int(limits[-1]) > len(data) or (limits[:-1] > limits[1:]).any():
            raise ValueError(f"offsets must be ascending and within 0..{len(data)}")
        starts = limits[:-1].astype(np.uint64)
        lengths = (limits[1:] - limits[:-1]).astype(np.uint64)
    else:
        if offsets is not None:
            raise TypeError("offsets belong to one buffer of frames")
        try:
            listed = list(frames)
        except TypeError:
            raise TypeError(f"frames must be bytes, got {type(frames).__name__}") from None
        for frame in listed:
            if not isinstance(frame, bytes):
                raise TypeError(f"each frame must be bytes, got {type(frame).__name__}")
        return parse_list(listed, out)
    return parse_buffer(data, starts, lengths, out)


def _checked_bytes(data: Any) -> NDArray[np.uint8]:
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 1:
        shape = f" of shape {data.shape}" if isinstance(data, np.ndarray) else ""
        raise TypeError(f"frames must be uint8[n], got {getattr(data, 'dtype', type(data).__name__)}{shape}")
    return np.ascontiguousarray(data)


def _whole(values: Any, name: str) -> NDArray[np.uint64]:
    array = np.asarray(values)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got an array of {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"{name} must have shape (n,), got {array.shape}")
    # What is negative becomes larger than any buffer.
    return np.require(array, np.uint64, ["C", "A"])


def five_tuples(fields: NDArray[np.void], *, size: int = 40) -> NDArray[np.uint8]:
    """Flow keys of parsed frames, as :func:`fastpath.keys.five_tuple` makes them.

    Parameters
    ----------
    fields : ndarray of :data:`DTYPE`, shape (n,)
    size : int, default 40
        40, or 16 for IPv4 alone.

    Returns
    -------
    ndarray of uint8, shape (n, size)
        A row of zeros for a frame without an IP header, or with one of IPv6 where the size is 16. Later
        fragments have ports 0.

    Notes
    -----
    Releases the GIL. About 3 ns a frame.
    """
    if not isinstance(fields, np.ndarray) or fields.dtype != DTYPE:
        raise TypeError(f"fields must come from parse(), got {type(fields).__name__}")
    if fields.ndim != 1:
        raise ValueError(f"fields must have shape (n,), got {fields.shape}")
    if not hasattr(size, "__index__"):
        raise TypeError(f"size must be an int, got {type(size).__name__}")
    if size not in (16, 40):
        raise ValueError(f"size must be 16 (IPv4) or 40, got {size}")
    return keys_of(np.require(fields, requirements=["C", "A"]), size)


def read_pcap(source: str | os.PathLike[str] | bytes, *, strict: bool = True) -> Frames:
    """The frames of a capture file (pcap, either byte order, micro- or nanoseconds, Ethernet).

    Parameters
    ----------
    source : path, or the contents of a file as bytes
    strict : bool, default True
        False: of a file that ends inside a record, as one of a capture that was interrupted does, the records
        before it.

    Raises
    ------
    ValueError
        It is no pcap file of Ethernet frames, or a record leaves the file and `strict` is not off.
    """
    contents = source if isinstance(source, bytes) else Path(source).read_bytes()
    magic = contents[:4]
    if magic == b"\n\r\r\n":
        raise ValueError("a pcapng file, not a pcap file: `editcap -F pcap` makes one of it")
    formats = {
        b"\xd4\xc3\xb2\xa1": (False, 1000),
        b"\xa1\xb2\xc3\xd4": (True, 1000),
        b"\x4d\x3c\xb2\xa1": (False, 1),
        b"\xa1\xb2\x3c\x4d": (True, 1),
    }
    if len(contents) < 24 or magic not in formats:
        raise ValueError(f"not a pcap file: it starts with {magic.hex() or 'nothing'}")
    big_endian, unit_ns = formats[magic]
    link = int.from_bytes(contents[20:24], "big" if big_endian else "little")
    # The upper four bits are the length of a check sequence, of no meaning unless another bit is set.
    if link & 0x0FFFFFFF != 1:
        raise ValueError(f"the link type must be 1 (Ethernet), got {link & 0x0FFFFFFF}")
    offsets, lengths, times_ns, end = pcap_records(contents, big_endian, unit_ns)
    if strict and end != len(contents):
        raise ValueError(
            f"the record at byte {end} leaves the file of {len(contents)} bytes (strict=False: leave it out)"
        )
    return Frames(np.frombuffer(contents, np.uint8), offsets, lengths, times_ns)


def update_checksum(
    checksum: int, before: bytes | bytearray | memoryview, after: bytes | bytearray | memoryview
) -> int:
    """The Internet checksum after bytes that it covers have changed (RFC 1624).

    Parameters
    ----------
    checksum : int
        0..65535, as it stood.
    before, after : bytes, bytearray or memoryview
        The changed bytes, of one even size, at an even distance from the start of what is summed.

    Returns
    -------
    int
        0..65535, and what it was where nothing changed. In UDP a checksum of 0 says that there is none: send
        65535, the other zero of one's complement, instead (RFC 768).
    """
    try:
        checksum = index(checksum)
    except TypeError:
        raise TypeError(f"checksum must be an int, got {type(checksum).__name__}") from None
    if not 0 <= checksum <= 65535:
        raise ValueError(f"checksum must be 0..65535, got {checksum}")
    if not all(isinstance(part, bytes | bytearray | memoryview) for part in (before, after)):
        raise TypeError("before and after must be bytes, bytearray or memoryview")
    before, after = bytes(before), bytes(after)
    if len(before) != len(after) or len(before) % 2:
        raise ValueError(f"before and after must have one even size, got {len(before)} and {len(after)}")
    return checksum if before == after else updated_checksum(checksum, before, after)
