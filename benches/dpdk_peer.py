"""DPDK's hash and classifier as a Python object, built when libdpdk-dev is installed."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest


def start(directory: Path) -> Any:
    """The library of dpdk_hash.c, started; with huge pages where the kernel has 3100 MiB of them free.

    Skips where DPDK is not installed.
    """
    if shutil.which("pkg-config") is None or shutil.which("cc") is None:
        pytest.skip("needs cc and pkg-config")
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "libdpdk"], capture_output=True, text=True, check=False
    )
    if flags.returncode != 0:
        pytest.skip("needs libdpdk-dev")
    library = directory / "dpdk_hash.so"
    command = ["cc", "-O3", "-march=native", "-shared", "-fPIC", str(Path(__file__).with_name("dpdk_hash.c"))]
    subprocess.run([*command, "-o", str(library), *flags.stdout.split()], check=True, capture_output=True)
    peer = ctypes.CDLL(str(library))
    peer.peer_hash_lookup.restype = ctypes.c_size_t
    peer.peer_hash_add.restype = ctypes.c_size_t
    peer.peer_acl_build.restype = ctypes.c_size_t
    memory = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    huge = int(memory["HugePages_Free"]) * int(memory["Hugepagesize"].split()[0]) >= 3100 * 1024
    pages = ["--in-memory", "-m", "3000"] if huge else ["--no-huge", "-m", "4096"]
    words = ["bench", *pages, "--no-telemetry", "--no-pci", "-l", "0", "--log-level", "3"]
    arguments = (ctypes.c_char_p * len(words))(*[word.encode() for word in words])
    if peer.peer_start(len(words), arguments) != 0:
        pytest.skip("DPDK does not start here")
    return peer


def pointer(array: Any) -> ctypes.c_void_p:
    """The data of an array as an argument."""
    return ctypes.c_void_p(array.ctypes.data)
