"""The list "compiled module <- sources". Everything else about the build stands in pyproject.toml.

Environment switches (all off by default):
  FASTPATH_ONLY=_fib,_hash     build these modules only
  FASTPATH_DEBUG=1             assertions, bounds checks and symbols
  FASTPATH_SANITIZE=address,undefined | thread    build for `make sanitize`
"""

from __future__ import annotations

import glob
import os
import shutil
from pathlib import Path

import numpy
import pybind11
from Cython.Build import cythonize
from setuptools import Extension, find_packages, setup
from setuptools.command.build_py import build_py

CORE = "src/fastpath"
DEBUG = os.environ.get("FASTPATH_DEBUG") == "1"
SANITIZE = os.environ.get("FASTPATH_SANITIZE", "")
ONLY = {name for name in os.environ.get("FASTPATH_ONLY", "").split(",") if name}

# Instruction sets beyond the platform's baseline are switched on per function (see
# src/fastpath/core/kernels/README.md), never here: a wheel must start on any CPU.
COMPILE = ["-std=c++20", "-fvisibility=hidden", "-Wall", "-Wextra"]
# GCC 12 sees uninitialised reads inside its own AVX-512 intrinsics (GCC bug 105593), and keys of 33 bytes
# where a table for pairs of 32 has been inlined.
COMPILE += ["-Wno-maybe-uninitialized", "-Wno-array-bounds"]
COMPILE += ["-O1", "-g", "-UNDEBUG"] if DEBUG or SANITIZE else ["-O3", "-g0", "-DNDEBUG"]
LINK: list[str] = ["-pthread"]
if SANITIZE:
    COMPILE += [f"-fsanitize={SANITIZE}", "-fno-omit-frame-pointer", "-fno-sanitize-recover=undefined"]
    LINK += [f"-fsanitize={SANITIZE}"]

HEADERS = sorted(glob.glob(f"{CORE}/include/fastpath/**/*.hpp", recursive=True)) + sorted(
    glob.glob(f"{CORE}/include/fastpath/**/*.h", recursive=True)
)


def configuration() -> str:
    """A file that changes when the way of building does, so that a change of switches rebuilds."""
    tools = {name: os.environ.get(name, "") for name in ("CC", "CXX", "CFLAGS", "CXXFLAGS", "LDFLAGS")}
    text = repr((COMPILE, LINK, DEBUG, tools))
    path = Path("build") / "configuration"
    if not path.is_file() or path.read_text() != text:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return str(path)


def core_sources(noun: str) -> list[str]:
    """Cold code and kernels of one noun."""
    return sorted(glob.glob(f"{CORE}/core/{noun}*.cpp") + glob.glob(f"{CORE}/core/kernels/{noun}_*.cpp"))


def cython_extension(pyx: Path) -> Extension:
    noun = pyx.stem.lstrip("_")
    return Extension(
        f"fastpath.{pyx.stem}",
        [str(pyx), *core_sources(noun)],
        include_dirs=[f"{CORE}/include", numpy.get_include()],
        depends=[
            configuration(),
            *HEADERS,
            *glob.glob(f"{CORE}/core/**/*.hpp", recursive=True),
            *glob.glob(f"{CORE}/_*.px[di]"),
        ],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")],
        extra_compile_args=[
            *COMPILE,
            "-Wno-unused-function",
            "-Wno-unused-parameter",
            "-Wno-sign-compare",
            "-Wno-cpp",
        ],
        extra_link_args=list(LINK),
        language="c++",
    )


def engine_extension() -> Extension:
    return Extension(
        "fastpath._engine",
        sorted(glob.glob(f"{CORE}/engine/*.cpp")),
        include_dirs=[f"{CORE}/include", pybind11.get_include()],
        depends=[configuration(), *HEADERS, *glob.glob(f"{CORE}/engine/*.hpp")],
        extra_compile_args=list(COMPILE),
        extra_link_args=list(LINK),
        language="c++",
    )


def extensions() -> list[Extension]:
    faces = {pyx.stem: pyx for pyx in sorted(Path(CORE).glob("_*.pyx"))}
    if unknown := ONLY - {*faces, "_engine"}:
        raise SystemExit(
            f"FASTPATH_ONLY: no module {', '.join(sorted(unknown))}; there are {', '.join(faces)}, _engine"
        )
    wanted = cythonize(
        [cython_extension(pyx) for name, pyx in faces.items() if not ONLY or name in ONLY],
        # The directives differ, and Cython does not look whether they did.
        build_dir="build/cython-debug" if DEBUG else "build/cython",
        include_path=["src"],
        compiler_directives={
            "language_level": 3,
            "binding": True,
            "embedsignature": True,
            "boundscheck": DEBUG,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": DEBUG,
        },
    )
    if not ONLY or "_engine" in ONLY:
        wanted.append(engine_extension())
    return wanted


class BuildPyWithHeaders(build_py):
    """Copy what other builds compile against (headers, .pxd) into the package."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        package = Path(self.build_lib) / "fastpath"
        root = Path(CORE)
        for source in [*root.rglob("include/**/*.h*"), *root.glob("*.pxd")]:
            target = package / source.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


setup(
    package_dir={"": "python"},
    packages=find_packages("python"),
    package_data={"fastpath": ["py.typed", "*.pyi", "data/*.gz", "data/LICENSE.*"]},
    ext_modules=extensions(),
    options={"build_ext": {"parallel": os.cpu_count()}},
    cmdclass={"build_py": BuildPyWithHeaders},
    zip_safe=False,
)
