# distutils: language = c++
"""Exact match: ExactTable, ForwardingTable and Fdb over one core."""

include "exact_arguments.pxi"
include "exact_table.pxi"
include "forwarding_table.pxi"
include "fdb.pxi"
