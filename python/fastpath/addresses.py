"""Text <-> arrays of addresses: millions a second, as strict as :mod:`ipaddress`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from fastpath import _addresses

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["format_ipv4", "format_ipv6", "parse_ipv4", "parse_ipv6"]


def parse_ipv4(addresses: Iterable[str] | bytes) -> NDArray[np.uint32]:
    """Read IPv4 addresses.

    Parameters
    ----------
    addresses
        Strings, or ``bytes`` with an address a line (empty lines do not count, blanks around an address are
        ignored; read with the GIL released).

    Returns
    -------
    uint32[n]
        The values of ``int(IPv4Address(text))``.

    Raises
    ------
    ValueError
        A text is not a dotted quad (no leading zeros, nothing else); the message names the line, counted from
        1, or the row, counted from 0.
    TypeError
        A row is not a ``str``.

    """
    return _addresses.parse_ipv4(addresses)


def parse_ipv6(addresses: Iterable[str] | bytes) -> NDArray[np.uint8]:
    """Read IPv6 addresses.

    Parameters
    ----------
    addresses
        As in :func:`parse_ipv4`, in any form of RFC 4291 section 2.2; scope ids are refused.

    Returns
    -------
    uint8[n, 16]
        The addresses in network order.

    Raises
    ------
    ValueError, TypeError
        As in :func:`parse_ipv4`.

    """
    return _addresses.parse_ipv6(addresses)


def format_ipv4(addresses: NDArray[np.uint32]) -> list[str]:
    """Write IPv4 addresses as dotted quads.

    Parameters
    ----------
    addresses
        uint32[n]

    Raises
    ------
    TypeError
        Not an array of this dtype and shape.

    """
    return _addresses.format_ipv4(addresses)


def format_ipv6(addresses: NDArray[np.uint8]) -> list[str]:
    """Write IPv6 addresses in the form of RFC 5952 sections 4.1 to 4.3, an IPv4-mapped one in hexadecimal.

    Parameters
    ----------
    addresses
        uint8[n, 16], in network order.

    Raises
    ------
    TypeError, ValueError
        Not an array of this dtype; not of this shape.

    """
    return _addresses.format_ipv6(addresses)
