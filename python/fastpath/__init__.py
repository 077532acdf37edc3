"""fastpath: a forwarding and balancing engine that a Python program can embed.

Public names are loaded on first use, so ``import fastpath`` costs next to nothing and a part that needs an
extra asks for it only when it is touched.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastpath._version import __version__

if TYPE_CHECKING:
    from fastpath.balance import (
        Backend,
        Balancer,
        Change,
        Explanation,
        Lease,
        OutlierDetection,
        Reason,
        Status,
    )
    from fastpath.build import build_info
    from fastpath.dns import Answer, DnsServer, Resolver
    from fastpath.errors import (
        NXDOMAIN,
        CapacityError,
        Error,
        NoAnswer,
        NotSupported,
        ResolveError,
        StoreError,
    )
    from fastpath.hashing import hash64, hash64_many
    from fastpath.registry import Changes, Instance, Registry
    from fastpath.switch import Port, Switch
    from fastpath.tables import (
        Decision,
        ExactTable,
        Fdb,
        Fib,
        FlowTable,
        ForwardingTable,
        NextHopGroup,
        Policy,
        Rule,
    )

_HOME = {
    "balance": [
        "Backend",
        "Balancer",
        "Change",
        "Explanation",
        "Lease",
        "OutlierDetection",
        "Reason",
        "Status",
    ],
    "build": ["build_info"],
    "dns": ["Answer", "DnsServer", "Resolver"],
    "errors": [
        "NXDOMAIN",
        "CapacityError",
        "Error",
        "NoAnswer",
        "NotSupported",
        "ResolveError",
        "StoreError",
    ],
    "hashing": ["hash64", "hash64_many"],
    "registry": ["Changes", "Instance", "Registry"],
    "switch": ["Port", "Switch"],
    "tables": [
        "Decision",
        "ExactTable",
        "Fdb",
        "Fib",
        "FlowTable",
        "ForwardingTable",
        "NextHopGroup",
        "Policy",
        "Rule",
    ],
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}
_SUBMODULES = {
    "addresses",
    "balance",
    "build",
    "data",
    "dns",
    "errors",
    "hashing",
    "keys",
    "packets",
    "reference",
    "registry",
} | {
    "switch",
    "tables",
}

__all__ = [
    "NXDOMAIN",
    "Answer",
    "Backend",
    "Balancer",
    "CapacityError",
    "Change",
    "Changes",
    "Decision",
    "DnsServer",
    "Error",
    "ExactTable",
    "Explanation",
    "Fdb",
    "Fib",
    "FlowTable",
    "ForwardingTable",
    "Instance",
    "Lease",
    "NextHopGroup",
    "NoAnswer",
    "NotSupported",
    "OutlierDetection",
    "Policy",
    "Port",
    "Reason",
    "Registry",
    "ResolveError",
    "Resolver",
    "Rule",
    "Status",
    "StoreError",
    "Switch",
    "__version__",
    "build_info",
    "get_include",
    "hash64",
    "hash64_many",
]


def get_include() -> str:
    """Directory of the C++ headers, for ``include_dirs`` of an extension that embeds the core."""
    package = Path(__file__).parent
    installed = package / "include"
    if installed.is_dir():
        return str(installed)
    return str(package.parent.parent / "src" / "fastpath" / "include")


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        value = getattr(importlib.import_module(f"fastpath.{_MODULE_OF[name]}"), name)
    elif name in _SUBMODULES:
        value = importlib.import_module(f"fastpath.{name}")
    else:
        raise AttributeError(f"module 'fastpath' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBMODULES})


if "FASTPATH_ISA" in os.environ:
    from fastpath.build import check_isa

    check_isa()
    del check_isa
