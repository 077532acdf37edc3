"""``fastpath bench``: run the suites of `benches/` and show them as one table, JSON and plots."""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from fastpath.cli.output import print_json, table
from fastpath.errors import NotSupported

_COLOURS = {"ours": "tab:blue", "peer": "tab:gray", "limit": "tab:green"}
# What the table leaves to other columns and to the plots.
_NO_NOTES = {"operations", "series", "size"}
EXAMPLES = {"bench": "  fastpath bench fib balancer"}


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Options of `bench`."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="suites, such as fib (default: all)")
    parser.add_argument("--out", metavar="DIR", help="where JSON and plots go (default: benches/results)")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")


def benches_folder() -> Path:
    """The folder `benches/` of the checkout that this package runs from, or of the current directory."""
    for root in (Path(__file__).parents[3], Path.cwd()):
        if (root / "benches" / "conftest.py").is_file():
            return root / "benches"
    raise NotSupported("the benchmarks live in the source tree: run `fastpath bench` in a checkout")


def _kind(name: str) -> str:
    if "fastpath" in name:
        return "ours"
    return "limit" if name.startswith("limit_") else "peer"


def rows_of(results: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a benchmark: nanoseconds an operation (median), spread, operations a second, ratios.

    A row named `limit_...` is no peer: it is what the machine allows, and ours tell their share of it.
    """
    rows = []
    for bench in results["benchmarks"]:
        operations = bench["extra_info"].get("operations", 1)
        median = bench["stats"]["median"] / operations
        rows.append(
            {
                "suite": Path(bench["fullname"].split("::")[0]).stem.removeprefix("bench_"),
                "group": bench["group"] or "",
                "name": bench["name"].removeprefix("test_"),
                "ns": median * 1e9,
                "spread": bench["stats"]["iqr"] / bench["stats"]["median"]
                if bench["stats"]["median"]
                else 0.0,
                "per_s": 1 / median if median else 0.0,
                "series": bench["extra_info"].get("series"),
                "size": bench["extra_info"].get("size"),
                "notes": {key: note for key, note in bench["extra_info"].items() if key not in _NO_NOTES},
            }
        )
    fastest: dict[tuple[str, str, str], float] = {}
    for row in rows:
        key = (row["suite"], row["group"], _kind(row["name"]))
        fastest[key] = min(row["ns"], fastest.get(key, row["ns"]))
    for row in rows:
        for kind, column in (("peer", "ratio"), ("limit", "of_limit")):
            other = fastest.get((row["suite"], row["group"], kind))
            row[column] = other / row["ns"] if other and _kind(row["name"]) == "ours" else None
    return sorted(rows, key=lambda row: (row["suite"], row["group"], row["ns"]))


def plot(rows: list[dict[str, Any]], folder: Path) -> list[Path]:
    """A bar chart a suite, and rate over size where its rows tell sizes; returns the files.

    Without matplotlib there are none.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return []
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    files = []
    for suite in sorted({row["suite"] for row in rows}):
        mine = [row for row in rows if row["suite"] == suite]
        for kind, figure in (("", _bars(plt, suite, mine)), ("_sizes", _lines(plt, suite, mine))):
            if figure is not None:
                files.append(folder / f"{suite}{kind}.png")
                figure.savefig(files[-1], dpi=120)
                plt.close(figure)
    return files


def _bars(plt: Any, suite: str, rows: list[dict[str, Any]]) -> Any:
    """The figure of nanoseconds an operation, a bar a row."""
    rows = rows[::-1]
    figure, axes = plt.subplots(figsize=(10, 0.28 * len(rows) + 1.2), layout="constrained")
    colours = [_COLOURS[_kind(row["name"])] for row in rows]
    axes.barh([f"{row['group']}: {row['name']}" for row in rows], [row["ns"] for row in rows], color=colours)
    axes.margins(y=0.5 / len(rows))
    axes.set_xscale("log")
    axes.set_xlim(left=min(row["ns"] for row in rows) / 3)
    axes.set_xlabel("nanoseconds an operation (median, log scale; shorter is faster)")
    axes.set_title(f"{suite}: fastpath (blue) beside its peers (grey) and limits (green)")
    axes.tick_params(axis="y", labelsize=7)
    return figure


def _lines(plt: Any, suite: str, rows: list[dict[str, Any]]) -> Any:
    """The figure of operations a second over size, a panel a series; None without three sizes of one."""
    series: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for row in rows:
        if row["series"]:
            lines = series.setdefault(row["series"], {})
            lines.setdefault(row["name"].partition("[")[0], []).append((row["size"], row["per_s"] / 1e6))
    series = {name: lines for name, lines in series.items() if max(map(len, lines.values())) > 2}
    if not series:
        return None
    across = min(3, len(series))
    down = -(-len(series) // across)
    figure, grid = plt.subplots(
        down, across, figsize=(4.6 * across, 3.6 * down), layout="constrained", squeeze=False
    )
    for axes in grid.flat[len(series) :]:
        axes.remove()
    for axes, (name, lines) in zip(grid.flat, series.items(), strict=False):
        for who, points in sorted(lines.items(), key=lambda line: list(_COLOURS).index(_kind(line[0]))):
            sizes, rates = zip(*sorted(points), strict=True)
            axes.plot(sizes, rates, marker="o", label=who, color=_COLOURS[_kind(who)])
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:.0f}")
        axes.yaxis.set_minor_formatter("{x:.0f}")
        axes.tick_params(axis="y", which="minor", labelsize=7)
        axes.set_title(name)
        axes.set_xlabel("entries")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    for axes in grid[:, 0]:
        axes.set_ylabel("millions a second, one core")
    figure.suptitle(suite)
    return figure


def measure(suite: Path, output: Path) -> bool:
    """Run one suite in a process of its own, so that none finds the caches or the peers of another."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "timeout=0"]
    command += ["--benchmark-only", "--benchmark-quiet", f"--benchmark-json={output}", str(suite)]
    # Rows are the answer; pytest's own lines are progress.
    return subprocess.run(command, stdout=sys.stderr, cwd=suite.parents[1], check=False).returncode == 0


def run(options: argparse.Namespace) -> int:
    """Run the suites with pytest-benchmark and show what they measured."""
    if importlib.util.find_spec("pytest_benchmark") is None:
        raise NotSupported("the benchmarks need an extra: pip install 'fastpath[bench]'")
    benches = benches_folder()
    available = {path.stem.removeprefix("bench_"): path for path in sorted(benches.glob("bench_*.py"))}
    unknown = [name for name in options.names if name not in available]
    if unknown:
        raise ValueError(f"no benchmark {unknown[0]!r}; there are: {', '.join(available)}")
    out = Path(options.out) if options.out else benches / "results"
    out.mkdir(parents=True, exist_ok=True)
    output = out / "results.json"
    whole: dict[str, Any] = {"benchmarks": []}
    all_ran = True
    with tempfile.TemporaryDirectory() as folder:
        for name in options.names or available:
            part = Path(folder) / name
            all_ran &= measure(available[name], part)
            if part.is_file() and part.stat().st_size:
                results = json.loads(part.read_text())
                whole = {**results, "benchmarks": whole["benchmarks"] + results["benchmarks"]}
    output.write_text(json.dumps(whole, indent=1))
    rows = rows_of(whole)
    plots = plot(rows, out)
    if options.json:
        print_json({"rows": rows, "plots": [str(path) for path in plots]})
    else:
        shown = [
            [
                row["suite"],
                row["group"],
                row["name"],
                f"{row['ns']:,.1f}",
                f"±{row['spread']:.0%}",
                f"{row['per_s'] / 1e6:,.2f}",
                f"{row['ratio']:.2f}x" if row["ratio"] else "",
                f"{row['of_limit']:.0%}" if row["of_limit"] else "",
                ", ".join(
                    str(note) if key == "settings" else f"{key} {note}" for key, note in row["notes"].items()
                ),
            ]
            for row in rows
        ]
        print(
            table(["suite", "what", "who", "ns", "spread", "M/s", "vs best peer", "of limit", "notes"], shown)
        )
        print(f"\n{output}", *plots, sep="\n")
    return 0 if all_ran else 1
