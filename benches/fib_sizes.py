"""Fib's rate by table size and kind of probes: `python benches/fib_sizes.py [--out FILE.svg]`.

Tables are random parts of the full Internet table with distinct next hops; the probes are those of
bench_fib.py, made for each part. A figure is the median of the rounds.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from bench_fib import CALL, PROBES, Table, in_calls
from fastpath import Fib
from fastpath.cli.output import table as as_text
from fastpath.data import bgp_prefixes_path

SHARES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
ROUNDS = 5
COLOURS = {
    "routed": "tab:blue",
    "zipf": "tab:orange",
    "uniform": "tab:green",
    "sequential": "tab:red",
    "miss": "tab:purple",
}


def part_of(whole: Fib, family: int, share: float) -> Fib:
    """A random part of one family."""
    addresses, lengths, values = whole.to_arrays(family)
    count = max(1, round(share * len(lengths)))
    rows = np.sort(np.random.default_rng(family).permutation(len(lengths))[:count])
    part = Fib(dtype="uint32")
    part.insert_many((addresses[rows], lengths[rows]), values[rows])
    return part


def rate(fib: Fib, probes: np.ndarray, out: np.ndarray) -> float:
    """Millions of look-ups a second."""
    times = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        in_calls(fib, probes, out)
        times.append(time.perf_counter() - begin)
    return PROBES / float(np.median(times[1:])) / 1e6


def plot(rows: list[tuple[int, int, int, dict[str, float]]], path: Path) -> None:
    """Rate over prefixes, a panel a family, a line a kind of probes."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained", sharey=True)
    for panel, family in zip(panels, (4, 6), strict=True):
        mine = [row for row in rows if row[0] == family]
        for mix in mine[0][3]:
            rates = [row[3][mix] for row in mine]
            panel.plot([row[1] for row in mine], rates, marker="o", label=mix, color=COLOURS[mix])
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.yaxis.set_major_formatter("{x:.0f}")
        panel.yaxis.set_minor_formatter("{x:.0f}")
        panel.set_title(f"Fib.lookup_many, IPv{family}")
        panel.set_xlabel("prefixes")
        panel.grid(alpha=0.3)
        panel.legend()
    panels[0].set_ylabel("million look-ups a second, one core")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main() -> None:
    """Measure, print, plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "fib_sizes.svg")
    options = parser.parse_args()
    whole = Fib.from_file(bgp_prefixes_path(), dtype="uint32")
    out = np.empty(CALL, np.uint32)
    rows = []
    for family in (4, 6):
        for share in SHARES:
            part = Table(part_of(whole, family, share), family)
            rates = {mix: rate(part.fib, probes, out) for mix, probes in part.probes.items()}
            rows.append((family, len(part.fib), part.fib.nbytes, rates))
    mixes = list(rows[0][3])
    shown = []
    for family, size, nbytes, rates in rows:
        figures = [f"{rates[mix]:.0f}" if mix in rates else "" for mix in mixes]
        shown.append([f"IPv{family}", f"{size:,}", f"{nbytes:,}", *figures])
    print(as_text(["", "prefixes", "bytes", *(f"{mix}, M/s" for mix in mixes)], shown))
    plot(rows, options.out)
    print(options.out)


if __name__ == "__main__":
    main()
