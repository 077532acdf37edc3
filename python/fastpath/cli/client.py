"""``fastpath register``, ``deregister``, ``services``, ``resolve``: talk to a running `serve`."""

from __future__ import annotations

import argparse

from fastpath.cli import control
from fastpath.cli.output import print_json, table

EXAMPLES = {
    "register": "  fastpath register web 10.0.0.11 8000 --weight 5 --tag v2",
    "deregister": "  fastpath deregister web-1",
    "services": "  fastpath services --json",
    "resolve": "  fastpath resolve web\n  fastpath resolve _web._tcp.service.consul --type SRV",
}


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Options of the four commands."""
    if command == "register":
        parser.add_argument("service")
        parser.add_argument("address")
        parser.add_argument("port", type=int)
        parser.add_argument("--id", help="default: made from service, address and port")
        parser.add_argument("--weight", type=int, default=1, help="0 drains (default: %(default)s)")
        parser.add_argument("--tag", action="append", default=[], help="may be given more than once")
        parser.add_argument("--meta", action="append", default=[], metavar="KEY=VALUE")
        parser.add_argument("--zone")
        parser.add_argument("--priority", type=int, default=0)
        parser.add_argument("--ttl", type=float, metavar="SECONDS", help="a lease: renew it, or it runs out")
    elif command == "deregister":
        parser.add_argument("id")
    elif command == "resolve":
        parser.add_argument("name", help="a service, or a DNS name below the domain")
        parser.add_argument(
            "--type",
            default="A",
            type=str.upper,
            choices=["A", "AAAA", "SRV", "PTR", "TXT", "SOA", "NS", "ANY"],
        )
        parser.add_argument("--tag")
    parser.add_argument(
        "--control",
        default=str(control.default_path()),
        metavar="PATH",
        help="socket of `serve` (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print data as JSON")


def run(options: argparse.Namespace) -> int:
    """Make the one call and print its answer."""
    with control.ControlClient(options.control) as client:
        return _ACTIONS[options.command](client, options)


def _register(client: control.ControlClient, options: argparse.Namespace) -> int:
    meta = {}
    for pair in options.meta:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"--meta {pair!r} is not KEY=VALUE")
        meta[key] = value
    instance = client.call(
        "register",
        service=options.service,
        address=options.address,
        port=options.port,
        id=options.id,
        weight=options.weight,
        tags=options.tag,
        meta=meta,
        zone=options.zone,
        priority=options.priority,
        ttl_s=options.ttl,
    )
    if options.json:
        print_json(instance)
    else:
        print(instance["id"])
    return 0


def _deregister(client: control.ControlClient, options: argparse.Namespace) -> int:
    client.call("deregister", id=options.id)
    if options.json:
        print_json({"deregistered": options.id})
    return 0


def _services(client: control.ControlClient, options: argparse.Namespace) -> int:
    rows = client.call("services")
    if options.json:
        print_json(rows)
    else:
        print(
            table(
                ["service", "instances", "healthy", "tags"],
                [[row["service"], row["instances"], row["healthy"], ",".join(row["tags"])] for row in rows],
            )
        )
    return 0


def _resolve(client: control.ControlClient, options: argparse.Namespace) -> int:
    if "." in options.name:
        answer = client.call("query", name=options.name, rdtype=options.type)
        if options.json:
            print_json(answer)
        else:
            print(*answer["records"], sep="\n")
        return 0
    instances = client.call("resolve", service=options.name, tag=options.tag)
    if options.json:
        print_json(instances)
    else:
        columns = ["id", "address", "port", "weight", "health"]
        print(table(columns, [[str(instance[column]) for column in columns] for instance in instances]))
    if instances:
        return 0
    return 1


_ACTIONS = {"register": _register, "deregister": _deregister, "services": _services, "resolve": _resolve}
