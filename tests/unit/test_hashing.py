"""Hashes against the public implementations (xxhash, zlib) and against the written-for-reading twins."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xxhash

import fastpath
from fastpath import _hash
from fastpath.hashing import hash64, hash64_many, murmur3_32, xxh64
from fastpath.reference import hashing as reference

SIZES = [*range(0, 300), 511, 512, 513, 1023, 1024, 1025, 1088, 1089, 2047, 2048, 2049, 5000]
SEEDS = [0, 1, 0xFFFFFFFF, 0x123456789ABCDEF0, 2**64 - 1]


@pytest.fixture(scope="module")
def keys() -> list[bytes]:
    source = random.Random(7)
    return [source.randbytes(size) for size in SIZES]


@pytest.mark.parametrize("seed", SEEDS)
def test_xxh3_and_xxh64_agree_with_xxhash(keys: list[bytes], seed: int) -> None:
    for key in keys:
        assert hash64(key, seed) == xxhash.xxh3_64_intdigest(key, seed), len(key)
        assert xxh64(key, seed) == xxhash.xxh64_intdigest(key, seed), len(key)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_twins_agree(keys: list[bytes], seed: int) -> None:
    for key in keys:
        assert hash64(key, seed) == reference.xxh3_64(key, seed), len(key)
        assert xxh64(key, seed) == reference.xxh64(key, seed), len(key)
        assert murmur3_32(key, seed & 0xFFFFFFFF) == reference.murmur3_32(key, seed & 0xFFFFFFFF), len(key)


def test_crc32_agrees_with_zlib(keys: list[bytes]) -> None:
    for key in keys:
        assert _hash.crc32(key) == zlib.crc32(key)
        assert _hash.crc32(key, 0xDEADBEEF) == zlib.crc32(key, 0xDEADBEEF)


@pytest.mark.parametrize(
    ("key", "seed", "expected"),
    [  # the verification values that circulate for MurmurHash3_x86_32
        (b"", 0, 0),
        (b"", 1, 0x514E28B7),
        (b"", 0xFFFFFFFF, 0x81F16F39),
        (b"\xff\xff\xff\xff", 0, 0x76293B50),
        (b"!Ce\x87", 0, 0xF55B516B),
        (b"!Ce\x87", 0x5082EDEE, 0x2362F9DE),
        (b"!Ce", 0, 0x7E4A8634),
        (b"!C", 0, 0xA0F7B07A),
        (b"!", 0, 0x72661CF4),
        (b"\0\0\0\0", 0, 0x2362F9DE),
        (b"Hello, world!", 0x9747B28C, 0x24884CBA),
        (b"The quick brown fox jumps over the lazy dog", 0x9747B28C, 0x2FA826CD),
    ],
)
def test_murmur3_known_answers(key: bytes, seed: int, expected: int) -> None:
    assert murmur3_32(key, seed) == expected


def test_public_names_and_kinds_of_keys() -> None:
    assert fastpath.hash64 is hash64
    assert fastpath.hash64_many is hash64_many
    expected = hash64("schlüssel".encode())
    assert hash64("schlüssel") == expected
    assert hash64(bytearray("schlüssel".encode())) == expected
    assert hash64(memoryview("schlüssel".encode())) == expected
    assert hash64(np.frombuffer("schlüssel".encode(), np.uint8)) == expected
    assert hash64(key=b"", seed=np.int64(0)) == 0x2D06800538D394C2


@pytest.mark.parametrize("function", [hash64, xxh64, murmur3_32])
@pytest.mark.parametrize(
    ("key", "seed", "error"),
    [
        (1, 0, TypeError),
        (None, 0, TypeError),
        (["a"], 0, TypeError),
        (b"a", "0", TypeError),
        (b"a", 1.5, TypeError),
        (b"a", -1, ValueError),
        (b"a", 2**64, ValueError),
        ("\ud800", 0, ValueError),
        (memoryview(b"abcd")[::2], 0, BufferError),
    ],
)
def test_bad_arguments(function: Callable[..., int], key: Any, seed: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        function(key, seed)


@pytest.mark.parametrize("width", [0, 1, 3, 4, 8, 9, 16, 17, 40, 64, 129, 241])
@pytest.mark.parametrize("n", [0, 1, 2, 1000])
def test_many_equals_one_by_one(width: int, n: int) -> None:
    rows = np.frombuffer(random.Random(n).randbytes(n * width), np.uint8).reshape(n, width)
    expected = [hash64(row.tobytes(), 99) for row in rows]
    got = hash64_many(rows, seed=99)
    assert got.dtype == np.uint64
    assert got.shape == (n,)
    assert got.tolist() == expected
    assert hash64_many([row.tobytes() for row in rows], 99).tolist() == expected
    assert hash64_many(np.asfortranarray(rows), 99).tolist() == expected
    assert hash64_many(np.repeat(rows, 2, axis=0)[::2], 99).tolist() == expected


def test_many_takes_mixed_lists_and_generators() -> None:
    assert hash64_many(["a", b"a", bytearray(b"a")]).tolist() == [hash64(b"a")] * 3
    assert hash64_many(str(i) for i in range(5)).tolist() == [hash64(str(i)) for i in range(5)]
    assert hash64_many([]).shape == (0,)


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        (np.zeros((2, 2), np.int8), TypeError),
        (np.zeros((2, 2), np.uint64), TypeError),
        (np.zeros(4, np.uint8), ValueError),
        (np.zeros((1, 1, 1), np.uint8), ValueError),
        (b"one key", TypeError),
        ("one key", TypeError),
        (5, TypeError),
        ([b"a", 1], TypeError),
        ([b"a", None], TypeError),
    ],
)
def test_many_bad_arguments(keys: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"uint8\[n, k\]|bytes or str"):
        hash64_many(keys)
    with pytest.raises(ValueError, match="seed must be"):
        hash64_many([], -1)
