"""The process inside a container of the demo.

It enters a network namespace of its own, then obeys: a JSON object a line on standard input, the answer on
standard output. It ends when its input ends or its parent dies. It stays free of compiled modules, so that
five of them start quickly.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from fastpath.cli.control import ControlClient
from fastpath.cli.demo.isolation import CLONE_NEWNET, CLONE_NEWUTS, die_with_parent, unshare
from fastpath.errors import Error

_ECHO_REQUEST, _ECHO_REPLY = 8, 0


def _internet_checksum(data: bytes) -> int:
    """RFC 1071."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    folded: int = total + (total >> 16)
    return ~folded & 0xFFFF


def ping(address: str, count: int, timeout_s: float) -> dict[str, Any]:
    """ICMP echo (RFC 792): how many were sent and answered, and the round trips in milliseconds."""
    identifier = os.getpid() & 0xFFFF
    times = []
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        raw.settimeout(timeout_s)
        for sequence in range(count):
            payload = b"fastpath" * 7
            header = struct.pack("!BBHHH", _ECHO_REQUEST, 0, 0, identifier, sequence)
            checksum = _internet_checksum(header + payload)
            start = time.perf_counter()
            with contextlib.suppress(OSError):
                raw.sendto(
                    struct.pack("!BBHHH", _ECHO_REQUEST, 0, checksum, identifier, sequence) + payload,
                    (address, 0),
                )
                while time.perf_counter() - start < timeout_s:
                    packet, _ = raw.recvfrom(2048)
                    icmp = packet[(packet[0] & 15) * 4 :]
                    kind, _, _, got_identifier, got_sequence = struct.unpack("!BBHHH", icmp[:8])
                    if (kind, got_identifier, got_sequence) == (_ECHO_REPLY, identifier, sequence):
                        times.append((time.perf_counter() - start) * 1000)
                        break
    return {"sent": count, "received": len(times), "rtt_ms": times}


def ask_dns(server: str, port: int, name: str, rdtype: str) -> dict[str, Any]:
    """What a stock DNS client (dnspython) sees."""
    import dns.resolver

    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers = [server]
    resolver.port = port
    resolver.lifetime = 3.0
    try:
        answer = resolver.resolve(name, rdtype)
    except dns.resolver.NXDOMAIN:
        return {"records": [], "status": "NXDOMAIN"}
    except dns.resolver.NoAnswer:
        return {"records": [], "status": "NODATA"}
    return {"records": sorted(record.to_text() for record in answer), "status": "NOERROR"}


def get(address: str, port: int, timeout_s: float) -> dict[str, Any]:
    """One HTTP request on a new connection: who answered, or what failed."""
    connection = http.client.HTTPConnection(address, port, timeout=timeout_s)
    try:
        connection.request("GET", "/")
        response = connection.getresponse()
        body = response.read().decode()
    except (OSError, http.client.HTTPException) as error:
        return {"failed": f"{type(error).__name__}: {error}"}
    finally:
        connection.close()
    return (
        {"server": body} if response.status == http.HTTPStatus.OK else {"failed": f"status {response.status}"}
    )


class _Hello(http.server.BaseHTTPRequestHandler):
    name = ""

    def do_GET(self) -> None:
        """Answer with the name of this container."""
        body = self.name.encode()
        self.send_response(http.HTTPStatus.OK)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: standard error belongs to the demo."""


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


def serve(name: str, address: str, port: int, control: str, registration: dict[str, Any]) -> dict[str, Any]:
    """Serve HTTP, register with the registry, and renew the lease as long as this process lives."""
    server = _Server((address, port), type("Hello", (_Hello,), {"name": name}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    client = ControlClient(control)
    instance: dict[str, Any] = client.call("register", **registration)

    def heartbeat() -> None:
        with contextlib.suppress(OSError):  # the story has ended
            while True:
                time.sleep(registration["ttl_s"] / 4)
                try:
                    client.call("renew", id=registration["id"])
                except Error:  # a machine so busy that the lease ran out
                    client.call("register", **registration)

    threading.Thread(target=heartbeat, daemon=True).start()
    return instance


_ACTIONS: dict[str, Callable[..., Any]] = {"ping": ping, "ask_dns": ask_dns, "get": get, "serve": serve}


def main() -> None:
    """Obey standard input until it ends."""
    die_with_parent()
    unshare(CLONE_NEWNET | CLONE_NEWUTS)
    socket.sethostname(sys.argv[1])
    print(json.dumps({"pid": os.getpid()}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        action = request.pop("do")
        try:
            answer: Any = {"ok": _ACTIONS[action](**request)}
        except Exception as error:  # whatever it is, the story shall tell it
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    try:
        main()
    except (KeyboardInterrupt, BrokenPipeError):
        os._exit(1)  # the story has ended, and nobody is left to be told
