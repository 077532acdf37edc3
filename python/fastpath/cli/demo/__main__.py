"""The process that tells the story: isolate first, then import what starts threads."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from typing import NoReturn

from fastpath.cli.demo import STOP_SIGNALS, add_arguments
from fastpath.cli.demo.isolation import Missing, isolate

STOPPED = 130


def _stop(*_: object) -> NoReturn:
    # Once is enough: a second signal must not break off the cleaning up.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> int:
    """Isolate, tell, report."""
    try:
        for number in STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                signal.signal(number, _stop)
        return _tell()
    except KeyboardInterrupt:
        print("fastpath demo: stopped; nothing is left behind", file=sys.stderr)
        return STOPPED


def _tell() -> int:
    parser = argparse.ArgumentParser()
    add_arguments("demo", parser)
    options = parser.parse_args()
    try:
        isolate()
    except Missing as error:
        print(f"fastpath demo: {error}", file=sys.stderr)
        return 1
    from fastpath.cli.demo.story import tell

    # Not before: a signal in the midst of an import would come out as that import's failure.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    return tell(as_json=options.json, addresses=options.addresses)


if __name__ == "__main__":
    status = main()
    if status == STOPPED:
        # sys.exit() would end the process by SIGINT if the interrupt, though handled, had passed through code
        # that a library ran from C.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
