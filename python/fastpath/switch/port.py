"""Ports of a switch."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from fastpath._engine import SwitchPort, SwitchWorker
from fastpath.switch.arguments import integer, mac_text

_PAUSE_S = 0.0002
_ALL = 1 << 62


class Port:
    """One port of a switch; made by the ``attach`` calls of :class:`fastpath.Switch`.

    ``int(port)`` is its number, and a port can be given wherever a table wants one. Numbers start at 1 and
    are never used twice within a switch.

    Attributes
    ----------
    id : str
        Its name within the switch.
    kind : str
        ``"tap"``, ``"interface"``, ``"pcap"`` or ``"memory"``.
    segment : int
        Frames never leave it.
    ifname : str or None
        The interface that stands behind it.
    netns : str or None
        Path of the namespace that was given, None for the current one.
    addresses : tuple of str
        Addresses given to the interface, with their prefix lengths.
    mac : str or None
        MAC address of the interface, ``"aa:bb:cc:dd:ee:ff"``.
    """

    def __init__(
        self,
        port: SwitchPort,
        id: str,
        kind: str,
        *,
        ifname: str | None = None,
        netns: str | None = None,
        addresses: tuple[str, ...] = (),
    ) -> None:
        self._port = port
        self.id = id
        self.kind = kind
        self.segment = port.segment
        self.ifname = ifname
        self.netns = netns
        self.addresses = addresses
        self.mac = mac_text(port.mac) if port.mac else None

    @property
    def number(self) -> int:
        """The number under which the tables know the port."""
        return self._port.number

    @property
    def up(self) -> bool:
        """False once the port was detached, or what is behind it vanished (its namespace ended, say)."""
        return self._port.up

    def stats(self) -> dict[str, Any]:
        """Counters of the port, also after it was detached.

        Returns
        -------
        dict
            ``rx_packets``, ``rx_bytes`` (received by the switch from the port), ``tx_packets``, ``tx_bytes``
            (sent there), ``floods`` (received frames that went to the whole segment), and ``drops``: counts
            by reason, those that begin with ``tx_`` on the way out, the others on the way in.
        """
        return {
            "number": self.number,
            "kind": self.kind,
            "up": self.up,
            "segment": self.segment,
            "ifname": self.ifname,
            "mac": self.mac,
            **self._port.counters(),
        }

    def __index__(self) -> int:
        return self._port.number

    __int__ = __index__

    def __repr__(self) -> str:
        state = "" if self.up else ", down"
        place = f", ifname={self.ifname!r}" if self.ifname else ""
        about = f"number={self.number}, kind={self.kind!r}{place}, segment={self.segment}{state}"
        return f"{type(self).__name__}({self.id!r}, {about})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Port belongs to its running switch and cannot be pickled or copied")


class MemoryPort(Port):
    """A port whose other end is the program: for tests, benchmarks, and programs that are a station.

    ``rx`` and ``tx`` are named from the switch's side, as its counters are. Any number of threads may call
    them.
    """

    def __init__(self, port: SwitchPort, id: str, worker: SwitchWorker) -> None:
        super().__init__(port, id, "memory")
        self._worker = worker

    def rx(self, frames: bytes | bytearray | memoryview | Iterable[bytes] | npt.NDArray[np.uint8]) -> int:
        """Hand frames to the switch.

        Parameters
        ----------
        frames : bytes, iterable of bytes, or uint8[n, length]
            One frame, several, or several of one length; Ethernet header first, without a check sequence.
            With ``vnet_header=True`` a 10-byte virtio-net header stands before each.

        Returns
        -------
        int
            How many there was room for; the first ones are taken.
        """
        if isinstance(frames, np.ndarray):
            if frames.dtype != np.uint8 or frames.ndim != 2:
                raise TypeError(f"frames: expected uint8[n, length], got {frames.dtype}{list(frames.shape)}")
            return self._worker.push_rows(self._port, np.ascontiguousarray(frames))
        if isinstance(frames, (bytes, bytearray, memoryview)):
            return self._worker.push(self._port, [frames])
        several: list[object] = list(frames)
        checked = [frame for frame in several if isinstance(frame, (bytes, bytearray, memoryview))]
        if len(checked) != len(several):
            raise TypeError(f"frames: expected bytes, several, or uint8[n, length], got {several!r:.80}")
        return self._worker.push(self._port, checked)

    def tx(self, limit: int | None = None, timeout_s: float = 0.0) -> list[bytes]:
        """Take the oldest frames that the switch sent here.

        Parameters
        ----------
        limit : int, optional
            At most this many; None: all there are.
        timeout_s : float
            Wait at most this long for the first one.
        """
        wanted = _ALL if limit is None else integer(limit, "limit", 0, _ALL)
        if isinstance(timeout_s, bool) or not isinstance(timeout_s, (int, float)):
            raise TypeError(f"timeout_s: expected seconds, got {timeout_s!r}")
        if math.isnan(timeout_s):
            raise ValueError("timeout_s: expected seconds, got nan")
        deadline = time.monotonic() + timeout_s
        while True:
            frames = self._port.pop(wanted)
            if frames or not wanted or time.monotonic() >= deadline:
                return frames
            time.sleep(_PAUSE_S)
