# What the faces of this module share: declarations, and checks of keys, values, MAC addresses and arrays.

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_CheckBuffer, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_CheckExact
from cpython.pycapsule cimport PyCapsule_GetContext, PyCapsule_New, PyCapsule_SetContext
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.math cimport isfinite
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy
from libcpp cimport bool as cbool
from libcpp.memory cimport unique_ptr
from libcpp.vector cimport vector

cimport numpy as cnp

from fastpath._values cimport Values

import collections
import copy
import ipaddress
import operator
import secrets
import time

import numpy as np

from fastpath.errors import CapacityError, NotSupported
from fastpath.forking import protect

cnp.import_array()

cdef extern from *:
    """
    #include <new>
    #include <stdexcept>
    static PyObject* fastpath_capacity_error = nullptr;
    static void raise_python_error() {
      try {
        throw;
      } catch (const std::bad_alloc&) {
        PyErr_NoMemory();
      } catch (const std::length_error& error) {
        PyErr_SetString(fastpath_capacity_error, error.what());
      } catch (const std::exception& error) {
        PyErr_SetString(PyExc_RuntimeError, error.what());
      }
    }
    static void set_capacity_error(PyObject* type) {
      Py_INCREF(type);
      fastpath_capacity_error = type;
    }
    """
    void raise_python_error()
    void set_capacity_error(object type)

set_capacity_error(CapacityError)

cdef extern from "fastpath/exact_table.hpp" namespace "fastpath" nogil:
    cdef cppclass CExactTable "fastpath::ExactTable":
        @staticmethod
        unique_ptr[CExactTable] make(size_t key_size, size_t capacity, uint64_t seed) except +raise_python_error
        cbool find(const uint8_t* key, uint32_t* value) noexcept
        size_t find_many(const uint8_t* keys, size_t n, uint32_t* values, uint32_t missing) noexcept
        cbool put(const uint8_t* key, uint32_t value, uint32_t* previous) except +raise_python_error
        size_t put_many(
            const uint8_t* keys, const uint32_t* values, size_t n, uint32_t* previous
        ) except +raise_python_error
        cbool erase(const uint8_t* key, uint32_t* previous) noexcept
        size_t erase_many(const uint8_t* keys, size_t n, vector[uint32_t]* gone) except +raise_python_error
        void clear(vector[uint32_t]* gone) except +raise_python_error
        size_t size() noexcept
        size_t nbytes() noexcept
        size_t key_size() noexcept
        uint64_t seed() noexcept
        void export_to(vector[uint8_t]& keys, vector[uint32_t]& values) except +raise_python_error
        cbool reclaim() noexcept
        void expect_fork() noexcept
        void lock_for_fork() noexcept
        void unlock_after_fork() noexcept
        void unlock_in_child() noexcept

cdef extern from "fastpath/forwarding_table.hpp" namespace "fastpath" nogil:
    cdef cppclass CForwardingTable "fastpath::ForwardingTable":
        CForwardingTable(size_t address_size, size_t capacity, uint64_t seed) except +raise_python_error
        cbool put(
            const uint8_t* source, const uint8_t* destination, uint32_t egress, uint32_t* previous
        ) except +raise_python_error
        size_t put_many(
            const uint8_t* sources, const uint8_t* destinations, const uint32_t* egress, size_t n, uint32_t* previous
        ) except +raise_python_error
        cbool erase(const uint8_t* source, const uint8_t* destination, uint32_t* previous) noexcept
        size_t erase_many(
            const uint8_t* sources, const uint8_t* destinations, size_t n, vector[uint32_t]* gone
        ) except +raise_python_error
        cbool get(const uint8_t* source, const uint8_t* destination, uint32_t* egress) noexcept
        cbool find(const uint8_t* source, const uint8_t* destination, uint32_t* egress) noexcept
        void find_many(
            const uint8_t* sources, const uint8_t* destinations, size_t n, uint32_t* egress, uint32_t missing
        ) noexcept
        void clear(vector[uint32_t]* gone) except +raise_python_error
        size_t size() noexcept
        size_t nbytes() noexcept
        CExactTable& pairs() noexcept
        CExactTable& any() noexcept
        cbool reclaim() noexcept
        void expect_fork() noexcept
        void lock_for_fork() noexcept
        void unlock_after_fork() noexcept
        void unlock_in_child() noexcept

cdef extern from "fastpath/fdb.hpp" namespace "fastpath" nogil:
    ctypedef struct FdbLimits "fastpath::Fdb::Limits":
        double max_age_s
        size_t max_entries
        size_t max_entries_per_port
    ctypedef struct FdbCounters "fastpath::Fdb::Counters":
        uint64_t moves
        uint64_t evictions
        uint64_t refused
    ctypedef struct FdbStation "fastpath::Fdb::Entry":
        uint64_t mac
        uint16_t vlan
        uint32_t port
        cbool is_static
        double age_s
    cdef cppclass CFdb "fastpath::Fdb":
        CFdb(FdbLimits limits, double start_s, cbool monotonic, uint64_t seed) except +raise_python_error
        cbool find(uint64_t mac, uint16_t vlan, double now_s, uint32_t* port) noexcept
        void find_many(
            const uint64_t* macs, const uint16_t* vlans, size_t n, double now_s, uint32_t* ports, uint32_t missing
        ) noexcept
        size_t learn_many(
            const uint64_t* macs, const uint16_t* vlans, const uint32_t* ports, size_t n, double now_s
        ) except +raise_python_error
        cbool add_static(uint64_t mac, uint16_t vlan, uint32_t port, double now_s) except +raise_python_error
        cbool erase(uint64_t mac, uint16_t vlan) except +raise_python_error
        size_t age(double now_s) except +raise_python_error
        size_t purge(uint32_t port, cbool with_static) except +raise_python_error
        void clear() except +raise_python_error
        vector[FdbStation] entries(double now_s) except +raise_python_error
        size_t count_of(uint32_t port) noexcept
        vector[uint32_t] take_vacated() noexcept
        cbool has_vacated() noexcept
        void remember_vacated() noexcept
        FdbCounters counters() noexcept
        double native_now_s() noexcept
        size_t size() noexcept
        size_t nbytes() noexcept
        cbool reclaim() noexcept
        void expect_fork() noexcept
        void lock_for_fork() noexcept
        void unlock_after_fork() noexcept
        void unlock_in_child() noexcept

cdef extern from "fastpath/mac.hpp" namespace "fastpath" nogil:
    cbool parse_mac(const char* text, size_t size, uint64_t* mac) noexcept
    void format_mac(uint64_t mac, char* text) noexcept
    uint64_t mac_from_bytes(const uint8_t* p) noexcept
    cbool mac_is_station(uint64_t mac) noexcept

cdef enum:
    RELEASE_KEYS = 512  # below this many keys a batch keeps the GIL: giving it up costs more than the work
    VALUES_IN_A_ROW = 4096  # ids taken or given back before other threads may have the GIL


cdef uint64_t checked_seed(seed) except? 0:
    if seed is None:
        return secrets.randbits(64)
    try:
        number = operator.index(seed)
    except TypeError:
        raise TypeError(f"seed must be an int or None, got {type(seed).__name__}") from None
    if not 0 <= number < 2**64:
        raise ValueError(f"seed must be 0..2**64-1, got {number}")
    return number


cdef cbool checked_dtype(dtype) except? True:
    """True for plain 32-bit integers, False for objects."""
    if dtype is None:
        return False
    try:
        if np.dtype(dtype) == np.uint32:
            return True
    except (TypeError, ValueError, SyntaxError):
        pass
    raise ValueError(f"dtype must be None (any hashable object) or 'uint32', got {dtype!r}")


cdef uint32_t checked_uint32(value, str name) except? 0:
    cdef int overflow = 0
    cdef long long small
    if PyLong_CheckExact(value):  # most are
        small = PyLong_AsLongLongAndOverflow(value, &overflow)
        if overflow == 0 and 0 <= small <= 0xFFFFFFFF:
            return <uint32_t> small
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}") from None
    if not 0 <= number <= 0xFFFFFFFF:
        raise ValueError(f"{name} must be 0..2**32-1, got {number}")
    return number


cdef size_t checked_count(value, str name, size_t least) except? 0:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, got {type(value).__name__}") from None
    if not least <= number <= 2**40:
        raise ValueError(f"{name} must be {least}..2**40, got {number}")
    return number


cdef void release_all(Values objects, vector[uint32_t]& numbers):
    cdef size_t i
    for i in range(numbers.size()):
        objects.release(numbers[i])
        if (i + 1) % VALUES_IN_A_ROW == 0:
            with nogil:
                pass


cdef tuple listed_values(values, size_t n, str name):
    """A copy: hashing a value may run code that changes the caller's list."""
    if isinstance(values, (str, bytes)):
        raise TypeError(f"{name} must be a sequence of {n} values, got one {type(values).__name__}")
    try:
        listed = tuple(values)
    except TypeError:
        raise TypeError(f"{name} must be a sequence of {n} values, got {type(values).__name__}") from None
    if <size_t> len(listed) != n:
        raise ValueError(f"{name} must be {n} values, one a key, got {len(listed)}")
    return listed


cdef int acquire_all(Values objects, tuple listed, vector[uint32_t]& numbers) except -1:
    """Appends the ids of the values, each held once; all or none."""
    cdef size_t i
    numbers.reserve(len(listed))
    try:
        for i in range(<size_t> len(listed)):
            numbers.push_back(objects.acquire(listed[i]))
            if (i + 1) % VALUES_IN_A_ROW == 0:
                with nogil:
                    pass
    except BaseException:
        release_all(objects, numbers)
        raise
    return 0


cdef cnp.ndarray contiguous(array):
    """The array itself, or a copy if its memory is strided or not aligned."""
    return array if cnp.PyArray_ISCARRAY_RO(<cnp.ndarray> array) else array.copy()


cdef cnp.ndarray apart_from(cnp.ndarray array, out):
    """The array, or a copy of it if a result that is written there would overwrite it; both are contiguous."""
    cdef cnp.ndarray result
    cdef const char* read
    cdef const char* written
    if out is None:
        return array
    result = out
    read = <const char*> cnp.PyArray_DATA(array)
    written = <const char*> cnp.PyArray_DATA(result)
    if read < written + cnp.PyArray_NBYTES(result) and written < read + cnp.PyArray_NBYTES(array):
        return array.copy()
    return array


cdef inline bint is_plain(array, int type_number, int dimensions) noexcept:
    """Whether it is a numpy array as the core reads it: of this type, contiguous and aligned."""
    return (
        cnp.PyArray_CheckExact(array)
        and cnp.PyArray_TYPE(<cnp.ndarray> array) == type_number
        and cnp.PyArray_NDIM(<cnp.ndarray> array) == dimensions
        and cnp.PyArray_ISCARRAY_RO(<cnp.ndarray> array)
    )


cdef list held_objects(Values objects, vector[uint32_t]& numbers):
    """The objects of ids that were held once more, which this gives back."""
    cdef size_t i
    listed = [objects.at(numbers[i]) for i in range(numbers.size())]
    release_all(objects, numbers)
    return listed


cdef void hold_all(Values objects, vector[uint32_t]& numbers) noexcept:
    cdef size_t i
    for i in range(numbers.size()):
        objects.hold(numbers[i])


cdef cnp.ndarray checked_out(out, size_t n):
    cdef cnp.npy_intp shape = <cnp.npy_intp> n
    if out is None:
        return cnp.PyArray_EMPTY(1, &shape, cnp.NPY_UINT32, 0)
    if is_plain(out, cnp.NPY_UINT32, 1) and cnp.PyArray_DIM(<cnp.ndarray> out, 0) == shape:
        if cnp.PyArray_ISWRITEABLE(<cnp.ndarray> out):
            return out
    if not isinstance(out, np.ndarray) or out.dtype != np.uint32:
        what = f"an array of {out.dtype}" if isinstance(out, np.ndarray) else type(out).__name__
        raise TypeError(f"out must be uint32[{n}], got {what}")
    if out.shape != (n,) or not out.flags.carray:
        raise ValueError(f"out must be a writeable, contiguous, aligned uint32[{n}], got shape {out.shape}")
    return out


cdef cnp.ndarray checked_uint32s(values, size_t n, str name):
    """values as uint32[n]; integer sequences and integer arrays are converted if they fit."""
    array = values if isinstance(values, np.ndarray) else None
    if array is None:
        if isinstance(values, (str, bytes)):
            raise TypeError(f"{name} must be uint32[{n}] or a sequence of integers, got {type(values).__name__}")
        try:
            listed = list(values)
        except TypeError:
            raise TypeError(
                f"{name} must be uint32[{n}] or a sequence of integers, got {type(values).__name__}"
            ) from None
        array = np.fromiter((checked_uint32(value, name) for value in listed), np.uint32, len(listed))
    if array.ndim != 1 or array.shape[0] != n:
        raise ValueError(f"{name} must have shape ({n},), got {array.shape}")
    if array.dtype != np.uint32:
        if array.dtype.kind not in "iu":
            raise TypeError(f"{name} must be uint32[{n}], got an array of {array.dtype}")
        if n and (array.min() < 0 or array.max() > 0xFFFFFFFF):
            raise ValueError(f"{name} must be 0..2**32-1, got {array.min()}..{array.max()}")
        array = array.astype(np.uint32)
    return contiguous(array)


cdef cnp.ndarray checked_rows(rows, size_t width, str name):
    """rows as a contiguous uint8[n, width]: an array, or a sequence of bytes."""
    if is_plain(rows, cnp.NPY_UINT8, 2) and <size_t> cnp.PyArray_DIM(<cnp.ndarray> rows, 1) == width:
        return rows
    if isinstance(rows, np.ndarray):
        if rows.dtype != np.uint8:
            raise TypeError(f"{name} must be uint8[n, {width}], got an array of {rows.dtype}")
        if rows.ndim != 2 or <size_t> rows.shape[1] != width:
            raise ValueError(f"{name} must be uint8[n, {width}], got shape {rows.shape}")
        return np.ascontiguousarray(rows)
    if isinstance(rows, (str, bytes, bytearray, memoryview)):
        raise TypeError(f"{name} must be uint8[n, {width}] or a sequence of bytes, got one {type(rows).__name__}")
    try:
        listed = list(rows)
    except TypeError:
        raise TypeError(
            f"{name} must be uint8[n, {width}] or a sequence of bytes, got {type(rows).__name__}"
        ) from None
    for row in listed:
        if not isinstance(row, (bytes, bytearray)):
            raise TypeError(f"each of {name} must be bytes, got {type(row).__name__}")
        if len(row) != width:
            raise ValueError(f"each of {name} must be {width} bytes, got {len(row)}")
    return np.frombuffer(b"".join(listed), np.uint8).reshape(len(listed), width)


cdef cnp.ndarray rows_of(vector[uint8_t]& bytes_, size_t width):
    """Bytes as uint8[n, width]."""
    rows = np.empty((bytes_.size() // width, width), np.uint8)
    if bytes_.size():
        memcpy(cnp.PyArray_DATA(<cnp.ndarray> rows), bytes_.data(), bytes_.size())
    return rows


cdef uint64_t mac_of(mac) except? 0xFFFFFFFFFFFFFFFF:
    """A MAC address in any of its forms as an integer."""
    cdef const char* text
    cdef Py_ssize_t size
    cdef uint64_t result = 0
    if isinstance(mac, str):
        text = PyUnicode_AsUTF8AndSize(mac, &size)
        if not parse_mac(text, <size_t> size, &result):
            raise ValueError(f"{mac!r} is not a MAC address like 'aa:bb:cc:dd:ee:ff'")
        return result
    if isinstance(mac, (bytes, bytearray)):
        packed = bytes(mac)
        if len(packed) != 6:
            raise ValueError(f"a packed MAC address has 6 bytes, got {len(packed)}: {packed!r}")
        return mac_from_bytes(<const uint8_t*> PyBytes_AS_STRING(packed))
    try:
        number = operator.index(mac)
    except TypeError:
        raise TypeError(f"a MAC address is a str, 6 bytes or an int, got {type(mac).__name__}") from None
    if not 0 <= number < 2**48:
        raise ValueError(f"a MAC address as an int is 0..2**48-1, got {number}")
    return number


cdef str mac_text(uint64_t mac):
    cdef char text[17]
    format_mac(mac, text)
    return text[:17].decode("ascii")


cdef cnp.ndarray checked_macs(macs, str name):
    """uint64[n], uint8[n, 6] or a sequence of MAC addresses as a contiguous uint64[n]."""
    cdef cnp.ndarray rows, result
    cdef const uint8_t* data
    cdef uint64_t* out
    cdef Py_ssize_t i
    if is_plain(macs, cnp.NPY_UINT64, 1):
        return macs
    if isinstance(macs, np.ndarray):
        if macs.dtype == np.uint64:
            if macs.ndim != 1:
                raise ValueError(f"{name} must be uint64[n] or uint8[n, 6], got shape {macs.shape}")
            return contiguous(macs)
        if macs.dtype == np.uint8:
            if macs.ndim != 2 or macs.shape[1] != 6:
                raise ValueError(f"{name} must be uint64[n] or uint8[n, 6], got shape {macs.shape}")
            rows = np.ascontiguousarray(macs)
            result = np.empty(macs.shape[0], np.uint64)
            data = <const uint8_t*> cnp.PyArray_DATA(rows)
            out = <uint64_t*> cnp.PyArray_DATA(result)
            for i in range(cnp.PyArray_DIM(rows, 0)):
                out[i] = mac_from_bytes(data + 6 * i)
            return result
        raise TypeError(f"{name} must be uint64[n] or uint8[n, 6], got an array of {macs.dtype}")
    if isinstance(macs, (str, bytes, bytearray)):
        raise TypeError(f"{name} must be an array or a sequence of MAC addresses, got one {type(macs).__name__}")
    try:
        listed = list(macs)
    except TypeError:
        raise TypeError(
            f"{name} must be an array or a sequence of MAC addresses, got {type(macs).__name__}"
        ) from None
    return np.fromiter((mac_of(mac) for mac in listed), np.uint64, len(listed))


cdef void release_owner(object capsule) noexcept:
    Py_DECREF(<object> PyCapsule_GetContext(capsule))


cdef object owning_capsule(owner, void* interface, const char* name):
    """A capsule that keeps its owner alive."""
    capsule = PyCapsule_New(interface, name, release_owner)
    Py_INCREF(owner)
    PyCapsule_SetContext(capsule, <void*> owner)
    return capsule
