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
    _refuse_nulls(column)
    return np.asarray(column)


def addresses_of(column: Any) -> NDArray[Any]:
    """Addresses of one family, which the first row tells, as uint32[n] or uint8[n,16]."""
    _refuse_nulls(column)
    if str(getattr(column, "type", "")) == "fixed_size_binary[16]":
        return _rows_of_16(column)
    rows = _rows(column)
    if isinstance(rows, np.ndarray):
        return rows
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
    _refuse_nulls(column)
    rows = _rows(column)
    if isinstance(rows, list):
        return rows
    raise TypeError(
        "expected a column of prefixes as str, or a pair of arrays (addresses, prefix lengths), not "
        f"{rows.dtype}[{','.join(map(str, rows.shape))}]"
    )


def _rows(column: Any) -> list[Any] | NDArray[Any]:
    """A list of what is no number, an array of what is."""
    if hasattr(column, "to_list") and isinstance(next(iter(column), None), str):
        texts: list[Any] = column.to_list()  # numpy's own kind of text would be a detour
        return texts
    numbers = np.asarray(column)
    return numbers.tolist() if numbers.dtype.kind in "OUT" and numbers.ndim == 1 else numbers


def _rows_of_16(column: Any) -> NDArray[np.uint8]:
    """An Arrow column of 16 bytes a row, out of its buffers: numpy has no such rows but as objects."""
    parts = [
        np.frombuffer(chunk.buffers()[1], np.uint8)[16 * chunk.offset :][: 16 * len(chunk)]
        for chunk in getattr(column, "chunks", [column])
        if len(chunk)
    ]
    joined = parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.uint8), *parts])
    return joined.reshape(-1, 16)


def _refuse_nulls(column: Any) -> None:
    if isinstance(column, np.ma.MaskedArray):
        count: Any = int(np.sum(np.asarray(column.mask)))
    elif isinstance(column, np.ndarray):
        return
    else:
        count = getattr(column, "null_count", None)  # pyarrow: a number; polars: a method
    if callable(count):
        count = count()
    if count is None and hasattr(column, "isna"):  # pandas
        count = int(np.sum(np.asarray(column.isna())))
    if isinstance(count, int) and count:
        raise ValueError(f"{count} of {len(column)} rows are null: drop or fill them first")
