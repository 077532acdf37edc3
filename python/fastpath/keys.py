"""Keys for :class:`fastpath.FlowTable` and :class:`fastpath.ExactTable`.

A five-tuple key is the source address, the destination address, source and destination port (network order)
and the protocol number, zero-padded: 16 bytes for IPv4, 40 for both families. In the 40-byte form the last
byte says which family it is (4 or 6), so IPv4 and IPv6 never meet.
"""

from __future__ import annotations

import ipaddress
import operator
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from fastpath import packets

__all__ = ["five_tuple", "five_tuples"]

Address = str | bytes | SupportsIndex | ipaddress.IPv4Address | ipaddress.IPv6Address


def checked_integer(value: object, name: str, most: int) -> int:
    """An int of 0..most, or TypeError or ValueError naming it."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be an int, got {type(value).__name__}") from None
    if not 0 <= number <= most:
        raise ValueError(f"{name} must be 0..{most}, got {number}")
    return number


def checked_address(address: object, name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address from text, packed bytes, an int (IPv4) or an :mod:`ipaddress` object."""
    made: ipaddress.IPv4Address | ipaddress.IPv6Address
    if isinstance(address, ipaddress.IPv4Address | ipaddress.IPv6Address):
        made = address
    elif isinstance(address, str | bytes):
        made = ipaddress.ip_address(address)
    elif isinstance(address, SupportsIndex) and not isinstance(address, bool):
        made = ipaddress.IPv4Address(operator.index(address))
    else:
        raise TypeError(f"{name} must be an address, got {type(address).__name__}")
    if isinstance(made, ipaddress.IPv6Address) and made.scope_id is not None:
        raise ValueError(f"{name} must be an address without a scope, got {str(made)!r}")
    return made


def checked_sides(srcs: Any, dsts: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Source and destination addresses of many packets: both uint32 (n,), or both uint8 (n, 16)."""
    srcs, dsts = (
        np.zeros(0, np.uint32) if np.shape(array) == (0,) else np.asarray(array) for array in (srcs, dsts)
    )
    n = len(srcs) if srcs.ndim else 0
    for array, name in ((srcs, "srcs"), (dsts, "dsts")):
        if array.dtype not in (np.uint32, np.uint8):
            raise TypeError(f"{name} must be uint32[n] or uint8[n, 16], got an array of {array.dtype}")
        if array.shape != ((n,) if array.dtype == np.uint32 else (n, 16)):
            raise ValueError(f"{name} must be uint32[n] or uint8[n, 16], got shape {array.shape}")
    if srcs.dtype != dsts.dtype:
        raise ValueError("srcs and dsts must be of one family")
    return srcs, dsts


def checked_column(values: Any, n: int, name: str, dtype: Any) -> NDArray[Any]:
    """Integers of n packets, or one for all, as a contiguous array of an unsigned dtype."""
    array = np.asarray(values)
    if array.shape == (0,):  # whose dtype says nothing: an empty list is float64
        array = array.astype(dtype)
    most = np.iinfo(dtype).max
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got an array of {array.dtype}")
    if array.ndim == 0:
        array = np.broadcast_to(array, n)
    if array.shape != (n,):
        raise ValueError(f"{name} must have shape ({n},), got {array.shape}")
    if n and array.dtype != dtype and (array.min() < 0 or array.max() > most):
        raise ValueError(f"{name} must be 0..{most}, got {array.min()}..{array.max()}")
    return np.ascontiguousarray(array, dtype)


def _checked_size(size: int) -> int:
    number = checked_integer(size, "size", 40)
    if number not in (16, 40):
        raise ValueError(f"size must be 16 (IPv4) or 40, got {number}")
    return number


def five_tuple(
    src: Address, dst: Address, protocol: int, src_port: int = 0, dst_port: int = 0, *, size: int = 40
) -> bytes:
    """The key of one flow.

    Parameters
    ----------
    src, dst : address
        Text, :mod:`ipaddress` objects, packed bytes, or an int (IPv4); both of one family.
    protocol : int
        0..255: 6 TCP, 17 UDP.
    src_port, dst_port : int, default 0
        0..65535.
    size : int, default 40
        40, or 16 for IPv4 alone.

    Returns
    -------
    bytes
    """
    first, second = checked_address(src, "src").packed, checked_address(dst, "dst").packed
    size = _checked_size(size)
    if len(first) != len(second):
        raise ValueError(f"src and dst must be of one family, got {src!r} and {dst!r}")
    if size == 16 and len(first) == 16:
        raise ValueError(f"an IPv6 key has 40 bytes, not 16: {src!r}")
    key = (
        first
        + second
        + checked_integer(src_port, "src_port", 65535).to_bytes(2, "big")
        + checked_integer(dst_port, "dst_port", 65535).to_bytes(2, "big")
        + checked_integer(protocol, "protocol", 255).to_bytes(1, "big")
    )
    if size == 16:
        return key.ljust(16, b"\0")
    return key.ljust(39, b"\0") + (b"\4" if len(first) == 4 else b"\6")


def five_tuples(
    srcs: Any,
    dsts: Any = None,
    protocols: Any = None,
    src_ports: Any = 0,
    dst_ports: Any = 0,
    *,
    size: int = 40,
) -> NDArray[np.uint8]:
    """The keys of many flows: of columns of one family, or of frames.

    Parameters
    ----------
    srcs, dsts : ndarray of uint32 (n,) for IPv4, or of uint8 (n, 16) for IPv6
    protocols, src_ports, dst_ports : int, or integer array of shape (n,)
    size : int, default 40
        40, or 16 for IPv4 alone.

    Alone, the first argument may be frames (a list of bytes, or :class:`fastpath.packets.Frames`), or what
    :func:`fastpath.packets.parse` made of them: see :func:`fastpath.packets.five_tuples`.

    Returns
    -------
    ndarray of uint8, shape (n, size)
        Row by row what :func:`five_tuple` gives.
    """
    size = _checked_size(size)
    if dsts is None and protocols is None:
        is_fields = isinstance(srcs, np.ndarray) and srcs.dtype == packets.DTYPE
        return packets.five_tuples(srcs if is_fields else packets.parse(srcs), size=size)
    srcs, dsts = checked_sides(srcs, dsts)
    n = len(srcs)
    if size == 16 and srcs.dtype == np.uint8:
        raise ValueError("an IPv6 key has 40 bytes, not 16")
    keys = np.zeros((n, size), np.uint8)
    width = 4 if srcs.dtype == np.uint32 else 16
    for start, array in ((0, srcs), (width, dsts)):
        rows = array if width == 16 else array.astype(">u4").view(np.uint8).reshape(n, 4)
        keys[:, start : start + width] = rows
    for start, values, name in ((0, src_ports, "src_ports"), (2, dst_ports, "dst_ports")):
        ports = checked_column(values, n, name, np.uint16).astype(">u2").view(np.uint8).reshape(n, 2)
        keys[:, 2 * width + start : 2 * width + start + 2] = ports
    keys[:, 2 * width + 4] = checked_column(protocols, n, "protocols", np.uint8)
    if size == 40:
        keys[:, 39] = 4 if width == 4 else 6
    return keys
