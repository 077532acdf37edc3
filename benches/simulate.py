"""Policies under load: `python benches/simulate.py [--out benches/results/simulation.png]`.

Open loop: requests arrive by a Poisson process at 70 % of what the healthy backends can serve, whatever the
answers do. Every backend serves one request at a time from its own queue. One in ten is five times slower,
one in twenty fails at once. Time is simulated, so the figures do not depend on the machine.
"""

from __future__ import annotations

import argparse
import heapq
import random
from pathlib import Path

import numpy as np

from fastpath import Balancer, OutlierDetection

BACKENDS = 40
REQUESTS = 60000
SERVICE_S = 0.010
POLICIES = [
    ("round_robin", {}),
    ("random", {}),
    ("weighted_round_robin", {}),
    ("least_request", {}),
    ("power_of_two", {}),
    ("peak_ewma", {}),
    ("maglev", {}),
    ("maglev, bound 1.25", {"load_bound": 1.25}),
    ("power_of_two, outliers", {"outlier": OutlierDetection()}),
    ("peak_ewma, outliers", {"outlier": OutlierDetection()}),
    ("maglev, both", {"load_bound": 1.25, "outlier": OutlierDetection()}),
]


def run(policy: str, options: dict, seed: int) -> tuple[np.ndarray, float]:
    """Latencies of the answers in seconds, and the share of failures."""
    random_ = random.Random(seed)
    now = 0.0
    name = policy.split(",")[0]
    balancer = Balancer([str(i) for i in range(BACKENDS)], name, seed=seed, clock=lambda: now, **options)
    slow = {str(i) for i in range(0, BACKENDS, 10)}
    broken = {str(i) for i in range(1, BACKENDS, 20)}
    capacity = sum(0.0 if str(i) in broken else 0.2 if str(i) in slow else 1.0 for i in range(BACKENDS))
    rate = 0.7 * capacity / SERVICE_S
    free_at = dict.fromkeys((str(i) for i in range(BACKENDS)), 0.0)
    ends: list[tuple[float, int, object, bool]] = []
    latencies = []
    failures = 0
    arrival = 0.0
    for request in range(REQUESTS):
        arrival += random_.expovariate(rate)
        while ends and ends[0][0] <= arrival:
            now, _, lease, ok = heapq.heappop(ends)
            lease.release() if ok else lease.fail()
        now = arrival
        # Keys as of a cache: few of them are asked for often.
        lease = balancer.acquire(int(random_.paretovariate(1.1)) * 0x9E3779B97F4A7C15 % (1 << 64))
        id = lease.backend.id
        if id in broken:
            failures += 1
            heapq.heappush(ends, (arrival + 0.0005, request, lease, False))
            continue
        mean = SERVICE_S * (5 if id in slow else 1)
        free_at[id] = max(arrival, free_at[id]) + random_.expovariate(1 / mean)
        latencies.append(free_at[id] - arrival)
        heapq.heappush(ends, (free_at[id], request, lease, True))
    return np.array(latencies), failures / REQUESTS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="a plot of the latencies (.png, .svg)")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    print(f"{'policy':24} {'p50 ms':>9} {'p99 ms':>10} {'p99.9 ms':>10} {'failed':>8}")
    results = {}
    for policy, options in POLICIES:
        latencies, failed = run(policy, options, arguments.seed)
        results[policy] = latencies, failed
        p50, p99, p999 = np.percentile(latencies, [50, 99, 99.9]) * 1000
        print(f"{policy:24} {p50:9.1f} {p99:10.1f} {p999:10.1f} {failed:8.2%}", flush=True)
    if arguments.out:
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot as plt

        figure, (axes, failures) = plt.subplots(
            1, 2, figsize=(12, 5), gridspec_kw={"width_ratios": (3, 1)}, layout="constrained"
        )
        axes.set_prop_cycle(color=plt.get_cmap("tab20").colors)
        for policy, (latencies, _) in results.items():
            ordered = np.sort(latencies) * 1000
            axes.plot(ordered, 1 - np.arange(len(ordered)) / len(ordered), label=policy)
        axes.set(xscale="log", yscale="log", xlabel="latency, ms", ylabel="share of requests above")
        axes.grid(alpha=0.3)
        for share, name in ((0.5, "p50"), (0.01, "p99"), (0.001, "p99.9")):
            axes.axhline(share, color="gray", linewidth=0.5)
            axes.annotate(name, (axes.get_xlim()[0], share), color="gray")
        axes.legend()
        bars = failures.barh(list(results), [failed * 100 for _, failed in results.values()])
        failures.bar_label(bars, fmt="%.1f")
        failures.set(xlabel="failed, %")
        failures.invert_yaxis()
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(arguments.out, bbox_inches="tight")


if __name__ == "__main__":
    main()
