"""The command line: parsing, exit status, output, the control socket, `lookup`, `info`."""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from fastpath.cli import control, main
from fastpath.cli.bench import plot, rows_of
from fastpath.cli.output import table
from fastpath.cli.serve import calls_of, load, parse_endpoint
from fastpath.dns import Resolver
from fastpath.errors import Error
from fastpath.registry import Registry

COMMANDS = ["demo", "serve", "register", "deregister", "services", "resolve", "lookup", "bench", "info"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "example:" in text
    assert f"fastpath {command}" in text


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["lookup"],
        ["register", "web"],
        ["register", "web", "10.0.0.1", "80", "--meta", "novalue"],
        ["serve", "--dns", "nonsense"],
        ["info", "--nonsense"],
    ],
)
def test_wrong_usage_is_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "usage:" in capsys.readouterr().err


def test_table_lines_up() -> None:
    assert table(["name", "n"], [["a", 1000], ["long name", 7]]) == "\n".join(
        ["name           n", "---------  -----", "a          1,000", "long name      7"]
    )
    assert table(["name"], []) == "name\n----"


@pytest.mark.parametrize(
    "text", ["", "localhost", "127.0.0.1:", ":53", "127.0.0.1:http", "127.0.0.1:65536", "127.0.0.1:²"]
)
def test_bad_endpoints(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="HOST:PORT"):
        parse_endpoint(text)


def test_endpoints() -> None:
    assert parse_endpoint("127.0.0.1:8600") == ("127.0.0.1", 8600)
    assert parse_endpoint("[::1]:53") == ("::1", 53)


class TestControl:
    def test_calls_and_errors(self, tmp_path: Path) -> None:
        def divide(a: int, b: int) -> int:
            if b == 0:
                raise ValueError("b is 0")
            return a // b

        path = tmp_path / "socket"
        with control.ControlServer(path, {"divide": divide}):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            with control.ControlClient(path) as client:
                assert client.call("divide", a=7, b=2) == 3
                with pytest.raises(Error, match="b is 0"):
                    client.call("divide", a=7, b=0)
                with pytest.raises(Error, match="unknown call 'nonsense'"):
                    client.call("nonsense")
                with pytest.raises(Error, match="argument"):
                    client.call("divide", c=1)
                assert client.call("divide", a=9, b=3) == 3
        assert not path.exists()

    @pytest.mark.parametrize(
        "line", [b"\n", b"[]\n", b"{\n", b'{"call": 1}\n', b"\xff\xfe\n", b"[" * 5000 + b"\n"]
    )
    def test_hostile_lines_are_answered(self, tmp_path: Path, line: bytes) -> None:
        with control.ControlServer(tmp_path / "s", {}), control.ControlClient(tmp_path / "s") as client:
            client._socket.sendall(line)
            assert "error" in json.loads(client._file.readline())

    def test_a_request_has_an_end(self, tmp_path: Path) -> None:
        with control.ControlServer(tmp_path / "s", {}), control.ControlClient(tmp_path / "s") as client:
            client._socket.sendall(b" " * control.MAX_REQUEST)
            assert "at most" in json.loads(client._file.readline())["error"]
            assert client._file.readline() == b""

    def test_a_client_that_goes_leaves_no_trace(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        gone = threading.Event()

        def slow() -> None:
            gone.wait(10)

        with control.ControlServer(tmp_path / "s", {"slow": slow}):
            client = control.ControlClient(tmp_path / "s")
            client._socket.sendall(b'{"call": "slow"}\n' * 3)
            client.close()
            gone.set()
            with control.ControlClient(tmp_path / "s") as other:
                other.call("slow")
        assert capfd.readouterr().err == ""

    def test_a_path_that_is_taken_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        for path in (tmp_path / "file", tmp_path / "none" / "s", tmp_path / ("long" * 50)):
            with pytest.raises(OSError, match=path.name):
                control.ControlServer(path, {})

    def test_nobody_is_serving(self, tmp_path: Path) -> None:
        with pytest.raises(OSError, match="fastpath serve"):
            control.ControlClient(tmp_path / "none")

    def test_a_left_over_socket_is_replaced_and_a_live_one_is_not(self, tmp_path: Path) -> None:
        path = tmp_path / "s"
        first = control.ControlServer(path, {})
        first._server.server_close()
        assert path.exists()
        with control.ControlServer(path, {}), pytest.raises(ValueError, match="another fastpath"):
            control.ControlServer(path, {})

    def test_many_clients_at_once(self, tmp_path: Path) -> None:
        with control.ControlServer(tmp_path / "s", {"echo": lambda x: x}):
            results: list[int] = []

            def work(n: int) -> None:
                with control.ControlClient(tmp_path / "s") as client:
                    results.extend(client.call("echo", x=n) for _ in range(5))

            threads = [threading.Thread(target=work, args=(n,)) for n in range(100)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sorted(results) == sorted(n for n in range(100) for _ in range(5))


@pytest.fixture
def socket_of_a_registry(tmp_path: Path) -> str:
    with Registry() as registry:
        path = str(tmp_path / "s")
        with control.ControlServer(path, calls_of(registry, Resolver(registry))):
            yield path


class TestClients:
    def test_register_services_resolve_deregister(
        self, socket_of_a_registry: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        at = ["--control", socket_of_a_registry]
        for host, weight in (("10.0.0.11", 5), ("10.0.0.12", 1)):
            options = ["--weight", str(weight), "--tag", "v2", "--meta", "rack=7", "--zone", "z1"]
            assert main(["register", "web", host, "8000", *options, *at]) == 0
        ids = capsys.readouterr().out.split()
        assert len(set(ids)) == 2
        assert main(["services", *at]) == 0
        assert "web" in capsys.readouterr().out
        assert main(["services", "--json", *at]) == 0
        assert json.loads(capsys.readouterr().out) == [
            {"service": "web", "instances": 2, "healthy": 2, "tags": ["v2"]}
        ]
        assert main(["resolve", "web", "--json", *at]) == 0
        assert {i["address"] for i in json.loads(capsys.readouterr().out)} == {"10.0.0.11", "10.0.0.12"}
        assert main(["resolve", "web.service.consul", *at]) == 0
        assert "10.0.0.11" in capsys.readouterr().out
        assert main(["resolve", "web.service.consul", "--type", "SRV", "--json", *at]) == 0
        assert len(json.loads(capsys.readouterr().out)["records"]) == 2
        assert main(["resolve", "web", "--type", "SRV", "--tag", "v2", *at]) == 0
        assert capsys.readouterr().out.count("8000 0a00000") == 2
        assert main(["resolve", "web", "--type", "A", "--tag", "v3", *at]) == 1
        assert main(["resolve", "web.service.consul", "--tag", "v2", *at]) == 2
        assert capsys.readouterr().err.count("\n") == 2
        assert main(["deregister", ids[0], *at]) == 0
        assert main(["deregister", ids[0], *at]) == 1
        captured = capsys.readouterr()
        assert ids[0] in captured.err
        assert captured.err.count("\n") == 1
        assert main(["resolve", "nothing", *at]) == 1

    @pytest.mark.parametrize(
        "arguments",
        [
            ["register", "web", "not an address", "8000"],
            ["register", "bad name!", "10.0.0.1", "8000"],
            ["register", "web", "10.0.0.1", "70000"],
            ["register", "web", "10.0.0.1", "80", "--weight", "-1"],
            ["resolve", "nothing.service.consul"],
            ["resolve", "elsewhere.example."],
        ],
    )
    def test_what_does_not_hold_is_one_line_and_status_1(
        self, socket_of_a_registry: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main([*arguments, "--control", socket_of_a_registry]) == 1
        captured = capsys.readouterr()
        assert captured.err.startswith(f"fastpath {arguments[0]}: ")
        assert captured.err.count("\n") == 1
        assert "Traceback" not in captured.err

    def test_no_server(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["services", "--control", str(tmp_path / "s")]) == 1
        assert "fastpath serve" in capsys.readouterr().err


class TestLoad:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{", "not JSON"),
            ("[" * 100_000, "not JSON"),
            ("\ufffd".encode("utf-16").decode("latin-1"), "not JSON"),
            ("7", "expected a list"),
            ("[7]", "expected a list"),
            ('[{"service": "web"}]', "entry 1"),
            (
                '[{"service": "web", "address": "10.0.0.1", "port": 1}, {"service": "web", "color": 1}]',
                "entry 2",
            ),
        ],
    )
    def test_nothing_of_a_bad_file_is_kept(self, tmp_path: Path, text: str, message: str) -> None:
        (tmp_path / "services.json").write_text(text)
        with Registry() as registry:
            with pytest.raises(ValueError, match=message):
                load(registry, str(tmp_path / "services.json"))
            assert registry.services() == {}

    def test_both_shapes(self, tmp_path: Path) -> None:
        entries = [{"service": "web", "address": "10.0.0.1", "port": 80, "tags": ["a"]}]
        for name, data in (("list", entries), ("object", {"services": entries})):
            (tmp_path / name).write_text(json.dumps(data))
            with Registry() as registry:
                assert load(registry, str(tmp_path / name)) == 1
                assert set(registry.services()) == {"web"}


class TestLookup:
    ROUTES = b"# a comment\n10.0.0.0/8 core router\n10.1.0.0/16\tedge\n2001:db8::/32 lab\n0.0.0.0/0\n"

    @pytest.fixture(params=["routes.txt", "routes.txt.gz"])
    def routes(self, request: pytest.FixtureRequest, tmp_path: Path) -> str:
        path = tmp_path / request.param
        path.write_bytes(gzip.compress(self.ROUTES) if path.suffix == ".gz" else self.ROUTES)
        return str(path)

    def test_arguments(self, routes: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
        assert (
            main(["lookup", "--routes", routes, "10.1.2.3", "10.9.9.9", "1.1.1.1", "2001:db8::1", "::1"]) == 0
        )
        assert capfdbinary.readouterr().out.splitlines() == [
            b"10.1.2.3\t10.1.0.0/16\tedge",
            b"10.9.9.9\t10.0.0.0/8\tcore router",
            b"1.1.1.1\t0.0.0.0/0",
            b"2001:db8::1\t2001:db8::/32\tlab",
            b"::1\t-",
        ]

    def test_json(self, routes: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
        assert main(["lookup", "--json", "--routes", routes, "10.1.2.3", "::1"]) == 0
        assert [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()] == [
            {"address": "10.1.2.3", "prefix": "10.1.0.0/16", "next_hop": "edge"},
            {"address": "::1", "prefix": None, "next_hop": None},
        ]

    @pytest.mark.parametrize(
        "text", [b"10.1.2.3\n10.2.0.1\n", b"10.1.2.3\n10.2.0.1", b"\n10.1.2.3\n\n10.2.0.1\n"]
    )
    def test_standard_input(
        self,
        routes: str,
        text: bytes,
        monkeypatch: pytest.MonkeyPatch,
        capfdbinary: pytest.CaptureFixture[bytes],
    ) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
        assert main(["lookup", "--routes", routes]) == 0
        assert capfdbinary.readouterr().out.count(b"\n") == 2

    def test_what_is_no_address_is_told_and_the_rest_is_answered(
        self, routes: str, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
    ) -> None:
        monkeypatch.setattr(
            sys, "stdin", io.TextIOWrapper(io.BytesIO(b"10.1.2.3\nnonsense\n\xff\xfe\n::1\n"))
        )
        assert main(["lookup", "--routes", routes]) == 1
        captured = capfdbinary.readouterr()
        assert captured.out.splitlines() == [b"10.1.2.3\t10.1.0.0/16\tedge", b"::1\t-"]
        assert b"address 2: 'nonsense'" in captured.err
        assert captured.err.count(b"\n") == 2

    @pytest.mark.parametrize(
        ("content", "line"),
        [
            (b"10.0.0.1/8\n", 1),
            (b"\n10.0.0.0/8\nnonsense\n", 3),
            (b"# c\n\n# d\n10.0.0.0/8 x\nfoo y\n", 5),
            (b"10.0.0.0/8 a\n10.0.0.0/33 b\n", 2),
            (b"10.0.0.0/8\n\xff\xfe\n", 2),
        ],
    )
    def test_bad_routes(
        self, tmp_path: Path, content: bytes, line: int, capfd: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "routes").write_bytes(content)
        assert main(["lookup", "--routes", str(tmp_path / "routes"), "10.0.0.1"]) == 1
        captured = capfd.readouterr()
        assert f"{tmp_path / 'routes'}: line {line}: " in captured.err
        assert captured.err.count("\n") == 1

    def test_files_that_cannot_be_read(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        assert main(["lookup", "--routes", str(tmp_path / "none"), "10.0.0.1"]) == 1
        (tmp_path / "cut.gz").write_bytes(gzip.compress(os.urandom(5000))[:-100])
        assert main(["lookup", "--routes", str(tmp_path / "cut.gz"), "10.0.0.1"]) == 1
        (tmp_path / "foreign.gz").write_bytes(b"10.0.0.0/8\n")
        assert main(["lookup", "--routes", str(tmp_path / "foreign.gz"), "10.0.0.1"]) == 1
        assert capfd.readouterr().err.count("\n") == 3

    def test_routes_from_a_pipe(self, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
        os.mkfifo(tmp_path / "routes")
        writer = threading.Thread(
            target=(tmp_path / "routes").write_bytes, args=(b"10.0.0.0/8 a\n" * 20_000,)
        )
        writer.start()
        assert main(["lookup", "--routes", str(tmp_path / "routes"), "10.0.0.1"]) == 0
        writer.join()
        assert capfdbinary.readouterr().out == b"10.0.0.1\t10.0.0.0/8\ta\n"

    def test_empty_routes(self, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
        (tmp_path / "routes").write_bytes(b"")
        assert main(["lookup", "--routes", str(tmp_path / "routes"), "10.0.0.1"]) == 0
        assert capfdbinary.readouterr().out == b"10.0.0.1\t-\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(tmp_path: Path, closed: str) -> None:
    (tmp_path / "routes").write_text("10.0.0.0/8")
    lookup = f"{sys.executable} -m fastpath lookup --routes {tmp_path / 'routes'}"
    for arguments in ("", " 10.0.0.1"):
        done = subprocess.run(
            ["sh", "-c", f"{lookup}{arguments} {closed}"],
            input="",
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["build"]["isa_in_use"] in data["build"]["isa_supported"]
    assert all(row["available"] or row["why"] for row in data["available"])
    assert main(["info"]) == 0
    assert "isa_in_use" in capsys.readouterr().out


def test_bench_names_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "nonsense"]) == 1
    assert "there are:" in capsys.readouterr().err


def test_bench_rows_tell_peers_from_limits() -> None:
    def row(name: str, median: float) -> dict[str, Any]:
        return {
            "fullname": f"benches/bench_x.py::{name}",
            "name": name,
            "group": "x: hits",
            "extra_info": {"operations": 10},
            "stats": {"median": median, "iqr": 0.0},
        }

    names = {"test_fastpath": 2e-8, "test_peer": 6e-8, "test_slow_peer": 9e-8, "test_limit_line": 1e-8}
    rows = {row["name"]: row for row in rows_of({"benchmarks": [row(*item) for item in names.items()]})}
    assert list(rows) == ["limit_line", "fastpath", "peer", "slow_peer"]
    assert rows["fastpath"]["ratio"] == pytest.approx(3)
    assert rows["fastpath"]["of_limit"] == pytest.approx(0.5)
    assert rows["peer"]["ratio"] is None


def test_bench_plots_a_rate_over_size_where_rows_tell_sizes(tmp_path: Path) -> None:
    def row(suite: str, name: str, size: int | None) -> dict[str, Any]:
        series = {"series": "hits", "size": size} if size else {}
        return {
            "fullname": f"benches/bench_{suite}.py::{name}",
            "name": f"{name}[{size}]",
            "group": f"{suite}: hits",
            "extra_info": {"operations": 10, "bytes": 64, **series},
            "stats": {"median": 1e-7, "iqr": 0.0},
        }

    names = ("test_fastpath", "test_peer", "test_limit_line")
    sized = [row("sized", name, size) for name in names for size in (10, 100, 1000)]
    rows = rows_of({"benchmarks": [*sized, row("plain", "test_fastpath", None)]})
    assert {tuple(each["notes"].items()) for each in rows} == {(("bytes", 64),)}
    assert [path.name for path in plot(rows, tmp_path)] == ["plain.png", "sized.png", "sized_sizes.png"]
    assert all(path.stat().st_size > 1000 for path in tmp_path.iterdir())
