"""Keys with a time each, taken out in order of time."""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Deadlines(Generic[K]):
    """A heap in which putting a deadline off costs one dict write.

    A key that is put off keeps its old place in the heap; when that place comes up, the key goes back in at
    its new time. So renewing a lease thousands of times holds one heap entry, not thousands.
    """

    def __init__(self) -> None:
        self._at: dict[K, float] = {}
        self._queued: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._order = 0

    def __len__(self) -> int:
        return len(self._at)

    def get(self, key: K) -> float | None:
        """When `key` is due, or None."""
        return self._at.get(key)

    def set(self, key: K, at: float) -> None:
        """Let `key` be due at `at`, sooner or later than before."""
        self._at[key] = at
        queued = self._queued.get(key)
        if queued is None or at < queued:
            self._push(key, at)

    def discard(self, key: K) -> None:
        """Forget `key`, if it is there."""
        self._at.pop(key, None)
        self._queued.pop(key, None)
        if len(self._heap) > 2 * len(self._at) + 64:
            self._heap.clear()
            self._queued.clear()
            for kept, at in self._at.items():
                self._push(kept, at)

    def next(self) -> float | None:
        """A time before which nothing is due; None when there is no deadline."""
        return self._heap[0][0] if self._at else None

    def pop_due(self, now: float) -> K | None:
        """Take out the earliest key whose time has come."""
        while self._heap and self._heap[0][0] <= now:
            queued, _, key = heapq.heappop(self._heap)
            if self._queued.get(key) != queued:
                continue
            at = self._at[key]
            if at > now:
                self._push(key, at)
                continue
            del self._queued[key]
            del self._at[key]
            return key
        return None

    def _push(self, key: K, at: float) -> None:
        self._queued[key] = at
        self._order += 1
        heapq.heappush(self._heap, (at, self._order, key))
