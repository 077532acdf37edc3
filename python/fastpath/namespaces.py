"""How a network namespace is named by callers: a process id, a name, a path."""

from __future__ import annotations

import os
from typing import TypeAlias

Namespace: TypeAlias = int | str | os.PathLike[str]


def namespace_path(netns: Namespace | None) -> str:
    """Path of a network namespace; "" is the current one.

    Parameters
    ----------
    netns : None, int, str or path
        The current namespace; that of a process id; a name under ``/run/netns``; a path.

    Raises
    ------
    TypeError, ValueError
        Something else, or no name that a file can have.
    """
    if netns is None:
        return ""
    if isinstance(netns, bool) or not isinstance(netns, (int, str, os.PathLike)):
        raise TypeError(f"netns: expected None, a process id, a name or a path, got {netns!r}")
    if isinstance(netns, int):
        if netns <= 0:
            raise ValueError(f"netns: expected a process id greater than 0, got {netns}")
        return f"/proc/{netns}/ns/net"
    path = os.fspath(netns)
    if not isinstance(path, str):
        raise TypeError(f"netns: expected a path of type str, got {netns!r}")
    # The system gets UTF-8; half a surrogate pair has no form in it.
    if not path or "\0" in path or any("\ud800" <= c <= "\udfff" for c in path):
        raise ValueError(f"netns: expected a name under /run/netns or a path, got {netns!r}")
    return path if "/" in path else f"/run/netns/{path}"
