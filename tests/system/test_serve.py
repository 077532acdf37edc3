"""`fastpath serve` in a process of its own, asked by DNS and by the other commands."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dns.resolver
import pytest

FASTPATH = [sys.executable, "-m", "fastpath"]


class Served:
    def __init__(self, folder: Path, *options: str) -> None:
        self.control = str(folder / "control.sock")
        command = [*FASTPATH, "serve", "--dns", "127.0.0.1:0", "--control", self.control, "--json", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        text = ""
        while not text.endswith("}\n"):
            line = self.process.stdout.readline()
            assert line, self.process.communicate()[1]
            text += line
        self.facts: dict[str, Any] = json.loads(text)
        self.resolver = dns.resolver.Resolver(configure=False)
        self.resolver.nameservers = ["127.0.0.1"]
        self.resolver.port = int(self.facts["dns"].rpartition(":")[2])
        self.resolver.lifetime = 5

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*FASTPATH, *arguments, "--control", self.control],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        try:
            self.process.communicate(timeout=15)
        finally:
            self.process.kill()
        return self.process.returncode


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    server = Served(tmp_path)
    yield server
    if server.process.poll() is None:
        server.stop()


def test_register_and_ask(served: Served) -> None:
    assert served.call("register", "web", "10.0.0.11", "8000", "--weight", "5").returncode == 0
    assert served.call("register", "web", "10.0.0.12", "8001").returncode == 0
    a = served.resolver.resolve("web.service.consul.", "A")
    assert {record.address for record in a} == {"10.0.0.11", "10.0.0.12"}
    srv = served.resolver.resolve("_web._tcp.service.consul.", "SRV", tcp=True)
    assert {(record.port, record.weight) for record in srv} == {(8000, 5), (8001, 1)}
    listed = json.loads(served.call("services", "--json").stdout)
    assert listed[0]["instances"] == 2
    with pytest.raises(dns.resolver.NXDOMAIN):
        served.resolver.resolve("nothing.service.consul.", "A")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_stops_cleanly(served: Served, number: signal.Signals) -> None:
    assert served.stop(number) == 0
    assert not Path(served.control).exists()


def test_data_survive_a_restart(tmp_path: Path) -> None:
    services = tmp_path / "services.json"
    services.write_text(json.dumps([{"service": "db", "address": "10.0.0.5", "port": 5432, "id": "db-1"}]))
    options = ["--data", str(tmp_path / "registry.db")]
    first = Served(tmp_path, *options, "--load", str(services))
    assert first.facts["loaded"] == 1
    assert first.call("register", "web", "10.0.0.11", "8000", "--id", "web-1").returncode == 0
    assert first.stop(signal.SIGKILL) != 0
    second = Served(tmp_path, *options)
    try:
        ids = [i["id"] for i in json.loads(second.call("resolve", "web", "--json").stdout)]
        assert ids == ["web-1"]
        assert second.resolver.resolve("db.service.consul.", "A")[0].address == "10.0.0.5"
    finally:
        second.stop()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dns", "127.0.0.1:0", "--load", "/nonexistent.json"], "No such file"),
        (["--dns", "127.0.0.1:0", "--data", "/nonexistent/registry.db"], "/nonexistent"),
        (["--dns", "203.0.113.1:5353"], "203.0.113.1"),
    ],
)
def test_what_cannot_be_served(tmp_path: Path, options: list[str], message: str) -> None:
    command = [*FASTPATH, "serve", *options, "--control", str(tmp_path / "s")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_foreign_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"this is no database" * 1000)
    command = [*FASTPATH, "serve", "--dns", "127.0.0.1:0", "--data", str(tmp_path / "data")]
    done = subprocess.run(
        [*command, "--control", str(tmp_path / "s")], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
