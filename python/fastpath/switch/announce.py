"""Unsolicited ARP and neighbour advertisements: neighbours forget the MAC address that an address had before.

Without them a container that comes back under its old address is unreachable until their entries age, which
takes half a minute and more.
"""

from __future__ import annotations

import struct

_ETHERNET_BROADCAST = b"\xff" * 6
_ALL_NODES = bytes.fromhex("ff020000000000000000000000000001")
_ALL_NODES_MAC = bytes.fromhex("333300000001")


def announcement(mac: bytes, address: bytes) -> bytes:
    """The Ethernet frame by which a station says that it has an address now.

    An ARP announcement (RFC 5227, section 3) for four bytes of address, an unsolicited neighbour
    advertisement (RFC 4861, section 7.2.6) for sixteen.
    """
    if len(address) == 4:
        arp = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + mac + address + bytes(6) + address
        return (_ETHERNET_BROADCAST + mac + b"\x08\x06" + arp).ljust(60, b"\0")
    override, target_link_layer_address = 0x20000000, b"\x02\x01"
    body = struct.pack("!I", override) + address + target_link_layer_address + mac
    pseudo_header = address + _ALL_NODES + struct.pack("!II", len(body) + 4, 58)
    advertisement = struct.pack("!BBH", 136, 0, _checksum(pseudo_header + b"\x88\0\0\0" + body)) + body
    header = struct.pack("!IHBB", 6 << 28, len(advertisement), 58, 255) + address + _ALL_NODES
    return _ALL_NODES_MAC + mac + b"\x86\xdd" + header + advertisement


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF
