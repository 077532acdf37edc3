"""The virtual switch: ports in network namespaces, and a worker thread that moves their frames."""

from fastpath.switch.capture import Capture
from fastpath.switch.port import MemoryPort, Port
from fastpath.switch.switch import Pair, Switch

__all__ = ["Capture", "MemoryPort", "Pair", "Port", "Switch"]
