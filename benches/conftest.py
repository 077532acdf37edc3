"""What the suites share: the full routing table, seeded randomness, and the shape of a row.

A row of `fastpath bench` is one pytest-benchmark test. Its group says what is measured, its name who does it
(ours contain the word `fastpath`, a peer's its own name), and `operations` how many look-ups or picks one
round makes: figures are per operation.
"""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastpath.data import bgp_prefixes_path

SEED = 20260101
SECONDS = 1.0


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(SEED)


@pytest.fixture(scope="session")
def bgp_text() -> bytes:
    """The full table as text, a prefix a line."""
    with gzip.open(bgp_prefixes_path()) as file:
        return file.read()


@pytest.fixture
def measure(benchmark: Any) -> Callable[..., Any]:
    """`measure(function, *arguments, operations=n)` times a call that makes n operations."""

    def run(function: Callable[..., Any], *arguments: Any, operations: int = 1) -> Any:
        benchmark.extra_info["operations"] = operations
        if operations > 1000:
            start = time.perf_counter()
            function(*arguments)
            taken_s = time.perf_counter() - start
            # A second of rounds: shorter ones say more about the moment than about the code.
            rounds = round(min(max(SECONDS / max(taken_s, 1e-6), 11), 1000))
            return benchmark.pedantic(function, args=arguments, rounds=rounds, warmup_rounds=1)
        return benchmark(function, *arguments)

    return run
