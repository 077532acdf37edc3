"""Columns of pandas, pyarrow and polars wherever Fib takes arrays."""

from __future__ import annotations

import ipaddress
from array import array

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from fastpath import Fib, NextHopGroup
from fastpath.addresses import parse_ipv4, parse_ipv6
from fastpath.tables.columns import addresses_of

FOUR = ["10.0.0.1", "10.1.0.1", "11.0.0.1", "10.1.2.3"]
SIX = ["2001:db8::1", "::1", "::ffff:10.0.0.1", "2001:db8:1::"]
NUMBERS = parse_ipv4(FOUR)
BYTES = [row.tobytes() for row in parse_ipv6(SIX)]
PREFIXES = ["10.0.0.0/8", "10.1.0.0/16", "2001:db8::/32"]

COLUMNS_OF_FOUR = {
    "pandas": lambda: pd.Series(NUMBERS),
    "pandas index": lambda: pd.Index(NUMBERS),
    "pandas nullable": lambda: pd.Series(NUMBERS, dtype="UInt32"),
    "pandas arrow": lambda: pd.Series(NUMBERS, dtype="uint32[pyarrow]"),
    "pandas str": lambda: pd.Series(FOUR, index=[7, 5, 3, 1]),
    "pandas objects": lambda: pd.Series([ipaddress.ip_address(text) for text in FOUR]),
    "pandas category": lambda: pd.Series(FOUR, dtype="category"),
    "pandas string[pyarrow]": lambda: pd.Series(FOUR, dtype="string[pyarrow]"),
    "pandas step": lambda: pd.Series(np.repeat(NUMBERS, 2))[::2],
    "pyarrow": lambda: pa.array(NUMBERS),
    "pyarrow slice": lambda: pa.array([0, *NUMBERS.tolist()], pa.uint32())[1:],
    "pyarrow chunks": lambda: pa.chunked_array([NUMBERS[:1], NUMBERS[1:]]),
    "pyarrow str": lambda: pa.array(FOUR),
    "pyarrow large str": lambda: pa.array(FOUR, pa.large_string()),
    "pyarrow str view": lambda: pa.array(FOUR, pa.string_view()),
    "pyarrow dictionary": lambda: pa.array(FOUR).dictionary_encode(),
    "pyarrow 4 bytes": lambda: pa.array([ipaddress.ip_address(text).packed for text in FOUR], pa.binary(4)),
    "polars": lambda: pl.Series(NUMBERS),
    "polars chunks": lambda: pl.concat([pl.Series(NUMBERS[:2]), pl.Series(NUMBERS[2:])], rechunk=False),
    "polars str": lambda: pl.Series(FOUR),
    "polars category": lambda: pl.Series(FOUR, dtype=pl.Categorical),
    "buffer": lambda: memoryview(NUMBERS),
    "array": lambda: array("I", NUMBERS.tolist()),
    "numpy str": lambda: np.array(FOUR),
    "numpy objects": lambda: np.array(FOUR, dtype=object),
}
COLUMNS_OF_SIX = {
    "pandas bytes": lambda: pd.Series(BYTES),
    "pandas str": lambda: pd.Series(SIX),
    "pandas frame": lambda: pd.DataFrame(parse_ipv6(SIX)),
    "pyarrow 16 bytes": lambda: pa.array(BYTES, pa.binary(16)),
    "pyarrow 16 bytes, slice": lambda: pa.array([BYTES[1], *BYTES, BYTES[0]], pa.binary(16))[1:5],
    "pyarrow 16 bytes, chunks": lambda: pa.chunked_array(
        [pa.array(BYTES[:1], pa.binary(16)), pa.array(BYTES, pa.binary(16))[1:]]
    ),
    "pandas 16 bytes": lambda: pd.Series(BYTES, dtype=pd.ArrowDtype(pa.binary(16))),
    "pyarrow bytes": lambda: pa.array(BYTES),
    "pyarrow chunks": lambda: pa.chunked_array([pa.array(BYTES[:1]), pa.array(BYTES[1:])]),
    "pyarrow str": lambda: pa.array(SIX),
    "polars bytes": lambda: pl.Series(BYTES),
    "polars array": lambda: pl.Series(parse_ipv6(SIX).tolist(), dtype=pl.Array(pl.UInt8, 16)),
    "polars str": lambda: pl.Series(SIX),
}
NULLS = {
    "pandas nullable": lambda: pd.Series([1, None], dtype="UInt32"),
    "pandas arrow": lambda: pd.Series([1, None], dtype="uint32[pyarrow]"),
    "pandas str": lambda: pd.Series(["1.2.3.4", None]),
    "pandas float": lambda: pd.Series([1, None]),
    "pyarrow": lambda: pa.array([1, None], pa.uint32()),
    "pyarrow str": lambda: pa.array([None, "1.2.3.4"]),
    "pyarrow chunks": lambda: pa.chunked_array([pa.array([1], pa.uint32()), pa.array([None], pa.uint32())]),
    "pyarrow 16 bytes": lambda: pa.array([None, BYTES[0]], pa.binary(16)),
    "polars": lambda: pl.Series([1, None], dtype=pl.UInt32),
    "polars str": lambda: pl.Series(["1.2.3.4", None]),
}


@pytest.fixture
def fib() -> Fib:
    table = Fib()
    table.insert_many(PREFIXES, ["a", "b", "c"])
    return table


@pytest.mark.parametrize("kind", COLUMNS_OF_FOUR)
def test_lookup_ipv4(fib, kind) -> None:
    column = COLUMNS_OF_FOUR[kind]()
    out = np.empty(4, np.uint32)
    assert fib.lookup_many(column, out=out, default=9) is out
    assert out.tolist() == [1, 2, 9, 2]
    assert fib.match_many(column)[1].tolist() == [8, 16, 0, 16]


@pytest.mark.parametrize("kind", COLUMNS_OF_SIX)
def test_lookup_ipv6(fib, kind) -> None:
    assert fib.lookup_many(COLUMNS_OF_SIX[kind]()).tolist() == [3, 0, 0, 3]


@pytest.mark.parametrize("kind", NULLS)
def test_nulls_are_refused(fib, kind) -> None:
    column = NULLS[kind]()
    for call in (
        lambda: fib.lookup_many(column),
        lambda: fib.match_many(column),
        lambda: fib.insert_many(column, [1, 2]),
        lambda: fib.insert_many((column, np.full(2, 32, np.uint8)), [1, 2]),
        lambda: fib.insert_many((np.zeros(2, np.uint32), column), [1, 2]),
        lambda: fib.insert_many(["1.0.0.0/8", "2.0.0.0/8"], column),
        lambda: Fib(dtype="uint32").insert_many(["1.0.0.0/8", "2.0.0.0/8"], column),
    ):
        with pytest.raises(ValueError, match="1 of 2 rows are null"):
            call()
    assert len(fib) == 3


@pytest.mark.parametrize("library", [pd.Series, pa.array, pl.Series, np.array])
def test_insert_and_delete(library) -> None:
    fib = Fib()
    assert fib.insert_many(library(PREFIXES), library(["x", "y", "z"])) == 3
    assert dict(fib.items()) == {
        ipaddress.ip_network(prefix): hop for prefix, hop in zip(PREFIXES, "xyz", strict=True)
    }
    assert fib.delete_many(library(PREFIXES[1:])) == 2
    plain = Fib(dtype="uint32")
    lengths, hops = np.full(4, 32, np.uint8), np.arange(1, 5, dtype=np.uint32)
    assert plain.insert_many((library(FOUR), library(lengths)), library(hops)) == 4
    assert plain.lookup_many(library(NUMBERS)).tolist() == [1, 2, 3, 4]
    assert plain.insert_many((library(SIX), np.full(4, 128, np.uint8)), library(hops)) == 4
    assert plain.lookup_many(library(SIX)).tolist() == [1, 2, 3, 4]
    assert plain.delete_many((library(NUMBERS), library(lengths))) == 4


@pytest.mark.parametrize("library", [pd.Series, pa.array, pl.Series])
def test_hashes(fib, library) -> None:
    fib.insert("10.0.0.0/8", NextHopGroup(["e", "f"], buckets=2))
    hashes = np.array([0, 1, 2, 3], np.uint64)
    ids = fib.lookup_many(library(FOUR), library(hashes))
    assert [fib.values[i] for i in ids] == ["e", "b", None, "b"]


def test_columns_that_lie_as_arrays_do_are_not_copied() -> None:
    numbers = NUMBERS.copy()
    assert np.shares_memory(addresses_of(pd.Series(numbers, copy=False)), numbers)
    big = pa.array(numbers)
    assert addresses_of(big).ctypes.data == big.buffers()[1].address
    six = pa.array(BYTES, pa.binary(16))
    assert addresses_of(six[1:]).ctypes.data == six.buffers()[1].address + 16


@pytest.mark.parametrize(
    ("column", "error", "message"),
    [
        (pd.Series([1, 2]), TypeError, r"uint8\[n,16\], not int64"),
        (pa.array([1.5]), TypeError, "float64"),
        (pl.Series([True]), TypeError, "bool"),
        (pd.Series(["10.0.0.1", "::1"]), ValueError, "row 1.*'::1'"),
        (pl.Series(["::1", "10.0.0.1"]), ValueError, "row 1.*10.0.0.1"),
        (pa.array(["nonsense"]), ValueError, "row 0.*nonsense"),
        (pa.array([b"123"]), ValueError, "row 0.*3 bytes"),
        (pa.array([b"1234", BYTES[0]]), ValueError, "row 1.*16 bytes"),
        (pd.Series([b"1234", 7]), TypeError, "row 1.*int"),
        (pd.Series(["10.0.0.1", 7]), TypeError, "row 1.*int"),
        (pd.Series([ipaddress.ip_address("fe80::1%eth0")]), ValueError, "row 0.*scope id"),
        (memoryview(b"1234"), ValueError, r"uint8\[4\]"),
        (array("q", [1]), TypeError, "int64"),
        (bytearray(4), TypeError, "bytearray"),
        (pd.Series([object()]), TypeError, "row 0.*object"),
        (pd.DataFrame({"a": NUMBERS}), ValueError, r"uint32\[4,1\]"),
        (pa.array([["10.0.0.1"]]), TypeError, "row 0"),
        (np.array([b"1.2.3.4"]), TypeError, "S7"),
    ],
)
def test_refused(fib, column, error, message) -> None:
    with pytest.raises(error, match=message):
        fib.lookup_many(column)


def test_refused_prefixes(fib) -> None:
    for column in (pd.Series(NUMBERS), pa.array(NUMBERS), pl.Series(NUMBERS), pd.DataFrame({"a": PREFIXES})):
        with pytest.raises(TypeError, match="pair of arrays"):
            fib.insert_many(column, [1] * len(column))
    with pytest.raises(ValueError, match=r"row 1.*'x'"):
        fib.insert_many(pl.Series(["10.0.0.0/8", "x"]), [1, 2])
    with pytest.raises(TypeError, match="int64"):
        fib.insert_many((pa.array(NUMBERS), pa.array([32] * 4)), [1] * 4)
    with pytest.raises(TypeError, match="int64"):
        Fib(dtype="uint32").insert_many(PREFIXES, pd.Series([1, 2, 3]))


@pytest.mark.parametrize("dtype", [str, "uint32", object])
def test_empty_columns(fib, dtype) -> None:
    assert fib.lookup_many(pd.Series([], dtype=dtype)).shape == (0,)
    for column in (
        pa.array([], pa.binary(16)),
        pa.chunked_array([], pa.binary(16)),
        memoryview(b"").cast("I"),
    ):
        assert fib.lookup_many(column).shape == (0,)
    for column in (pl.Series([], dtype=pl.String), pa.array([], pa.string()), pd.Series([], dtype=str)):
        assert fib.lookup_many(column).shape == (0,)
        assert fib.insert_many(column, []) == 0
