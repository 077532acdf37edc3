"""The server on real sockets, asked by dnspython and by hand."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.resolver
import pytest

from fastpath.dns import DnsServer, Resolver
from fastpath.registry import Registry


@pytest.fixture
def registry():
    with Registry() as registry:
        registry.register("web", "10.0.0.1", 8000, id="w1", weight=5)
        registry.register("web", "10.0.0.2", 8001, id="w2")
        for n in range(300):
            registry.register("big", f"10.1.{n // 250}.{n % 250}", 9000 + n, id=f"b{n}")
        yield registry


@pytest.fixture
def server(registry: Registry):
    with DnsServer(Resolver(registry), port=0) as server:
        yield server


def udp(server: DnsServer, name: str, rdtype: str = "A", **options) -> dns.message.Message:
    return dns.query.udp(dns.message.make_query(name, rdtype, **options), "127.0.0.1", 10, server.port)


def tcp(server: DnsServer, name: str, rdtype: str = "A") -> dns.message.Message:
    return dns.query.tcp(dns.message.make_query(name, rdtype), "127.0.0.1", 10, server.port)


def connect(server: DnsServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=10)


def framed(name: str, rdtype: str = "A", id: int = 1) -> bytes:
    query = dns.message.make_query(name, rdtype)
    query.id = id
    wire = query.to_wire()
    return len(wire).to_bytes(2) + wire


def read_answers(connection: socket.socket, count: int) -> list[dns.message.Message]:
    stream = connection.makefile("rb")
    return [dns.message.from_wire(stream.read(int.from_bytes(stream.read(2)))) for _ in range(count)]


def test_udp_and_tcp_answer_alike(server: DnsServer) -> None:
    for ask in (udp, tcp):
        answer = ask(server, "web.service.consul")
        assert {rdata.address for rdata in answer.answer[0]} == {"10.0.0.1", "10.0.0.2"}
        answer = ask(server, "_web._tcp.service.consul", "SRV")
        assert {(r.port, r.weight) for r in answer.answer[0]} == {(8000, 5), (8001, 1)}
        assert len(answer.additional) == 2
        assert ask(server, "none.service.consul").rcode() == dns.rcode.NXDOMAIN
        assert ask(server, "example.org").rcode() == dns.rcode.REFUSED
    stats = server.stats
    assert stats["queries"] == 8
    assert stats["udp_queries"] == stats["tcp_queries"] == 4
    assert (stats["noerror"], stats["nxdomain"], stats["refused"]) == (4, 2, 2)


def test_a_stub_resolver_falls_back_to_tcp(server: DnsServer) -> None:
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers = ["127.0.0.1"]
    resolver.port = server.port
    assert len(resolver.resolve("big.service.consul", "A")) == 300
    assert len(resolver.resolve("big.service.consul", "SRV")) == 300
    assert server.stats["truncated"] == 2
    assert server.stats["tcp_queries"] == 2
    with pytest.raises(dns.resolver.NXDOMAIN):
        resolver.resolve("none.service.consul")
    with pytest.raises(dns.resolver.NoAnswer):
        resolver.resolve("web.service.consul", "AAAA")
    assert resolver.resolve_address("10.0.0.2")[0].target.to_text() in (
        "w2.node.dc1.consul.",
        "web.service.consul.",
    )


def test_changes_and_leases_are_seen_without_being_asked_for(registry: Registry, server: DnsServer) -> None:
    def addresses() -> list[str]:
        answer = udp(server, "web.service.consul")
        return sorted(rdata.address for rdata in answer.answer[0]) if answer.answer else []

    assert addresses() == ["10.0.0.1", "10.0.0.2"]
    registry.register("web", "10.0.0.3", 8002, ttl_s=1.0)
    assert addresses() == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    registry.set_health("w1", "critical")
    assert addresses() == ["10.0.0.2", "10.0.0.3"]
    end = time.monotonic() + 10
    while addresses() != ["10.0.0.2"]:
        assert time.monotonic() < end
        time.sleep(0.01)
    registry.close()
    assert udp(server, "web.service.consul").rcode() == dns.rcode.SERVFAIL


def test_ready_answers_need_no_python_and_still_vary(server: DnsServer) -> None:
    first = [udp(server, "web.service.consul").answer[0][0].address for _ in range(200)]
    assert 130 < first.count("10.0.0.1") < 195
    assert server.stats["misses"] == 1
    assert udp(server, "WEB.service.consul").question[0].name.to_text() == "WEB.service.consul."
    assert server.stats["misses"] == 1


def test_edns_over_udp(server: DnsServer) -> None:
    answer = udp(server, "big.service.consul", use_edns=0, payload=4096)
    assert answer.flags & dns.flags.TC
    assert answer.edns == 0
    assert 60 < len(answer.answer[0]) < 77


def test_junk_over_udp_is_survived(server: DnsServer) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        client.connect(("127.0.0.1", server.port))
        for size in (0, 1, 11, 5000, 60000):
            client.send(b"\0" * size)
        client.send(b"\0" * 12)
        assert client.recv(2000)[3] & 15 == dns.rcode.FORMERR
    assert udp(server, "web.service.consul").answer
    assert server.stats["udp_dropped"] == 2
    assert server.stats["ignored"] == 3


def test_a_burst_over_udp(server: DnsServer) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        client.connect(("127.0.0.1", server.port))
        for n in range(100):
            client.send(framed("web.service.consul", id=n)[2:])
        assert sorted(int.from_bytes(client.recv(600)[:2]) for _ in range(100)) == list(range(100))


# ---- TCP


def test_many_queries_on_one_connection(server: DnsServer) -> None:
    with connect(server) as connection:
        connection.sendall(b"".join(framed("web.service.consul", id=n) for n in range(200)))
        assert [answer.id for answer in read_answers(connection, 200)] == list(range(200))
        for byte in framed("web.service.consul", id=7):
            connection.sendall(bytes([byte]))
        assert read_answers(connection, 1)[0].id == 7
        connection.sendall(framed("web.service.consul", id=8))
        connection.shutdown(socket.SHUT_WR)
        assert read_answers(connection, 1)[0].id == 8
        assert connection.recv(1) == b""


def test_a_client_that_reads_late_gets_everything(server: DnsServer) -> None:
    with connect(server) as connection:
        count = 1000
        sender = threading.Thread(
            target=lambda: connection.sendall(
                b"".join(framed("big.service.consul", "SRV", id=n) for n in range(count))
            )
        )
        sender.start()
        time.sleep(0.2)
        stream = connection.makefile("rb")
        for n in range(count):
            wire = stream.read(int.from_bytes(stream.read(2)))
            assert int.from_bytes(wire[:2]) == n
            assert int.from_bytes(wire[6:8]) == 300
        sender.join(10)


def test_what_is_no_query_ends_the_connection(server: DnsServer) -> None:
    for junk in (b"\0\0", b"\0\1x", b"\0\x0c" + b"\xff" * 12, b"GET / HTTP/1.1\r\n\r\n" + b"x" * 20000):
        with connect(server) as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(junk)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass
    assert tcp(server, "web.service.consul").answer


def test_idle_connections_are_closed(registry: Registry) -> None:
    with DnsServer(Resolver(registry), port=0, idle_s=1.0) as server:
        with connect(server) as silent, connect(server) as slow, connect(server) as busy:
            slow.sendall(framed("web.service.consul")[:5])
            for n in range(15):
                busy.sendall(framed("web.service.consul", id=n))
                assert read_answers(busy, 1)[0].id == n
                time.sleep(0.1)
            assert silent.recv(1) == b""
            assert slow.recv(1) == b""


def test_one_connection_too_many_closes_the_idlest(registry: Registry) -> None:
    with DnsServer(Resolver(registry), port=0, max_connections=3) as server, contextlib.ExitStack() as stack:
        first, *others = [stack.enter_context(connect(server)) for _ in range(3)]
        for connection in (first, *others, first):
            connection.sendall(framed("web.service.consul"))
            assert read_answers(connection, 1)[0].answer
        fourth = stack.enter_context(connect(server))
        fourth.sendall(framed("web.service.consul"))
        assert read_answers(fourth, 1)[0].answer
        assert others[0].recv(1) == b""
        first.sendall(framed("web.service.consul"))
        assert read_answers(first, 1)[0].answer
        assert server.stats["tcp_closed_for_room"] == 1


# ---- lifetime


def test_start_and_stop(registry: Registry) -> None:
    server = DnsServer(Resolver(registry), port=0)
    assert (server.port, server.running, server.host) == (0, False, "127.0.0.1")
    assert "stopped" in repr(server)
    server.stop()
    server.start()
    server.start()
    port = server.port
    assert server.running
    assert str(port) in repr(server)
    assert udp(server, "web.service.consul").answer
    assert tcp(server, "web.service.consul").answer
    server.stop()
    server.stop()
    assert server.stats["queries"] == 2
    with pytest.raises(OSError):
        connect_to(port)
    again = DnsServer(Resolver(registry), port=port)
    with again, pytest.raises(OSError) as caught:
        DnsServer(Resolver(registry), port=port).start()
    assert caught.value.errno == errno.EADDRINUSE
    server.start()
    assert server.stats["queries"] == 0
    server.stop()


def connect_to(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10):
        pass


def test_stop_while_asked(registry: Registry) -> None:
    for _ in range(5):
        server = DnsServer(Resolver(registry), port=0)
        server.start()
        asking = threading.Event()

        def ask(
            server: DnsServer = server, port: int = server.port, asking: threading.Event = asking
        ) -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                for n in range(300):
                    client.sendto(framed(f"x{n}.service.consul")[2:], ("127.0.0.1", port))
                    asking.set()

        thread = threading.Thread(target=ask)
        thread.start()
        asking.wait(10)
        server.stop()
        thread.join(10)


def test_a_dropped_server_stops(registry: Registry) -> None:
    server = DnsServer(Resolver(registry), port=0)
    server.start()
    port = server.port
    del server
    gc.collect()
    with pytest.raises(OSError):
        connect_to(port)


def test_a_running_server_does_not_hold_up_the_exit() -> None:
    program = """
        from fastpath.dns import DnsServer, Resolver
        from fastpath.registry import Registry
        registry = Registry()
        registry.register("web", "10.0.0.1", 80, ttl_s=100)
        server = DnsServer(Resolver(registry), port=0)
        server.start()
        print(server.port)
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""


def test_ipv6_and_wildcards(registry: Registry) -> None:
    hosts = [("0.0.0.0", "127.0.0.1"), ("0.0.0.0", "127.0.0.5"), ("localhost", "127.0.0.1")]
    if Path("/proc/net/if_inet6").exists() and "lo" in Path("/proc/net/if_inet6").read_text():
        hosts += [("::1", "::1"), ("::", "::1"), ("::", "127.0.0.5")]
    for host, asked in hosts:
        with DnsServer(Resolver(registry), host, 0) as server:
            query = dns.message.make_query("web.service.consul", "A")
            # dnspython refuses an answer from another address than the one asked.
            assert dns.query.udp(query, asked, 10, server.port).answer
            assert dns.query.tcp(query, asked, 10, server.port).answer


def test_bad_arguments(registry: Registry) -> None:
    resolver = Resolver(registry)
    for call in (
        lambda: DnsServer(registry),
        lambda: DnsServer(resolver, None),
        lambda: DnsServer(resolver, port="53"),
        lambda: DnsServer(resolver, netns=1.5),
        lambda: DnsServer(resolver, max_connections=None),
        lambda: DnsServer(resolver, idle_s="1"),
    ):
        with pytest.raises(TypeError):
            call()
    for call in (
        lambda: DnsServer(resolver, ""),
        lambda: DnsServer(resolver, "example.org"),
        lambda: DnsServer(resolver, "10.0.0"),
        lambda: DnsServer(resolver, "a" * 300),
        lambda: DnsServer(resolver, "127.0.0.1\0"),
        lambda: DnsServer(resolver, port=-1),
        lambda: DnsServer(resolver, port=65536),
        lambda: DnsServer(resolver, netns=""),
        lambda: DnsServer(resolver, netns="a\0b"),
        lambda: DnsServer(resolver, netns="a\ud800"),
        lambda: DnsServer(resolver, max_connections=0),
        lambda: DnsServer(resolver, idle_s=0),
        lambda: DnsServer(resolver, idle_s=1e9),
    ):
        with pytest.raises(ValueError):
            call()
    server = DnsServer(resolver, "192.0.2.1", 0)
    with pytest.raises(OSError, match="bind") as caught:
        server.start()
    assert caught.value.errno == errno.EADDRNOTAVAIL
    assert not server.running
    with pytest.raises(FileNotFoundError, match="namespace"):
        DnsServer(resolver, port=0, netns="no-such-namespace").start()
    with pytest.raises(OSError, match="namespace"):
        DnsServer(resolver, port=0, netns=__file__).start()


@pytest.mark.system
def test_sockets_in_another_namespace(registry: Registry, namespaces: Callable[[], Any]) -> None:
    inside = namespaces()
    inside.run("ip", "link", "set", "lo", "up")
    before = os.readlink("/proc/thread-self/ns/net")
    with DnsServer(Resolver(registry), "0.0.0.0", 8653, netns=inside.path) as server:
        assert os.readlink("/proc/thread-self/ns/net") == before
        with pytest.raises(OSError):
            connect_to(8653)

        def ask() -> list[int]:
            query = dns.message.make_query("web.service.consul", "A")
            asks = (dns.query.udp, dns.query.tcp)
            return [len(ask(query, "127.0.0.1", 10, 8653).answer[0]) for ask in asks]

        assert inside.call(ask) == [2, 2]
        assert server.stats["queries"] == 2


def test_only_what_a_change_touches_is_made_anew(registry: Registry, server: DnsServer) -> None:
    def misses(*names: str) -> int:
        before = server.stats["misses"]
        for name in names:
            udp(server, name)
        return server.stats["misses"] - before

    every = ("web.service.consul", "v1.web.service.consul", "big.service.consul", "w1.node.consul")
    assert misses(*every) == 4
    assert misses(*every) == 0
    registry.set_health("b7", "critical")
    assert misses("web.service.consul") == 0
    assert misses("big.service.consul") == 1
    assert misses("v1.web.service.consul", "w1.node.consul") == 2  # negative, and of one instance
    registry.register("big", "10.0.0.1", 8000, id="w1")
    assert misses("web.service.consul", "big.service.consul") == 2
    assert [rdata.address for rdata in udp(server, "web.service.consul").answer[0]] == ["10.0.0.2"]
    assert misses(*every) == 2
    assert misses(*every) == 0


def test_the_child_of_a_fork_stops_only_its_own() -> None:
    code = """
import os, socket, sys, fastpath
registry = fastpath.Registry()
registry.register("web", "10.0.0.1", 80)
server = fastpath.DnsServer(fastpath.Resolver(registry), port=0)
server.start()
query = bytes.fromhex("000100000001000000000000") + b"\\3web\\7service\\6consul\\0\\0\\1\\0\\1"
framed = len(query).to_bytes(2, "big") + query
address = ("127.0.0.1", server.port)
client = socket.create_connection(address, timeout=10)
client.sendall(framed)
assert client.recv(1000)
child = os.fork()
if child == 0:
    assert not server.running and server.stats == {}
    with server:
        assert server.running
        sys.stdin.read()
    sys.exit(0)
# An answer ends the connection, though the child holds its socket too.
client.sendall(b"\\0\\14" + bytes.fromhex("000180000000000000000000"))
assert client.recv(1000) == b""
sys.stdin.close()
os.close(0)
print("go", flush=True)
assert os.waitpid(child, 0)[1] == 0
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.create_connection(address, 10) as tcp:
    udp.settimeout(10)
    udp.sendto(query, address)
    assert udp.recv(1000)[:2] == query[:2]
    tcp.sendall(framed)
    assert tcp.recv(1000)
server.stop()
"""
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "go\n"
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
