"""Forks wait until nobody is in the midst of an edit: no child finds a lock of a thread that is gone.

Whatever has a lock that its writers hold is protected: the thread that forks holds all those locks meanwhile.
So a child has every table as before or after a write, and can write to it. Threads are the parent's alone:
what they only looked at, waited for or had begun to prepare is forgotten in the child.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401  # whose hook takes a lock, as logging's does: after the ones here
import gc
import os
import threading
import time
import weakref
from typing import Protocol


class Locked(Protocol):
    """What can be protected: an object with a lock that its writers hold."""

    def _lock_for_fork(self) -> bool | None:
        """Waits for the writer there may be, and keeps others out.

        False: did not come to it within `PATIENCE_S`. Only where a writer runs code of the user, which may
        fork.
        """

    def _unlock_after_fork(self) -> None:
        """Lets writers in again, in the parent; by the thread that locked."""

    def _unlock_in_child(self) -> None:
        """The same in the child, where no other thread is: forgets what those had hold of, too."""


# Who holds the lock of one level may wait for one of a later level, so they are locked in this order.
LISTENED, EDITED, TABLE = range(3)  # calls listeners; runs code of the user; waits for nobody

PATIENCE_S = 0.05  # so long a fork waits for a writer before it lets another fork go first

_LIVE: tuple[weakref.WeakValueDictionary[int, Locked], ...] = tuple(
    weakref.WeakValueDictionary() for _ in (LISTENED, EDITED, TABLE)
)  # by id(): not all can be hashed
_ENTRY = threading.RLock()  # of _LIVE
_FORKING = threading.RLock()  # one fork at a time, or two would wait for each other's locks
_ASKING: list[None] = []  # one for each thread that waits for that
_HELD: list[tuple[int, Locked]] = []  # by level
_RESUME: list[None] = []  # one, if garbage is to be collected again after the fork


def protect(obj: Locked, level: int = TABLE) -> None:
    """Locks the object around every fork from now on, as long as it lives.

    To be called before another thread can write to it. Costs about a microsecond.
    """
    with _ENTRY:
        _LIVE[level][id(obj)] = obj


def _begin() -> BaseException | None:
    """Waits for the turn to fork; what a signal's handler raised meanwhile stops no fork, and comes back."""
    late: BaseException | None = None
    if _FORKING._is_owned():  # type: ignore[attr-defined]  # a signal's handler forks while a fork waits
        _FORKING.acquire()
    else:
        _ASKING.append(None)
        while not _FORKING._is_owned():  # type: ignore[attr-defined]  # may be taken when a handler raises
            try:
                _FORKING.acquire()
            except BaseException as error:
                late = error
        _ASKING.pop()
    # The end of an object might write to a table that is locked here, and wait for ever.
    if gc.isenabled():
        _RESUME.append(None)
        gc.disable()
    return late


def _end() -> None:
    if _RESUME:
        _RESUME.clear()
        gc.enable()
    _FORKING.release()


def _lock_all() -> None:
    late = _begin()
    while True:
        _ENTRY.acquire()
        held = {id(obj) for _, obj in _HELD}
        new = [
            (level, obj) for level, live in enumerate(_LIVE) for key, obj in live.items() if key not in held
        ]
        if not new:
            break  # and nobody enters before the fork
        _ENTRY.release()  # a writer may be making an object of its own
        while _HELD and _HELD[-1][0] > new[0][0]:  # writers of the new one may wait for those
            _HELD.pop()[1]._unlock_after_fork()
        for level, obj in new:
            try:
                locked = obj._lock_for_fork() is not False
            except BaseException as error:  # of a signal's handler, while this waited: tried again
                late = error
                break  # in order
            if locked:
                _HELD.append((level, obj))
                continue
            if _ASKING:  # the writer that this waits for may be one of those
                while _HELD:
                    _HELD.pop()[1]._unlock_after_fork()
                _end()
                try:
                    time.sleep(PATIENCE_S)
                except BaseException as error:
                    late = error
                late = _begin() or late
            break  # in order
    if late is not None:
        raise late  # no fork is stopped by it; the interpreter reports it


def _unlock_all(in_child: bool) -> None:
    if not _FORKING._is_owned():  # type: ignore[attr-defined]  # a handler raised before this fork had its turn
        return
    held = _HELD[::-1]  # to the end of the call: what nobody else has ends after all locks are free
    _HELD.clear()
    try:
        for _, obj in held:
            if in_child:
                obj._unlock_in_child()
            else:
                obj._unlock_after_fork()
    finally:
        if in_child:
            _ASKING.clear()
        try:
            _ENTRY.release()
        finally:
            _end()


os.register_at_fork(
    before=_lock_all,
    after_in_parent=lambda: _unlock_all(False),
    after_in_child=lambda: _unlock_all(True),
)
