"""Compiles and runs the C++ tests of this folder under the sanitizers; see README.md."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CORE = HERE.parent.parent / "src" / "fastpath"
FUZZ_ROUNDS = os.environ.get("FASTPATH_FUZZ_ROUNDS", "20000")
SANITIZERS = {"test": "address,undefined", "fuzz": "address,undefined", "stress": "thread"}
PROGRAMS = sorted(path for kind in SANITIZERS for path in HERE.glob(f"*_{kind}.cpp"))


def sources_of(program: Path, noun: str) -> list[Path]:
    sources = [program, *CORE.glob(f"core/{noun}*.cpp"), *CORE.glob(f"core/kernels/{noun}_*.cpp")]
    named = re.search(r"^// sources: (.+)$", program.read_text(), re.MULTILINE)
    if named:
        for pattern in named.group(1).split():
            found = list(CORE.glob(pattern))
            assert found, f"{program.name}: no file is {pattern}"
            sources += found
    return sorted(set(sources))


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_native(program: Path, tmp_path: Path) -> None:
    noun, kind = program.stem.rsplit("_", 1)
    binary = tmp_path / program.stem
    sources = sources_of(program, noun)
    if kind == "fuzz":
        sources.append(HERE / "fuzz_main.cpp")
    command = [
        os.environ.get("CXX", "g++"),
        "-std=c++20",
        "-O1",
        "-g",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-tsan",
        f"-fsanitize={SANITIZERS[kind]}",
        "-fno-sanitize-recover=all",
        "-fno-omit-frame-pointer",
        "-pthread",
        f"-I{CORE / 'include'}",
        f"-I{CORE}",
        f"-I{HERE}",
        *map(str, sources),
        "-o",
        str(binary),
    ]
    built = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert built.returncode == 0, built.stderr[-8000:]
    arguments = [FUZZ_ROUNDS] if kind == "fuzz" else []
    ran = subprocess.run([str(binary), *arguments], capture_output=True, text=True, check=False, timeout=280)
    assert ran.returncode == 0, (ran.stdout + ran.stderr)[-8000:]
