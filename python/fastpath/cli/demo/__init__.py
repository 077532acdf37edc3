"""``fastpath demo``: from a container's frame to a chosen backend, on real parts."""

from __future__ import annotations

import argparse
import os
import signal
import sys

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
EXAMPLES = {"demo": "  fastpath demo --json"}


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Options of `demo`."""
    parser.add_argument("--json", action="store_true", help="print what was observed as JSON")
    parser.add_argument(
        "--addresses",
        type=int,
        default=10_000_000,
        metavar="N",
        help="addresses looked up in the routing table (default: %(default)s)",
    )


def run(options: argparse.Namespace) -> int:
    """Tell the story in this process, begun anew: it enters new namespaces before it starts any thread."""
    command = [sys.executable, "-m", "fastpath.cli.demo", f"--addresses={options.addresses}"]
    if options.json:
        command.append("--json")
    sys.stdout.flush()
    # They wait until the story can clean up after itself.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    os.execv(sys.executable, command)  # noqa: S606
