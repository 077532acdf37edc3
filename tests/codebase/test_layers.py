"""Imports run one way: include -> core -> faces | engine -> package, and inside it from left to right."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = ROOT / "src" / "fastpath"
PACKAGE = ROOT / "python" / "fastpath"

# A module may import modules of its own room and of rooms to the left of it.
ORDER = [
    {"_version", "errors", "types", "data", "addresses", "hashing", "build", "forking", "namespaces"},
    {"tables", "keys", "packets"},
    {"balance"},
    {"registry"},
    {"dns"},
    {"switch"},
    {"adapters"},
    {"cli", "__main__"},
]
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}
STDLIB_ONLY_ROOM = "reference"

MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """Absolute names of every module that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_package_imports_run_one_way(path: Path) -> None:
    room = room_of(path)
    for name in imports_of(path):
        parts = name.split(".")
        if parts[0] != "fastpath" or len(parts) < 2:
            continue
        target = parts[1]
        if room == STDLIB_ONLY_ROOM:
            assert target in {STDLIB_ONLY_ROOM, "errors", "types"}, f"{path}: a twin imports {name}"
        elif target in RANK:
            assert RANK[target] <= RANK[room], f"{path}: {room} imports {name}"
        else:
            assert target != STDLIB_ONLY_ROOM, f"{path}: the package uses a twin"
            compiled = target.startswith("_") and (target == "_engine" or (CORE / f"{target}.pyx").is_file())
            assert (
                compiled
                or target in RANK
                or (PACKAGE / f"{target}.py").is_file()
                or target[0].isupper()
                or (target in {"get_include", "hash64", "hash64_many", "build_info", "__version__"})
            ), f"{path}: unknown room {name}; give it a place in ORDER"


@pytest.mark.parametrize(
    "path", sorted([*CORE.glob("include/**/*.h*"), *CORE.glob("core/**/*.[ch]pp")]), ids=lambda p: p.name
)
def test_core_is_free_of_python(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r'#\s*include\s*[<"](Python\.h|pybind11|numpy/)', text), f"{path} includes Python"
    if "include" in path.relative_to(CORE).parts[0]:
        assert not re.search(r'#\s*include\s*"(core|engine)/', text), f"{path} includes what is above it"


@pytest.mark.parametrize("path", sorted(CORE.glob("engine/*")), ids=lambda p: p.name)
def test_engine_meets_tables_only_through_capsules(path: Path) -> None:
    if path.suffix in {".hpp", ".cpp"}:
        text = path.read_text()
        assert not re.search(r'#\s*include\s*"fastpath/(fib|exact|fdb|forwarding|balance)', text), path


def test_nothing_is_built_for_this_cpu_only() -> None:
    for path in [ROOT / "setup.py", ROOT / "Makefile", ROOT / "pyproject.toml"]:
        assert "march=native" not in path.read_text(), path


@pytest.mark.parametrize("pyx", sorted(CORE.glob("_*.pyx")), ids=lambda p: p.name)
def test_every_compiled_module_has_a_stub(pyx: Path) -> None:
    assert (PACKAGE / f"{pyx.stem}.pyi").is_file()


def test_every_folder_explains_itself() -> None:
    rooms = [
        path
        for path in [*PACKAGE.iterdir(), CORE, CORE / "core" / "kernels", CORE / "engine"]
        if path.is_dir()
    ]
    rooms += [ROOT / "benches", *(path for path in (ROOT / "tests").iterdir() if path.is_dir())]
    missing = [
        str(path.relative_to(ROOT))
        for path in rooms
        if not path.name.startswith((".", "__"))
        and path.name != "include"
        and not (path / "README.md").is_file()
    ]
    assert not missing
