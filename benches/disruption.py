"""How many keys move when one backend goes, comes or changes its weight.

`python benches/disruption.py [--seeds 30] [--around]`: moved slots (or sampled hashes, for layouts without
slots) over what has to move at least. With `--around`, the number of backends differs by up to 6 % from seed
to seed: a cap in whole slots steps up for everybody at some of these numbers, and at others not.
"""

from __future__ import annotations

import argparse
import random
import statistics

import numpy as np

from fastpath import Balancer

POLICIES = {
    "maglev": {},
    "stable": {},
    "stable, 655373": {"table_size": 655373},
    "stable, repaired": {"repair": True},
    "ketama": {},
    "jump": {},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--around", action="store_true")
    parser.add_argument("--policies", nargs="*", default=list(POLICIES))
    parser.add_argument("--sizes", type=int, nargs="*", default=[10, 100, 500, 5000])
    arguments = parser.parse_args()
    print(
        f"{arguments.seeds} seeds; mean (largest) of moved / optimum; max/mean is the imbalance of the table"
    )
    print(
        f"{'policy':18} {'N':>5} {'remove':>15} {'add':>15} {'1 -> 1.1':>15} {'1 -> 2':>15} {'max/mean':>9}"
    )
    for policy in arguments.policies:
        options = POLICIES[policy]
        slots = options.get("table_size", 65537)
        for size in arguments.sizes:
            if (policy == "ketama" and size > 500) or (slots > 65537 and size <= 500):
                continue
            ratios: dict[str, list[float]] = {"remove": [], "add": [], "nudge": [], "double": []}
            imbalance = []
            for seed in range(arguments.seeds):
                n = size + (random.Random(seed).randint(-size // 16, size // 16) if arguments.around else 0)
                before = {f"{seed}-{i}": 10 for i in range(n)}
                name = policy.split(",")[0]
                changed = f"{seed}-{n // 2}"
                cases = {
                    "remove": ({id: w for id, w in before.items() if id != changed}, 1 / n),
                    "add": ({**before, f"{seed}-new": 10}, 1 / (n + 1)),
                    "nudge": ({**before, changed: 11}, 11 / (10 * n + 1) - 1 / n),
                    "double": ({**before, changed: 20}, 20 / (10 * n + 10) - 1 / n),
                }
                for case, (after, least) in cases.items():
                    optimum = least
                    balancer = Balancer(before, name, **options)
                    if case == "remove":
                        counts = np.bincount(balancer.pick_many(np.arange(slots, dtype=np.uint64)))[1:]
                        imbalance.append(counts.max() / (slots / n))
                        if name in ("maglev", "stable"):
                            optimum = counts[n // 2] / slots
                    ratios[case].append(balancer.update(after).moved_fraction / optimum)
            cells = [f"{statistics.mean(r):8.2f} ({max(r):4.1f})" for r in ratios.values()]
            shown = f"{statistics.mean(imbalance):9.4f}" if "ketama" not in policy else f"{'':9}"
            print(f"{policy:18} {size:5} {' '.join(cells)} {shown}", flush=True)


if __name__ == "__main__":
    main()
