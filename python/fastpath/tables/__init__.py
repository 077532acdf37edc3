"""Forwarding tables: compiled, packed, with array calls."""

from __future__ import annotations

from fastpath.tables.fib import Fib

__all__ = ["Fib"]
