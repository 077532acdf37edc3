"""Existing interfaces as ports: veth pairs whose other ends are in namespaces."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

# Runs in a namespace of its own, where it may name interfaces as it likes.
STORY = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from conftest import Namespace
from test_switch_tap import transfer, wait_for
from fastpath import Switch
import subprocess

def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True)

a, b, c = Namespace(), Namespace(), Namespace()
try:
    with Switch() as switch:
        for name, namespace, address in (("va", a, "10.80.0.1/24"), ("vb", b, "10.80.0.2/24")):
            ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(namespace.pid))
            namespace.run("ip", "addr", "add", address, "dev", "eth0")
            namespace.run("ip", "link", "set", "eth0", "up")
        port_a = switch.attach_interface("va", id="a")
        assert port_a.kind == "interface" and port_a.ifname == "va" and len(port_a.mac) == 17
        port_b = switch.attach_interface("vb", id="b")
        ip("link", "set", "va", "up")
        ip("link", "set", "vb", "up")
        assert a.ping("10.80.0.2", 3) >= 2
        transfer(a, b, "10.80.0.2", 24 << 20)
        stats = port_b.stats()
        assert stats["tx_bytes"] / stats["tx_packets"] > 3000, stats  # whole segments
        # To a TAP port and back.
        port_c = switch.attach(c.pid, address="10.80.0.3/24", id="c")
        transfer(a, c, "10.80.0.3", 16 << 20)
        transfer(c, b, "10.80.0.2", 16 << 20)
        # VLAN tags stay on, whichever way.
        import socket
        def raw(namespace):
            made = namespace.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88B5))
            made.bind(("eth0", 0x88B5))
            return made
        tagged = b"\\xff" * 6 + b"\\x02\\0\\0\\0\\0\\x09" + b"\\x81\\0\\0\\x05\\x88\\xb5" + bytes(50)
        with switch.capture("/tmp/fp-%d.pcap" % os.getpid(), "a") as capture, raw(a) as sender:
            sender.send(tagged)
            assert wait_for(lambda: switch.fdb.lookup("02:00:00:00:00:09") == port_a.number)
        data = open(capture.path, "rb").read()
        os.unlink(capture.path)
        assert tagged in data, data[-200:]
        ip("link", "set", "vb", "down")
        assert a.ping("10.80.0.2", 1, 0.2) == 0
        assert port_b.up
        ip("link", "set", "vb", "up")
        assert wait_for(lambda: a.ping("10.80.0.2", 1, 0.5) == 1)
        ip("link", "del", "vb")
        assert a.ping("10.80.0.2", 1, 0.2) == 0
        assert wait_for(lambda: not port_b.up), port_b.stats()
        assert c.ping("10.80.0.1", 2) == 2
        try:
            switch.attach_interface("lo")
        except OSError as error:
            assert "not an Ethernet interface" in str(error), error
        else:
            raise AssertionError("lo was taken")
    print("passed")
finally:
    for namespace in (a, b, c):
        namespace.end()
"""


@pytest.mark.parametrize("user_namespace", [False, True], ids=["as it is", "user namespace"])
def test_veth_pairs(may_make_namespaces: None, user_namespace: bool) -> None:
    here = str(Path(__file__).parent)
    prefix = ["unshare", "-Urnm"] if user_namespace else ["unshare", "-n"]
    done = subprocess.run(
        [*prefix, sys.executable, "-W", "ignore", "-c", STORY, here],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "passed\n"), done.stderr
