"""DNS: one message answered in process, and the rate of whole servers over UDP on loopback.

A server runs on one core, the load (`dns_load.cpp`, 64 queries in flight) on the other.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import dns.flags
import dns.message
import dns.rrset
import pytest

from fastpath.dns import DnsServer, Resolver
from fastpath.registry import Registry

NAME = "web.service.consul."
ADDRESSES = ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
QUERY = dns.message.make_query(NAME, "A", use_edns=0).to_wire()
PEERS = {
    "dnslib": """
        from dnslib import A, DNSRecord, QTYPE, RR
        def answer(wire):
            query = DNSRecord.parse(wire)
            reply = query.reply()
            for address in ADDRESSES:
                reply.add_answer(RR(query.q.qname, QTYPE.A, rdata=A(address), ttl=0))
            return bytes(reply.pack())
    """,
    "dnspython": """
        import dns.flags, dns.message, dns.rrset
        def answer(wire):
            query = dns.message.from_wire(wire)
            reply = dns.message.make_response(query)
            reply.flags |= dns.flags.AA
            reply.answer.append(dns.rrset.from_text(query.question[0].name, 0, "IN", "A", *ADDRESSES))
            return reply.to_wire()
    """,
    "bare_python_loop": """
        def answer(wire):
            return wire
    """,
}
SERVE = """
    import socket
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))
    print(server.getsockname()[1], flush=True)
    while True:
        wire, client = server.recvfrom(4096)
        server.sendto(answer(wire), client)
"""


@pytest.fixture
def resolver() -> Iterator[Resolver]:
    with Registry() as registry:
        for address in ADDRESSES:
            registry.register("web", address, 8000)
        yield Resolver(registry)


@pytest.fixture(scope="session")
def load(tmp_path_factory: pytest.TempPathFactory):
    """`load(port, count)` asks so often."""
    program = tmp_path_factory.mktemp("load") / "dns_load"
    source = Path(__file__).with_name("dns_load.cpp")
    subprocess.run([os.environ.get("CXX", "g++"), "-std=c++20", "-O2", source, "-o", program], check=True)

    def run(port: int, count: int) -> None:
        command = [program, "127.0.0.1", str(port), str(count), "64", QUERY.hex()]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    return run


def peer(name: str) -> str:
    if name != "bare_python_loop":
        pytest.importorskip({"dnslib": "dnslib", "dnspython": "dns"}[name])
    return f"ADDRESSES = {ADDRESSES}\n" + textwrap.dedent(PEERS[name])


@pytest.mark.benchmark(group="one message, 3 A")
def test_fastpath_respond(measure, resolver: Resolver) -> None:
    assert len(dns.message.from_wire(resolver.respond(QUERY)).answer[0]) == 3
    measure(resolver.respond, QUERY)


@pytest.mark.benchmark(group="one message, 3 A")
@pytest.mark.parametrize("name", ["dnslib", "dnspython"])
def test_peer_respond(measure, name: str) -> None:
    space: dict = {}
    exec(peer(name), space)
    assert len(dns.message.from_wire(space["answer"](QUERY)).answer[0]) == 3
    measure(space["answer"], QUERY)


@pytest.mark.benchmark(group="query in process")
def test_fastpath_query(measure, resolver: Resolver) -> None:
    measure(resolver.query, NAME)


@pytest.mark.benchmark(group="UDP server, 3 A")
def test_fastpath_server(measure, resolver: Resolver, load) -> None:
    with DnsServer(resolver, port=0) as server:
        measure(load, server.port, 100_000, operations=100_000)
        assert server.stats["misses"] == 1


@pytest.mark.benchmark(group="UDP server, 3 A")
@pytest.mark.parametrize("name", list(PEERS))
def test_peer_server(measure, load, name: str) -> None:
    program = peer(name) + textwrap.dedent(SERVE)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as server:
        try:
            count = 100_000 if name == "bare_python_loop" else 4_000
            measure(load, int(server.stdout.readline()), count, operations=count)
        finally:
            server.kill()
