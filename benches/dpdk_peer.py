"""DPDK in this process, when libdpdk-dev is installed: what the suites that measure beside it share."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from native import compiled


@functools.cache
def has_huge_pages() -> bool:
    """Whether there were 3100 MiB of free huge pages when it was first asked: DPDK takes 3000 of them."""
    memory = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(memory["HugePages_Free"]) * int(memory["Hugepagesize"].split()[0]) >= 3100 * 1024


def start(directory: Path, source: str, *flags: str) -> ctypes.CDLL:
    """The library of a C source of this folder, with DPDK started in it; in huge pages where there are some.

    Skips where DPDK is not installed. One run has one DPDK: a second suite finds it started.
    """
    if shutil.which("pkg-config") is None:
        pytest.skip("needs pkg-config")
    found = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "libdpdk"], capture_output=True, text=True, check=False
    )
    if found.returncode != 0:
        pytest.skip("needs libdpdk-dev")
    peer = compiled(source, directory, *flags, *found.stdout.split())
    pages = ["--in-memory", "-m", "3000"] if has_huge_pages() else ["--no-huge", "-m", "4096"]
    cores = os.sched_getaffinity(0)
    words = ["bench", *pages, "--no-telemetry", "--no-pci", "-l", str(min(cores)), "--log-level", "3"]
    arguments = (ctypes.c_char_p * len(words))(*[word.encode() for word in words])
    if peer.peer_start(len(words), arguments) != 0:
        pytest.skip("DPDK does not start here")
    # It binds the thread that starts it to one core, and every thread made afterwards would stay there too.
    os.sched_setaffinity(0, cores)
    return peer


def start_hash_and_acl(directory: Path) -> ctypes.CDLL:
    """rte_hash and rte_acl: `start` with dpdk_hash.c."""
    peer = start(directory, "dpdk_hash.c")
    peer.peer_hash_lookup.restype = ctypes.c_size_t
    peer.peer_hash_add.restype = ctypes.c_size_t
    peer.peer_acl_build.restype = ctypes.c_size_t
    return peer
