"""``fastpath register``, ``deregister``, ``services``, ``resolve``: talk to a running `serve`."""

from __future__ import annotations

import argparse
import sys

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
        parser.add_argument("--meta", action="append", default=[], type=parse_meta, metavar="KEY=VALUE")
        parser.add_argument("--zone")
        parser.add_argument("--priority", type=int, default=0)
        parser.add_argument("--ttl", type=float, metavar="SECONDS", help="a lease: renew it, or it runs out")
    elif command == "deregister":
        parser.add_argument("id")
    elif command == "resolve":
        parser.add_argument("name", help="a service, or a DNS name below the domain")
        parser.add_argument(
            "--type",
            type=str.upper,
            choices=["A", "AAAA", "SRV", "PTR", "TXT", "SOA", "NS", "ANY"],
            help="ask for DNS records of this type (default for a DNS name: A)",
        )
        parser.add_argument("--tag", help="only what carries it, when the name is a service")
    parser.add_argument(
        "--control",
        default=str(control.default_path()),
        metavar="PATH",
        help="socket of `serve` (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print data as JSON")


def parse_meta(text: str) -> tuple[str, str]:
    """``KEY=VALUE`` as (key, value)."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


def run(options: argparse.Namespace) -> int:
    """Make the one call and print its answer."""
    with control.ControlClient(options.control) as client:
        return _ACTIONS[options.command](client, options)


def _register(client: control.ControlClient, options: argparse.Namespace) -> int:
    instance = client.call(
        "register",
        service=options.service,
        address=options.address,
        port=options.port,
        id=options.id,
        weight=options.weight,
        tags=options.tag,
        meta=dict(options.meta),
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
    if "." in options.name and options.tag is not None:
        print("fastpath resolve: --tag goes with a service; in a DNS name write TAG.NAME...", file=sys.stderr)
        return 2
    if "." in options.name or options.type is not None:
        answer = client.call("query", name=options.name, rdtype=options.type or "A", tag=options.tag)
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
