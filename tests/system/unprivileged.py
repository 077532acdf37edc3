"""Run a command as an ordinary user, from tests that may run as root."""

from __future__ import annotations

import os
import shlex
import stat
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
USER = "65534"


def _closed_ancestor(path: Path) -> Path | None:
    """The first folder on the way to `path` that an ordinary user cannot pass."""
    for folder in [*reversed(path.parents), path]:
        if not folder.stat().st_mode & stat.S_IXOTH:
            return folder
    return None


def as_ordinary_user(command: list[str]) -> list[str]:
    """The command, run as an ordinary user if this process is root.

    Where Python or this project lie below a closed folder (such as /root), a private mount namespace shows
    the user that folder with nothing but those in it. There /dev/net/tun is open to all, as udev makes it.
    """
    if os.geteuid() != 0:
        return command
    needed = {Path(p).resolve() for p in (sys.base_prefix, sys.prefix, ROOT)}
    needed = {path for path in needed if not any(parent in needed for parent in path.parents)}
    closed = {path: _closed_ancestor(path) for path in needed}
    steps = ["hold=$(mktemp -d)", 'mount -t tmpfs -o mode=755 hold "$hold"']
    moved = sorted((path, folder) for path, folder in closed.items() if folder is not None)
    for number, (path, _) in enumerate(moved):
        steps.append(f'mkdir "$hold/{number}" && mount --rbind {shlex.quote(str(path))} "$hold/{number}"')
    for folder in sorted({folder for _, folder in moved}):
        steps.append(f"mount -t tmpfs -o mode=755 open {shlex.quote(str(folder))}")
    for number, (path, _) in enumerate(moved):
        quoted = shlex.quote(str(path))
        steps.append(f'mkdir -p {quoted} && mount --rbind "$hold/{number}" {quoted}')
    # Without udev the node may be root's alone.
    steps.append('mknod -m 666 "$hold/tun" c 10 200 && mount --bind "$hold/tun" /dev/net/tun')
    steps.append(f'exec setpriv --reuid {USER} --regid {USER} --clear-groups --inh-caps=-all "$@"')
    return ["unshare", "--mount", "--propagation", "private", "sh", "-ec", "\n".join(steps), "sh", *command]
