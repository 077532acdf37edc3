# distutils: language = c++
"""Text <-> addresses, in bulk."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memchr

import numpy as np

cimport numpy as cnp

cnp.import_array()

cdef extern from "fastpath/addresses.hpp" namespace "fastpath" nogil:
    const size_t kMaxIpv4Text
    const size_t kMaxIpv6Text
    bint c_parse_ipv4 "fastpath::parse_ipv4"(const char* p, const char* end, uint32_t& address) noexcept
    bint c_parse_ipv6 "fastpath::parse_ipv6"(const char* p, const char* end, uint8_t* address) noexcept
    char* c_format_ipv4 "fastpath::format_ipv4"(uint32_t address, char* out) noexcept
    char* c_format_ipv6 "fastpath::format_ipv6"(const uint8_t* address, char* out) noexcept

cdef extern from "Python.h":
    bint PyUnicode_IS_ASCII(object o)
    void* PyUnicode_DATA(object o)
    Py_ssize_t PyUnicode_GET_LENGTH(object o)
    object PyUnicode_FromKindAndData(int kind, const void* buffer, Py_ssize_t size)
    int PyUnicode_1BYTE_KIND


cdef inline bint _one(int family, const char* p, const char* end, uint8_t* out, Py_ssize_t row) noexcept nogil:
    cdef uint32_t value = 0
    if family == 6:
        return c_parse_ipv6(p, end, out + 16 * row)
    if not c_parse_ipv4(p, end, value):
        return False
    (<uint32_t*>out)[row] = value
    return True


cdef inline bint _blank(char c) noexcept nogil:
    return c == b" " or c == b"\t" or c == b"\r"


# A line's text without blanks around it; `p` moves to the next line.
cdef inline void _next_line(const char** p, const char* end, const char** first, const char** last) noexcept nogil:
    cdef const char* newline = <const char*>memchr(p[0], b"\n", end - p[0])
    first[0] = p[0]
    last[0] = end if newline == NULL else newline
    p[0] = end if newline == NULL else newline + 1
    while first[0] != last[0] and _blank(first[0][0]):
        first[0] += 1
    while first[0] != last[0] and _blank((last[0] - 1)[0]):
        last[0] -= 1


cdef object _empty(int family, Py_ssize_t n):
    return np.empty((n, 16), dtype=np.uint8) if family == 6 else np.empty(n, dtype=np.uint32)


cdef object _parse_text(int family, bytes text):
    cdef const char* begin = PyBytes_AS_STRING(text)
    cdef const char* end = begin + PyBytes_GET_SIZE(text)
    cdef const char* p = begin
    cdef const char* first = NULL
    cdef const char* last = NULL
    cdef Py_ssize_t rows = 0, row = 0, line = 0
    cdef bint good = True
    with nogil:
        while p != end:
            _next_line(&p, end, &first, &last)
            rows += first != last
    cdef cnp.ndarray out = _empty(family, rows)
    cdef uint8_t* data = <uint8_t*>cnp.PyArray_DATA(out)
    p = begin
    with nogil:
        while p != end:
            line += 1
            _next_line(&p, end, &first, &last)
            if first == last:
                continue
            good = _one(family, first, last, data, row)
            if not good:
                break
            row += 1
    if not good:
        raise ValueError(f"line {line}: {first[:last - first][:80]!r} is not an IPv{family} address")
    return out


cdef object _parse(int family, object addresses):
    if isinstance(addresses, bytes):
        return _parse_text(family, addresses)
    if isinstance(addresses, str):
        raise TypeError("expected a list of str, or bytes with an address a line, not one str")
    cdef list items = addresses if type(addresses) is list else list(addresses)
    cdef cnp.ndarray out = _empty(family, len(items))
    cdef uint8_t* data = <uint8_t*>cnp.PyArray_DATA(out)
    cdef Py_ssize_t row = 0
    cdef const char* text
    for item in items:
        if not isinstance(item, str):
            raise TypeError(f"row {row}: expected str, not {type(item).__name__}")
        text = <const char*>PyUnicode_DATA(item)
        if not PyUnicode_IS_ASCII(item) or not _one(family, text, text + PyUnicode_GET_LENGTH(item), data, row):
            raise ValueError(f"row {row}: {item[:80]!r} is not an IPv{family} address")
        row += 1
    return out


def parse_ipv4(addresses):
    return _parse(4, addresses)


def parse_ipv6(addresses):
    return _parse(6, addresses)


def format_ipv4(addresses):
    if not isinstance(addresses, np.ndarray) or addresses.dtype != np.uint32 or addresses.ndim != 1:
        raise TypeError(f"expected a numpy array uint32[n], not {_described(addresses)}")
    cdef cnp.ndarray array = np.ascontiguousarray(addresses)
    cdef const uint32_t* data = <const uint32_t*>cnp.PyArray_DATA(array)
    cdef char[16] text
    cdef Py_ssize_t row
    cdef list out = []
    for row in range(cnp.PyArray_DIM(array, 0)):
        out.append(PyUnicode_FromKindAndData(PyUnicode_1BYTE_KIND, text, c_format_ipv4(data[row], text) - text))
    return out


def format_ipv6(addresses):
    if not isinstance(addresses, np.ndarray) or addresses.dtype != np.uint8 or addresses.ndim != 2:
        raise TypeError(f"expected a numpy array uint8[n,16], not {_described(addresses)}")
    if addresses.shape[1] != 16:
        raise ValueError(f"expected a numpy array uint8[n,16], not {_described(addresses)}")
    cdef cnp.ndarray array = np.ascontiguousarray(addresses)
    cdef const uint8_t* data = <const uint8_t*>cnp.PyArray_DATA(array)
    cdef char[40] text
    cdef Py_ssize_t row
    cdef list out = []
    for row in range(cnp.PyArray_DIM(array, 0)):
        out.append(PyUnicode_FromKindAndData(PyUnicode_1BYTE_KIND, text,
                                             c_format_ipv6(data + 16 * row, text) - text))
    return out


cdef str _described(object thing):
    if isinstance(thing, np.ndarray):
        return f"{thing.dtype}[{','.join(map(str, thing.shape))}]"
    return type(thing).__name__
