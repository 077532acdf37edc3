"""C and C++ sources of this folder as libraries for ctypes."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest


def compiled(source: str, folder: Path, *flags: str) -> ctypes.CDLL:
    """A library of one source; skips where there is no compiler."""
    compiler = "c++" if source.endswith(".cpp") else "cc"
    if shutil.which(compiler) is None:
        pytest.skip(f"needs {compiler}")
    library = folder / f"{source}.so"
    command = [compiler, "-O3", "-march=native", "-shared", "-fPIC", str(Path(__file__).with_name(source))]
    subprocess.run([*command, "-o", str(library), *flags], check=True, capture_output=True)
    return ctypes.CDLL(str(library))


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    """The data of an array as an argument."""
    return ctypes.c_void_p(array.ctypes.data)
