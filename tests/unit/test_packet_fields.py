"""Every field of parsed frames of every kind is the one that was put in, and zero where nothing was."""

from __future__ import annotations

import random
import struct
from typing import Any

import numpy as np
import pytest

from fastpath import packets
from fastpath.packets import Flag

Fields = dict[str, Any]


def transport(source: random.Random, family: int) -> tuple[int, bytes, Fields]:
    """(protocol, bytes, fields); `payload` counts from the start of this header."""
    sport, dport = source.randrange(1, 65536), source.randrange(1, 65536)
    ports = {"src_port": sport, "dst_port": dport}
    body = source.randbytes(source.randrange(30))
    kind = source.choice(["tcp", "udp", "sctp", "icmp", "other"])
    if kind == "tcp":
        options = bytes(4 * source.randrange(11))
        flags = source.randrange(1, 256)
        head = struct.pack(">HHIIBBHHH", sport, dport, 1, 2, (5 + len(options) // 4) << 4, flags, 512, 0, 0)
        found = {**ports, "tcp_flags": flags, "flags": Flag.TCP, "payload": 20 + len(options)}
        return 6, head + options + body, found
    if kind == "udp":
        head = struct.pack(">HHHH", sport, dport, 8 + len(body), 0)
        return 17, head + body, {**ports, "flags": Flag.UDP, "payload": 8}
    if kind == "sctp":
        return (
            132,
            struct.pack(">HHII", sport, dport, 7, 0) + body,
            {
                **ports,
                "flags": Flag.SCTP,
                "payload": 12,
            },
        )
    if kind == "icmp":
        types = {"icmp_type": source.randrange(1, 256), "icmp_code": source.randrange(1, 20)}
        head = bytes([*types.values(), 0, 0])
        return (1 if family == 4 else 58), head + body, {**types, "flags": Flag.ICMP, "payload": 4}
    return 89, body, {"flags": Flag(0), "payload": 0}


def behind_fragment(fields: Fields, offset: int) -> Fields:
    """What a fragment at `offset` shows of a transport header."""
    if offset == 0:
        return {**fields, "flags": fields["flags"] | Flag.FRAGMENT}
    return {"flags": Flag.FRAGMENT | Flag.LATER_FRAGMENT, "payload": 0, "fragment_offset": offset}


def ipv4(source: random.Random) -> tuple[int, bytes, Fields]:
    protocol, data, fields = transport(source, 4)
    options = bytes(4 * source.randrange(11))
    src, dst = source.randbytes(4), source.randbytes(4)
    mine = {
        "tos": source.randrange(1, 256),
        "ip_length": 20 + len(options) + len(data),
        "ip_id": source.randrange(1, 65536),
        "ttl": source.randrange(1, 256),
        "protocol": protocol,
        "src": src + bytes(12),
        "dst": dst + bytes(12),
        "src_ipv4": int.from_bytes(src, "big"),
        "dst_ipv4": int.from_bytes(dst, "big"),
    }
    word = source.choice([0, 0, 0x4000, 0x2000, 0x2000 | source.randrange(1, 8192), 5])
    if word & 0x3FFF:
        fields = behind_fragment(fields, 8 * (word & 0x1FFF))
    head = struct.pack(
        ">BBHHHBBH",
        0x45 + len(options) // 4,
        *(mine[name] for name in ("tos", "ip_length", "ip_id")),
        word,
        mine["ttl"],
        protocol,
        0,
    )
    fields = {**fields, **mine, "flags": fields["flags"] | Flag.IPV4}
    fields["payload"] += 20 + len(options)
    return 0x0800, head + src + dst + options + data, fields


def ipv6(source: random.Random) -> tuple[int, bytes, Fields]:
    protocol, data, fields = transport(source, 6)
    chain, following, ip_id = b"", protocol, 0
    for kind in source.sample([0, 43, 44, 51, 60, 135, 139, 140], source.randrange(5)):
        if kind == 44:
            offset = source.choice([0, 8 * source.randrange(1, 8192)])
            ip_id = source.randrange(1, 65536)
            header = struct.pack(">BBHI", following, 0, offset | 1, source.randrange(65536) << 16 | ip_id)
            if offset:
                # Nothing behind this header is read, so what was to come next stands as the protocol.
                protocol, fields = following, {**behind_fragment(fields, offset), "payload": -len(chain)}
            else:
                fields = behind_fragment(fields, 0)
        else:
            units = source.randrange(4)
            size = (units + 2) * 4 if kind == 51 else (units + 1) * 8
            if size < 8:
                continue
            header = bytes([following, units]) + source.randbytes(size - 2)
        chain, following = header + chain, kind
    src, dst = source.randbytes(16), source.randbytes(16)
    mine = {
        "tos": source.randrange(1, 256),
        "ip_length": 40 + len(chain) + len(data),
        "ip_id": ip_id,
        "ttl": source.randrange(1, 256),
        "protocol": protocol,
        "src": src,
        "dst": dst,
    }
    label = source.randrange(2**20)
    head = struct.pack(
        ">IHBB", 6 << 28 | mine["tos"] << 20 | label, len(chain) + len(data), following, mine["ttl"]
    )
    fields = {**fields, **mine, "flags": fields["flags"] | Flag.IPV6}
    fields["payload"] += 40 + len(chain)
    return 0x86DD, head + src + dst + chain + data, fields


def arp(source: random.Random) -> tuple[int, bytes, Fields]:
    operation = source.randrange(1, 65536)
    src, dst = source.randbytes(4), source.randbytes(4)
    packet = struct.pack(">HHBBH", 1, 0x0800, 6, 4, operation)
    packet += source.randbytes(6) + src + source.randbytes(6) + dst
    fields = {
        "arp_operation": operation,
        "src": src + bytes(12),
        "dst": dst + bytes(12),
        "src_ipv4": int.from_bytes(src, "big"),
        "dst_ipv4": int.from_bytes(dst, "big"),
        "flags": Flag.ARP,
        "payload": 28,
    }
    return 0x0806, packet, fields


def other(source: random.Random) -> tuple[int, bytes, Fields]:
    ethertype = source.choice([0x88CC, 0x8847, 0x0600])
    return ethertype, source.randbytes(source.randrange(60)), {"flags": Flag(0), "payload": 0}


@pytest.mark.parametrize("kind", [ipv4, ipv6, arp, other])
def test_every_field_is_the_one_that_was_put_in(kind: Any) -> None:
    source = random.Random(kind.__name__)
    frames, expected = [], []
    for _ in range(2000):
        ethertype, packet, fields = kind(source)
        macs = source.randbytes(6), source.randbytes(6)
        tags = [source.randrange(1, 4096) for _ in range(source.randrange(3))]
        frame = b"".join(macs)
        for i, vlan in enumerate(tags):
            outer = source.choice([0x8100, 0x88A8, 0x9100]) if i + 1 < len(tags) else 0x8100
            frame += struct.pack(">HH", outer, source.randrange(16) << 12 | vlan)
        frame += struct.pack(">H", ethertype) + packet
        frame += bytes(source.choice([0, 6])) if kind is not other else b""
        frames.append(frame)
        expected.append(
            {
                **fields,
                "dst_mac": int.from_bytes(macs[0], "big"),
                "src_mac": int.from_bytes(macs[1], "big"),
                "ethertype": ethertype,
                "length": len(frame),
                "payload": fields["payload"] + 14 + 4 * len(tags),
                "flags": fields["flags"] | (Flag(0), Flag.VLAN, Flag.VLAN | Flag.QINQ)[len(tags)],
                **dict(zip(("vlan", "inner_vlan"), tags, strict=False)),
            }
        )
    rows = packets.parse(frames)
    for row, fields in zip(rows, expected, strict=True):
        found = {
            name: row[name].tobytes() if row[name].ndim else int(row[name])
            for name in packets.DTYPE.names
            if np.any(row[name])
        }
        assert found == {name: value for name, value in fields.items() if value not in (0, bytes(16))}
