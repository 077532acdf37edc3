"""Forwarding tables: compiled, packed, with array calls."""

from __future__ import annotations

from fastpath._exact import ExactTable, Fdb, FdbEntry, ForwardingTable
from fastpath._flow import FlowTable
from fastpath.tables.fib import Diff, Fib
from fastpath.tables.next_hop_group import NextHopGroup
from fastpath.tables.policy import Decision, Policy, Rule

__all__ = [
    "Decision",
    "Diff",
    "ExactTable",
    "Fdb",
    "FdbEntry",
    "Fib",
    "FlowTable",
    "ForwardingTable",
    "NextHopGroup",
    "Policy",
    "Rule",
]
