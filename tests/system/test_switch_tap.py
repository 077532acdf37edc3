"""TAP ports in real namespaces: traffic, life and death."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from unprivileged import as_ordinary_user

from fastpath import NotSupported, Switch

pytestmark = pytest.mark.system

Make = Callable[[], Any]


def wait_for(condition: Callable[[], Any], timeout_s: float = 10.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def pair_of(switch: Switch, namespaces: Make, **options: Any) -> tuple[Any, Any, Any, Any]:
    a, b = namespaces(), namespaces()
    pa = switch.attach(a.pid, address=["10.77.0.1/24", "fd77::1/64"], id="a", **options)
    pb = switch.attach(b.pid, address=["10.77.0.2/24", "fd77::2/64"], id="b", **options)
    return a, b, pa, pb


def transfer(sender: Any, receiver: Any, address: str, size: int) -> None:
    """Send `size` random bytes over TCP; both ends must agree on them."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    data = secrets.token_bytes(1 << 20) * (size >> 20)
    received = hashlib.sha256()
    with receiver.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind((address, 0))
        listener.listen()

        def receive() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(20)
                while chunk := connection.recv(1 << 18):
                    received.update(chunk)

        thread = threading.Thread(target=receive)
        thread.start()
        try:
            with sender.socket(family, socket.SOCK_STREAM) as client:
                client.settimeout(20)
                client.connect(listener.getsockname()[:2])
                client.sendall(data)
        finally:
            thread.join(30)
    assert not thread.is_alive()
    assert received.digest() == hashlib.sha256(data).digest()


def test_ping_and_the_entries_that_carried_it(namespaces: Make) -> None:
    with Switch() as switch:
        a, b, pa, pb = pair_of(switch, namespaces)
        assert a.links() == ["lo", "eth0"]
        assert a.ping("10.77.0.2") == 3
        assert a.ping("fd77::2") == 3
        assert b.ping("10.77.0.1") == 3
        assert switch.fdb.lookup(pa.mac) == pa.number
        assert switch.forwarding.lookup(pa.mac, pb.mac) == pb.number
        assert switch.forwarding.lookup(pb.mac, pa.mac) == pa.number
        carried = {(pair.source, pair.destination): pair for pair in switch.pairs()}
        assert carried[pa.mac, pb.mac].packets >= 9
        assert carried[pa.mac, pb.mac].port == pb.number
        stats = switch.stats()
        assert stats["ports"]["a"]["rx_packets"] >= 9
        assert stats["ports"]["b"]["tx_bytes"] >= 9 * 42
        assert stats["pair_hits"] > stats["fdb_hits"] > 0


@pytest.mark.parametrize("address", ["10.77.0.2", "fd77::2"])
def test_tcp_in_whole_segments(namespaces: Make, address: str) -> None:
    with Switch() as switch:
        a, b, _, pb = pair_of(switch, namespaces)
        transfer(a, b, address, 24 << 20)
        stats = pb.stats()
        assert stats["tx_bytes"] >= 24 << 20
        # The kernel hands over far more than one MTU at once.
        assert stats["tx_bytes"] / stats["tx_packets"] > 3000


def test_given_mac_mtu_names_and_kinds_of_namespace(namespaces: Make, tmp_path: Path) -> None:
    with Switch(mtu=9000) as switch:
        a, b = namespaces(), namespaces()
        link = tmp_path / "namespace"
        link.symlink_to(b.path)
        pa = switch.attach(a.path, "a-fifteen-chars", "10.77.0.1/24", mac="02:77:00:00:00:01")
        pb = switch.attach(link, "net0", "10.77.0.2/24", mac=0x027700000002)
        assert (pa.mac, pb.mac) == ("02:77:00:00:00:01", "02:77:00:00:00:02")
        assert (pa.id, pa.ifname, pa.addresses) == ("port1", "a-fifteen-chars", ("10.77.0.1/24",))
        address = a.call(lambda: Path("/proc/thread-self/net/dev").read_text())
        assert "a-fifteen-chars:" in address
        assert a.ping("10.77.0.2", 2) == 2
        with (
            a.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
            b.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink,
        ):
            udp.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER = IP_PMTUDISC_DO
            sink.bind(("10.77.0.2", 4000))
            udp.sendto(bytes(8900), ("10.77.0.2", 4000))
            assert len(sink.recv(10000)) == 8900
            with pytest.raises(OSError, match="too long"):
                udp.sendto(bytes(9000), ("10.77.0.2", 4000))


def test_segments_are_apart(namespaces: Make) -> None:
    with Switch() as switch:
        a, b, c = namespaces(), namespaces(), namespaces()
        switch.attach(a.pid, address="10.77.0.1/24", segment=1)
        switch.attach(b.pid, address="10.77.0.2/24", segment=2)
        switch.attach(c.pid, address="10.77.0.2/24", segment=1)
        assert a.ping("10.77.0.2", 2) == 2
        with b.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.sendto(b"nobody hears this", ("10.77.0.1", 9))
        assert b.ping("10.77.0.1", 1, 0.3) == 0
        assert switch.ports[1].stats()["tx_packets"] == 0


def test_attach_and_detach_under_traffic(namespaces: Make) -> None:
    with Switch() as switch:
        a, b, _, _ = pair_of(switch, namespaces)
        guest = namespaces()
        failure: list[BaseException] = []

        def traffic() -> None:
            try:
                transfer(a, b, "10.77.0.2", 64 << 20)
            except BaseException as error:
                failure.append(error)

        thread = threading.Thread(target=traffic)
        thread.start()
        rounds = 0
        while thread.is_alive() or rounds < 3:
            port = switch.attach(guest.pid, address="10.77.0.3/24")
            assert guest.ping("10.77.0.1", 1) == 1
            switch.detach(port)
            assert guest.links() == ["lo"]
            assert switch.fdb.lookup(port.mac) is None
            rounds += 1
        thread.join()
        assert not failure, failure
        assert len(switch.ports) == 2


def test_a_station_that_comes_back_elsewhere_is_found_at_once(namespaces: Make) -> None:
    with Switch() as switch:
        a, _, pa, pb = pair_of(switch, namespaces)
        assert a.ping("10.77.0.2", 2) == 2
        mac = pb.mac
        switch.detach("b")
        assert switch.forwarding.lookup(pa.mac, mac) is None
        again = namespaces()
        port = switch.attach(again.pid, address="10.77.0.2/24", mac=mac, id="b")
        assert a.ping("10.77.0.2", 2) == 2
        assert switch.forwarding.lookup(pa.mac, mac) == port.number != pb.number


def test_the_end_of_a_namespace_takes_its_port_down(namespaces: Make) -> None:
    with Switch() as switch:
        a, b, pa, pb = pair_of(switch, namespaces)
        assert a.ping("10.77.0.2", 2) == 2
        b.end()
        assert wait_for(lambda: not pb.up)
        assert switch.forwarding.lookup(pa.mac, pb.mac) is None
        assert a.ping("10.77.0.2", 1, 0.2) == 0
        rounds = switch.stats()["rounds"]
        time.sleep(0.3)
        assert switch.stats()["rounds"] - rounds < 100  # no spinning on a dead descriptor
        assert "down" in repr(pb)
        # The id of a dead port is free.
        again = namespaces()
        port = switch.attach(again.pid, address="10.77.0.2/24", id="b")
        assert a.ping("10.77.0.2", 2) == 2
        assert [p.id for p in switch.ports] == ["a", "b"]
        assert port.number == 3
        # A port whose interface somebody deletes goes the same way.
        again.run("ip", "link", "del", "eth0")
        assert wait_for(lambda: not port.up)
        switch.detach(port)


def test_an_interface_that_is_set_down_comes_back(namespaces: Make) -> None:
    with Switch() as switch:
        a, b, _, pb = pair_of(switch, namespaces)
        assert a.ping("10.77.0.2", 1) == 1
        b.run("ip", "link", "set", "eth0", "down")
        assert a.ping("10.77.0.2", 2, 0.1) == 0
        assert pb.up
        assert pb.stats()["drops"]["tx_down"] >= 1
        b.run("ip", "link", "set", "eth0", "up")
        assert a.ping("10.77.0.2", 2) == 2


def test_stop_start_and_what_is_left_behind(namespaces: Make) -> None:
    fds = len(os.listdir("/proc/self/fd"))
    tasks = len(os.listdir("/proc/self/task"))
    a = namespaces()
    switch = Switch()
    switch.attach(a.pid)
    switch.start()
    switch.start()
    switch.stop()
    assert a.links() == ["lo", "eth0"]
    switch.start()
    assert switch.running
    del switch
    assert a.links() == ["lo"]
    with pytest.raises(ZeroDivisionError), Switch() as switch:
        switch.attach(a.pid)
        _ = 1 / 0
    assert a.links() == ["lo"]
    assert switch.ports == ()
    assert wait_for(lambda: len(os.listdir("/proc/self/task")) == tasks)
    del switch
    a.end()
    assert len(os.listdir("/proc/self/fd")) == fds


def test_errors_say_what_to_do(namespaces: Make, tmp_path: Path) -> None:
    with Switch() as switch:
        a = namespaces()
        switch.attach(a.pid, id="a")
        with pytest.raises(FileExistsError, match="eth0"):
            switch.attach(a.pid)
        with pytest.raises(ValueError, match="id: 'a' is taken"):
            switch.attach(a.pid, "eth1", id="a")
        with pytest.raises(FileNotFoundError, match="/run/netns/fp-no-such-namespace"):
            switch.attach("fp-no-such-namespace")
        with pytest.raises(FileNotFoundError):
            switch.attach(2**22 + 1)
        plain = tmp_path / "plain"
        plain.write_text("")
        os.mkfifo(tmp_path / "fifo")
        for path in (plain, tmp_path / "fifo", tmp_path, f"/proc/{a.pid}/ns/uts"):
            with pytest.raises(ValueError, match="not a network namespace"):
                switch.attach(path)
        with pytest.raises(OSError, match="add an IPv4 address") as raised:
            switch.attach(a.pid, "eth1", ["10.0.0.1/24", "10.0.0.1/24"])
        assert raised.value.errno == errno.EEXIST
        assert a.links() == ["lo", "eth0"]
        assert [port.id for port in switch.ports] == ["a"]


def test_ipv6_that_is_disabled_is_named(namespaces: Make) -> None:
    with Switch() as switch:
        a = namespaces()
        a.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6")
        with pytest.raises(NotSupported, match="IPv6 is disabled there"):
            switch.attach(a.pid, address="fd77::1/64")
        assert a.links() == ["lo"]


def test_datagrams_of_all_sizes(namespaces: Make) -> None:
    """64 KiB datagrams: fragmented by the sender, put together by the receiver."""
    with Switch() as switch:
        a, b, _, _ = pair_of(switch, namespaces)
        sink = b.socket(socket.AF_INET, socket.SOCK_DGRAM)
        source = a.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sink, source:
            sink.bind(("10.77.0.2", 5000))
            assert a.ping("10.77.0.2", 1) == 1
            for size in (0, 1, 1472, 1473, 30_000, 65_507):
                data = secrets.token_bytes(size)
                source.sendto(data, ("10.77.0.2", 5000))
                assert sink.recv(70_000) == data


def test_udp_in_whole_bursts(namespaces: Make) -> None:
    """UDP_SEGMENT: the kernel hands over 40 datagrams as one frame where it can, and receivers get 40."""
    with Switch() as switch:
        a, b, _, pb = pair_of(switch, namespaces)
        with (
            b.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink,
            a.socket(socket.AF_INET, socket.SOCK_DGRAM) as source,
        ):
            sink.bind(("10.77.0.2", 5000))
            assert a.ping("10.77.0.2", 1) == 1
            before = pb.stats()["tx_packets"]
            source.setsockopt(socket.IPPROTO_UDP, 103, 1000)
            data = secrets.token_bytes(40_000)
            source.sendto(data, ("10.77.0.2", 5000))
            assert [sink.recv(2000) for _ in range(40)] == [
                data[i : i + 1000] for i in range(0, 40_000, 1000)
            ]
            assert pb.stats()["tx_packets"] - before < 40


def run_python(code: str, *prefix: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )


def test_without_privileges_it_says_what_is_missing(may_make_namespaces: None) -> None:
    attach = "fastpath.Switch().attach(ifname='fpx')"
    code = f"import fastpath\ntry: {attach}\nexcept fastpath.NotSupported as e: print(e)"
    done = run_python(code, "setpriv", "--bounding-set=-all", "--inh-caps=-all", "--")
    assert done.returncode == 0, done.stderr
    assert "CAP_NET_ADMIN" in done.stdout
    assert "unshare -Urnm" in done.stdout


STORY = """
import os, socket, subprocess, sys, threading
from fastpath import NotSupported, Switch
with Switch() as switch:
    child = subprocess.Popen(["unshare", "-n", "sh", "-c", "echo; exec sleep 60"], stdout=subprocess.PIPE)
    child.stdout.readline()
    try:
        here = switch.attach(ifname="fp0", address="10.78.0.1/24")
        there = switch.attach(child.pid, address="10.78.0.2/24")
        server = socket.create_server(("10.78.0.1", 0))
        server.settimeout(20)
        sender = subprocess.Popen(
            ["nsenter", f"--net=/proc/{child.pid}/ns/net", sys.executable, "-c",
             "import socket; s = socket.create_connection(('10.78.0.1', %d), 10); s.sendall(bytes(16 << 20))"
             % server.getsockname()[1]])
        connection, _ = server.accept()
        total = 0
        while data := connection.recv(1 << 18):
            total += len(data)
        assert sender.wait(20) == 0
        assert total == 16 << 20, total
        assert switch.forwarding.lookup(there.mac, here.mac) == here.number
        print("passed as", os.getuid(), open("/proc/self/uid_map").read().split())
    finally:
        child.kill()
        child.wait()
assert "fp0" not in [name for _, name in socket.if_nameindex()]
"""


@pytest.mark.parametrize("ordinary", [False, True], ids=["same user", "ordinary user"])
def test_in_a_user_namespace(may_make_namespaces: None, ordinary: bool) -> None:
    command = ["unshare", "-Urnm", sys.executable, "-c", STORY]
    done = subprocess.run(
        as_ordinary_user(command) if ordinary else command,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("passed as 0")


def test_the_interpreter_may_exit_with_a_running_switch(may_make_namespaces: None) -> None:
    code = (
        "import fastpath\ns = fastpath.Switch(); s.attach(ifname='fpx'); s.attach_memory(); s.start()\n"
        "import threading; threading.Thread(target=lambda: None).start()"
    )
    done = run_python(code, "unshare", "-n")
    assert (done.returncode, done.stderr) == (0, "")
