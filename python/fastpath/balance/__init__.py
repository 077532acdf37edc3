"""Balancing: who gets the next request."""

from __future__ import annotations

from fastpath._balancer import Lease
from fastpath.balance.balancer import Balancer
from fastpath.balance.types import (
    Backend,
    Change,
    Explanation,
    OutlierDetection,
    Reason,
    Status,
    weight_from_load,
)

__all__ = [
    "Backend",
    "Balancer",
    "Change",
    "Explanation",
    "Lease",
    "OutlierDetection",
    "Reason",
    "Status",
    "weight_from_load",
]
