"""Services, their instances, leases and health, with one revision over all of it."""

from fastpath.registry.registry import Registry
from fastpath.registry.types import Changes, Event, Instance, Snapshot

__all__ = ["Changes", "Event", "Instance", "Registry", "Snapshot"]
