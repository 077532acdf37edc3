# distutils: language = c++
"""What :mod:`fastpath.packets` is made of."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy
from libcpp cimport bool as cbool
from libcpp.vector cimport vector
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

cimport numpy as cnp

import numpy as np

cnp.import_array()

cdef extern from "fastpath/packets.hpp" namespace "fastpath" nogil:
    ctypedef struct PacketFields:
        pass
    void parse_packet(const uint8_t* frame, size_t size, PacketFields& out) noexcept
    size_t parse_packets(
        const uint8_t* data,
        size_t size,
        const uint64_t* offsets,
        const uint64_t* lengths,
        size_t n,
        PacketFields* out,
    ) noexcept
    void packet_key(const PacketFields& fields, size_t key_size, uint8_t* key) noexcept
    uint64_t checksum_add(const uint8_t* data, size_t size, uint64_t sum) noexcept
    uint16_t checksum_fold(uint64_t sum) noexcept
    uint16_t checksum_update(
        uint16_t checksum, const uint8_t* before, const uint8_t* after, size_t size
    ) noexcept

cdef extern from "fastpath/pcap.hpp" namespace "fastpath" nogil:
    cdef cppclass PcapRecords:
        vector[uint64_t] offsets
        vector[uint64_t] lengths
        vector[uint64_t] times_ns
    size_t read_pcap_records(
        const uint8_t* file, size_t size, cbool big_endian, uint32_t unit_ns, PcapRecords& records
    ) except +

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


cdef void check_array(array, dtype, str name) except *:
    if array.dtype != dtype or array.ndim != 1 or not (array.flags.c_contiguous and array.flags.aligned):
        raise TypeError(f"{name} must be a contiguous array of {dtype}, got {array.dtype} of shape {array.shape}")


cdef cnp.ndarray rows_of(out, size_t n):
    if out is None:
        return np.empty(n, DTYPE)
    if not isinstance(out, np.ndarray) or out.dtype != DTYPE:
        raise TypeError(f"out must be an array of packets.DTYPE, got {getattr(out, 'dtype', type(out).__name__)}")
    if out.shape != (n,) or not out.flags.carray:
        raise ValueError(f"out must be writeable, contiguous, aligned, of shape ({n},), got shape {out.shape}")
    return out


def parse_buffer(cnp.ndarray data, cnp.ndarray offsets, cnp.ndarray lengths, out):
    """Frames at uint64 offsets of uint64 lengths inside uint8 data; ValueError if one leaves it."""
    check_array(data, np.uint8, "data")
    check_array(offsets, np.uint64, "offsets")
    check_array(lengths, np.uint64, "lengths")
    cdef size_t size = <size_t> cnp.PyArray_DIM(data, 0)
    cdef size_t n = <size_t> cnp.PyArray_DIM(offsets, 0)
    if <size_t> cnp.PyArray_DIM(lengths, 0) != n:
        raise ValueError(f"lengths must have shape ({n},), as offsets have, got {(<object> lengths).shape}")
    cdef cnp.ndarray rows = rows_of(out, n)
    if out is not None and any(np.may_share_memory(rows, array) for array in (data, offsets, lengths)):
        raise ValueError("out must not lie where the frames do")
    cdef const uint8_t* base = <const uint8_t*> cnp.PyArray_DATA(data)
    cdef const uint64_t* offset = <const uint64_t*> cnp.PyArray_DATA(offsets)
    cdef const uint64_t* length = <const uint64_t*> cnp.PyArray_DATA(lengths)
    cdef PacketFields* fields = <PacketFields*> cnp.PyArray_DATA(rows)
    cdef size_t done
    with nogil:
        done = parse_packets(base, size, offset, length, n, fields)
    if done != n:
        raise ValueError(
            f"frame {done}, {length[done]} bytes at {offset[done]}, leaves the buffer of {size} bytes"
        )
    return rows


def parse_list(list frames, out):
    """Frames as bytes: the caller has checked the types."""
    cdef size_t n = <size_t> len(frames)
    cdef cnp.ndarray rows = rows_of(out, n)
    cdef PacketFields* fields = <PacketFields*> cnp.PyArray_DATA(rows)
    cdef size_t i
    for i in range(n):
        frame = frames[i]
        parse_packet(<const uint8_t*> PyBytes_AS_STRING(frame), <size_t> PyBytes_GET_SIZE(frame), fields[i])
    return rows


def keys_of(cnp.ndarray fields, size_t key_size):
    """Flow keys (uint8[n, key_size]) of parsed frames: the caller has checked that the size is 16 or 40."""
    check_array(fields, DTYPE, "fields")
    cdef size_t n = <size_t> cnp.PyArray_DIM(fields, 0)
    cdef cnp.ndarray out = np.empty((n, key_size), np.uint8)
    cdef const PacketFields* rows = <const PacketFields*> cnp.PyArray_DATA(fields)
    cdef uint8_t* keys = <uint8_t*> cnp.PyArray_DATA(out)
    cdef size_t i
    with nogil:
        for i in range(n):
            packet_key(rows[i], key_size, keys + i * key_size)
    return out


def pcap_records(const unsigned char[::1] file, bint big_endian, uint32_t unit_ns):
    """Offsets, lengths and times in nanoseconds (all uint64) of the records of a file, and where reading ended."""
    cdef PcapRecords records
    cdef size_t size = <size_t> file.shape[0]
    cdef const uint8_t* data = &file[0] if size else NULL
    cdef size_t end
    with nogil:
        end = read_pcap_records(data, size, big_endian, unit_ns, records)
    cdef size_t n = records.offsets.size()
    cdef cnp.ndarray offsets = np.empty(n, np.uint64)
    cdef cnp.ndarray lengths = np.empty(n, np.uint64)
    cdef cnp.ndarray times_ns = np.empty(n, np.uint64)
    if n:
        memcpy(cnp.PyArray_DATA(offsets), records.offsets.data(), n * 8)
        memcpy(cnp.PyArray_DATA(lengths), records.lengths.data(), n * 8)
        memcpy(cnp.PyArray_DATA(times_ns), records.times_ns.data(), n * 8)
    return offsets, lengths, times_ns, end


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
