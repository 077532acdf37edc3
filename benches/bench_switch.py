"""Frames through the switch: between memory ports, and as TCP between two network namespaces."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from fastpath import Switch

FRAMES = 200_000
STATIONS = 64
TCP_BYTES = 1 << 28
CLONE_NEWNET = 0x40000000


def frames(length: int) -> np.ndarray:
    """From 64 stations behind one port to 64 behind another, in random order."""
    rng = np.random.default_rng(1)
    out = np.zeros((FRAMES, length), np.uint8)
    out[:, :6] = [2, 0, 0, 0, 1, 0]
    out[:, 6:12] = [2, 0, 0, 0, 0, 0]
    out[:, 5] = rng.integers(0, STATIONS, FRAMES)
    out[:, 11] = rng.integers(0, STATIONS, FRAMES)
    out[:, 12:14] = [0x88, 0xB5]
    return out


@pytest.mark.parametrize("length", [60, 1514])
def test_fastpath_memory_ports(benchmark: Any, length: int) -> None:
    benchmark.group = f"switch: forward {length}-byte frames"
    benchmark.extra_info["operations"] = FRAMES
    load = frames(length)
    switch = Switch()
    ingress = switch.attach_memory(capacity=FRAMES * (length + 32))
    egress = switch.attach_memory()
    answers = load[:STATIONS].copy()
    answers[:, :6] = 0xFF
    answers[:, 6:12] = [2, 0, 0, 0, 1, 0]
    answers[:, 11] = np.arange(STATIONS)
    switch.start()
    egress.rx(answers)
    switch.settle()
    switch.detach(egress)
    sink = switch.attach_memory(discard=True)
    for row in answers:
        switch.fdb.learn(row[6:12].tobytes(), sink)

    def fill() -> None:
        switch.stop()
        assert ingress.rx(load) == FRAMES

    def forward() -> None:
        switch.start()
        switch.settle()

    benchmark.pedantic(forward, setup=fill, rounds=11, warmup_rounds=1)
    stats = switch.stats()
    switch.close()
    assert stats["pairs"] == STATIONS * STATIONS
    assert stats["ports"][sink.id]["tx_packets"] >= 11 * FRAMES


def test_python_loop_over_dicts(benchmark: Any) -> None:
    benchmark.group = "switch: forward 60-byte frames"
    benchmark.extra_info["operations"] = FRAMES
    load = [row.tobytes() for row in frames(60)]
    known = {bytes([2, 0, 0, 0, 1, n]): 2 for n in range(STATIONS)}

    def forward() -> int:
        sent = 0
        fdb = dict(known)
        for frame in load:
            fdb[frame[6:12]] = 1
            if fdb.get(frame[:6]) == 2:
                sent += 1
        return sent

    assert forward() == FRAMES
    benchmark.pedantic(forward, rounds=11, warmup_rounds=1)


def process_in_namespace() -> subprocess.Popen[bytes]:
    process = subprocess.Popen(["unshare", "-n", "sh", "-c", "echo; exec sleep 600"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        process.stdout.readline()
    return process


class Network:
    """Two namespaces, 10.79.0.1 and 10.79.0.2, that something joins."""

    def __init__(self) -> None:
        self.processes = [process_in_namespace() for _ in range(2)]
        self.pids = [process.pid for process in self.processes]

    def socket(self, which: int) -> socket.socket:
        made: list[socket.socket] = []

        def inside() -> None:
            fd = os.open(f"/proc/{self.pids[which]}/ns/net", os.O_RDONLY)
            assert ctypes.CDLL(None).setns(fd, CLONE_NEWNET) == 0
            os.close(fd)
            made.append(socket.socket())

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        return made[0]

    def transfer(self) -> None:
        """TCP_BYTES over one connection."""
        with self.socket(1) as listener, self.socket(0) as client:
            listener.bind(("10.79.0.2", 0))
            listener.listen()
            total = 0

            def receive() -> None:
                nonlocal total
                connection, _ = listener.accept()
                room = bytearray(1 << 20)
                with connection:
                    while got := connection.recv_into(room):
                        total += got

            thread = threading.Thread(target=receive)
            thread.start()
            client.connect(listener.getsockname())
            chunk = bytes(1 << 20)
            for _ in range(TCP_BYTES >> 20):
                client.sendall(chunk)
            client.shutdown(socket.SHUT_WR)
            thread.join()
            assert total == TCP_BYTES

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def network() -> Iterator[Network]:
    if subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("needs root, or 'unshare -Urnm' around the run")
    made = Network()
    yield made
    made.end()


def measure_tcp(benchmark: Any, transfer: Callable[[], None]) -> None:
    benchmark.group = "switch: TCP between two namespaces, per KiB"
    benchmark.extra_info["operations"] = TCP_BYTES >> 10
    benchmark.pedantic(transfer, rounds=7, warmup_rounds=1)


def test_fastpath_tap_tcp(benchmark: Any, network: Network) -> None:
    with Switch() as switch:
        for number, pid in enumerate(network.pids, 1):
            switch.attach(pid, address=f"10.79.0.{number}/24")
        measure_tcp(benchmark, network.transfer)


def test_linux_bridge_tcp(benchmark: Any, network: Network) -> None:
    host = process_in_namespace()

    def ip(pid: int, *arguments: str) -> None:
        subprocess.run(["nsenter", f"--net=/proc/{pid}/ns/net", "ip", *arguments], check=True)

    try:
        ip(host.pid, "link", "add", "br0", "type", "bridge")
        ip(host.pid, "link", "set", "br0", "up")
        for number, pid in enumerate(network.pids, 1):
            ip(
                host.pid,
                "link",
                "add",
                f"v{number}",
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "netns",
                str(pid),
            )
            ip(host.pid, "link", "set", f"v{number}", "master", "br0", "up")
            ip(pid, "addr", "add", f"10.79.0.{number}/24", "dev", "eth0")
            ip(pid, "link", "set", "eth0", "up")
        measure_tcp(benchmark, network.transfer)
    finally:
        host.kill()
        host.wait()
