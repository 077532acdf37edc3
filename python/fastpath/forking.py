"""Forks wait until nobody is in the midst of an edit: no child finds a lock of a thread that is gone.

Whatever has a lock that its writers hold is protected: the thread that forks holds all those locks meanwhile.
So a child has every table as before or after a write, and can write to it. Threads are the parent's alone:
what they only looked at, waited for or had begun to prepare is forgotten in the child.
"""

from __future__ import annotations

import gc
import os
import threading
import weakref
from typing import Protocol


class Locked(Protocol):
    """What can be protected: an object with a lock that its writers hold."""

    def _lock_for_fork(self) -> None:
        """Waits for the writer there may be, and keeps others out."""

    def _unlock_after_fork(self) -> None:
        """Lets writers in again, in the parent; by the thread that locked."""

    def _unlock_in_child(self) -> None:
        """The same in the child, where no other thread is: forgets what those had hold of, too."""


# Who holds the lock of one level may wait for one of a later level, so they are locked in this order.
LISTENED, EDITED, TABLE = range(3)  # calls listeners; runs code of the user; waits for nobody

_LIVE: tuple[weakref.WeakValueDictionary[int, Locked], ...] = tuple(
    weakref.WeakValueDictionary() for _ in (LISTENED, EDITED, TABLE)
)  # by id(): not all can be hashed
_ENTRY = threading.RLock()  # of _LIVE
_FORKING = threading.Lock()  # one fork at a time, or two would wait for each other's locks
_HELD: list[tuple[int, Locked]] = []  # by level
_RESUME: list[None] = []  # one, if garbage is to be collected again after the fork


def protect(obj: Locked, level: int = TABLE) -> None:
    """Locks the object around every fork from now on, as long as it lives.

    To be called before another thread can write to it. Costs about a microsecond.
    """
    with _ENTRY:
        _LIVE[level][id(obj)] = obj


def _lock_all() -> None:
    _FORKING.acquire()
    # The end of an object might write to a table that is locked here, and wait for ever.
    if gc.isenabled():
        _RESUME.append(None)
        gc.disable()
    late: BaseException | None = None
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
                obj._lock_for_fork()
            except BaseException as error:  # of a signal's handler, while this waited: tried again
                late = error
                break  # in order
            else:
                _HELD.append((level, obj))
    if late is not None:
        raise late  # no fork is stopped by it; the interpreter reports it


def _unlock_all(in_child: bool) -> None:
    held = _HELD[::-1]  # to the end of the call: what nobody else has ends after all locks are free
    _HELD.clear()
    try:
        for _, obj in held:
            if in_child:
                obj._unlock_in_child()
            else:
                obj._unlock_after_fork()
    finally:
        if _RESUME:
            _RESUME.clear()
            gc.enable()
        _ENTRY.release()
        _FORKING.release()


os.register_at_fork(
    before=_lock_all,
    after_in_parent=lambda: _unlock_all(False),
    after_in_child=lambda: _unlock_all(True),
)
