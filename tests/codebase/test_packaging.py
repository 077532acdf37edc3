"""`pip install .`, `pip install -e .` and sdist -> wheel -> install -> import, each for real.

Builds run without isolation, with the build requirements of this environment: what is tested is what the
files of the project say, not the network.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

# Each builds every module from nothing.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
SKIPPED = shutil.ignore_patterns(
    ".git", ".venv", "build", "dist", "*.egg-info", "*.so", ".*_cache", ".hypothesis"
)
SMOKE = """
import fastpath, pathlib
include = pathlib.Path(fastpath.get_include())
assert (include / "fastpath" / "capi.h").is_file(), include
fib = fastpath.Fib()
fib["10.0.0.0/8"] = "here"
assert fib.lookup("10.1.2.3") == "here"
assert fastpath.Balancer([fastpath.Backend("a")]).pick().id == "a"
from fastpath.data import bgp_prefixes_path
assert bgp_prefixes_path().is_file()
import fastpath._engine
print(fastpath.__file__)
"""


def run(*command: str, cwd: Path | None = None, **env: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, check=False, timeout=1200
    )
    assert done.returncode == 0, f"{command}:\n{(done.stdout + done.stderr)[-6000:]}"
    return done.stdout


def pip(*arguments: str) -> None:
    run(sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", *arguments)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's files as a newcomer gets them: no build products."""
    copy = tmp_path_factory.mktemp("source") / "fastpath"
    shutil.copytree(ROOT, copy, ignore=SKIPPED)
    return copy


@pytest.fixture(scope="module")
def sdist(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "-o", str(out), str(source))
    return next(out.glob("*.tar.gz"))


@pytest.fixture(scope="module")
def unpacked(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    # Not tarfile: its safe extraction differs between the releases of Python.
    run("tar", "-xzf", str(sdist), "-C", str(folder))
    return next(folder.iterdir())


@pytest.fixture(scope="module")
def wheel(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from the unpacked sdist, not from the checkout."""
    out = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-build-isolation", "--no-deps", "-w", str(out), str(unpacked))
    return next(out.glob("*.whl"))


def test_switches_of_the_build_rebuild(source: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(source, tree)

    def build(**env: str) -> str:
        run(sys.executable, "setup.py", "-q", "build_ext", "--inplace", cwd=tree, **env)
        ask = "from fastpath import _build; print(_build.facts()['assertions'])"
        return run(sys.executable, "-c", ask, cwd=tmp_path, PYTHONPATH=str(tree / "python")).strip()

    assert build(FASTPATH_ONLY="_build") == "False"
    assert [path.name.split(".")[0] for path in tree.glob("python/**/*.so")] == ["_build"]
    # No file of the project has changed.
    assert build(FASTPATH_ONLY="_build", FASTPATH_DEBUG="1") == "True"
    assert build(FASTPATH_ONLY="_build") == "False"
    with pytest.raises(AssertionError, match="FASTPATH_ONLY: no module _nothing; there are _addresses,"):
        build(FASTPATH_ONLY="_nothing")


def tracked() -> set[str]:
    """Files of the project, from git where there is a checkout, else from the tree."""
    if (ROOT / ".git").exists():
        return set(run("git", "-c", f"safe.directory={ROOT}", "ls-files", cwd=ROOT).splitlines())
    return {str(path.relative_to(ROOT)) for path in ROOT.rglob("src/**/*") if path.is_file()}


def test_sdist_holds_every_file(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    missing = {name for name in tracked() if name not in held and name != ".gitignore"}
    assert not missing
    assert not [name for name in held if name.endswith((".so", ".o", ".pyc"))]


def test_wheel_holds_headers_stubs_and_data(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    headers = {
        "fastpath/" + str(path.relative_to(ROOT / "src" / "fastpath"))
        for path in (ROOT / "src" / "fastpath" / "include").rglob("*.h*")
    }
    cython = {f"fastpath/{path.name}" for path in (ROOT / "src" / "fastpath").glob("*.pxd")}
    stubs = {f"fastpath/{path.name}" for path in (ROOT / "python" / "fastpath").glob("*.pyi")}
    data = {"fastpath/data/prefixes.txt.gz", "fastpath/data/LICENSE.bart", "fastpath/py.typed"}
    assert headers | cython | stubs | data <= held
    modules = {path.stem for path in (ROOT / "src" / "fastpath").glob("_*.pyx")} | {"_engine"}
    built = {name.split("/")[1].split(".")[0] for name in held if name.endswith(".so")}
    assert built == modules


def imported_from(target: Path, cwd: Path) -> Path:
    return Path(run(sys.executable, "-c", SMOKE, cwd=cwd, PYTHONPATH=str(target)).strip())


def test_wheel_installs_and_imports(wheel: Path, tmp_path: Path) -> None:
    pip("install", "--no-deps", "--target", str(tmp_path / "site"), str(wheel))
    assert imported_from(tmp_path / "site", tmp_path).is_relative_to(tmp_path / "site")


def test_headers_of_the_wheel_compile(wheel: Path, tmp_path: Path) -> None:
    pip("install", "--no-deps", "--target", str(tmp_path / "site"), str(wheel))
    include = tmp_path / "site" / "fastpath" / "include"
    program = tmp_path / "embed.cpp"
    names = sorted(str(path.relative_to(include)) for path in include.rglob("*.h*"))
    program.write_text("".join(f'#include "{name}"\n' for name in names) + "int main() { return 0; }\n")
    run(os.environ.get("CXX", "c++"), "-std=c++20", "-fsyntax-only", f"-I{include}", str(program))


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A virtual environment of its own that sees this one's packages, but no fastpath."""
    run(sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv"))
    site = next((tmp_path / "venv" / "lib").glob("python*")) / "site-packages"
    ours = (
        Path(sys.prefix)
        / "lib"
        / f"python{sys.version_info.major}.{sys.version_info.minor}"
        / "site-packages"
    )
    # A path file appends: what is installed here comes first.
    (site / "outer.pth").write_text(f"{ours}\n")
    return tmp_path / "venv" / "bin" / "python"


@pytest.mark.usefixtures("wheel")  # whose build has left objects, that the plain install links again
@pytest.mark.parametrize("editable", [False, True], ids=["plain", "editable"])
def test_pip_install(unpacked: Path, environment: Path, editable: bool, tmp_path: Path) -> None:
    flags = ["-e"] if editable else []
    where = str(unpacked)
    pip("--python", str(environment), "install", "--no-build-isolation", "--no-deps", *flags, where)
    env = {"PYTHONPATH": ""}
    imported = Path(run(str(environment), "-c", SMOKE, cwd=tmp_path, **env).strip())
    assert imported.is_relative_to(unpacked if editable else environment.parent.parent)
    script = environment.parent / "fastpath"
    assert "fastpath" in run(str(script), "--version", cwd=tmp_path, **env)
