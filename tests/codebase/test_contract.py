"""The names and argument names that programs outside this repository rely on."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from typing import Any

import pytest

import fastpath
from fastpath import addresses

# class or function -> {method: leading argument names}; None: a property or attribute.
CONTRACT: dict[Any, dict[str, list[str] | None]] = {
    fastpath.Fib: {
        "insert": ["prefix", "next_hop"],
        "insert_many": ["prefixes", "next_hops"],
        "delete": ["prefix"],
        "delete_many": ["prefixes"],
        "get": ["prefix"],
        "lookup": ["address"],
        "match": ["address"],
        "lookup_many": ["addresses", "out", "default"],
    },
    fastpath.ExactTable: {
        "insert": ["key", "value"],
        "insert_many": ["keys", "values"],
        "delete": ["key"],
        "lookup": ["key"],
        "lookup_many": ["keys", "out", "default"],
    },
    fastpath.ForwardingTable: {
        "insert": ["source", "destination", "egress"],
        "delete": ["source", "destination"],
        "lookup": ["source", "destination"],
        "lookup_many": ["sources", "destinations", "out"],
    },
    fastpath.Fdb: {
        "learn": ["mac", "port", "vlan"],
        "lookup": ["mac", "vlan"],
        "learn_many": ["macs", "ports", "vlans"],
        "lookup_many": ["macs", "vlans"],
        "add_static": ["mac", "port", "vlan"],
        "age": [],
        "purge": ["port"],
    },
    fastpath.Balancer: {
        "pick": ["key"],
        "pick_many": None,
        "add": None,
        "remove": ["id"],
        "update": ["backends"],
        "set_weight": ["id"],
        "set_healthy": ["id"],
    },
    fastpath.Registry: {
        "register": [
            "service",
            "address",
            "port",
            "id",
            "weight",
            "tags",
            "meta",
            "zone",
            "priority",
            "ttl_s",
            "check",
        ],
        "renew": ["id"],
        "deregister": ["id"],
        "set_health": ["id"],
        "maintenance": ["id", "on", "reason"],
        "drain": ["id", "deadline_s"],
        "services": [],
        "instances": ["service", "tag", "zone", "healthy"],
        "watch": ["service", "since", "timeout_s"],
        "awatch": None,
        "balancer": ["service", "policy"],
        "snapshot": [],
        "close": [],
        "revision": None,
    },
    fastpath.Resolver: {
        "query": ["name", "rdtype"],
        "resolve": ["service", "tag"],
        "pick": ["service", "key"],
        "respond": ["message", "max_size", "client"],
    },
    fastpath.DnsServer: {"start": [], "stop": [], "port": None, "stats": None},
    fastpath.Switch: {
        "attach": ["netns", "ifname", "address", "mac", "segment", "id"],
        "attach_memory": [],
        "detach": ["port"],
        "start": [],
        "stop": [],
        "stats": [],
        "ports": None,
    },
}


def assert_takes(function: Any, arguments: list[str], what: str) -> None:
    """Positional ones stand first and in order; those by keyword only are there."""
    parameters = [p for name, p in inspect.signature(function).parameters.items() if name != "self"]
    by_keyword = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    positional = [p.name for p in parameters if p.name not in by_keyword]
    wanted = [name for name in arguments if name not in by_keyword]
    assert positional[: len(wanted)] == wanted, what


@pytest.mark.parametrize("noun", CONTRACT, ids=lambda noun: noun.__name__)
def test_methods_and_argument_names(noun: type) -> None:
    for name, arguments in CONTRACT[noun].items():
        member = getattr(noun, name)
        if arguments is not None:
            assert_takes(member, arguments, f"{noun.__name__}.{name}")


@pytest.mark.parametrize("noun", CONTRACT, ids=lambda noun: noun.__name__)
def test_public_members_are_documented(noun: type) -> None:
    undocumented = [
        name
        for name, member in inspect.getmembers(noun)
        if not name.startswith("_") and callable(member) and not (member.__doc__ or "").strip()
    ]
    assert not undocumented
    assert (noun.__doc__ or "").strip()


def test_every_public_name_is_there() -> None:
    for name in fastpath.__all__:
        assert getattr(fastpath, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = fastpath.Nonsense
    assert set(fastpath.__all__) <= set(dir(fastpath))


def test_functions() -> None:
    for name in ("parse_ipv4", "parse_ipv6", "format_ipv4", "format_ipv6"):
        assert callable(getattr(addresses, name))
    assert fastpath.hash64(b"") == 0x2D06800538D394C2
    info = fastpath.build_info()
    assert info["version"] == fastpath.__version__
    assert info["isa_in_use"] in info["isa_supported"]  # type: ignore[operator]


def test_errors_have_one_root() -> None:
    for name in ("CapacityError", "ResolveError", "NotSupported", "StoreError"):
        assert issubclass(getattr(fastpath, name), fastpath.Error)
    assert issubclass(fastpath.NXDOMAIN, fastpath.ResolveError)
    assert issubclass(fastpath.NoAnswer, fastpath.ResolveError)


def test_an_unknown_instruction_set_is_warned_of() -> None:
    code = "import warnings; warnings.simplefilter('error'); import fastpath"
    for name, fails in (("avx1024", True), ("", True), ("scalar", False)):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "FASTPATH_ISA": name},
            check=False,
            timeout=60,
            capture_output=True,
            text=True,
        )
        assert (done.returncode != 0) == fails
        assert (f"RuntimeWarning: FASTPATH_ISA={name!r} is none of scalar" in done.stderr) == fails
