# distutils: language = c++
"""What :mod:`fastpath.packets` is made of."""

from libc.stdint cimport uint8_t, uint16_t, uint64_t
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

cimport numpy as cnp

import numpy as np

cnp.import_array()

cdef extern from "fastpath/packets.hpp" namespace "fastpath" nogil:
    ctypedef struct PacketFields:
        pass
    void parse_packet(const uint8_t* frame, size_t size, PacketFields& out) noexcept
    uint64_t checksum_add(const uint8_t* data, size_t size, uint64_t sum) noexcept
    uint16_t checksum_fold(uint64_t sum) noexcept
    uint16_t checksum_update(
        uint16_t checksum, const uint8_t* before, const uint8_t* after, size_t size
    ) noexcept

DTYPE = np.dtype(
    [
        ("dst_mac", np.uint64),
        ("src_mac", np.uint64),
        ("src", np.uint8, (16,)),
        ("dst", np.uint8, (16,)),
        ("src_ipv4", np.uint32),
        ("dst_ipv4", np.uint32),
        ("length", np.uint32),
        ("payload", np.uint32),
        ("flags", np.uint16),
        ("ethertype", np.uint16),
        ("vlan", np.uint16),
        ("inner_vlan", np.uint16),
        ("ip_length", np.uint16),
        ("ip_id", np.uint16),
        ("fragment_offset", np.uint16),
        ("src_port", np.uint16),
        ("dst_port", np.uint16),
        ("arp_operation", np.uint16),
        ("protocol", np.uint8),
        ("ttl", np.uint8),
        ("tos", np.uint8),
        ("tcp_flags", np.uint8),
        ("icmp_type", np.uint8),
        ("icmp_code", np.uint8),
        ("unused", np.uint8, (6,)),
    ]
)
assert DTYPE.itemsize == sizeof(PacketFields)


def parse_buffer(cnp.ndarray data, cnp.ndarray offsets, cnp.ndarray lengths, cnp.ndarray out):
    """Frames at uint64 offsets of uint64 lengths inside uint8 data: the caller has checked the bounds."""
    cdef const uint8_t* base = <const uint8_t*> cnp.PyArray_DATA(data)
    cdef const uint64_t* offset = <const uint64_t*> cnp.PyArray_DATA(offsets)
    cdef const uint64_t* length = <const uint64_t*> cnp.PyArray_DATA(lengths)
    cdef PacketFields* fields = <PacketFields*> cnp.PyArray_DATA(out)
    cdef size_t i
    cdef size_t n = <size_t> cnp.PyArray_DIM(out, 0)
    with nogil:
        for i in range(n):
            parse_packet(base + offset[i], length[i], fields[i])


def parse_list(list frames, cnp.ndarray out):
    """Frames as bytes: the caller has checked the types."""
    cdef PacketFields* fields = <PacketFields*> cnp.PyArray_DATA(out)
    cdef size_t i
    for i in range(<size_t> len(frames)):
        frame = frames[i]
        parse_packet(<const uint8_t*> PyBytes_AS_STRING(frame), <size_t> PyBytes_GET_SIZE(frame), fields[i])


def checksum(data):
    """The Internet checksum (RFC 1071) of a bytes-like object, 0..65535."""
    cdef Py_buffer view
    cdef uint16_t result
    if isinstance(data, str):
        raise TypeError("data must be bytes-like, got str")
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    result = checksum_fold(checksum_add(<const uint8_t*> view.buf, <size_t> view.len, 0))
    PyBuffer_Release(&view)
    return result


def updated_checksum(uint16_t checksum, bytes before, bytes after):
    """The caller has checked that both have one even size."""
    return checksum_update(
        checksum,
        <const uint8_t*> PyBytes_AS_STRING(before),
        <const uint8_t*> PyBytes_AS_STRING(after),
        <size_t> PyBytes_GET_SIZE(before),
    )
