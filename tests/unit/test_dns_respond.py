"""Whole messages: every answer is read back by dnspython."""

from __future__ import annotations

import random
import threading
from collections import Counter

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import pytest

from fastpath.dns import Resolver
from fastpath.registry import Registry


class ManualClock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def registry():
    with Registry() as registry:
        registry.register("web", "10.0.0.1", 8000, id="w1", weight=5)
        registry.register("web", "10.0.0.2", 8001, id="w2")
        registry.register("web", "2001:db8::3", 8002, id="w3")
        for n in range(200):
            registry.register("big", f"10.1.0.{n}", 9000 + n, id=f"b{n}")
        yield registry


@pytest.fixture
def resolver(registry: Registry) -> Resolver:
    return Resolver(registry)


def ask(
    resolver: Resolver, name: str, rdtype: str = "A", *, max_size: int = 512, **options
) -> dns.message.Message:
    query = dns.message.make_query(name, rdtype, **options)
    wire = resolver.respond(query.to_wire(), max_size=max_size)
    answer = dns.message.from_wire(wire, raise_on_truncation=False)
    assert query.is_response(answer)
    return answer


def rows(rrsets) -> list[str]:
    return sorted(f"{rrset.name} {rdata.to_text()}" for rrset in rrsets for rdata in rrset)


def test_addresses(resolver: Resolver) -> None:
    answer = ask(resolver, "web.service.consul")
    assert rows(answer.answer) == ["web.service.consul. 10.0.0.1", "web.service.consul. 10.0.0.2"]
    assert answer.flags == dns.flags.QR | dns.flags.AA | dns.flags.RD
    assert answer.authority == answer.additional == []
    assert rows(ask(resolver, "web.service.consul", "AAAA").answer) == ["web.service.consul. 2001:db8::3"]


def test_srv_carries_the_addresses_of_its_targets(resolver: Resolver) -> None:
    answer = ask(resolver, "_web._tcp.service.consul", "SRV")
    assert rows(answer.answer) == [
        "_web._tcp.service.consul. 0 1 8001 0a000002.addr.dc1.consul.",
        "_web._tcp.service.consul. 0 1 8002 20010db8000000000000000000000003.addr.dc1.consul.",
        "_web._tcp.service.consul. 0 5 8000 0a000001.addr.dc1.consul.",
    ]
    assert rows(answer.additional) == [
        "0a000001.addr.dc1.consul. 10.0.0.1",
        "0a000002.addr.dc1.consul. 10.0.0.2",
        "20010db8000000000000000000000003.addr.dc1.consul. 2001:db8::3",
    ]


@pytest.mark.parametrize(
    ("name", "rdtype", "expected"),
    [
        ("consul", "SOA", "consul. ns.consul. hostmaster.consul. 203 3600 600 86400 1"),
        ("consul", "NS", "consul. ns.consul."),
        ("1.0.0.10.in-addr.arpa", "PTR", "1.0.0.10.in-addr.arpa. w1.node.dc1.consul."),
        ("w1.node.dc1.consul", "A", "w1.node.dc1.consul. 10.0.0.1"),
        ("web.service.consul", "ANY", 'web.service.consul. "RFC8482" ""'),
    ],
)
def test_other_records(resolver: Resolver, name: str, rdtype: str, expected: str) -> None:
    assert expected in rows(ask(resolver, name, rdtype).answer)


@pytest.mark.parametrize(
    ("name", "rdtype", "rcode", "apex"),
    [
        ("none.service.consul", "A", dns.rcode.NXDOMAIN, "consul."),
        ("service.consul", "A", dns.rcode.NOERROR, "consul."),
        ("web.service.consul", "TXT", dns.rcode.NOERROR, "consul."),
        ("9.9.9.9.in-addr.arpa", "PTR", dns.rcode.NXDOMAIN, "in-addr.arpa."),
        ("9.in-addr.arpa", "PTR", dns.rcode.NOERROR, "in-addr.arpa."),
    ],
)
def test_negative_answers_carry_the_soa(
    resolver: Resolver, name: str, rdtype: str, rcode: int, apex: str
) -> None:
    answer = ask(resolver, name, rdtype)
    assert answer.rcode() == rcode
    assert answer.answer == []
    (soa,) = answer.authority
    assert soa.name.to_text() == apex
    assert soa.ttl == soa[0].minimum == 1
    assert soa[0].serial == 203
    assert answer.flags & dns.flags.AA


def test_elsewhere_is_refused(resolver: Resolver) -> None:
    for name in ("example.org", ".", "arpa"):
        answer = ask(resolver, name)
        assert answer.rcode() == dns.rcode.REFUSED
        assert not answer.flags & dns.flags.AA
        assert answer.authority == []


def test_the_case_of_the_question_comes_back(resolver: Resolver) -> None:
    for name in ("wEb.SErvicE.CONsul", "nOnE.service.consul", "eXample.org"):
        wire = dns.message.make_query(name, "A").to_wire()
        assert resolver.respond(wire)[12 : len(wire)] == wire[12:]


def test_answers_vary_by_weight(resolver: Resolver) -> None:
    first = Counter(ask(resolver, "web.service.consul").answer[0][0].to_text() for _ in range(2000))
    assert 1580 < first["10.0.0.1"] < 1750  # 5/6


def test_changes_are_seen_at_once(registry: Registry, resolver: Resolver) -> None:
    assert len(ask(resolver, "web.service.consul").answer[0]) == 2
    registry.set_health("w1", "critical")
    assert rows(ask(resolver, "web.service.consul").answer) == ["web.service.consul. 10.0.0.2"]
    assert ask(resolver, "new.service.consul").rcode() == dns.rcode.NXDOMAIN
    registry.register("new", "10.0.0.9", 1)
    assert rows(ask(resolver, "new.service.consul").answer) == ["new.service.consul. 10.0.0.9"]
    registry.deregister("new-10-0-0-9-1")
    assert ask(resolver, "new.service.consul").rcode() == dns.rcode.NXDOMAIN


def test_leases_end_by_the_registrys_clock() -> None:
    clock = ManualClock()
    with Registry(clock=clock) as registry:
        registry.register("web", "10.0.0.1", 80, ttl_s=2)
        resolver = Resolver(registry)
        assert ask(resolver, "web.service.consul").answer
        clock.now = 2.0
        assert ask(resolver, "web.service.consul").rcode() == dns.rcode.NXDOMAIN


def test_a_closed_registry_is_servfail(registry: Registry, resolver: Resolver) -> None:
    assert ask(resolver, "web.service.consul").rcode() == dns.rcode.NOERROR
    registry.close()
    assert ask(resolver, "web.service.consul").rcode() == dns.rcode.SERVFAIL
    assert ask(resolver, "example.org").rcode() == dns.rcode.SERVFAIL


def test_stats(resolver: Resolver) -> None:
    ask(resolver, "web.service.consul")
    ask(resolver, "WEB.service.consul")
    ask(resolver, "none.service.consul")
    ask(resolver, "big.service.consul")
    resolver.respond(b"")
    resolver.respond(bytes(12))
    counted = {name: n for name, n in resolver.stats.items() if n}
    assert counted == {
        "queries": 6,
        "ignored": 1,
        "misses": 3,
        "noerror": 3,
        "nxdomain": 1,
        "formerr": 1,
        "truncated": 1,
    }


def test_limit(registry: Registry) -> None:
    answer = ask(Resolver(registry, limit=3), "_big._tcp.service.consul", "SRV")
    assert len(answer.answer[0]) == len(answer.additional) == 3
    assert {rdata.target for rdata in answer.answer[0]} == {rrset.name for rrset in answer.additional}
    assert not answer.flags & dns.flags.TC


# ---- sizes


def test_truncation_is_honest(resolver: Resolver) -> None:
    small = ask(resolver, "big.service.consul")
    assert small.flags & dns.flags.TC
    assert len(small.answer[0]) == (512 - 12 - 24) // 16
    whole = ask(resolver, "big.service.consul", max_size=65535)
    assert not whole.flags & dns.flags.TC
    assert len(whole.answer[0]) == 200


def test_more_than_a_message_can_hold(registry: Registry, resolver: Resolver) -> None:
    for n in range(4200):
        registry.register("huge", f"10.{n // 60000 + 3}.{n // 250}.{n % 250}", 80)
    wire = resolver.respond(
        dns.message.make_query("huge.service.consul", "A", use_edns=0).to_wire(), max_size=65535
    )
    assert 65535 - 16 < len(wire) <= 65535
    answer = dns.message.from_wire(wire, raise_on_truncation=False)
    assert answer.flags & dns.flags.TC
    assert answer.edns == 0


def test_readers_beside_a_writer(registry: Registry, resolver: Resolver) -> None:
    registry.register("live", "10.0.0.1", 80, id="stays")
    query = dns.message.make_query("live.service.consul", "SRV").to_wire()
    done = threading.Event()
    failures: list[object] = []

    def read() -> None:
        while not done.is_set():
            answer = dns.message.from_wire(resolver.respond(query))
            ports = {rdata.port for rdata in answer.answer[0]}
            if not ({80} <= ports <= {80, 81}) or len(answer.additional) != len(ports):
                failures.append(answer)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(300):
        registry.register("live", "10.0.0.2", 81, id="comes-and-goes")
        registry.deregister("comes-and-goes")
    done.set()
    for thread in threads:
        thread.join(10)
    assert failures == []


def test_additional_is_left_out_before_truncating(resolver: Resolver, registry: Registry) -> None:
    for n in range(9):
        registry.register("mid", f"10.2.0.{n}", 1)
    wire = resolver.respond(dns.message.make_query("mid.service.consul", "SRV").to_wire())
    answer = dns.message.from_wire(wire)
    assert len(wire) <= 512
    assert len(answer.answer[0]) == 9
    assert len(answer.additional) < 9


@pytest.mark.parametrize(
    ("payload", "max_size", "most"),
    [(0, 512, 512), (100, 512, 512), (900, 512, 900), (4096, 512, 1232), (900, 2000, 2000)],
)
def test_edns_sizes(resolver: Resolver, payload: int, max_size: int, most: int) -> None:
    query = dns.message.make_query("big.service.consul", "A", use_edns=0, payload=payload)
    wire = resolver.respond(query.to_wire(), max_size=max_size)
    assert most - 16 < len(wire) <= most
    answer = dns.message.from_wire(wire, raise_on_truncation=False)
    assert answer.edns == 0
    assert answer.payload == 1232
    assert answer.ednsflags == 0
    assert answer.flags & dns.flags.TC
    assert len(answer.answer[0]) == (len(wire) - 12 - 24 - 11) // 16


def test_edns_size_of_the_resolver(registry: Registry) -> None:
    answer = ask(Resolver(registry, edns_size=4096), "big.service.consul", use_edns=0, payload=4096)
    assert len(answer.answer[0]) == 200
    assert answer.payload == 4096


# ---- what is not an ordinary query


def test_bad_arguments(resolver: Resolver) -> None:
    wire = dns.message.make_query("web.service.consul", "A").to_wire()
    assert resolver.respond(bytearray(wire))[:2] == resolver.respond(memoryview(wire), client="10.0.0.1")[:2]
    for message in (None, "abc", 5, [1]):
        with pytest.raises(TypeError, match="message must be bytes"):
            resolver.respond(message)
    for size, error in ((511, ValueError), (65536, ValueError), ("512", TypeError), (None, TypeError)):
        with pytest.raises(error, match="max_size"):
            resolver.respond(wire, max_size=size)
    with pytest.raises(ValueError):
        resolver.respond(wire, client="x")


def header(wire: bytes) -> tuple[int, int, list[int]]:
    return wire[2] >> 3 & 15, wire[3] & 15, [int.from_bytes(wire[at : at + 2]) for at in (4, 6, 8, 10)]


def test_silence(resolver: Resolver) -> None:
    query = dns.message.make_query("web.service.consul", "A").to_wire()
    for size in range(12):
        assert resolver.respond(query[:size]) == b""
    assert resolver.respond(resolver.respond(query)) == b""


def test_short_and_odd_messages(resolver: Resolver) -> None:
    query = dns.message.make_query("web.service.consul", "A").to_wire()
    for size in range(12, len(query)):
        assert header(resolver.respond(query[:size])) == (0, dns.rcode.FORMERR, [0, 0, 0, 0])
    for count in (0, 2, 65535):
        answer = resolver.respond(query[:4] + count.to_bytes(2) + query[6:])
        assert header(answer) == (0, dns.rcode.FORMERR, [0, 0, 0, 0])
    assert header(resolver.respond(query + b"\0")) == (0, dns.rcode.FORMERR, [1, 0, 0, 0])
    for section in (6, 8, 10):
        claimed = query[:section] + b"\0\1" + query[section + 2 :]
        assert header(resolver.respond(claimed)) == (0, dns.rcode.FORMERR, [1, 0, 0, 0])


@pytest.mark.parametrize("opcode", range(1, 16))
def test_other_opcodes(resolver: Resolver, opcode: int) -> None:
    query = bytearray(dns.message.make_query("web.service.consul", "A").to_wire())
    query[2] = query[2] & 0x87 | opcode << 3
    answer = resolver.respond(query)
    assert header(answer) == (opcode, dns.rcode.NOTIMP, [0, 0, 0, 0])
    assert answer[:2] == query[:2]


def test_other_classes_and_transfers(resolver: Resolver) -> None:
    for rdclass in ("CH", "HS", "ANY", "NONE"):
        assert ask(resolver, "web.service.consul", rdclass=rdclass).rcode() == dns.rcode.REFUSED
    for rdtype in ("AXFR", "IXFR", "MAILA", "MAILB", "TKEY", "TSIG"):
        query = dns.message.make_query("consul", "A").to_wire()
        query = query[:-4] + dns.rdatatype.from_text(rdtype).to_bytes(2) + query[-2:]
        assert header(resolver.respond(query))[1] == dns.rcode.NOTIMP
    assert ask(resolver, "consul", "OPT").rcode() == dns.rcode.FORMERR


def test_edns_versions_and_options(resolver: Resolver) -> None:
    answer = ask(resolver, "web.service.consul", use_edns=1)
    assert answer.rcode() == dns.rcode.BADVERS
    assert answer.edns == 0
    assert answer.answer == []
    options = [dns.edns.GenericOption(65001, b"x" * 20), dns.edns.ECSOption("10.0.0.0", 24)]
    answer = ask(resolver, "web.service.consul", use_edns=0, options=options, want_dnssec=True)
    assert answer.rcode() == dns.rcode.NOERROR
    assert answer.options == ()
    plain = dns.message.make_query("web.service.consul", "A").to_wire()
    with_two = plain[:10] + b"\0\2" + plain[12:] + (b"\0\0\x29\x04\xd0" + bytes(6)) * 2
    assert header(resolver.respond(with_two))[1] == dns.rcode.FORMERR
    named = plain[:10] + b"\0\1" + plain[12:] + b"\1a\0\0\x29\x04\xd0" + bytes(6)
    assert header(resolver.respond(named))[1] == dns.rcode.FORMERR
    cut = plain[:10] + b"\0\1" + plain[12:] + b"\0\0\x29\x04\xd0" + bytes(4) + b"\0\3" + b"abc"
    assert header(resolver.respond(cut))[1] == dns.rcode.FORMERR


def test_flags_are_not_reflected(resolver: Resolver) -> None:
    query = bytearray(dns.message.make_query("web.service.consul", "A").to_wire())
    query[2] |= 0x06  # AA, TC
    query[3] = 0xFF  # RA, Z, AD, CD, an rcode
    answer = resolver.respond(query)
    assert (answer[2], answer[3]) == (0x85, 0)


def test_names_at_their_limits(resolver: Resolver) -> None:
    labels = ["a" * 63] * 3 + ["b" * 54, "consul"]
    name = dns.name.from_text(".".join(labels))
    assert len(name.to_wire()) == 255
    assert ask(resolver, name).rcode() == dns.rcode.NXDOMAIN
    odd = dns.name.Name([b"\0.\xff\\", b"web", b"service", b"consul", b""])
    assert ask(resolver, odd).rcode() == dns.rcode.NXDOMAIN
    question = b"\0\0\1\0\0\1" + bytes(6)
    for name in (b"\x40" + b"a" * 64 + b"\0", b"\xc0\x0c", b"\x80a\0", (b"\x3f" + b"a" * 63) * 4 + b"\0"):
        assert header(resolver.respond(question + name + b"\0\1\0\1"))[1] == dns.rcode.FORMERR


def test_random_and_mutated_bytes_never_raise(resolver: Resolver) -> None:
    dice = random.Random(7)
    names = ["web.service.consul", "_web._tcp.consul", "1.0.0.10.in-addr.arpa", "example.org", "consul"]
    seeds = [
        dns.message.make_query(name, rdtype, use_edns=edns).to_wire()
        for name in names
        for rdtype in ("A", "SRV", "PTR", "ANY")
        for edns in (False, 0)
    ]
    for n in range(20000):
        if n % 4 == 0:
            message = bytearray(dice.randbytes(dice.randrange(100)))
        else:
            message = bytearray(dice.choice(seeds))
            for _ in range(dice.randrange(1, 5)):
                at = dice.randrange(len(message))
                match dice.randrange(4):
                    case 0:
                        message[at] = dice.randrange(256)
                    case 1:
                        del message[at : at + dice.randrange(1, 4)]
                    case 2:
                        message[at:at] = dice.randbytes(dice.randrange(1, 4))
                    case _:
                        message[at] ^= 1 << dice.randrange(8)
                if not message:
                    break
        answer = resolver.respond(message)
        assert len(answer) <= 1232
        if answer:
            assert answer[:2] == message[:2]
            if answer[3] & 15 == 0:
                dns.message.from_wire(answer, raise_on_truncation=False)
