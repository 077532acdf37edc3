"""ARCHITECTURE.md is true: what its table of nouns names is there, and every noun is in it."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import fastpath

ROOT = Path(__file__).parents[2]
CORE = ROOT / "src" / "fastpath"
TEXT = (ROOT / "ARCHITECTURE.md").read_text()
COLUMNS: list[list[Path]] = [
    [CORE, CORE / "include" / "fastpath", CORE / "core"],  # C++
    [CORE],  # Cython face
    [ROOT / "python" / "fastpath"],  # Python
    [ROOT / "python" / "fastpath"],  # twin
    [path for path in (ROOT / "tests").iterdir() if path.is_dir()],  # tests
    [ROOT / "benches"],  # bench
]


def rows() -> list[list[str]]:
    table = TEXT.partition("## Where each noun's code is")[2].partition("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_what_the_table_names_is_there() -> None:
    missing = []
    for noun, *cells in rows():
        assert len(cells) == len(COLUMNS), noun
        for cell, folders in zip(cells, COLUMNS, strict=True):
            for pattern in re.findall(r"`([^`]+)`", cell):
                if not any(any(folder.glob(pattern.rstrip("/"))) for folder in folders):
                    missing.append(f"{noun}: {pattern}")
    assert not missing


def test_every_noun_is_in_the_table() -> None:
    named = {name for noun, *_ in rows() for name in re.findall(r"`(\w+)`", noun)}
    # Values that calls take and return have the home of their noun.
    values = {"Answer", "Backend", "Change", "Changes", "Decision", "Explanation", "Instance", "Lease"}
    values |= {"NextHopGroup", "OutlierDetection", "Port", "Reason", "Rule", "Status"}
    nouns = {
        name
        for name in fastpath.__all__
        if inspect.isclass(thing := getattr(fastpath, name)) and not issubclass(thing, Exception)
    }
    assert nouns - values == named
