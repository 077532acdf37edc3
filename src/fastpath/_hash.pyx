# distutils: language = c++
"""Hash functions of the core on bytes, strings and arrays."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_CheckBuffer, PyObject_GetBuffer
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cimport numpy as cnp

import operator

import numpy as np

cnp.import_array()

cdef extern from "fastpath/hash.hpp" namespace "fastpath" nogil:
    uint64_t xxh3_64_c "fastpath::xxh3_64"(const void* data, size_t size, uint64_t seed) noexcept
    uint64_t xxh64_c "fastpath::xxh64"(const void* data, size_t size, uint64_t seed) noexcept
    uint32_t murmur3_32_c "fastpath::murmur3_32"(const void* data, size_t size, uint32_t seed) noexcept
    uint32_t crc32_c "fastpath::crc32"(const void* data, size_t size, uint32_t crc) noexcept

# Below this many bytes a batch keeps the GIL: giving it up costs more than the work.
cdef enum:
    RELEASE_BYTES = 16384


cdef uint64_t seed_of(seed, int bits) except? 0:
    cdef object value
    if type(seed) is int:
        value = seed
    else:
        try:
            value = operator.index(seed)
        except TypeError:
            raise TypeError(f"seed must be an int, got {type(seed).__name__}") from None
    if value < 0 or value >> bits:
        raise ValueError(f"seed must be 0..2**{bits}-1, got {value}")
    return value


cdef uint64_t hash_one(key, uint64_t seed, int which) except? 0:
    cdef const char* data
    cdef Py_ssize_t size
    cdef Py_buffer view
    cdef uint64_t result
    if PyBytes_CheckExact(key):
        return dispatch(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), seed, which)
    if isinstance(key, str):
        data = PyUnicode_AsUTF8AndSize(key, &size)
        return dispatch(data, size, seed, which)
    if PyObject_CheckBuffer(key):
        PyObject_GetBuffer(key, &view, PyBUF_SIMPLE)
        result = dispatch(<const char*> view.buf, view.len, seed, which)
        PyBuffer_Release(&view)
        return result
    raise TypeError(f"key must be bytes or str, got {type(key).__name__}")


cdef inline uint64_t dispatch(const char* data, Py_ssize_t size, uint64_t seed, int which) noexcept nogil:
    if which == 0:
        return xxh3_64_c(data, <size_t> size, seed)
    if which == 1:
        return xxh64_c(data, <size_t> size, seed)
    if which == 2:
        return murmur3_32_c(data, <size_t> size, <uint32_t> seed)
    return crc32_c(data, <size_t> size, <uint32_t> seed)


def hash64(key, seed=0):
    """XXH3-64 of a key.

    Parameters
    ----------
    key : bytes, str or any C-contiguous buffer
        A string is hashed as its UTF-8 bytes.
    seed : int, default 0
        0..2**64-1. Draw one at random where strangers choose the keys.

    Returns
    -------
    int
        0..2**64-1, the same on every machine and in every version.

    Raises
    ------
    TypeError
        The key is no bytes-like object or string, or the seed no integer.
    ValueError
        The seed is out of range, or the string holds lone surrogates.

    Notes
    -----
    About 20 ns for short keys. Source: the XXH3 specification of xxHash 0.8. Not cryptographic.
    """
    return hash_one(key, seed_of(seed, 64), 0)


def xxh64(key, seed=0):
    """XXH64 of a key; arguments, errors and cost as in :func:`hash64`."""
    return hash_one(key, seed_of(seed, 64), 1)


def murmur3_32(key, seed=0):
    """MurmurHash3_x86_32 of a key, 0..2**32-1; arguments and errors as in :func:`hash64`, with a 32-bit seed."""
    return hash_one(key, seed_of(seed, 32), 2)


def crc32(key, seed=0):
    """CRC-32 as in zlib; ``seed`` continues an earlier result. For what embeds the core: Python has zlib."""
    return hash_one(key, seed_of(seed, 32), 3)


def hash64_many(keys, seed=0):
    """XXH3-64 of many keys.

    Parameters
    ----------
    keys : ndarray of uint8, shape (n, k), or sequence of bytes or str
        A row of the array is one key. A C-contiguous array is not copied.
    seed : int, default 0
        0..2**64-1, one for all keys.

    Returns
    -------
    ndarray of uint64, shape (n,)

    Raises
    ------
    TypeError
        The array is not uint8, or an element is neither bytes nor str.
    ValueError
        The array is not two-dimensional, or the seed is out of range.

    Notes
    -----
    Releases the GIL for large arrays. About 2 ns a key of 16 bytes.
    """
    cdef uint64_t c_seed = seed_of(seed, 64)
    cdef cnp.ndarray rows
    cdef cnp.ndarray result
    cdef uint64_t* out
    cdef const uint8_t* data
    cdef size_t i, n, width
    if isinstance(keys, np.ndarray):
        rows = keys
        if cnp.PyArray_TYPE(rows) != cnp.NPY_UINT8:
            raise TypeError(f"keys must be uint8[n, k], got an array of {keys.dtype}")
        if cnp.PyArray_NDIM(rows) != 2:
            raise ValueError(f"keys must be uint8[n, k], got shape {keys.shape}")
        rows = cnp.PyArray_GETCONTIGUOUS(rows)
        n = <size_t> cnp.PyArray_DIM(rows, 0)
        width = <size_t> cnp.PyArray_DIM(rows, 1)
        result = np.empty(n, np.uint64)
        out = <uint64_t*> cnp.PyArray_DATA(result)
        data = <const uint8_t*> cnp.PyArray_DATA(rows)
        if n * width < RELEASE_BYTES:
            for i in range(n):
                out[i] = xxh3_64_c(data + i * width, width, c_seed)
        else:
            with nogil:
                for i in range(n):
                    out[i] = xxh3_64_c(data + i * width, width, c_seed)
        return result
    if isinstance(keys, (bytes, str, bytearray, memoryview)):
        raise TypeError(f"keys must be uint8[n, k] or a sequence of bytes or str, got one {type(keys).__name__}")
    try:
        listed = list(keys)
    except TypeError:
        raise TypeError(
            f"keys must be uint8[n, k] or a sequence of bytes or str, got {type(keys).__name__}"
        ) from None
    n = <size_t> len(listed)
    result = np.empty(n, np.uint64)
    out = <uint64_t*> cnp.PyArray_DATA(result)
    for i in range(n):
        out[i] = hash_one(listed[i], c_seed, 0)
    return result
