"""Network namespaces with a process in each, and sockets inside them."""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest

T = TypeVar("T")
CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)


def in_namespace(path: str, function: Callable[[], T]) -> T:
    """Run a function on a thread of its own inside a network namespace."""
    result: list[T] = []
    failure: list[BaseException] = []

    def body() -> None:
        try:
            fd = os.open(path, os.O_RDONLY)
            try:
                if LIBC.setns(fd, CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), f"setns {path}")
            finally:
                os.close(fd)
            result.append(function())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


class Namespace:
    """A process in a network namespace of its own, as a container is."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            ["unshare", "-n", "sh", "-c", "echo; exec sleep 300"],
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"\n"
        self.pid = self.process.pid
        self.path = f"/proc/{self.pid}/ns/net"

    def call(self, function: Callable[[], T]) -> T:
        return in_namespace(self.path, function)

    def socket(self, *arguments: Any) -> socket.socket:
        """A socket that belongs to this namespace for ever."""
        made = self.call(lambda: socket.socket(*arguments))
        made.settimeout(10)
        return made

    def run(self, *command: str) -> str:
        done = subprocess.run(
            ["nsenter", f"--net={self.path}", *command],
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
        return done.stdout

    def links(self) -> list[str]:
        return [name for _, name in self.call(socket.if_nameindex)]

    def ping(self, address: str, count: int = 3, timeout_s: float = 5.0) -> int:
        """How many of `count` ICMP echo requests were answered."""
        version6 = ":" in address
        family = socket.AF_INET6 if version6 else socket.AF_INET
        protocol = socket.IPPROTO_ICMPV6 if version6 else socket.IPPROTO_ICMP
        request, reply = (128, 129) if version6 else (8, 0)
        mark = secrets.token_bytes(8)
        answered = 0
        with self.socket(family, socket.SOCK_RAW, protocol) as icmp:
            for sequence in range(count):
                message = struct.pack("!BBHHH", request, 0, 0, 7, sequence) + mark
                if not version6:  # the kernel fills in the checksum of ICMPv6
                    total = sum(struct.unpack(f"!{len(message) // 2}H", message))
                    total = (total & 0xFFFF) + (total >> 16)
                    message = message[:2] + struct.pack("!H", ~total & 0xFFFF) + message[4:]
                deadline = time.monotonic() + timeout_s
                try:
                    icmp.sendto(message, (address, 0))
                    while True:
                        icmp.settimeout(max(0.001, deadline - time.monotonic()))
                        data = icmp.recv(2048)
                        body = data if version6 else data[(data[0] & 15) * 4 :]
                        if body[0] == reply and body[8:16] == mark and body[6:8] == message[6:8]:
                            answered += 1
                            break
                except OSError:  # timed out or unreachable
                    continue
        return answered

    def end(self) -> None:
        """End the process; the namespace ends with it."""
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


@pytest.fixture(scope="session")
def may_make_namespaces() -> None:
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare (util-linux)")
    probe = subprocess.run(["unshare", "-n", "true"], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        pytest.skip(f"needs root, or 'unshare -Urnm' around pytest: {probe.stderr.strip()}")


@pytest.fixture
def namespaces(may_make_namespaces: None) -> Iterator[Callable[[], Namespace]]:
    made: list[Namespace] = []

    def make() -> Namespace:
        made.append(Namespace())
        return made[-1]

    try:
        yield make
    finally:
        for namespace in made:
            namespace.end()
