"""Switch, Port and MemoryPort over memory ports: no privileges needed."""

from __future__ import annotations

import copy
import errno
import gc
import os
import pickle
import random
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastpath
from fastpath import Switch
from fastpath.switch import MemoryPort, Port

A, B, C = "02:00:00:00:00:0a", "02:00:00:00:00:0b", "02:00:00:00:00:0c"
ALL = "ff:ff:ff:ff:ff:ff"


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def frame(destination: str, source: str, payload: bytes = b"") -> bytes:
    return (mac(destination) + mac(source) + b"\x88\xb5" + payload).ljust(60, b"\0")


@pytest.fixture
def switch() -> Iterator[Switch]:
    with Switch("test") as made:
        yield made


def send(switch: Switch, port: MemoryPort, *frames: bytes) -> None:
    assert port.rx(list(frames)) == len(frames)
    switch.settle()


def test_learns_floods_forwards_and_counts(switch: Switch) -> None:
    a, b, c = (switch.attach_memory() for _ in range(3))
    send(switch, a, frame(B, A, b"unknown"))
    assert b.tx() == c.tx() == [frame(B, A, b"unknown")]
    assert a.tx() == []
    send(switch, b, frame(A, B, b"known"), frame(A, B, b"again"))
    assert a.tx(1) == [frame(A, B, b"known")]
    assert a.tx() == [frame(A, B, b"again")]
    assert c.tx() == []
    assert switch.fdb.lookup(A) == a.number
    assert switch.forwarding.lookup(B, A) == a.number
    assert switch.pairs() == [(B, A, a.number, 0, 2, 120, True)]
    send(switch, b, frame(B, C))  # C is behind the same port as B
    send(switch, b, frame(C, B), frame(C, B))
    stats = switch.stats()
    assert stats["ports"]["port2"]["drops"]["hairpin"] == 3
    assert stats["drops"]["hairpin"] == 3
    assert stats["ports"]["port1"] | {"drops": None} == {
        "number": 1,
        "kind": "memory",
        "up": True,
        "segment": 0,
        "ifname": None,
        "mac": None,
        "rx_packets": 1,
        "rx_bytes": 60,
        "tx_packets": 2,
        "tx_bytes": 120,
        "floods": 1,
        "drops": None,
    }
    assert stats["frames"] == 6
    assert (stats["name"], stats["running"], stats["mtu"]) == ("test", True, 1500)


def test_the_users_entries_take_effect_with_the_next_frame(switch: Switch) -> None:
    a, b, c = (switch.attach_memory() for _ in range(3))
    send(switch, a, frame(ALL, A))
    switch.forwarding.insert(B, A, c)
    switch.forwarding.insert(None, "01:00:5e:00:00:01", b)
    for port in (b, c):
        port.tx()
    send(switch, b, frame(A, B))
    send(switch, a, frame("01:00:5e:00:00:01", A))
    assert (len(a.tx()), len(b.tx()), len(c.tx())) == (0, 1, 1)
    switch.forwarding.delete(B, A)
    send(switch, b, frame(A, B))
    assert len(a.tx()) == 1


def test_learned_pairs_end_with_the_fdb_entry(switch: Switch) -> None:
    a, b = switch.attach_memory(), switch.attach_memory()
    send(switch, a, frame(ALL, A))
    send(switch, b, frame(A, B))
    assert switch.forwarding.lookup(B, A) == a.number
    switch.fdb.purge(a.number)
    deadline = time.monotonic() + 10
    while switch.forwarding.lookup(B, A) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert switch.stats()["pairs_erased"] == 1
    assert switch.pairs() == []


def test_a_moved_station_and_a_detached_port_leave_nothing_stale(switch: Switch) -> None:
    a, b, c = (switch.attach_memory() for _ in range(3))
    send(switch, a, frame(ALL, A))
    send(switch, b, frame(A, B))
    send(switch, c, frame(ALL, A))
    assert switch.forwarding.lookup(B, A) is None
    for port in (a, b, c):
        port.tx()
    send(switch, b, frame(A, B))
    assert (len(a.tx()), len(c.tx())) == (0, 1)
    switch.detach(c)
    assert not c.up
    assert switch.fdb.lookup(A) is None
    assert switch.forwarding.lookup(B, A) is None
    send(switch, b, frame(A, B))
    assert len(a.tx()) == 1
    assert c.rx(frame(ALL, A)) == 1  # into nothing
    switch.settle()
    assert c.stats()["rx_packets"] == 1


def test_segments(switch: Switch) -> None:
    a, b = (switch.attach_memory(segment=1) for _ in range(2))
    c, d = (switch.attach_memory(segment=4094) for _ in range(2))
    send(switch, a, frame(ALL, A))
    send(switch, c, frame(ALL, A), frame(ALL, B))
    assert (len(a.tx()), len(b.tx()), len(c.tx()), len(d.tx())) == (0, 1, 0, 2)
    assert switch.fdb.lookup(A, 1) == a.number
    assert switch.fdb.lookup(A, 4094) == c.number
    switch.forwarding.insert(B, A, c)
    send(switch, b, frame(A, B))
    assert (len(a.tx()), len(c.tx())) == (1, 0)


def test_frames_that_are_refused(switch: Switch) -> None:
    a, _ = switch.attach_memory(), switch.attach_memory()
    send(
        switch,
        a,
        b"",
        b"\0" * 13,
        frame(B, ALL),
        frame(B, "00:00:00:00:00:00"),
        frame("01:80:c2:00:00:00", A),
    )
    send(switch, a, frame(B, A).ljust(1519, b"\0"))
    drops = a.stats()["drops"]
    wanted = {"short_frame": 2, "bad_source": 2, "reserved": 1, "long_frame": 1}
    assert {key: value for key, value in drops.items() if value} == wanted
    lonely = switch.attach_memory(segment=7)
    send(switch, lonely, frame(ALL, A))
    assert lonely.stats()["drops"]["no_listener"] == 1


def test_virtio_net_headers(switch: Switch) -> None:
    a = switch.attach_memory(vnet_header=True)
    b = switch.attach_memory(vnet_header=True)
    plain = switch.attach_memory()
    segment = frame(ALL, A) + bytes(3000)
    header = struct.pack("=BBHHHH", 1, 1, 54, 1448, 34, 16)
    send(switch, a, header + segment, struct.pack("=BBHHHH", 1, 1, 54, 0, 34, 16) + segment)
    assert b.tx() == [header + segment]
    assert plain.tx() == [segment]
    assert a.stats()["drops"]["vnet_header"] == 1
    with pytest.raises(ValueError, match="frame of 9 bytes: expected 10 to"):
        a.rx(bytes(9))


def test_arrays_and_full_rings() -> None:
    switch = Switch()
    a, b = switch.attach_memory(capacity=1), switch.attach_memory(capacity=1)
    frames = np.frombuffer(frame(ALL, A), np.uint8)
    many = np.repeat(frames[None, :], 100_000, axis=0)
    taken = a.rx(many)
    assert 1000 < taken < 100_000
    assert a.rx(frame(ALL, A)) == 0
    with switch:
        switch.settle()
        assert a.rx(many[:10:2]) == 5
        switch.settle()
        stats = b.stats()
        assert stats["tx_packets"] + stats["drops"]["tx_full"] == taken + 5
        assert len(b.tx(7)) == 7
        assert len(b.tx()) == stats["tx_packets"] - 7
        assert a.rx(np.zeros((0, 60), np.uint8)) == 0
        sink = switch.attach_memory(discard=True)
        send(switch, a, frame(ALL, A))
        assert sink.tx() == []
        assert sink.stats()["tx_packets"] == 1


@pytest.mark.parametrize(
    "frames",
    [
        None,
        7,
        "text",
        [frame(ALL, A), "text"],
        [1, 2],
        np.zeros(60, np.uint8),
        np.zeros((2, 60), np.int8),
        np.zeros((2, 2, 60), np.uint8),
    ],
)
def test_rx_of_the_wrong_kind(switch: Switch, frames: Any) -> None:
    port = switch.attach_memory()
    with pytest.raises(TypeError):
        port.rx(frames)
    assert port.stats()["rx_packets"] == 0


def test_rx_of_the_wrong_size(switch: Switch) -> None:
    port = switch.attach_memory()
    for frames in (bytes(70_000), np.zeros((1, 70_000), np.uint8), [b"", bytes(70_000)]):
        with pytest.raises(ValueError, match="70000 bytes"):
            port.rx(frames)
    assert port.rx([]) == 0
    assert port.rx([bytearray(60), memoryview(bytes(60))]) == 2
    wrong: list[tuple[dict[str, Any], type[Exception]]] = [
        ({"limit": -1}, ValueError),
        ({"limit": 1 << 63}, ValueError),
        ({"limit": 1.5}, TypeError),
        ({"timeout_s": "1"}, TypeError),
        ({"timeout_s": float("nan")}, ValueError),
    ]
    for arguments, error in wrong:
        with pytest.raises(error, match=f"{next(iter(arguments))}: expected"):
            port.tx(**arguments)


def test_random_frames_break_nothing() -> None:
    random_ = random.Random(7)
    with Switch() as switch:
        ports = [switch.attach_memory(segment=n % 2, vnet_header=True, capacity=1 << 22) for n in range(4)]
        plain = switch.attach_memory()
        for _ in range(300):
            port = random_.choice(ports)
            frames = []
            for _ in range(64):
                body = random_.randbytes(random_.choice([0, 5, 14, 60, 60, 60, 600, 9000]))
                if random_.random() < 0.7 and len(body) > 12:
                    body = (
                        bytes([2, 0, 0, 0, 0, random_.randrange(9), 2, 0, 0, 0, 0, random_.randrange(9)])
                        + body[12:]
                    )
                header = bytes(10) if random_.random() < 0.5 else random_.randbytes(10)
                if random_.random() < 0.3:
                    header = struct.pack(
                        "=BBHHHH", 1, random_.choice([0, 1, 4, 5]), 54, 1448, 34, random_.randrange(99)
                    )
                frames.append(header + body)
            assert port.rx(frames) == 64
            switch.settle()
            for other in [*ports, plain]:
                other.tx()
        stats = switch.stats()
        assert stats["frames"] == 300 * 64
        assert stats["faults"] == 0
        for port in ports:
            counted = port.stats()
            refused = sum(n for reason, n in counted["drops"].items() if not reason.startswith("tx_"))
            assert refused < counted["rx_packets"]
        assert stats["pair_hits"] > 0
        assert stats["drops"]["vnet_header"] > 0


def test_ports_ids_and_numbers(switch: Switch) -> None:
    a = switch.attach_memory()
    b = switch.attach_memory(id="b")
    assert (a.id, b.id, int(a), a.__index__(), b.number) == ("port1", "b", 1, 1, 2)
    assert switch.ports == (a, b)
    assert isinstance(a, Port)
    assert repr(b) == "MemoryPort('b', number=2, kind='memory', segment=0)"
    with pytest.raises(ValueError, match="id: 'b' is taken"):
        switch.attach_memory(id="b")
    switch.detach("b")
    assert repr(b).endswith(", down)")
    with pytest.raises(KeyError, match="no port"):
        switch.detach(b)
    switch.detach(1)
    assert switch.ports == ()
    assert switch.attach_memory(id="b").number == 3  # never used twice
    switch.attach_memory(id="port5")
    assert switch.attach_memory().id == "port5'"
    other = Switch()
    foreign = other.attach_memory()
    with pytest.raises(KeyError):
        switch.detach(foreign)


@pytest.mark.parametrize("port", [None, 1.0, True, b"b", []])
def test_detach_of_the_wrong_kind(switch: Switch, port: Any) -> None:
    with pytest.raises(TypeError, match="port: expected a Port"):
        switch.detach(port)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"ifname": "a" * 16}, ValueError, "ifname: expected 1 to 15"),
        ({"ifname": ""}, ValueError, "ifname"),
        ({"ifname": "a/b"}, ValueError, "ifname"),
        ({"ifname": "a b"}, ValueError, "ifname"),
        ({"ifname": "."}, ValueError, "ifname"),
        ({"ifname": "eth%d"}, ValueError, "ifname"),
        ({"ifname": "eth\0"}, ValueError, "ifname"),
        ({"ifname": None}, TypeError, "ifname"),
        ({"netns": 0}, ValueError, "netns"),
        ({"netns": -5}, ValueError, "netns"),
        ({"netns": ""}, ValueError, "netns"),
        ({"netns": "a\0b"}, ValueError, "netns"),
        ({"netns": "a\ud800"}, ValueError, "netns"),
        ({"netns": 1.5}, TypeError, "netns"),
        ({"netns": True}, TypeError, "netns"),
        ({"netns": b"/run"}, TypeError, "netns"),
        ({"netns": "no-such-namespace-here"}, FileNotFoundError, "/run/netns/no-such-namespace-here"),
        ({"address": "10.0.0.1/33"}, ValueError, "address"),
        ({"address": "10.0.0/8"}, ValueError, "address"),
        ({"address": ["10.0.0.1/24", 5]}, TypeError, "address"),
        ({"address": 5}, TypeError, "address"),
        ({"address": b"10.0.0.1"}, TypeError, "address"),
        ({"mac": "01:00:00:00:00:01"}, ValueError, "mac: expected a unicast"),
        ({"mac": "00:00:00:00:00:00"}, ValueError, "mac"),
        ({"mac": "02:00:00:00:00"}, ValueError, "mac"),
        ({"mac": "02:00-00:00:00:01"}, ValueError, "mac"),
        ({"mac": b"12345"}, ValueError, "mac"),
        ({"mac": 1 << 48}, ValueError, "mac"),
        ({"mac": -1}, ValueError, "mac"),
        ({"mac": 1.0}, TypeError, "mac"),
        ({"segment": -1}, ValueError, "segment: expected 0 to 4094, got -1"),
        ({"segment": 4095}, ValueError, "segment"),
        ({"segment": "1"}, TypeError, "segment"),
        ({"segment": True}, TypeError, "segment"),
        ({"id": ""}, ValueError, "id"),
        ({"id": "a\nb"}, ValueError, "id"),
        ({"id": 5}, TypeError, "id"),
    ],
)
def test_attach_of_the_wrong_kind(
    switch: Switch, arguments: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        switch.attach(**{"netns": "no-such-namespace", **arguments})
    assert switch.ports == ()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"name": ""}, ValueError),
        ({"name": 5}, TypeError),
        ({"mtu": 67}, ValueError),
        ({"mtu": 65522}, ValueError),
        ({"mtu": "1500"}, TypeError),
        ({"mtu": None}, TypeError),
    ],
)
def test_construction_of_the_wrong_kind(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(arguments))):
        Switch(**arguments)


def test_attach_memory_of_the_wrong_kind(switch: Switch) -> None:
    for arguments in ({"capacity": 0}, {"capacity": (1 << 30) + 1}, {"segment": 5000}, {"id": ""}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            switch.attach_memory(**arguments)
    with pytest.raises(TypeError, match="capacity"):
        switch.attach_memory(capacity="big")  # type: ignore[arg-type]


def test_life() -> None:
    switch = Switch("x")
    assert not switch.running
    assert repr(switch) == "Switch('x', mtu=1500, 0 ports, stopped)"
    switch.stop()
    a, b = switch.attach_memory(), switch.attach_memory()
    a.rx(frame(ALL, A))
    assert b.tx() == []
    switch.start()
    switch.start()
    assert b.tx(timeout_s=10) == [frame(ALL, A)]
    switch.stop()
    assert not switch.running
    assert switch.pairs() == []
    switch.detach(a)
    switch.start()
    switch.close()
    switch.close()
    assert switch.ports == ()
    # A closed switch may be used again.
    with switch:
        c, d = switch.attach_memory(), switch.attach_memory()
        send(switch, c, frame(ALL, C))
        assert len(d.tx()) == 1
    for make in (pickle.dumps, copy.copy, copy.deepcopy):
        for thing in (switch, c):
            with pytest.raises(TypeError, match="cannot be pickled or copied"):
                make(thing)


def test_nothing_is_left_of_a_forgotten_switch() -> None:
    gc.collect()
    fds, tasks = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
    for _ in range(5):
        switch = Switch()
        port = switch.attach_memory()
        switch.start()
        switch.capture(os.devnull)
        del switch
        assert not port.up
        del port
    gc.collect()
    deadline = time.monotonic() + 5
    while len(os.listdir("/proc/self/task")) > tasks and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(os.listdir("/proc/self/task")) == tasks
    assert len(os.listdir("/proc/self/fd")) == fds


def test_tables_outlive_the_switch() -> None:
    switch = Switch()
    a, b = switch.attach_memory(), switch.attach_memory()
    with switch:
        send(switch, a, frame(ALL, A))
        send(switch, b, frame(A, B))
        forwarding = switch.forwarding
        assert forwarding.lookup(B, A) == 1
    del switch, a, b
    assert forwarding.lookup(B, A) is None


def test_a_child_of_fork_and_the_exit_of_the_interpreter() -> None:
    code = """
import os, fastpath
s = fastpath.Switch(); a = s.attach_memory(); b = s.attach_memory(); s.start()
child = os.fork()
if child == 0:
    try:
        s.attach_memory()
    except RuntimeError as error:
        assert "fork" in str(error)
        del s, a, b
        raise SystemExit(0)
    os._exit(1)
assert os.waitpid(child, 0)[1] == 0
a.rx(bytes.fromhex("ffffffffffff02000000000a") + bytes(48))
assert len(b.tx(timeout_s=10)) == 1
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_child_of_fork_has_a_closed_switch_and_writes_nothing(tmp_path: Path) -> None:
    code = """
import os, sys, fastpath
with fastpath.Switch() as s:
    a = s.attach_memory(id="a"); s.attach_pcap(write=sys.argv[1] + "/port"); s.capture(sys.argv[1] + "/all")
    a.rx(bytes.fromhex("ffffffffffff02000000000a") + bytes(48))
    s.settle()
    fds = len(os.listdir("/proc/self/fd"))
    child = os.fork()
    if child == 0:
        assert (s.ports, s.running) == ((), False), s
        assert len(os.listdir("/proc/self/fd")) == fds - 4  # epoll, eventfd, two files
        s.stop()
        raise SystemExit(7)  # through __exit__
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    for name in ("port", "all"):
        assert (tmp_path / name).stat().st_size == 24 + 16 + 60


@pytest.mark.parametrize(
    "call",
    [
        "port.rx(frames)",
        "port.tx()",
        "switch.pairs()",
        "switch.detach(switch.attach_memory())",
        "switch.start()",
    ],
)
def test_the_interpreter_may_exit_under_daemon_threads(call: str) -> None:
    code = """
import sys, threading, time, fastpath
switch = fastpath.Switch(); port = switch.attach_memory(); switch.start()
frames = [bytes.fromhex("ffffffffffff02000000000a") + bytes(48)] * 64
def body():
    while True:
        exec(sys.argv[1])
for _ in range(2):
    threading.Thread(target=body, daemon=True).start()
time.sleep(0.05)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, call], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_capture_that_nobody_reads_stops_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with Switch() as switch:
            port, other = switch.attach_memory(), switch.attach_memory()
            capture = switch.capture(tmp_path / "pipe")
            frame = mac(ALL) + mac(A) + b"\x88\xb5" + bytes(1000)
            for _ in range(40):
                port.rx([frame] * 20)
                switch.settle()
            assert other.stats()["tx_packets"] == 800
            with pytest.raises(OSError, match="write the capture"):
                capture.close()
    finally:
        os.close(reader)


def test_a_capture_into_a_pipe_that_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    received = bytearray()

    def read() -> None:
        with (tmp_path / "pipe").open("rb") as pipe:
            while part := pipe.read(65536):
                received.extend(part)

    reader = threading.Thread(target=read)
    reader.start()
    with Switch() as switch:
        port = switch.attach_memory()
        with switch.capture(tmp_path / "pipe") as capture:
            frame = mac(ALL) + mac(A) + b"\x88\xb5" + bytes(1000)
            for _ in range(10):
                port.rx([frame] * 20)
                switch.settle()
            assert capture.close() == 200
    reader.join(10)
    assert len(received) == 24 + 200 * (16 + len(frame))


def test_closing_ends_captures(tmp_path: Path) -> None:
    fds = len(os.listdir("/proc/self/fd"))
    switch = Switch()
    with switch:
        capture = switch.capture(tmp_path / "all")
        send(switch, switch.attach_memory(), frame(ALL, A))
    assert len(os.listdir("/proc/self/fd")) == fds + 2
    assert (tmp_path / "all").stat().st_size == 24 + 16 + 60
    assert capture.close() == 0


def test_capture(switch: Switch, tmp_path: Path) -> None:
    a, b, c = (switch.attach_memory() for _ in range(3))
    with (
        switch.capture(tmp_path / "all.pcap") as everything,
        switch.capture(str(tmp_path / "c.pcap"), c) as of_c,
    ):
        send(switch, a, frame(ALL, A, b"one"), b"short")
        send(switch, b, frame(A, B, b"two"))
        assert "all.pcap" in repr(everything)
        assert everything.close() == 3
        assert everything.close() == 0
    assert "closed" in repr(of_c)
    data = (tmp_path / "all.pcap").read_bytes()
    assert struct.unpack("=IHHiIII", data[:24]) == (0xA1B23C4D, 2, 4, 0, 0, 262144, 1)
    frames, at = [], 24
    while at < len(data):
        seconds, nanoseconds, captured, length = struct.unpack("=4I", data[at : at + 16])
        assert abs(seconds - time.time()) < 60
        assert nanoseconds < 10**9
        assert captured == length
        frames.append(data[at + 16 : at + 16 + captured])
        at += 16 + captured
    assert frames == [frame(ALL, A, b"one"), b"short", frame(A, B, b"two")]
    assert (tmp_path / "c.pcap").stat().st_size == 24 + 16 + 60
    with pytest.raises(FileNotFoundError):
        switch.capture(tmp_path / "no" / "folder")
    with pytest.raises(KeyError):
        switch.capture(tmp_path / "x", "nobody")
    for wrong in (1.0, True, []):
        with pytest.raises(TypeError, match="port: expected a Port"):
            switch.capture(tmp_path / "x", wrong)  # type: ignore[arg-type]
    assert not (tmp_path / "x").exists()
    if os.path.exists("/dev/full"):
        full = switch.capture("/dev/full")
        with pytest.raises(OSError, match="write the capture"):
            full.close()


def pcap(*frames: bytes, order: str = "=", magic: int = 0xA1B2C3D4, link_type: int = 1) -> bytes:
    out = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 65535, link_type)
    for data in frames:
        out += struct.pack(order + "IIII", 1, 2, len(data), len(data)) + data
    return out


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcap_files_as_a_port(switch: Switch, tmp_path: Path, order: str) -> None:
    station = switch.attach_memory()
    (tmp_path / "in.pcap").write_bytes(pcap(*[frame(ALL, A, b"%d" % n) for n in range(300)], order=order))
    port = switch.attach_pcap(tmp_path / "in.pcap", tmp_path / "out.pcap", id="files")
    switch.settle()
    assert station.tx() == [frame(ALL, A, b"%d" % n) for n in range(300)]
    send(switch, station, frame(A, B, b"answer"))
    assert (port.kind, port.stats()["rx_packets"], port.stats()["tx_packets"]) == ("pcap", 300, 1)
    switch.detach(port)
    written = (tmp_path / "out.pcap").read_bytes()
    assert written[40:] == frame(A, B, b"answer")
    # What was written can be read.
    switch.attach_pcap(read=str(tmp_path / "out.pcap"))
    switch.settle()
    assert station.tx() == [frame(A, B, b"answer")]


def test_pcap_files_that_are_broken(switch: Switch, tmp_path: Path) -> None:
    path = tmp_path / "x.pcap"
    whole = pcap(frame(ALL, A), frame(ALL, B))
    broken = {
        b"": "shorter than the header",
        whole[:23]: "shorter than the header",
        whole[:30]: "ends within the record at byte 24",
        whole[:-1]: "ends within the record at byte 100",
        pcap(bytes(70_000)): "a frame of 70000 bytes",
        pcap(link_type=101): "link type 101",
        b"\x0a\x0d\x0d\x0a" + bytes(40): "pcapng",
    }
    for data, message in broken.items():
        path.write_bytes(data)
        with pytest.raises(ValueError, match=message):
            switch.attach_pcap(path)
    with pytest.raises(ValueError, match="to read, to write, or both"):
        switch.attach_pcap()
    with pytest.raises(FileNotFoundError):
        switch.attach_pcap(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError):
        switch.attach_pcap(write=tmp_path / "no" / "folder")
    with pytest.raises(TypeError):
        switch.attach_pcap(read=5)  # type: ignore[arg-type]
    kept = tmp_path / "kept"
    kept.write_bytes(b"before")
    path.write_bytes(b"broken")
    with pytest.raises(ValueError, match="shorter"):
        switch.attach_pcap(path, kept)
    assert kept.read_bytes() == b"before"
    assert switch.ports == ()
    path.write_bytes(pcap())
    switch.detach(switch.attach_pcap(path, kept))
    assert kept.stat().st_size == 24


def test_interfaces_that_are_not_there(switch: Switch) -> None:
    with pytest.raises((OSError, fastpath.NotSupported)):
        switch.attach_interface("fp-no-such-if")
    with pytest.raises(ValueError, match="ifname"):
        switch.attach_interface("a" * 16)
    with pytest.raises(TypeError, match="ifname"):
        switch.attach_interface(None)  # type: ignore[arg-type]


def test_many_threads(switch: Switch) -> None:
    ports = [switch.attach_memory() for _ in range(3)]
    stop = threading.Event()
    failures: list[BaseException] = []

    def guarded(body: Any) -> Any:
        def run() -> None:
            try:
                while not stop.is_set():
                    body()
            except BaseException as error:
                failures.append(error)

        return run

    def come_and_go() -> None:
        guest = switch.attach_memory()
        guest.rx(frame(ALL, C))
        switch.detach(guest)

    def talk() -> None:
        for port, source in zip(ports, (A, B, C), strict=True):
            port.rx([frame(A, source), frame(B, source), frame(ALL, source)])
            port.tx()

    def look() -> None:
        switch.stats()
        switch.pairs()
        switch.fdb.age()
        switch.forwarding.lookup(A, B)

    def life() -> None:
        time.sleep(0.02)
        switch.stop()
        switch.start()

    threads = [
        threading.Thread(target=guarded(body)) for body in (come_and_go, come_and_go, talk, look, life)
    ]
    for thread in threads:
        thread.start()
    time.sleep(1.0)
    stop.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert not failures, failures
    assert switch.stats()["faults"] == 0
    assert fastpath.Switch is Switch


def test_last_frames_that_a_file_does_not_take_are_told(switch: Switch) -> None:
    a = switch.attach_memory(id="a")
    port = switch.attach_pcap(write="/dev/full", id="file")
    send(switch, a, frame(ALL, A))
    with pytest.raises(OSError, match="port's file") as caught:
        switch.detach(port)
    assert caught.value.errno == errno.ENOSPC
    assert [p.id for p in switch.ports] == ["a"]


def test_closing_goes_on_behind_a_file_that_is_full() -> None:
    switch = Switch("full")
    a = switch.attach_memory(id="a")
    for name in ("one", "two"):
        switch.attach_pcap(write="/dev/full", id=name)
    send(switch, a, frame(ALL, A))
    with pytest.raises(OSError, match="port's file"):
        switch.close()
    assert switch.ports == ()
    assert not switch.running
    switch.close()


def test_a_pair_that_the_user_inserts_as_it_was_learned_is_his(switch: Switch) -> None:
    a, b = switch.attach_memory(), switch.attach_memory()
    send(switch, a, frame(ALL, A))
    send(switch, b, frame(A, B))
    send(switch, a, frame(B, A))
    assert (switch.forwarding.lookup(B, A), switch.forwarding.lookup(A, B)) == (a.number, b.number)
    switch.forwarding.insert(B, A, a)
    switch.fdb.purge(a.number)
    switch.fdb.purge(b.number)
    deadline = time.monotonic() + 10
    while switch.forwarding.lookup(A, B) is not None:  # the other pair, which is still the switch's
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.3)
    assert switch.forwarding.lookup(B, A) == a.number
