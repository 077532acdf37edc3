"""A dict that answers as FlowTable must while it is not full: the oracle of the compiled one."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable


class FlowTable:
    """Flows with last-seen times; whom a full table evicts is the compiled one's choice."""

    def __init__(
        self,
        *,
        idle_timeout_s: float | None = 60.0,
        absolute_timeout_s: float | None = None,
        clock: Callable[[], float],
    ) -> None:
        self.clock = clock
        self.start_s = clock()
        self.idle = idle_timeout_s
        self.absolute = absolute_timeout_s
        # key: value, seen, created, idle timeout, absolute timeout
        self.flows: dict[bytes, tuple[Hashable, int, int, float | None, float | None]] = {}

    def _now_ms(self) -> int:
        return max(0, math.floor((self.clock() - self.start_s) * 1000))

    def is_over(self, key: bytes) -> bool:
        """Whether a flow that is held has seen its time."""
        _, seen, created, idle, absolute = self.flows[key]
        now = self._now_ms()
        return (idle is not None and now - seen > round(idle * 1000)) or (
            absolute is not None and now - created > round(absolute * 1000)
        )

    def insert(self, key: bytes, value: Hashable) -> None:
        """Insert, or replace the value and refresh."""
        now = self._now_ms()
        if key in self.flows and not self.is_over(key):
            _, _, created, idle, absolute = self.flows[key]
            self.flows[key] = (value, now, created, idle, absolute)
        else:
            self.flows[key] = (value, now, now, self.idle, self.absolute)

    def insert_with(self, key: bytes, value: Hashable, idle: float | None, absolute: float | None) -> None:
        """Insert anew with timeouts of its own."""
        now = self._now_ms()
        self.flows[key] = (value, now, now, idle, absolute)

    def lookup(self, key: bytes) -> Hashable | None:
        """The value, refreshed; or None."""
        if key not in self.flows or self.is_over(key):
            return None
        value, _, created, idle, absolute = self.flows[key]
        self.flows[key] = (value, self._now_ms(), created, idle, absolute)
        return value

    def get(self, key: bytes) -> Hashable | None:
        """The value, not refreshed; or None."""
        return None if key not in self.flows or self.is_over(key) else self.flows[key][0]
