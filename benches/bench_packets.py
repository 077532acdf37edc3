"""Parsing of frames beside dpkt: TCP over IPv4, and UDP over IPv6 behind a VLAN tag; then keys and files."""

from __future__ import annotations

import io
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


RECORD = struct.pack("<IIII", 1, 2, len(TCP4), len(TCP4)) + TCP4
PCAP_HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)


@pytest.mark.parametrize("frame", [TCP4, UDP6], ids=["tcp4", "udp6 vlan"])
class TestParse:
    @pytest.fixture(autouse=True)
    def group(self, benchmark, frame):
        benchmark.group = f"packets: parse, {len(frame)} bytes"

    @pytest.mark.parametrize("n", [1_000, 20_000, N])
    def test_fastpath_buffer(self, frame, n, measure):
        data = np.frombuffer(frame * n, np.uint8)
        offsets = np.arange(n + 1) * len(frame)
        out = np.zeros(n, packets.DTYPE)
        measure(lambda: packets.parse(data, offsets, out=out), operations=n)

    def test_fastpath_buffer_new_memory(self, frame, measure):
        data = np.frombuffer(frame * N, np.uint8)
        offsets = np.arange(N + 1) * len(frame)
        measure(lambda: packets.parse(data, offsets), operations=N)

    def test_fastpath_list(self, frame, measure):
        frames = [frame] * N
        out = np.zeros(N, packets.DTYPE)
        measure(lambda: packets.parse(frames, out=out), operations=N)

    def test_dpkt(self, frame, measure):
        dpkt = pytest.importorskip("dpkt")
        measure(lambda: [dpkt.ethernet.Ethernet(frame) for _ in range(2000)], operations=2000)


@pytest.mark.benchmark(group="packets: keys of flows")
class TestKeys:
    @pytest.mark.parametrize("size", [16, 40])
    def test_fastpath_of_fields(self, size, measure):
        fields = packets.parse([TCP4] * 20_000)
        measure(lambda: packets.five_tuples(fields, size=size), operations=20_000)


@pytest.mark.benchmark(group="packets: read a pcap file")
class TestFile:
    def test_fastpath_read_and_parse(self, measure):
        contents = PCAP_HEADER + RECORD * 20_000
        out = np.zeros(20_000, packets.DTYPE)
        measure(lambda: packets.parse(packets.read_pcap(contents), out=out), operations=20_000)

    def test_dpkt_read(self, measure):
        dpkt = pytest.importorskip("dpkt")
        contents = PCAP_HEADER + RECORD * 2000
        measure(lambda: list(dpkt.pcap.Reader(io.BytesIO(contents))), operations=2000)
