"""Columns of other libraries (pandas, pyarrow, polars) and buffers, known by what they offer."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastpath.addresses import parse_ipv4, parse_ipv6

WANTED = "uint32[n], uint8[n,16], or a column of str, of 4 or of 16 bytes, or of ipaddress objects"


def is_column(thing: object) -> bool:
    """Whether something has rows that numpy can take. Lists are none: they would be guessed at."""
    return isinstance(thing, (memoryview, array)) or (
        hasattr(thing, "__array__") and hasattr(thing, "__len__")
    )


def array_of(column: Any) -> NDArray[Any]:
    """The rows as a numpy array, without a copy where the library has them as numpy does.

    Raises
    ------
    ValueError
        Some rows are null: as numpy has no nulls, they would come as other values.

    """
    nulls = _nulls(column)
    if nulls:
        raise ValueError(f"{nulls} of {len(column)} rows are null: drop or fill them first")
    return np.asarray(column)


def addresses_of(column: Any) -> NDArray[Any]:
    """Addresses of one family, which the first row tells, as uint32[n] or uint8[n,16]."""
    given = array_of(column)
    if given.dtype.kind not in "OUT" or given.ndim != 1:
        return given
    rows = given.tolist()
    if not rows:
        return np.empty(0, np.uint32)
    if isinstance(rows[0], str):
        return parse_ipv6(rows) if ":" in rows[0] else parse_ipv4(rows)
    packed = [getattr(row, "packed", row) for row in rows]
    for number, row in enumerate(packed):
        if getattr(rows[number], "scope_id", None) is not None:
            raise ValueError(f"row {number}: {rows[number]} has a scope id; none was expected")
        if not isinstance(row, bytes):
            raise TypeError(f"row {number}: expected {WANTED}, not {type(row).__name__}")
        if len(row) not in (4, 16) or len(row) != len(packed[0]):
            raise ValueError(
                f"row {number}: {row[:32]!r} has {len(row)} bytes; 4 in every row, or 16, were expected"
            )
    joined = b"".join(packed)
    if len(packed[0]) == 4:
        return np.frombuffer(joined, ">u4").astype(np.uint32)
    return np.frombuffer(joined, np.uint8).reshape(-1, 16)


def prefixes_of(column: Any) -> list[Any]:
    """Prefixes as str, a row each."""
    given = array_of(column)
    if given.dtype.kind not in "OUT" or given.ndim != 1:
        raise TypeError(
            "expected a column of prefixes as str, or a pair of arrays (addresses, prefix lengths), not "
            f"{given.dtype}[{','.join(map(str, given.shape))}]"
        )
    rows: list[Any] = given.tolist()
    return rows


def _nulls(column: Any) -> int:
    if isinstance(column, np.ndarray):
        return 0
    count = getattr(column, "null_count", None)  # pyarrow: a number; polars: a method
    if count is not None:
        count = count() if callable(count) else count
        return count if isinstance(count, int) else 0
    flags = column.isna() if hasattr(column, "isna") else ()  # pandas
    return int(np.sum(np.asarray(flags)))
