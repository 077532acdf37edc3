"""``fastpath serve``: a registry, its DNS and its control socket in one process."""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastpath.cli import control
from fastpath.cli.output import print_json
from fastpath.dns import DnsServer, Resolver
from fastpath.errors import Error
from fastpath.registry import Instance, Registry

EXAMPLES = {"serve": "  fastpath serve --dns 127.0.0.1:8600 --data registry.db --load services.json"}


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Options of `serve`."""
    parser.add_argument(
        "--dns",
        type=parse_endpoint,
        default="127.0.0.1:8600",
        metavar="HOST:PORT",
        help="default: %(default)s",
    )
    parser.add_argument(
        "--domain", default="consul", help="names are answered below it (default: %(default)s)"
    )
    parser.add_argument("--datacenter", default="dc1", help="default: %(default)s")
    parser.add_argument(
        "--data", metavar="PATH", help="keep the registry in this SQLite file (default: memory)"
    )
    parser.add_argument(
        "--load",
        metavar="FILE",
        help='register what this JSON lists: [{"service": ..., "address": ..., "port": ...}, ...]',
    )
    parser.add_argument(
        "--control",
        default=str(control.default_path()),
        metavar="PATH",
        help="Unix socket (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print what is listening as JSON")


def parse_endpoint(text: str) -> tuple[str, int]:
    """``host:port`` or ``[v6]:port`` as (host, port)."""
    host, _, port = text.rpartition(":")
    if not (host and port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


def instance_as_dict(instance: Instance) -> dict[str, Any]:
    """An instance as plain JSON data."""
    data = dataclasses.asdict(instance)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in data.items()}


def calls_of(registry: Registry, resolver: Resolver) -> Mapping[str, Callable[..., Any]]:
    """What the control socket offers."""

    def register(**arguments: Any) -> dict[str, Any]:
        return instance_as_dict(registry.register(**arguments))

    def renew(id: str) -> None:
        registry.renew(id)

    def deregister(id: str) -> None:
        registry.deregister(id)

    def services() -> list[dict[str, Any]]:
        rows = []
        for name, tags in registry.services().items():
            instances = registry.instances(name, healthy=False)
            healthy = registry.instances(name)
            rows.append(
                {"service": name, "instances": len(instances), "healthy": len(healthy), "tags": sorted(tags)}
            )
        return rows

    def instances(service: str, healthy: bool = True) -> list[dict[str, Any]]:
        return [instance_as_dict(instance) for instance in registry.instances(service, healthy=healthy)]

    def resolve(service: str, tag: str | None = None) -> list[dict[str, Any]]:
        return [instance_as_dict(instance) for instance in resolver.resolve(service, tag=tag)]

    def query(name: str, rdtype: str = "A", tag: str | None = None) -> dict[str, Any]:
        if "." not in name:
            name = ".".join([*([tag] if tag else []), name, "service", resolver.domain])
        answer = resolver.query(name, rdtype)
        return {
            "records": [str(r) for r in answer.records],
            "ttl_s": answer.ttl_s,
            "revision": answer.revision,
        }

    return {
        "register": register,
        "renew": renew,
        "deregister": deregister,
        "services": services,
        "instances": instances,
        "resolve": resolve,
        "query": query,
    }


def load(registry: Registry, path: str) -> int:
    """Register every instance of a JSON file; returns how many. All of them are checked first."""
    try:
        entries = json.loads(Path(path).read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if isinstance(entries, dict):
        entries = entries.get("services")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{path}: expected a list of objects with service, address and port")
    with Registry() as trial:
        for number, entry in enumerate(entries, 1):
            try:
                trial.register(**entry)
            except (Error, ValueError, TypeError) as error:
                raise ValueError(f"{path}: entry {number}: {error}") from None
    for entry in entries:
        registry.register(**entry)
    return len(entries)


def run(options: argparse.Namespace) -> int:
    """Serve until a signal comes."""
    host, port = options.dns
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    with Registry(options.data, datacenter=options.datacenter) as registry:
        resolver = Resolver(registry, domain=options.domain)
        loaded = load(registry, options.load) if options.load else 0
        calls = calls_of(registry, resolver)
        with DnsServer(resolver, host=host, port=port) as dns, control.ControlServer(options.control, calls):
            facts = {
                "dns": f"{host}:{dns.port}",
                "control": options.control,
                "data": options.data,
                "loaded": loaded,
            }
            if options.json:
                print_json(facts)
            else:
                print(f"DNS on {facts['dns']} (UDP, TCP), control on {options.control}, {loaded} loaded")
            sys.stdout.flush()
            stopped.wait()
    return 0
