"""The steps of the story: each does something real and tells what was observed."""

from __future__ import annotations

import contextlib
import gzip
import json
import math
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from fastpath.balance import Balancer
from fastpath.cli.control import ControlServer
from fastpath.cli.output import print_json, table
from fastpath.cli.serve import calls_of
from fastpath.data import bgp_prefixes_path
from fastpath.dns import DnsServer, Resolver
from fastpath.errors import Error
from fastpath.registry import Registry
from fastpath.switch import Switch
from fastpath.tables import Fib

GATEWAY = "10.77.0.1"
WEIGHTS = {"web1": 5, "web2": 1, "web3": 1}
ADDRESS = {"container1": "10.77.0.2", "container2": "10.77.0.3"} | {
    name: f"10.77.0.{11 + i}" for i, name in enumerate(WEIGHTS)
}
HTTP_PORT = 8000
TTL_S = 1.0
REQUESTS = 700
STANDARD_DEVIATIONS = 4.0


class NotObserved(Exception):
    """A step did not show what it had to show."""


@dataclass
class Step:
    """What one step observed."""

    step: str
    what: str
    observed: bool
    text: str
    seconds: float
    data: dict[str, Any] = field(default_factory=dict)


class Container:
    """A process in a network namespace of its own, joined to the switch by a TAP port."""

    def __init__(self, switch: Switch, prefix: str, name: str) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fastpath.cli.demo.container", f"{prefix}-{name}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            self.pid: int = self._read()["pid"]
            self.port = switch.attach(
                netns=self.pid, ifname="eth0", address=f"{ADDRESS[name]}/24", id=f"{prefix}-{name}"
            )
        except BaseException:
            self.kill()
            raise

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise NotObserved(f"the process of {self.name} has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def do(self, action: str, **arguments: Any) -> Any:
        """Have the process inside do something, and wait for its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": action, **arguments}) + "\n")
        self._process.stdin.flush()
        answer = self._read()
        if "error" in answer:
            raise NotObserved(f"{action} in {self.name}: {answer['error']}")
        return answer["ok"]

    def kill(self) -> None:
        """End the process at once, as a crash would; its namespace and its interface go with it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


class Story:
    """Everything that the steps share."""

    def __init__(self, stack: contextlib.ExitStack, addresses: int) -> None:
        self.prefix = f"fp{secrets.token_hex(3)}"
        self.addresses = addresses
        self.stack = stack
        self.registry = stack.enter_context(Registry())
        self.resolver = Resolver(self.registry)
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=self.prefix))
        self.control = os.path.join(folder, "control.sock")
        stack.enter_context(ControlServer(self.control, calls_of(self.registry, self.resolver)))
        self.switch = stack.enter_context(Switch(self.prefix))
        self.switch.attach(ifname="fpgw", address=f"{GATEWAY}/24", id=f"{self.prefix}-gateway")
        self.dns = stack.enter_context(DnsServer(self.resolver, host=GATEWAY, port=0))
        self.containers: dict[str, Container] = {}

    def run_container(self, name: str) -> Container:
        """Start a container; it ends with the story."""
        container = Container(self.switch, self.prefix, name)
        self.stack.callback(container.kill)
        self.containers[name] = container
        return container

    def serve(self, name: str) -> None:
        """Have a container serve `web` and register itself."""
        registration = {
            "service": "web",
            "address": ADDRESS[name],
            "port": HTTP_PORT,
            "id": name,
            "weight": WEIGHTS[name],
            "ttl_s": TTL_S,
        }
        self.containers[name].do(
            "serve",
            name=name,
            address=ADDRESS[name],
            port=HTTP_PORT,
            control=self.control,
            registration=registration,
        )

    def ask(self, name: str, rdtype: str) -> dict[str, Any]:
        """Ask fastpath's DNS from inside container1."""
        answer: dict[str, Any] = self.containers["container1"].do(
            "ask_dns", server=GATEWAY, port=self.dns.port, name=name, rdtype=rdtype
        )
        return answer

    def request(self, balancer: Balancer) -> dict[str, Any]:
        """One HTTP request from container1 to the instance that the balancer picks now."""
        backend = balancer.pick()
        if backend is None:
            return {"failed": "the balancer has no backend"}
        answer: dict[str, Any] = self.containers["container1"].do(
            "get", address=backend.address, port=backend.port, timeout_s=1.0
        )
        if answer.get("server", backend.id) != backend.id:
            answer = {"failed": f"picked {backend.id}, answered by {answer['server']}"}
        return answer


def expect(holds: bool, text: str) -> None:
    """Raise NotObserved unless it holds."""
    if not holds:
        raise NotObserved(text)


def network(story: Story) -> tuple[str, dict[str, Any]]:
    """a. Five containers, a ping through the switch, and the entries that carried it."""
    for name in ADDRESS:
        story.run_container(name)
    result = story.containers["container1"].do("ping", address=ADDRESS["container2"], count=5, timeout_s=1.0)
    expect(result["received"] == result["sent"], f"{result['received']} of {result['sent']} echo replies")
    ports = {int(container.port): name for name, container in story.containers.items()}
    mine = {story.containers[name].port.mac: name for name in ("container1", "container2")}
    pairs = [
        f"({source}, {destination}) -> port {int(egress)} ({ports.get(int(egress), 'gateway')})"
        for (source, destination), egress in story.switch.forwarding.items()
        if source in mine and destination in mine
    ]
    expect(len(pairs) == 2, f"2 (source, destination) entries expected, there are {pairs}")
    counters = {
        name: {
            key: story.switch.stats()["ports"][container.port.id][key] for key in ("rx_packets", "tx_packets")
        }
        for name, container in story.containers.items()
        if name in mine.values()
    }
    expect(all(min(c.values()) >= result["sent"] for c in counters.values()), f"counters too low: {counters}")
    rtt = sorted(result["rtt_ms"])[len(result["rtt_ms"]) // 2]
    replies = f"{result['received']}/{result['sent']} replies, {rtt:.2f} ms"
    text = f"{len(ADDRESS)} containers; container1 -> container2: {replies}"
    details = [f"{name}: {c['rx_packets']} frames in, {c['tx_packets']} out" for name, c in counters.items()]
    return "\n".join([text, *details, *pairs]), {"ping": result, "pairs": pairs, "counters": counters}


def discovery(story: Story) -> tuple[str, dict[str, Any]]:
    """b. Three instances register; container1 asks DNS for them."""
    for name in WEIGHTS:
        story.serve(name)
    a = story.ask("web.service.consul.", "A")
    expect(a["records"] == sorted(ADDRESS[name] for name in WEIGHTS), f"A: {a}")
    srv = story.ask("_web._tcp.service.consul.", "SRV")
    fields = [record.split() for record in srv["records"]]
    found = sorted((int(port), int(weight)) for _, weight, port, _ in fields)
    expect(found == sorted((HTTP_PORT, weight) for weight in WEIGHTS.values()), f"SRV: {srv}")
    targets = {story.ask(target, "A")["records"][0]: int(weight) for _, weight, _, target in fields}
    expect(targets == {ADDRESS[name]: weight for name, weight in WEIGHTS.items()}, f"SRV targets: {targets}")
    text = (
        "A "
        + ", ".join(a["records"])
        + "; SRV "
        + ", ".join(f"{port} weight {weight}" for port, weight in found)
    )
    return text, {"a": a["records"], "srv": srv["records"], "targets": targets}


def balancing(
    policy: str, shares: dict[str, float], exact: bool
) -> Callable[[Story], tuple[str, dict[str, Any]]]:
    """c. Real requests to picked instances, counted by who answered."""

    def step(story: Story) -> tuple[str, dict[str, Any]]:
        balancer = story.registry.balancer("web", policy=policy)
        answers = [story.request(balancer) for _ in range(REQUESTS)]
        failed = [answer for answer in answers if "failed" in answer]
        expect(not failed, f"{len(failed)} of {REQUESTS} requests failed, the first: {failed[:1]}")
        counts = Counter(answer["server"] for answer in answers)
        for name, share in shares.items():
            deviation = abs(counts[name] - REQUESTS * share)
            limit = 0.0 if exact else STANDARD_DEVIATIONS * math.sqrt(REQUESTS * share * (1 - share))
            expect(
                deviation <= limit,
                f"{name} got {counts[name]}, expected {REQUESTS * share:.0f} ± {limit:.0f}",
            )
        shown = "/".join(str(counts[name]) for name in WEIGHTS)
        wanted = "/".join(f"{REQUESTS * shares[name]:.0f}" for name in WEIGHTS)
        within = "exactly" if exact else f"within {STANDARD_DEVIATIONS:g} standard deviations of"
        return f"{shown} of {REQUESTS} requests, {within} {wanted}", {"counts": dict(counts)}

    return step


def failover(story: Story) -> tuple[str, dict[str, Any]]:
    """d. An instance dies, its lease runs out, requests go on; it comes back and serves again."""
    victim = "web2"
    balancer = story.registry.balancer("web", policy="round_robin")
    story.containers[victim].kill()
    killed = time.monotonic()
    failed_before = 0
    while ADDRESS[victim] in story.ask("web.service.consul.", "A")["records"]:
        failed_before += "failed" in story.request(balancer)
        expect(time.monotonic() - killed < 5 * TTL_S, "DNS still names the dead instance")
    gone_s = time.monotonic() - killed
    answers = [story.request(balancer) for _ in range(200)]
    failed = [answer for answer in answers if "failed" in answer]
    expect(not failed, f"{len(failed)} of 200 requests failed after the lease ran out: {failed[:1]}")
    served = Counter(answer["server"] for answer in answers)
    expect(victim not in served, f"the dead instance answered: {served}")
    story.switch.detach(story.containers[victim].port)
    story.run_container(victim)
    story.serve(victim)
    back = Counter(story.request(balancer).get("server", "failed") for _ in range(90))
    expect(back[victim] > 0 and "failed" not in back, f"after its return: {dict(back)}")
    expect(ADDRESS[victim] in story.ask("web.service.consul.", "A")["records"], "DNS does not name it again")
    text = (
        f"{victim} killed; out of DNS after {gone_s:.2f} s ({failed_before} requests failed until then), "
        f"then 0 of 200; back: {back[victim]} of 90 requests"
    )
    return text, {"gone_s": gone_s, "failed_before": failed_before, "failed_after": 0, "back": dict(back)}


def routing(story: Story) -> tuple[str, dict[str, Any]]:
    """e. A full Internet routing table and ten million addresses."""
    with gzip.open(bgp_prefixes_path()) as file:
        text = file.read()
    routes = text.count(b"\n") + (not text.endswith(b"\n"))
    fib = Fib(dtype="uint32")
    start = time.perf_counter()
    inserted = fib.insert_many(text, np.arange(1, routes + 1, dtype=np.uint32))
    load_s = time.perf_counter() - start
    expect(
        inserted == len(fib) == routes, f"{inserted} inserted, {len(fib)} in the table, {routes} in the file"
    )
    rng = np.random.default_rng(7)
    addresses = rng.integers(0, 1 << 32, story.addresses, dtype=np.uint32)
    ids = np.zeros(len(addresses), np.uint32)
    fib.lookup_many(addresses, out=ids)
    start = time.perf_counter()
    fib.lookup_many(addresses, out=ids)
    lookup_s = time.perf_counter() - start
    prefixes = text.split()
    for i in rng.choice(len(addresses), 1000):
        match = fib.match(int(addresses[i]))
        expected = None if ids[i] == 0 else prefixes[ids[i] - 1].decode()
        expect((match and str(match[0])) == expected, f"{addresses[i]}: {match} but row says {expected}")
    rate = len(addresses) / lookup_s / 1e6
    hits = np.count_nonzero(ids) / max(len(ids), 1)
    text_out = (
        f"{routes:,} prefixes loaded in {load_s:.2f} s; {len(addresses):,} addresses looked up at "
        f"{rate:.0f} million a second, {hits:.0%} routed"
    )
    return text_out, {"routes": routes, "load_s": load_s, "million_per_s": rate, "hits": float(hits)}


def steps() -> list[tuple[str, str, Callable[[Story], tuple[str, dict[str, Any]]]]]:
    """The story in order: label, title, action."""
    total = sum(WEIGHTS.values())
    weighted = {name: weight / total for name, weight in WEIGHTS.items()}
    even = {name: 1 / len(WEIGHTS) for name in WEIGHTS}
    return [
        ("a", "virtual switch", network),
        ("b", "service discovery", discovery),
        ("c", "weighted round robin", balancing("weighted_round_robin", weighted, exact=True)),
        ("c", "round robin", balancing("round_robin", even, exact=False)),
        ("c", "random", balancing("random", even, exact=False)),
        ("c", "weighted random", balancing("weighted_random", weighted, exact=False)),
        ("d", "failover", failover),
        ("e", "routing table", routing),
    ]


def tell(*, as_json: bool, addresses: int) -> int:
    """Run every step; returns 0 only if each was observed."""
    results: list[Step] = []
    with contextlib.ExitStack() as stack:
        story = Story(stack, addresses)
        for label, title, action in steps():
            start = time.perf_counter()
            try:
                text, data = action(story)
                observed = True
            except (NotObserved, Error, OSError, ValueError, KeyError) as error:
                text, data, observed = f"NOT observed: {error}", {}, False
            results.append(Step(label, title, observed, text, time.perf_counter() - start, data))
            if not as_json:
                mark = "ok  " if observed else "FAIL"
                indented = text.replace("\n", "\n" + " " * 29)
                print(f"{mark} {label} {title:<22}{indented}", flush=True)
    all_observed = all(step.observed for step in results)
    if as_json:
        print_json({"observed": all_observed, "steps": [asdict(step) for step in results]})
    else:
        rows = [[s.step, s.what, "yes" if s.observed else "NO", f"{s.seconds:.2f}"] for s in results]
        print("\n" + table(["step", "what", "observed", "seconds"], rows))
    return 0 if all_observed else 1
