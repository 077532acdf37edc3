"""What holds for every test."""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

# How long an example takes is no matter of right or wrong: sanitizers and loaded machines are slow.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

STDERR = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[STDERR] = os.dup(2)  # before tests' output is captured


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Ends the run if pytest-timeout cannot: where threads wait for each other in C, no Python code runs."""
    marker, told = item.get_closest_marker("timeout"), item.config.getoption("timeout")
    limit = float(item.config.getini("timeout") if told is None else told)
    if marker and marker.args:
        limit = marker.args[0]
    if limit > 0:
        faulthandler.dump_traceback_later(limit + 30, exit=True, file=item.config.stash[STDERR])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()
