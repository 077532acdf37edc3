"""A dict that answers as FlowTable must while it is not full: the oracle of the compiled one."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Hashable
from dataclasses import dataclass

DEFAULT = object()
OLDEST_MS = 2**31


def _timeout_ms(seconds: object) -> float:
    if seconds is None:
        return math.inf
    if isinstance(seconds, str | bytes):
        raise TypeError(f"a timeout must be a number or None, got {type(seconds).__name__}")
    number = float(seconds)  # type: ignore[arg-type]
    if number == math.inf:
        return math.inf
    if not 0.001 <= number <= 2_000_000:
        raise ValueError(f"a timeout must be 0.001..2000000 seconds, None or inf, got {number}")
    return round(number * 1000)


@dataclass
class Flow:
    """What is known of one flow; times in milliseconds."""

    value: Hashable
    seen: int
    created: int
    idle: float
    absolute: float
    own: bool = False
    packets: int = 0
    bytes: int = 0


class FlowTable:
    """Flows with last-seen times; whom a full table evicts is the compiled one's choice."""

    def __init__(
        self,
        key_size: int = 40,
        *,
        idle_timeout_s: float | None = 60.0,
        absolute_timeout_s: float | None = None,
        clock: Callable[[], float],
        dtype: str | None = None,
    ) -> None:
        self.key_size = key_size
        self.clock = clock
        self.plain = dtype is not None
        self.start_s = clock()
        self.latest_ms = 0
        self.idle = _timeout_ms(idle_timeout_s)
        self.absolute = _timeout_ms(absolute_timeout_s)
        self.flows: dict[bytes, Flow] = {}

    def _now_ms(self) -> int:
        ms = (self.clock() - self.start_s) * 1000
        if self.latest_ms < ms < 9e18:
            self.latest_ms = math.floor(ms)
        return self.latest_ms

    def _checked_key(self, key: object) -> bytes:
        if not isinstance(key, bytes):
            raise TypeError(f"key must be {self.key_size} bytes, got {type(key).__name__}")
        if len(key) != self.key_size:
            raise ValueError(f"key must be {self.key_size} bytes, got {len(key)}")
        return key

    def _check_value(self, value: object) -> None:
        if self.plain:
            if not 0 <= operator.index(value) < 2**32:  # type: ignore[arg-type]
                raise ValueError(f"value must be 0..2**32-1, got {value}")
        elif value is None:
            raise ValueError("None cannot be a value")
        else:
            hash(value)

    def _live(self, key: bytes) -> Flow | None:
        now = self._now_ms()
        flow = self.flows.get(key)
        if flow is None or now - flow.seen > flow.idle or now - flow.created > flow.absolute:
            return None
        return flow

    def insert(
        self,
        key: bytes,
        value: Hashable,
        *,
        idle_timeout_s: object = DEFAULT,
        absolute_timeout_s: object = DEFAULT,
    ) -> None:
        """Insert, or replace the value and refresh; anew, if with timeouts of its own."""
        own = idle_timeout_s is not DEFAULT or absolute_timeout_s is not DEFAULT
        idle = self.idle if idle_timeout_s is DEFAULT else _timeout_ms(idle_timeout_s)
        absolute = self.absolute if absolute_timeout_s is DEFAULT else _timeout_ms(absolute_timeout_s)
        self._checked_key(key)
        self._check_value(value)
        flow = self._live(key)
        now = self._now_ms()
        if flow is None or own:
            self.flows[key] = Flow(value, now, now, idle, absolute, own)
        else:
            flow.value, flow.seen = value, now

    def delete(self, key: bytes) -> None:
        """Remove a flow, over or not; KeyError if it is not there."""
        del self.flows[self._checked_key(key)]

    def lookup(self, key: bytes, size: int = 0) -> Hashable | None:
        """The value, refreshed and counted; or None."""
        flow = self._live(self._checked_key(key))
        if flow is None:
            return None
        flow.seen = self._now_ms()
        flow.packets += 1
        flow.bytes += size
        return flow.value

    def get(self, key: bytes) -> Hashable | None:
        """The value, not refreshed; or None."""
        flow = self._live(self._checked_key(key))
        return None if flow is None else flow.value

    def expire(self) -> int:
        """Remove what is over."""
        over = [key for key in self.flows if self._live(key) is None]
        for key in over:
            del self.flows[key]
        return len(over)

    def rows(self) -> dict[bytes, tuple[Hashable, float, float, int, int, float, float]]:
        """Live flows: value, idle time, age, packets, bytes, timeouts; in seconds."""
        now = self._now_ms()
        return {
            key: (
                flow.value,
                min(now - flow.seen, OLDEST_MS) / 1000,
                min(now - flow.created, OLDEST_MS) / 1000,
                flow.packets,
                flow.bytes,
                flow.idle / 1000,
                flow.absolute / 1000,
            )
            for key, flow in self.flows.items()
            if self._live(key) is not None
        }
