"""The demo observes its whole story, as root and as anybody, twice at a time; and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from unprivileged import as_ordinary_user

DEMO = [sys.executable, "-m", "fastpath", "demo"]
FEW = ["--addresses", "100000"]

pytestmark = pytest.mark.system


def descendants_of_demos() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if any(argument.startswith(b"fastpath.cli.demo") for argument in arguments):
            found.append(path.parent.name)
    return found


def interfaces() -> set[str]:
    return set(os.listdir("/sys/class/net"))


@pytest.fixture(autouse=True)
def _nothing_is_left():
    before = interfaces()
    yield
    deadline = time.monotonic() + 5
    while descendants_of_demos() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not descendants_of_demos()
    assert interfaces() == before


def check(output: str) -> None:
    data = json.loads(output)
    assert data["observed"] is True, json.dumps(data, indent=1)
    assert [step["step"] for step in data["steps"]] == list("abccccde")
    steps = {step["what"]: step["data"] for step in data["steps"]}
    assert steps["weighted round robin"]["counts"] == {"web1": 500, "web2": 100, "web3": 100}
    assert steps["failover"]["failed_after"] == 0
    assert steps["routing table"]["routes"] == 1_062_046


@pytest.mark.parametrize("ordinary", [False, True], ids=["as is", "as an ordinary user"])
def test_everything_is_observed(ordinary: bool) -> None:
    command = [*DEMO, *FEW, "--json"]
    if ordinary:
        command = as_ordinary_user(command)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd="/")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    check(done.stdout)


def test_the_table_for_people() -> None:
    done = subprocess.run([*DEMO, *FEW], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert sum(line.startswith("ok  ") for line in lines) == 8
    assert sum(" yes " in line for line in lines) == 8


def test_two_at_a_time() -> None:
    runs = [subprocess.Popen([*DEMO, *FEW, "--json"], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        outputs = [process.communicate(timeout=180)[0] for process in runs]
    finally:
        for process in runs:
            process.kill()
    for process, output in zip(runs, outputs, strict=True):
        assert process.returncode == 0, output[-3000:]
        check(output)


@pytest.mark.parametrize(
    ("number", "send", "status"),
    [
        (signal.SIGINT, os.killpg, 130),  # as a terminal does
        (signal.SIGINT, os.kill, 130),
        (signal.SIGTERM, os.kill, 130),
        (signal.SIGHUP, os.killpg, 130),
        (signal.SIGKILL, os.kill, -signal.SIGKILL),
    ],
    ids=["Ctrl-C", "SIGINT", "SIGTERM", "SIGHUP", "SIGKILL"],
)
def test_stopped_in_the_middle(
    tmp_path: Path, number: signal.Signals, send: Callable[[int, int], None], status: int
) -> None:
    process = subprocess.Popen(
        DEMO,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ok   a")
        send(process.pid, number)
        # Ends when everybody who holds the pipes has ended.
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == status
    assert "routing table" not in out
    assert "Traceback" not in err
    if number != signal.SIGKILL:
        assert err.count("\n") == 1
        assert list(tmp_path.iterdir()) == []


def test_stopped_at_once() -> None:
    code = """
import argparse, signal, fastpath.cli.demo as demo
signal.pthread_sigmask(signal.SIG_BLOCK, demo.STOP_SIGNALS)
print(flush=True)
demo.run(argparse.Namespace(json=True, addresses=10))
"""
    for delay_s in (0.0, 0.02, 0.05, 0.1, 0.2, 0.4):
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay_s)
        process.terminate()
        _, err = process.communicate(timeout=20)
        assert (process.returncode, err.count("\n")) == (130, 1)


def test_what_is_missing_is_named() -> None:
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", 'mount -t tmpfs none /dev && exec "$@"', "sh", *DEMO],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 1
    assert "/dev/net/tun is missing" in done.stderr
    assert done.stderr.count("\n") == 1
