"""Forks wait until nobody is in the midst of an edit: no child finds a lock of a thread that is gone."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol


class Locked(Protocol):
    """What can be protected: an object with a lock that its writers hold."""

    def _lock_for_fork(self) -> None:
        """Waits for the writer there may be, and keeps others out."""

    def _unlock_after_fork(self) -> None:
        """Lets writers in again; in the parent and in the child, by the thread that locked."""


_LIVE: weakref.WeakValueDictionary[int, Locked] = (
    weakref.WeakValueDictionary()
)  # by id(): not all can be hashed
_ENTRY = threading.RLock()  # of _LIVE
_FORKING = threading.Lock()  # one fork at a time, or two would wait for each other's locks
_HELD: list[Locked] = []


def protect(obj: Locked) -> None:
    """Locks the object around every fork from now on, as long as it lives.

    To be called before another thread can write to it.
    """
    with _ENTRY:
        _LIVE[id(obj)] = obj


def _lock_all() -> None:
    _FORKING.acquire()
    late: BaseException | None = None
    while True:
        _ENTRY.acquire()
        held = {id(obj) for obj in _HELD}
        new = [obj for key, obj in _LIVE.items() if key not in held]
        if not new:
            break  # and nobody enters before the fork
        _ENTRY.release()  # a writer may be making an object of its own
        for obj in new:
            try:
                obj._lock_for_fork()
            except BaseException as error:  # of a signal's handler, while this waited: tried again
                late = error
            else:
                _HELD.append(obj)
    if late is not None:
        raise late  # no fork is stopped by it; the interpreter reports it


def _unlock_all() -> None:
    try:
        while _HELD:
            _HELD.pop()._unlock_after_fork()
    finally:
        _ENTRY.release()
        _FORKING.release()


os.register_at_fork(before=_lock_all, after_in_parent=_unlock_all, after_in_child=_unlock_all)
