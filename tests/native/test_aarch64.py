"""The NEON kernels: cross-compiled, and run by qemu in user mode."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CORE = HERE.parent.parent / "src" / "fastpath"
COMPILER = "aarch64-linux-gnu-g++"
EMULATOR = next((name for name in ("qemu-aarch64", "qemu-aarch64-static") if shutil.which(name)), None)


@pytest.mark.skipif(
    shutil.which(COMPILER) is None or EMULATOR is None, reason=f"needs {COMPILER} and qemu-user (on x86-64)"
)
def test_fib_kernels(tmp_path: Path) -> None:
    binary = tmp_path / "fib_test"
    sources = [HERE / "fib_test.cpp", *CORE.glob("core/fib*.cpp"), *CORE.glob("core/kernels/fib_*.cpp")]
    command = [COMPILER, "-std=c++20", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-pthread"]
    command += [f"-I{CORE / 'include'}", f"-I{CORE}", f"-I{HERE}", *map(str, sources), "-o", str(binary)]
    built = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert built.returncode == 0, built.stderr[-8000:]
    ran = subprocess.run([EMULATOR, str(binary)], capture_output=True, text=True, check=False, timeout=280)
    assert ran.returncode == 0, (ran.stdout + ran.stderr)[-8000:]
