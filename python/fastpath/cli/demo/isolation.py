"""New namespaces for the calling process, with or without root.

Has to run before the process starts a second thread: the kernel refuses a new user namespace afterwards.
"""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1


class Missing(Exception):
    """The one thing that stands in the way."""


def unshare(flags: int) -> None:
    """unshare(2); ``os.unshare`` came only with Python 3.12."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def die_with_parent() -> None:
    """Have the kernel end this process when its parent ends, however that happens."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def isolate() -> None:
    """Enter new network and mount namespaces; without root, as root of a new user namespace.

    Raises
    ------
    Missing
        Names the one thing that this machine lacks.
    """
    if not Path("/dev/net/tun").exists():
        raise Missing(
            "/dev/net/tun is missing; load the kernel's tun module (modprobe tun), or pass the device in"
        )
    try:
        unshare(CLONE_NEWNET | CLONE_NEWNS)
    except PermissionError:
        _as_root_of_a_new_user_namespace()
    except OSError as error:
        raise Missing(f"this kernel makes no network namespaces: {error.strerror}") from None
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        raise Missing(f"/dev/net/tun cannot be opened: {error.strerror}") from None


def _as_root_of_a_new_user_namespace() -> None:
    uid, gid = os.geteuid(), os.getegid()
    try:
        unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWNS)
    except OSError as error:
        raise Missing(
            f"neither root nor unprivileged user namespaces ({error.strerror}); run as root, or allow them: "
            "sysctl kernel.unprivileged_userns_clone=1 (Debian), "
            "kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu), user.max_user_namespaces=10000"
        ) from None
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
