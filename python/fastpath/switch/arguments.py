"""What callers may pass as namespace, interface name, address and MAC, brought into one form."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import TypeAlias

Interface: TypeAlias = str | ipaddress.IPv4Interface | ipaddress.IPv6Interface
Address: TypeAlias = Interface | Iterable[Interface]

MAX_SEGMENT = 4094
MIN_MTU, MAX_MTU = 68, 65521
_IFNAME = re.compile(r"[^\s/:]{1,15}")


def integer(value: object, name: str, low: int, high: int) -> int:
    """`value` as an int within [low, high]."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}: expected an int, got {value!r}")
    number = int(value.__index__())
    if not low <= number <= high:
        raise ValueError(f"{name}: expected {low} to {high}, got {number}")
    return number


def name_of(value: object, what: str) -> str:
    """`value` as a name: printable text that is not empty."""
    if not isinstance(value, str):
        raise TypeError(f"{what}: expected str, got {value!r}")
    if not value or not value.isprintable():
        raise ValueError(f"{what}: expected printable text that is not empty, got {value!r}")
    return value


def ifname_of(value: object) -> str:
    """`value` as a name that Linux takes for an interface."""
    if not isinstance(value, str):
        raise TypeError(f"ifname: expected str, got {value!r}")
    if not _IFNAME.fullmatch(value) or "\0" in value or value in {".", ".."} or "%" in value:
        raise ValueError(
            f"ifname: expected 1 to 15 characters without white space, '/', ':' or '%', got {value!r}"
        )
    return value


def interfaces(address: Address | None) -> list[tuple[bytes, int]]:
    """(packed address, prefix length) of one address with its prefix length, or of several."""
    if address is None:
        return []
    if isinstance(address, (str, ipaddress.IPv4Interface, ipaddress.IPv6Interface)):
        address = [address]
    if isinstance(address, (bytes, int)) or not isinstance(address, Iterable):
        raise TypeError(f"address: expected 'a.b.c.d/len' or several of them, got {address!r}")
    found = []
    for item in address:
        if not isinstance(item, (str, ipaddress.IPv4Interface, ipaddress.IPv6Interface)):
            raise TypeError(f"address: expected 'a.b.c.d/len', got {item!r}")
        try:
            interface = ipaddress.ip_interface(item)
        except ValueError:
            raise ValueError(f"address: expected 'a.b.c.d/len' or IPv6 like it, got {item!r}") from None
        found.append((interface.packed, interface.network.prefixlen))
    return found


def station_mac(mac: str | bytes | int | None) -> bytes | None:
    """Six bytes of a MAC address that a station may have."""
    if mac is None:
        return None
    if isinstance(mac, bool) or not isinstance(mac, (str, bytes, int)):
        raise TypeError(f"mac: expected 'aa:bb:cc:dd:ee:ff', 6 bytes or an int, got {mac!r}")
    packed = _packed_mac(mac)
    if packed is None or packed[0] & 1 or packed == bytes(6):
        raise ValueError(f"mac: expected a unicast MAC address like 'aa:bb:cc:dd:ee:ff', got {mac!r}")
    return packed


def _packed_mac(mac: str | bytes | int) -> bytes | None:
    if isinstance(mac, bytes):
        return mac if len(mac) == 6 else None
    if isinstance(mac, int):
        return mac.to_bytes(6, "big") if 0 <= mac < 1 << 48 else None
    text = mac
    for separator in ":-":
        if re.fullmatch(f"[0-9A-Fa-f]{{2}}({separator}[0-9A-Fa-f]{{2}}){{5}}", mac):
            text = mac.replace(separator, "")
    return bytes.fromhex(text) if re.fullmatch("[0-9A-Fa-f]{12}", text) else None


def mac_text(mac: int | bytes) -> str:
    """The usual form: "aa:bb:cc:dd:ee:ff"."""
    packed = mac if isinstance(mac, bytes) else mac.to_bytes(6, "big")
    return packed.hex(":")
