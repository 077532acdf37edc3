"""``fastpath info``: what this build is and what this machine lets it do."""

from __future__ import annotations

import argparse
import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path

from fastpath.build import build_info
from fastpath.cli.output import print_json, table

EXAMPLES = {
    "info": "  fastpath info --json\n"
    "  FASTPATH_ISA=avx2 fastpath info    # with another instruction set than the best of this machine"
}

_EXTRAS = {
    "DNS client": "dns",
    "progress bars": "rich",
    "MRT table dumps": "mrtparse",
    "plots": "matplotlib",
}
_PACKAGES = {
    "DNS client": "dnspython",
    "progress bars": "rich",
    "MRT table dumps": "mrtparse",
    "plots": "matplotlib",
}


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Options of `info`."""
    parser.add_argument("--json", action="store_true", help="print data as JSON")


def _tap() -> str:
    """Empty, or why TAP devices cannot be made."""
    if not Path("/dev/net/tun").exists():
        return "/dev/net/tun is missing (modprobe tun, or pass the device into the container)"
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        return f"/dev/net/tun: {error.strerror}"
    return ""


def _unshare(flags: str) -> str:
    """Empty, or why new namespaces cannot be made; tried in a process of its own."""
    code = f"from fastpath.cli.demo.isolation import unshare; unshare({flags})"
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, timeout=20, capture_output=True, text=True
    )
    return done.stderr.strip().rpartition("] ")[2] or f"ended by {done.returncode}" if done.returncode else ""


def _packet_socket() -> str:
    """Empty, or why raw packet sockets cannot be opened."""
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()
    except OSError as error:
        return f"AF_PACKET: {error.strerror} (needs CAP_NET_RAW)"
    return ""


def availability() -> list[dict[str, object]]:
    """What is available here; `why` says why not."""
    new_user, new_net = 0x10000000, 0x40000000
    root = os.geteuid() == 0
    checks = {
        "TAP ports": _tap(),
        "network namespaces": _unshare(str(new_net)) if root else _unshare(str(new_user | new_net)),
        "user namespaces": _unshare(str(new_user)),
        "raw packet sockets": _packet_socket(),
    }
    rows: list[dict[str, object]] = [
        {"what": what, "available": not why, "why": why} for what, why in checks.items()
    ]
    for what, module in _EXTRAS.items():
        package = _PACKAGES[what]
        if importlib.util.find_spec(module) is None:
            rows.append({"what": what, "available": False, "why": f"pip install {package}"})
        else:
            rows.append(
                {"what": what, "available": True, "why": f"{package} {importlib.metadata.version(package)}"}
            )
    return rows


def run(options: argparse.Namespace) -> int:
    """Print it all."""
    libc = ctypes.CDLL(None)
    libc.gnu_get_libc_version.restype = ctypes.c_char_p
    facts = {
        **build_info(),
        "python": platform.python_version(),
        "numpy": importlib.metadata.version("numpy"),
        "kernel": platform.release(),
        "libc": libc.gnu_get_libc_version().decode(),
        "cpus": os.cpu_count(),
    }
    rows = availability()
    if options.json:
        print_json({"build": facts, "available": rows})
        return 0
    for key, value in facts.items():
        text = ", ".join(map(str, value)) if isinstance(value, tuple) else value
        print(f"{key:<14}{text}")
    print()
    print(
        table(
            ["here", "available", "why"],
            [[row["what"], "yes" if row["available"] else "no", row["why"]] for row in rows],
        )
    )
    return 0
