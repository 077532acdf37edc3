"""Fib beside os.fork: the child has a whole table, whatever other threads were at."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest
from forks import in_child, threads

from fastpath import Fib

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here"),
    # Of Python 3.12 and newer: forks beside threads are what is tested.
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]

MANY = np.arange(100_000, dtype=np.uint32) << 12, np.full(100_000, 24, np.uint8)


def use(fib: Fib) -> tuple[object, ...]:
    """Every kind of call; what the table then answers."""
    fib.insert("192.0.2.0/24", 1)
    fib.insert_many(["198.51.100.0/24", "203.0.113.0/24"], [2, 3])
    fib.delete("203.0.113.0/24")
    with fib.transaction():
        fib.insert("203.0.113.0/24", 4)
    taken = fib.snapshot()
    answers = [taken.lookup(address) for address in ("192.0.2.1", "198.51.100.1", "203.0.113.1")]
    return (*answers, fib.get("192.0.2.0/24"), fib.copy() == fib)


USED = str((1, 2, 4, 1, True))


def test_fork_beside_a_writer() -> None:
    fib = Fib(dtype="uint32")

    def write(version: int) -> None:
        fib.insert_many(MANY, np.full(len(MANY[0]), version, np.uint32))
        fib.delete_many((MANY[0][::2], MANY[1][::2]))

    def check() -> str:
        _, _, versions = fib.to_arrays()
        whole = len(set(versions.tolist())) <= 1 and len(fib) in (0, len(MANY[0]), len(MANY[0]) // 2)
        return f"{whole} {use(fib)}"

    with threads(write):
        for _ in range(6):
            time.sleep(0.02)
            assert in_child(check) == f"True {USED}"
    assert str(use(fib)) == USED


@pytest.mark.parametrize("waiting", [False, True])
def test_fork_while_another_thread_has_a_transaction_open(waiting) -> None:
    """The fork does not wait for it, and the child has the table as it was before."""
    fib, opened, done = Fib(), threading.Event(), threading.Event()
    fib["10.0.0.0/8"] = "before"

    def change() -> None:
        with fib.transaction():
            fib["10.0.0.0/8"] = "after"
            fib.insert_many(["11.0.0.0/8"], ["new"])
            opened.set()
            done.wait()

    others = [threading.Thread(target=change)]
    others[0].start()
    opened.wait()
    if waiting:
        others.append(threading.Thread(target=lambda: fib.insert("12.0.0.0/8", "late")))
        others[1].start()
        time.sleep(0.1)
    try:
        assert in_child(lambda: [hop for _, hop in fib.items()]) == "['before']"
        assert in_child(lambda: use(fib)) == USED
    finally:
        done.set()
        for thread in others:
            thread.join()
    assert [hop for _, hop in fib.items()] == ["after", "new", *["late"] * waiting]


def test_fork_within_a_transaction() -> None:
    """Parent and child each have it, and each ends it."""
    fib = Fib()
    fib["10.0.0.0/8"] = "before"

    def end(steps, commit: bool) -> object:
        fib["11.0.0.0/8"] = "more"
        steps.__exit__(*(None, None, None) if commit else (KeyError, KeyError(), None))
        return [hop for _, hop in fib.items()], use(fib)

    for commit in (True, False):
        steps = fib.transaction()
        with pytest.raises(KeyError), steps:
            fib["10.0.0.0/8"] = "after"
            said = in_child(lambda steps=steps, commit=commit: end(steps, commit))
            assert said == f"({['after', 'more'] if commit else ['before']}, {USED})"
            assert fib["10.0.0.0/8"] == "before"
            raise KeyError
    assert [hop for _, hop in fib.items()] == ["before"]
    assert str(use(fib)) == USED


def test_a_child_frees_what_readers_of_the_parent_looked_at() -> None:
    fib, stop = Fib(dtype="uint32"), threading.Event()
    fib.insert_many(MANY, np.zeros(len(MANY[0]), np.uint32))
    asked = np.arange(1 << 22, dtype=np.uint32) << 10

    def read() -> None:
        while not stop.is_set():
            fib.lookup_many(asked)

    def growth() -> bool:
        for version in range(1, 4):
            fib.insert_many(MANY, np.full(len(MANY[0]), version, np.uint32))
        before = fib.nbytes
        for version in range(4, 40):
            fib.insert_many(MANY, np.full(len(MANY[0]), version, np.uint32))
        return fib.nbytes > 2 * before

    reader = threading.Thread(target=read)
    reader.start()
    try:
        time.sleep(0.05)
        assert in_child(growth) == "False"
    finally:
        stop.set()
        reader.join()
