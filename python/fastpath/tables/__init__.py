"""Forwarding tables: compiled, packed, with array calls."""

from __future__ import annotations

from fastpath._exact import ExactTable, Fdb, FdbEntry, ForwardingTable
from fastpath._flow import FlowTable
from fastpath.tables.fib import Fib
from fastpath.tables.policy import Decision, Policy, Rule

__all__ = [
    "Decision",
    "ExactTable",
    "Fdb",
    "FdbEntry",
    "Fib",
    "FlowTable",
    "ForwardingTable",
    "Policy",
    "Rule",
]
