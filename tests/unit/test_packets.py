"""Packet fields beside dpkt on generated frames; checksums; pcap files; bytes that make no sense."""

from __future__ import annotations

import io
import random
import struct
from pathlib import Path
from typing import Any

import dpkt
import numpy as np
import pytest

from fastpath import _packets as compiled
from fastpath import packets
from fastpath.keys import five_tuple, five_tuples
from fastpath.packets import Flag

MACS = bytes.fromhex("020000000001"), bytes.fromhex("0200000000ff")


def transport(source: random.Random, family: int) -> tuple[int, bytes, Flag]:
    sport, dport = source.randrange(65536), source.randrange(65536)
    body = source.randbytes(source.randrange(40))
    kind = source.choice(["tcp", "udp", "sctp", "icmp", "other"])
    if kind == "tcp":
        options = bytes(4 * source.randrange(4))
        flags = source.randrange(256)
        offset = (5 + len(options) // 4) << 4
        head = struct.pack(">HHIIBBHHH", sport, dport, 1, 2, offset, flags, 512, 0, 0)
        return 6, head + options + body, Flag.TCP
    if kind == "udp":
        return 17, struct.pack(">HHHH", sport, dport, 8 + len(body), 0) + body, Flag.UDP
    if kind == "sctp":
        return 132, struct.pack(">HHII", sport, dport, 7, 0) + body, Flag.SCTP
    if kind == "icmp":
        return (
            1 if family == 4 else 58,
            bytes([source.randrange(256), source.randrange(20), 0, 0]) + body,
            Flag.ICMP,
        )
    return 89, body, Flag(0)


def frame_of(source: random.Random) -> tuple[bytes, Flag]:
    family = source.choice([4, 6])
    protocol, data, flags = transport(source, family)
    addresses = source.randbytes(8 if family == 4 else 32)
    if family == 4:
        options = bytes(4 * source.randrange(11))
        fragment = source.choice([0, 0, 0, 0x4000, 0x2000, 0x2005, 0x0100])
        if fragment & 0x3FFF:
            flags |= Flag.FRAGMENT
        if fragment & 0x1FFF:
            flags = Flag.FRAGMENT | Flag.LATER_FRAGMENT
        head = struct.pack(
            ">BBHHHBBH",
            0x45 + len(options) // 4,
            source.randrange(256),
            20 + len(options) + len(data),
            source.randrange(65536),
            fragment,
            64,
            protocol,
            0,
        )
        packet, ethertype = head + addresses + options + data, 0x0800
        flags |= Flag.IPV4
    else:
        chain = b""
        next_header = protocol
        kinds = source.sample([0, 43, 44, 60], source.randrange(4))
        # The fragment header is the innermost one: dpkt trips over anything else.
        for kind in sorted(kinds, key=lambda kind: kind != 44):
            if kind == 44:
                chain = struct.pack(">BBHI", next_header, 0, 1, 99) + chain
                flags |= Flag.FRAGMENT
            else:
                length = source.randrange(3)
                chain = bytes([next_header, length]) + bytes(6 + 8 * length) + chain
            next_header = kind
        head = struct.pack(
            ">IHBB", 6 << 28 | source.randrange(2**28), len(chain) + len(data), next_header, 33
        )
        packet, ethertype = head + addresses + chain + data, 0x86DD
        flags |= Flag.IPV6
    tags = source.choice(
        [b"", b"", struct.pack(">HH", 0x8100, 0x6000 | 7), struct.pack(">HHHH", 0x88A8, 5, 0x8100, 6)]
    )
    if tags:
        flags |= Flag.VLAN if len(tags) == 4 else Flag.VLAN | Flag.QINQ
    padding = bytes(source.choice([0, 0, 6]))
    return b"".join(MACS) + tags + struct.pack(">H", ethertype) + packet + padding, flags


@pytest.fixture(scope="module")
def generated() -> list[tuple[bytes, Flag]]:
    source = random.Random(5)
    return [frame_of(source) for _ in range(3000)]


def test_generated_frames_beside_dpkt(generated: list[tuple[bytes, Flag]]) -> None:
    frames = [frame for frame, _ in generated]
    fields = packets.parse(frames)
    for frame, row, (_, flags) in zip(frames, fields, generated, strict=True):
        assert Flag(int(row["flags"])) == flags
        peer = dpkt.ethernet.Ethernet(frame)
        assert int(row["dst_mac"]).to_bytes(6, "big") == peer.dst
        assert int(row["src_mac"]).to_bytes(6, "big") == peer.src
        assert row["length"] == len(frame)
        tags = getattr(peer, "vlan_tags", [])
        assert [row["vlan"], row["inner_vlan"]][: len(tags)] == [tag.id for tag in tags]
        ip = peer.data
        width = 4 if flags & Flag.IPV4 else 16
        assert row["src"][:width].tobytes() == ip.src
        assert row["dst"][:width].tobytes() == ip.dst
        if flags & Flag.IPV4:
            assert (row["protocol"], row["ttl"], row["tos"]) == (ip.p, ip.ttl, ip.tos)
            assert (row["ip_length"], row["ip_id"], row["fragment_offset"]) == (ip.len, ip.id, 8 * ip.offset)
            assert int(row["src_ipv4"]) == int.from_bytes(ip.src, "big")
            assert int(row["dst_ipv4"]) == int.from_bytes(ip.dst, "big")
        else:
            assert (row["protocol"], row["ttl"], row["ip_length"]) == (ip.p, ip.hlim, 40 + ip.plen)
        if flags & (Flag.TCP | Flag.UDP | Flag.SCTP) and not isinstance(ip.data, bytes):
            assert (row["src_port"], row["dst_port"]) == (ip.data.sport, ip.data.dport)
        if flags & Flag.TCP and not isinstance(ip.data, bytes):
            assert row["tcp_flags"] == ip.data.flags & 0xFF
        if flags & Flag.ICMP and not isinstance(ip.data, bytes):
            assert (row["icmp_type"], row["icmp_code"]) == (ip.data.type, ip.data.code)


def test_one_buffer_a_list_and_a_file_agree(generated: list[tuple[bytes, Flag]], tmp_path: Path) -> None:
    frames = [frame for frame, _ in generated]
    expected = packets.parse(frames)
    offsets = np.cumsum([0, *map(len, frames)])
    joined = b"".join(frames)
    assert np.array_equal(packets.parse(joined, offsets), expected)
    assert np.array_equal(packets.parse(np.frombuffer(joined, np.uint8), offsets.astype(np.uint64)), expected)
    with (tmp_path / "a.pcap").open("wb") as file:
        writer = dpkt.pcap.Writer(file)
        for i, frame in enumerate(frames):
            writer.writepkt(frame, ts=1000 + i / 4)
    read = packets.read_pcap(tmp_path / "a.pcap")
    assert len(read) == len(frames)
    assert read[17] == frames[17]
    assert read.times_s[9] == 1002.25
    assert np.array_equal(packets.parse(read), expected)


def test_keys_of_flows(generated: list[tuple[bytes, Flag]]) -> None:
    fields = packets.parse([frame for frame, _ in generated] + [b"", bytes(60)])
    keys = packets.five_tuples(fields)
    assert keys.shape == (len(generated) + 2, 40)
    for row, key in zip(fields, keys, strict=True):
        width = 4 if row["flags"] & Flag.IPV4 else 16
        if not row["flags"] & (Flag.IPV4 | Flag.IPV6):
            assert not key.any()
            continue
        sides = row["src"][:width].tobytes(), row["dst"][:width].tobytes()
        ports = int(row["src_port"]), int(row["dst_port"])
        assert key.tobytes() == five_tuple(*sides, int(row["protocol"]), *ports)


def test_keys_of_flows_from_frames(generated: list[tuple[bytes, Flag]]) -> None:
    frames = [frame for frame, _ in generated]
    fields = packets.parse(frames)
    keys = packets.five_tuples(fields)
    assert np.array_equal(five_tuples(frames), keys)
    assert np.array_equal(five_tuples(fields[::2]), keys[::2])
    short = five_tuples(fields, size=16)
    is_ipv4 = (fields["flags"] & Flag.IPV4) != 0
    assert np.array_equal(short[is_ipv4, :13], keys[is_ipv4, :13])
    assert not short[~is_ipv4].any()
    assert not short[:, 13:].any()


def test_frames_made_by_hand_are_checked() -> None:
    """Offsets and lengths that leave the buffer are an error, in whatever way they do."""
    data = np.arange(100, dtype=np.uint8)
    times = np.zeros(2)

    def frames(offsets: Any, lengths: Any, data: Any = data) -> packets.Frames:
        return packets.Frames(data, offsets, lengths, times)

    assert packets.parse(frames([0, 86], [14, 14]))["length"].tolist() == [14, 14]
    assert packets.parse(frames(np.array([100, 0]), np.array([0, 100])))["length"].tolist() == [0, 100]
    for offsets, lengths in (
        ([0, 101], [1, 0]),
        ([0, 90], [1, 11]),
        ([0, -1], [1, 1]),
        ([0, 1], [1, -1]),
        ([0, 2**63], [1, 2**63]),
        ([0, 50], [1, 2**64 - 50]),
        ([0, 50], [1]),
        ([[0, 50]], [[1, 1]]),
    ):
        with pytest.raises(ValueError):
            whole = [
                np.array(column, np.int64 if np.min(column) < 0 else np.uint64)
                for column in (offsets, lengths)
            ]
            packets.parse(frames(*whole))
    for bad in (
        frames([0.0], [1.0]),
        frames([0], [1], data.astype(np.int16)),
        frames([0], [1], data.reshape(10, 10)),
        frames([0], [1], b"abc"),
        frames("ab", "cd"),
        frames(None, None),
    ):
        with pytest.raises(TypeError):
            packets.parse(bad)
    assert packets.parse(frames([1], [20], data[::2]))["length"].tolist() == [20]
    for call in (
        lambda: compiled.parse_buffer(data, np.zeros(2), np.zeros(2, np.uint64), None),
        lambda: compiled.parse_buffer(
            data.view(np.int8), np.zeros(2, np.uint64), np.zeros(2, np.uint64), None
        ),
        lambda: compiled.keys_of(np.zeros(3, packets.DTYPE)[::2], 40),
    ):
        with pytest.raises(TypeError):
            call()


def test_out_is_written_and_checked(generated: list[tuple[bytes, Flag]]) -> None:
    frames = [frame for frame, _ in generated[:50]]
    expected = packets.parse(frames)
    out = np.full(50, 255, np.uint8).repeat(96).view(packets.DTYPE)
    assert packets.parse(frames, out=out) is out
    assert np.array_equal(out, expected)
    joined, offsets = b"".join(frames), np.cumsum([0, *map(len, frames)])
    out[:] = 0
    assert packets.parse(joined, offsets, out=out) is out
    assert np.array_equal(out, expected)
    readonly = expected.copy()
    readonly.flags.writeable = False
    for bad, error in (
        (out[:49], ValueError),
        (np.zeros(100, packets.DTYPE)[::2], ValueError),
        (readonly, ValueError),
        (np.zeros(50), TypeError),
        ([0] * 50, TypeError),
    ):
        for call in (lambda: packets.parse(frames, out=bad), lambda: packets.parse(joined, offsets, out=bad)):  # noqa: B023
            with pytest.raises(error):
                call()
    with pytest.raises(ValueError, match="lie"):
        packets.parse(out.view(np.uint8), np.arange(51), out=out)


def test_a_udp_length_beyond_its_datagram_is_malformed() -> None:
    for start, is_fragment in ((b"\x45\0\0\x1c\0\0\0\0", False), (b"\x45\0\0\x1c\0\0\x20\0", True)):
        ip = start + b"\x40\x11" + bytes(10)
        for length in (8, 9, 65535):
            frame = b"".join(MACS) + b"\x08\0" + ip + struct.pack(">HHHH", 1, 2, length, 0) + bytes(20)
            flags = Flag(int(packets.parse([frame])[0]["flags"]))
            # The length of a first fragment is that of the whole datagram.
            assert bool(flags & Flag.UDP) == (length == 8 or is_fragment)
            assert bool(flags & Flag.MALFORMED) == (length > 8 and not is_fragment)


@pytest.mark.parametrize("kind", [0, 43, 51, 60, 135, 139, 140])
def test_every_extension_header_is_passed(kind: int) -> None:
    """Lengths are in units of eight bytes, of four for authentication (RFC 4302)."""
    for units in (0, 1, 2, 7, 255):
        size = (units + 2) * 4 if kind == 51 else (units + 1) * 8
        header = bytes([17, units]) + bytes(size - 2)
        udp = struct.pack(">HHHH", 53, 5353, 8, 0)
        packet = struct.pack(">IHBB", 6 << 28, size + 8, kind, 9) + bytes(32) + header + udp
        frame = b"".join(MACS) + b"\x86\xdd" + packet
        row = packets.parse([frame])[0]
        assert Flag(int(row["flags"])) == Flag.IPV6 | Flag.UDP
        assert (row["protocol"], row["src_port"], row["dst_port"]) == (17, 53, 5353)
        assert row["payload"] == len(frame)


def test_arp() -> None:
    arp = dpkt.arp.ARP(op=2, sha=MACS[1], spa=b"\x0a\0\0\1", tha=MACS[0], tpa=b"\x0a\0\0\2")
    frame = bytes(dpkt.ethernet.Ethernet(dst=MACS[0], src=MACS[1], type=0x0806, data=arp))
    row = packets.parse([frame])[0]
    assert Flag(int(row["flags"])) == Flag.ARP
    assert (row["arp_operation"], row["src_ipv4"], row["dst_ipv4"]) == (2, 0x0A000001, 0x0A000002)


def test_later_ipv6_fragments_have_no_ports() -> None:
    fragment = struct.pack(">BBHI", 17, 0, 0x0A08 | 1, 77) + struct.pack(">HHHH", 53, 53, 8, 0)
    packet = struct.pack(">IHBB", 6 << 28, len(fragment), 44, 9) + bytes(32) + fragment
    row = packets.parse([b"".join(MACS) + b"\x86\xdd" + packet])[0]
    assert Flag(int(row["flags"])) == Flag.IPV6 | Flag.FRAGMENT | Flag.LATER_FRAGMENT
    assert (row["protocol"], row["fragment_offset"], row["src_port"]) == (17, 0x0A08, 0)


def test_every_prefix_of_a_frame_is_marked(generated: list[tuple[bytes, Flag]]) -> None:
    for frame, flags in generated[:60]:
        if len(frame) > 6 and frame.endswith(bytes(6)):
            continue
        rows = packets.parse([frame[:size] for size in range(len(frame))])
        assert (rows["flags"] & Flag.TRUNCATED).all()
        assert not (rows["flags"] & ~np.uint16(flags | Flag.TRUNCATED)).any()


def test_malformed_headers() -> None:
    start = b"".join(MACS)
    good = bytearray(
        start
        + b"\x08\x00"
        + b"\x45\0\0\x28"
        + bytes(5)
        + b"\x06"
        + bytes(10)
        + bytes(12)
        + b"\x50"
        + bytes(7)
    )
    assert Flag(int(packets.parse([bytes(good)])[0]["flags"])) == Flag.IPV4 | Flag.TCP
    for at, value in ((14, 0x65), (14, 0x44), (17, 19), (46, 0x40)):
        bad = bytearray(good)
        bad[at] = value
        assert packets.parse([bytes(bad)])[0]["flags"] & Flag.MALFORMED
    assert packets.parse([start + b"\x86\xdd\x45" + bytes(60)])[0]["flags"] & Flag.MALFORMED
    assert packets.parse([]).shape == (0,)


def test_checksums() -> None:
    source = random.Random(1)
    for size in [*range(20), 1499, 1500]:
        data = source.randbytes(size)
        assert packets.checksum(data) == dpkt.in_cksum(data)
    header = bytearray(source.randbytes(20))
    before = packets.checksum(header)
    for start, size in ((0, 2), (8, 2), (12, 4), (0, 20)):
        old = bytes(header[start : start + size])
        new = source.randbytes(size)
        header[start : start + size] = new
        before = packets.update_checksum(before, old, new)
        assert before == packets.checksum(header)
    assert (
        packets.update_checksum(0xDD2F, bytes.fromhex("5555"), bytes.fromhex("3285")) == 0
    )  # RFC 1624, section 4


def test_updated_checksums_of_zero() -> None:
    """The two zeros of one's complement: sums that become 0, and 65535 left alone."""
    source = random.Random(3)
    for _ in range(300):
        data = bytearray(source.randbytes(20))
        start = packets.checksum(data)
        new = (int.from_bytes(data[4:6], "big") + start) % 0xFFFF or 0xFFFF
        old, data[4:6] = bytes(data[4:6]), new.to_bytes(2, "big")
        assert packets.checksum(data) == 0
        assert packets.update_checksum(start, old, bytes(data[4:6])) == 0
        assert packets.update_checksum(0, bytes(data[4:6]), old) == start
    for unchanged in (b"", b"\x12\x34", b"\0\0", b"\xff\xff"):
        assert packets.update_checksum(0xFFFF, unchanged, unchanged) == 0xFFFF
        assert packets.update_checksum(0, unchanged, unchanged) == 0
    assert packets.update_checksum(np.uint16(0xDD2F), bytearray(b"UU"), memoryview(b"2\x85")) == 0
    with pytest.raises(ValueError, match="shape"):
        packets.parse(bytes(60), [])


FIRST_S = 4_000_000_000  # beyond 31 bits, and where a float64 has lost its nanoseconds


def pcap_of(frames: list[bytes], order: str = "<", magic: int = 0xA1B2C3D4, link: int = 1) -> bytes:
    file = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 65535, link)
    for i, frame in enumerate(frames):
        file += struct.pack(order + "IIII", FIRST_S + i, 500, len(frame), len(frame)) + frame
    return file


def test_pcap_byte_orders_and_units() -> None:
    for order in "<>":
        for magic, unit_ns in ((0xA1B2C3D4, 1000), (0xA1B23C4D, 1)):
            read = packets.read_pcap(pcap_of([b"a", b"bc"], order, magic))
            assert [read[0], read[1]] == [b"a", b"bc"]
            assert read.times_ns.tolist() == [
                FIRST_S * 10**9 + 500 * unit_ns,
                (FIRST_S + 1) * 10**9 + 500 * unit_ns,
            ]
            assert read.times_s.tolist() == pytest.approx(
                [FIRST_S + 500e-9 * unit_ns, FIRST_S + 1 + 500e-9 * unit_ns]
            )
    assert len(packets.read_pcap(pcap_of([]))) == 0
    peer = dpkt.pcap.Reader(io.BytesIO(pcap_of([b"a", b"bc"])))
    assert [bytes(frame) for _, frame in peer] == [b"a", b"bc"]


def test_a_pcap_that_ends_inside_a_record() -> None:
    whole = pcap_of([bytes(60), b"a", bytes(70)])
    for size in range(24, len(whole)):
        kept = packets.read_pcap(whole[:size], strict=False)
        assert len(kept) == (size >= 24 + 76) + (size >= 24 + 76 + 17)
        assert [kept[i] for i in range(len(kept))] == [bytes(60), b"a"][: len(kept)]
        begin = [24, 24 + 76, 24 + 76 + 17][len(kept)]
        if size == begin:
            assert len(packets.read_pcap(whole[:size])) == len(kept)
        else:
            with pytest.raises(ValueError, match=f"the record at byte {begin} leaves the file of {size} "):
                packets.read_pcap(whole[:size])
    with pytest.raises(ValueError, match="strict=False"):
        packets.read_pcap(whole[:-1])
    with pytest.raises(ValueError, match="not a pcap file"):
        packets.read_pcap(whole[:23], strict=False)


def test_bad_pcap(tmp_path: Path) -> None:
    good = pcap_of([bytes(60), bytes(70)])
    for bad in (
        b"",
        good[:23],
        b"\n\r\r\n" + good,
        good[:32] + b"\xff" * 4 + good[36:],
        pcap_of([bytes(60)], ">")[:32] + b"\x7f" + pcap_of([bytes(60)], ">")[33:],
        good[:-1],
        good[:30],
        pcap_of([b"x"], link=101),
        bytes(100),
    ):
        with pytest.raises(ValueError, match=r"pcap|link type|leaves the file"):
            packets.read_pcap(bad)
    with pytest.raises(FileNotFoundError):
        packets.read_pcap(tmp_path / "none")
    source = random.Random(2)
    for _ in range(500):
        broken = bytearray(good)
        for _ in range(source.randrange(1, 6)):
            broken[source.randrange(len(broken))] = source.randrange(256)
        try:
            packets.parse(packets.read_pcap(bytes(broken)))
        except ValueError:
            pass


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((b"abc",), TypeError),
        (("abc",), TypeError),
        ((5,), TypeError),
        (([b"a", "b"],), TypeError),
        (([b"a"], [0, 1]), TypeError),
        ((b"abc", [0.0, 1.0]), TypeError),
        ((b"abc", []), ValueError),
        ((b"abc", np.zeros(0, int)), ValueError),
        ((b"abc", [0, 4]), ValueError),
        ((b"abc", [-1, 2]), ValueError),
        ((b"abc", [2, 1]), ValueError),
        ((b"abc", [[0, 1]]), ValueError),
        ((np.zeros(3, np.int8), [0, 1]), TypeError),
        ((np.zeros((3, 3), np.uint8), [0, 1]), TypeError),
    ],
)
def test_bad_arguments(arguments: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        packets.parse(*arguments)


def test_bad_checksum_and_key_arguments() -> None:
    for call, error in (
        (lambda: packets.checksum("ab"), TypeError),
        (lambda: packets.checksum(5), TypeError),
        (lambda: packets.update_checksum(70000, b"ab", b"cd"), ValueError),
        (lambda: packets.update_checksum("1", b"ab", b"cd"), TypeError),
        (lambda: packets.update_checksum(1, b"abc", b"cde"), ValueError),
        (lambda: packets.update_checksum(1, b"ab", b"cdef"), ValueError),
        (lambda: packets.update_checksum(1, "ab", "cd"), TypeError),
        (lambda: packets.five_tuples(np.zeros(3)), TypeError),
        (lambda: packets.five_tuples(np.zeros((3, 3), packets.DTYPE)), ValueError),
        (lambda: packets.five_tuples(np.zeros(3, packets.DTYPE), size=13), ValueError),
        (lambda: packets.five_tuples(np.zeros(3, packets.DTYPE), size="40"), TypeError),
        (lambda: five_tuples([b"ab", "cd"]), TypeError),
        (lambda: five_tuples(np.zeros(3, np.uint32)), TypeError),
    ):
        with pytest.raises(error):
            call()
