"""The process that tells the story: isolate first, then import what starts threads."""

from __future__ import annotations

import argparse
import sys

from fastpath.cli.demo import add_arguments
from fastpath.cli.demo.isolation import Missing, isolate


def main() -> int:
    """Isolate, tell, report."""
    parser = argparse.ArgumentParser()
    add_arguments("demo", parser)
    options = parser.parse_args()
    try:
        isolate()
    except Missing as error:
        print(f"fastpath demo: {error}", file=sys.stderr)
        return 1
    from fastpath.cli.demo.story import tell

    try:
        return tell(as_json=options.json, addresses=options.addresses)
    except KeyboardInterrupt:
        print("fastpath demo: stopped; nothing is left behind", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
