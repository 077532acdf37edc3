"""Parsing of frames beside dpkt: TCP over IPv4, and UDP over IPv6 behind a VLAN tag."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from fastpath import packets

N = 500_000
MACS = bytes.fromhex("0200000000010200000000ff")
TCP4 = MACS + b"\x08\x00" + struct.pack(">BBHHHBBH", 0x45, 0, 60, 1, 0, 64, 6, 0) + bytes(range(8))
TCP4 += struct.pack(">HHIIBBHHH", 1234, 80, 1, 2, 0x50, 2, 512, 0, 0) + bytes(20)
UDP6 = MACS + b"\x81\x00\x00\x07\x86\xdd" + struct.pack(">IHBB", 6 << 28, 28, 17, 64) + bytes(range(32))
UDP6 += struct.pack(">HHHH", 53, 5353, 28, 0) + bytes(20)


@pytest.mark.parametrize("frame", [TCP4, UDP6], ids=["tcp4", "udp6 vlan"])
class TestParse:
    @pytest.fixture(autouse=True)
    def group(self, benchmark, frame):
        benchmark.group = f"packets: parse, {len(frame)} bytes"

    def test_fastpath_buffer(self, frame, measure):
        data = np.frombuffer(frame * N, np.uint8)
        offsets = np.arange(N + 1) * len(frame)
        measure(lambda: packets.parse(data, offsets), operations=N)

    def test_fastpath_list(self, frame, measure):
        frames = [frame] * N
        measure(lambda: packets.parse(frames), operations=N)

    def test_dpkt(self, frame, measure):
        dpkt = pytest.importorskip("dpkt")
        measure(lambda: [dpkt.ethernet.Ethernet(frame) for _ in range(2000)], operations=2000)
