"""Names, orders and errors of the resolver in process."""

from __future__ import annotations

import gc
import ipaddress
import weakref
from collections import Counter

import pytest

from fastpath.dns import Answer, Resolver, SrvRecord
from fastpath.errors import NXDOMAIN, NoAnswer, ResolveError
from fastpath.registry import Registry


@pytest.fixture
def registry():
    with Registry() as registry:
        registry.register("web", "10.0.0.1", 8000, id="w1", weight=5, tags=["v1", "Blue.Green"])
        registry.register("web", "10.0.0.2", 8001, id="w2", tags=["v1"])
        registry.register("web", "2001:db8::3", 8002, id="W3.x", tags=["v2"])
        yield registry


@pytest.fixture
def resolver(registry: Registry) -> Resolver:
    return Resolver(registry, order="registered")


def texts(answer: Answer) -> list[str]:
    return [str(record) for record in answer]


@pytest.mark.parametrize(
    "name",
    [
        "web.service.consul",
        "WEB.Service.CONSUL.",
        "web.service.dc1.consul",
        "web.service.DC1.dc.consul",
        "_web._tcp.service.consul",
        "_web._tcp.service.dc1.consul",
        "_web._tcp.consul",
        "_web._tcp.dc1.consul",
        "v1.web.service.consul",
        "_web._V1.service.consul",
    ],
)
def test_forms_of_service_names(resolver: Resolver, name: str) -> None:
    answer = resolver.query(name)
    assert texts(answer) == ["10.0.0.1", "10.0.0.2"]
    assert answer.ttl_s == 0
    assert answer.revision == 3
    assert len(answer) == 2


def test_srv(resolver: Resolver) -> None:
    answer = resolver.query("_web._tcp.service.consul", "srv")
    name = "_web._tcp.service.consul."
    assert answer.records == (
        SrvRecord(name, 0, 0, 5, 8000, "0a000001.addr.dc1.consul."),
        SrvRecord(name, 0, 0, 1, 8001, "0a000002.addr.dc1.consul."),
        SrvRecord(name, 0, 0, 1, 8002, "20010db8000000000000000000000003.addr.dc1.consul."),
    )
    assert [str(record) for record in answer.additional] == ["10.0.0.1", "10.0.0.2", "2001:db8::3"]
    for record in answer.records:
        (address,) = resolver.query(record.target, "A" if len(record.target) < 40 else "AAAA")
        assert str(address) in [str(extra) for extra in answer.additional]


@pytest.mark.parametrize(
    ("name", "rdtype", "expected"),
    [
        ("web.service.consul", "AAAA", ["2001:db8::3"]),
        ("blue.green.web.service.consul", "A", ["10.0.0.1"]),
        ("_web._v2.service.consul", "SRV", ["0 1 8002 20010db8000000000000000000000003.addr.dc1.consul."]),
        ("w1.node.consul", "A", ["10.0.0.1"]),
        ("w3.X.node.dc1.consul", "AAAA", ["2001:db8::3"]),
        ("7f000001.addr.dc1.consul", "A", ["127.0.0.1"]),
        ("2.0.0.10.in-addr.arpa", "PTR", ["w2.node.dc1.consul.", "web.service.consul."]),
        (
            ipaddress.ip_address("2001:db8::3").reverse_pointer,
            "PTR",
            ["w3.x.node.dc1.consul.", "web.service.consul."],
        ),
        ("consul", "SOA", ["ns.consul. hostmaster.consul. 3 3600 600 86400 1"]),
        ("consul", "NS", ["ns.consul."]),
        ("in-addr.arpa", "NS", ["ns.consul."]),
        ("web.service.consul", "ANY", ['"RFC8482" ""']),
        ("web.service.consul", 1, ["10.0.0.1", "10.0.0.2"]),
        ("web.service.consul", "TYPE1", ["10.0.0.1", "10.0.0.2"]),
    ],
)
def test_answers(resolver: Resolver, name: str, rdtype, expected: list[str]) -> None:
    answer = resolver.query(name, rdtype)
    assert texts(answer) == expected
    assert len({record.rdtype for record in answer}) == 1


@pytest.mark.parametrize(
    ("name", "rdtype"),
    [
        ("consul", "A"),
        ("service.consul", "A"),
        ("node.consul", "A"),
        ("addr.consul", "A"),
        ("dc1.consul", "A"),
        ("dc.consul", "A"),
        ("dc1.dc.consul", "A"),
        ("service.dc1.consul", "A"),
        ("_tcp.service.consul", "SRV"),
        ("_tcp.consul", "SRV"),
        ("_v1.service.consul", "SRV"),
        ("green.web.service.consul", "A"),
        ("web.service.consul", "TXT"),
        ("web.service.consul", "TYPE65280"),
        ("v2.web.service.consul", "A"),
        ("w1.node.consul", "AAAA"),
        ("w1.node.consul", "SRV"),
        ("7f000001.addr.consul", "AAAA"),
        ("ns.consul", "A"),
        ("10.in-addr.arpa", "PTR"),
        ("2.0.0.10.in-addr.arpa", "A"),
        ("in-addr.arpa", "PTR"),
        ("0.ip6.arpa", "PTR"),
    ],
)
def test_names_without_such_a_record(resolver: Resolver, name: str, rdtype: str) -> None:
    with pytest.raises(NoAnswer, match="exists"):
        resolver.query(name, rdtype)


@pytest.mark.parametrize(
    "name",
    [
        "api.service.consul",
        "v3.web.service.consul",
        "web.service.dc2.consul",
        "web.service.dc1.dc1.consul",
        "web.service.dc2.dc.consul",
        "web.consul",
        "_web.consul",
        "_v9.service.consul",
        "_api._tcp.service.consul",
        "_web._v3.service.consul",
        "x._web._tcp.service.consul",
        "web._tcp.service.consul",
        "x._web._tcp.consul",
        "nobody.node.consul",
        "7f00001.addr.consul",
        "7f00000g.addr.consul",
        "x.7f000001.addr.consul",
        "x.ns.consul",
        "9.9.9.9.in-addr.arpa",
        "02.0.0.10.in-addr.arpa",
        "256.0.0.10.in-addr.arpa",
        "x.in-addr.arpa",
        "1.2.0.0.10.in-addr.arpa",
        "00.ip6.arpa",
    ],
)
def test_names_that_do_not_exist(resolver: Resolver, name: str) -> None:
    for rdtype in ("A", "SRV", "PTR", "ANY"):
        with pytest.raises(NXDOMAIN):
            resolver.query(name, rdtype)


@pytest.mark.parametrize("name", ["example.org", "web", "consul.org", "xconsul", "arpa"])
def test_names_elsewhere(resolver: Resolver, name: str) -> None:
    with pytest.raises(ResolveError, match="not under 'consul'") as caught:
        resolver.query(name)
    assert type(caught.value) is ResolveError


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a..consul", ".consul", "a" * 64 + ".consul", "a." * 127 + "consul", "ü.consul"]
)
def test_bad_names(resolver: Resolver, name: str) -> None:
    with pytest.raises(ValueError):
        resolver.query(name)


def test_bad_arguments(resolver: Resolver, registry: Registry) -> None:
    for call in (
        lambda: resolver.query(b"web.service.consul"),
        lambda: resolver.query(None),
        lambda: resolver.query("web.service.consul", None),
        lambda: resolver.query("web.service.consul", True),
        lambda: resolver.query("web.service.consul", 1.0),
        lambda: resolver.resolve(None),
        lambda: resolver.resolve("web", tag=1),
        lambda: resolver.pick(b"web"),
        lambda: resolver.pick("web", 1.5),
        lambda: resolver.pick("web", True),
        lambda: Resolver(None),
        lambda: Resolver(registry, domain=b"consul"),
        lambda: Resolver(registry, ttl_s="1"),
        lambda: Resolver(registry, order=None),
        lambda: Resolver(registry, limit="3"),
        lambda: Resolver(registry, edns_size=None),
        lambda: Resolver(registry, ns_addresses="10.0.0.1"),
        lambda: Resolver(registry, ns_addresses=5),
        lambda: Resolver(registry, seed="x"),
    ):
        with pytest.raises(TypeError):
            call()
    for call in (
        lambda: resolver.query("web.service.consul", "NOPE"),
        lambda: resolver.query("web.service.consul", "TYPE65536"),
        lambda: resolver.query("web.service.consul", "TYPE" + "1" * 5000),
        lambda: resolver.query("web.service.consul", "TYPE"),
        lambda: resolver.query("web.service.consul", -1),
        lambda: resolver.query("web.service.consul", 65536),
        lambda: Resolver(registry, domain=""),
        lambda: Resolver(registry, domain="a b"),
        lambda: Resolver(registry, domain="a@b"),
        lambda: Resolver(registry, domain="in-addr.arpa"),
        lambda: Resolver(registry, domain=".".join(["a" * 60] * 3)),
        lambda: Resolver(registry, ttl_s=-1),
        lambda: Resolver(registry, ttl_s=2**31),
        lambda: Resolver(registry, negative_ttl_s=float("nan")),
        lambda: Resolver(registry, order="shuffled"),
        lambda: Resolver(registry, limit=0),
        lambda: Resolver(registry, edns_size=511),
        lambda: Resolver(registry, edns_size=4097),
        lambda: Resolver(registry, ns_addresses=["x"]),
    ):
        with pytest.raises(ValueError):
            call()


def test_only_available_instances_are_named(registry: Registry, resolver: Resolver) -> None:
    registry.set_health("w1", "critical")
    assert texts(resolver.query("web.service.consul")) == ["10.0.0.2"]
    registry.set_health("w1", "warning")
    registry.drain("w2")
    assert texts(resolver.query("web.service.consul")) == ["10.0.0.1"]
    registry.maintenance("w1", True)
    with pytest.raises(NoAnswer):
        resolver.query("web.service.consul")
    registry.deregister("W3.x")
    with pytest.raises(NXDOMAIN):
        resolver.query("web.service.consul")
    assert texts(resolver.query("w1.node.consul")) == ["10.0.0.1"]
    assert texts(resolver.query("1.0.0.10.in-addr.arpa", "PTR")) == ["w1.node.dc1.consul."]
    assert resolver.query("consul", "SOA").records[0].serial == registry.revision


def test_one_address_is_one_record(registry: Registry, resolver: Resolver) -> None:
    registry.register("multi", "10.0.0.9", 1, id="m1")
    registry.register("multi", "10.0.0.9", 2, id="m2")
    assert texts(resolver.query("multi.service.consul")) == ["10.0.0.9"]
    srv = resolver.query("multi.service.consul", "SRV")
    assert [record.port for record in srv] == [1, 2]
    assert len(srv.additional) == 1


def test_other_domains_ttls_and_addresses(registry: Registry) -> None:
    resolver = Resolver(
        registry,
        domain="svc.example.org.",
        ttl_s=7.9,
        negative_ttl_s=3,
        ns_addresses=["10.9.9.9", "2001:db8::9"],
    )
    assert resolver.domain == "svc.example.org"
    assert resolver.registry is registry
    assert resolver.query("web.service.svc.example.org").ttl_s == 7
    assert resolver.query("svc.example.org", "SOA").records[0].minimum == 3
    assert texts(resolver.query("ns.svc.example.org")) == ["10.9.9.9"]
    assert texts(resolver.query("ns.svc.example.org", "AAAA")) == ["2001:db8::9"]
    assert "svc.example.org" in repr(resolver)
    with pytest.raises(ResolveError):
        resolver.query("web.service.consul")


def test_order_weighted_follows_weights(registry: Registry) -> None:
    resolver = Resolver(registry, seed=1)
    first = Counter(str(resolver.query("web.service.consul").records[0]) for _ in range(3000))
    assert 2400 < first["10.0.0.1"] < 2600  # 5/6 of 3000, within five deviations
    instances = Counter(resolver.resolve("web")[0].id for _ in range(3500))
    assert 2370 < instances["w1"] < 2630
    assert {i.id for i in resolver.resolve("WEB")} == {"w1", "w2", "W3.x"}


def test_order_random_ignores_weights(registry: Registry) -> None:
    resolver = Resolver(registry, order="random", seed=1)
    first = Counter(str(resolver.query("web.service.consul").records[0]) for _ in range(2000))
    assert 880 < first["10.0.0.1"] < 1120


def test_priority_comes_before_weight(registry: Registry) -> None:
    registry.register("api", "10.0.1.1", 1, id="backup", weight=1000, priority=1)
    registry.register("api", "10.0.1.2", 1, id="first", priority=0)
    for order in ("weighted", "random", "registered"):
        resolver = Resolver(registry, order=order)
        for _ in range(20):
            assert texts(resolver.query("api.service.consul")) == ["10.0.1.2", "10.0.1.1"]
            assert [i.id for i in resolver.resolve("api")] == ["first", "backup"]


def test_limit(registry: Registry) -> None:
    resolver = Resolver(registry, limit=1)
    assert {str(r) for _ in range(100) for r in resolver.query("web.service.consul")} == {
        "10.0.0.1",
        "10.0.0.2",
    }
    assert len(resolver.query("web.service.consul")) == 1
    assert len(resolver.resolve("web")) == 1


def test_resolve_misses_are_empty(resolver: Resolver) -> None:
    assert resolver.resolve("none") == []
    assert resolver.resolve("web", tag="none") == []
    assert [i.id for i in resolver.resolve("web", tag="V2")] == ["W3.x"]


def test_a_dropped_resolver_is_forgotten(registry: Registry) -> None:
    resolver = Resolver(registry)
    resolver.query("web.service.consul")
    gone = weakref.ref(resolver)
    del resolver
    gc.collect()
    assert gone() is None
    assert registry._listeners == {}
