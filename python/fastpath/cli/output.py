"""What the commands print: aligned tables, JSON, progress."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

_NUMBER = re.compile(r"|[-+±]?[\d,.]+[%x]?")


def print_json(data: object) -> None:
    """Print data as indented JSON."""
    json.dump(data, sys.stdout, indent=2, default=str)
    print()


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """An aligned text table; columns of numbers are set flush right, integers get thousands separators."""
    cells = [[f"{cell:,}" if type(cell) is int else str(cell) for cell in row] for row in rows]
    columns = list(zip(header, *cells, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [len(column) > 1 and all(map(_NUMBER.fullmatch, column[1:])) for column in columns]

    def line(parts: Sequence[str]) -> str:
        aligned = [
            part.rjust(width) if flush else part.ljust(width)
            for part, width, flush in zip(parts, widths, right, strict=True)
        ]
        return "  ".join(aligned).rstrip()

    return "\n".join([line(header), "  ".join("-" * width for width in widths), *map(line, cells)])


class Progress(Protocol):
    """What a long piece of work reports to."""

    def __call__(self, done: int) -> None:
        """Tell that `done` of the total are done."""


@contextmanager
def progress(text: str, total: int) -> Iterator[Progress]:
    """A progress bar on standard error, where that is a terminal and rich is installed; silent otherwise."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    try:
        import rich.console
        import rich.progress
    except ImportError:
        yield lambda done: None
        return
    with rich.progress.Progress(console=rich.console.Console(stderr=True), transient=True) as bar:
        task = bar.add_task(text, total=total)
        yield lambda done: bar.update(task, completed=done)
