# distutils: language = c++
"""FlowTable: a bounded table of flows that age."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_CheckBuffer, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from libcpp cimport bool as cbool
from libcpp.memory cimport unique_ptr
from libcpp.vector cimport vector

cimport numpy as cnp

from fastpath._values cimport Values

import copy
import math
import operator
import secrets
import time

import numpy as np

from fastpath.forking import protect

cnp.import_array()

cdef extern from "fastpath/flow_table.hpp" namespace "fastpath" nogil:
    ctypedef struct FlowOptions "fastpath::FlowTable::Options":
        size_t key_size
        size_t capacity
        uint32_t idle_ms
        uint32_t absolute_ms
        cbool counts
        uint64_t seed
    ctypedef struct FlowRecord "fastpath::FlowTable::Flow":
        uint32_t value
    ctypedef struct FlowPut "fastpath::FlowTable::Put":
        cbool added
        uint32_t previous
    cdef cppclass CFlowTable "fastpath::FlowTable":
        CFlowTable(const FlowOptions& options) except +
        cbool busy() noexcept
        cbool stamps_are_old(uint64_t now_ms) noexcept
        void renew_stamps(uint64_t now_ms) noexcept
        void expect_fork() noexcept
        void lock_for_fork() noexcept
        void unlock_after_fork() noexcept
        void unlock_in_child() noexcept
        cbool find(const uint8_t* key, uint64_t now_ms, uint32_t bytes, uint32_t* value) noexcept
        cbool peek(const uint8_t* key, uint64_t now_ms, uint32_t* value) noexcept
        size_t find_many(
            const uint8_t* keys, const uint32_t* bytes, size_t n, uint64_t now_ms, uint32_t* values, uint32_t missing
        ) noexcept
        FlowPut put(
            const uint8_t* key,
            uint32_t value,
            uint64_t now_ms,
            uint32_t idle_ms,
            uint32_t absolute_ms,
            vector[uint32_t]* gone,
        ) except +
        size_t put_many(
            const uint8_t* keys,
            const uint32_t* values,
            size_t n,
            uint64_t now_ms,
            uint32_t* previous,
            vector[uint32_t]* gone,
        ) except +
        cbool erase(const uint8_t* key, uint32_t* value) noexcept
        FlowPut restore(
            const uint8_t* key, const FlowRecord& flow, uint64_t now_ms, vector[uint32_t]* gone
        ) except +
        size_t expire(uint64_t now_ms, uint64_t budget_us, size_t most, vector[uint32_t]* gone) except +
        void clear(vector[uint32_t]* gone) except +
        void export_to(uint64_t now_ms, vector[uint8_t]& keys, vector[FlowRecord]& flows) except +
        size_t size() noexcept
        uint64_t evictions() noexcept
        uint64_t expirations() noexcept
        size_t nbytes() noexcept
    const uint32_t FOREVER "fastpath::FlowTable::kForever"
    const uint32_t DEFAULT "fastpath::FlowTable::kDefault"

cdef enum:
    RELEASE_KEYS = 512  # below this many keys a batch keeps the GIL: giving it up costs more than the work
    RELEASE_VALUES = 1000  # objects that a call of expire lets go at most, about
    RELEASE_AT_ONCE = 128  # the same between two looks at the clock

# FlowTable::Flow as numpy sees it.
RECORD = np.dtype(
    [
        ("value", np.uint32),
        ("idle_ms", np.uint32),
        ("age_ms", np.uint32),
        ("idle_timeout_ms", np.uint32),
        ("absolute_timeout_ms", np.uint32),
        ("own", np.uint32),
        ("packets", np.uint64),
        ("bytes", np.uint64),
    ]
)
assert RECORD.itemsize == sizeof(FlowRecord)


cdef double seconds_of(seconds, str name, str expected) except? -1:
    if isinstance(seconds, (str, bytes, bytearray)):
        raise TypeError(f"{name} must be {expected}, got {type(seconds).__name__}")
    try:
        return float(seconds)
    except OverflowError:
        raise ValueError(f"{name} must be {expected}, got a number that no float can hold") from None
    except TypeError:
        raise TypeError(f"{name} must be {expected}, got {type(seconds).__name__}") from None


cdef uint32_t milliseconds(seconds, str name) except? 0:
    """A timeout; None: none."""
    if seconds is None:
        return FOREVER
    cdef double number = seconds_of(seconds, name, "seconds as a number or None")
    if number == math.inf:
        return FOREVER
    if not 0.001 <= number <= 2_000_000:
        raise ValueError(f"{name} must be 0.001..2000000 seconds, None or inf, got {number}")
    return round(number * 1000)


cdef uint32_t uint32_of(value, str name) except? 0:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}") from None
    if not 0 <= number <= 0xFFFFFFFF:
        raise ValueError(f"{name} must be 0..2**32-1, got {number}")
    return number


cdef cnp.ndarray uint32s_of(values, size_t n, str name):
    if isinstance(values, (str, bytes)) or not (isinstance(values, np.ndarray) or hasattr(values, "__iter__")):
        raise TypeError(f"{name} must be uint32[{n}] or a sequence of integers, got {type(values).__name__}")
    if not isinstance(values, np.ndarray):
        listed = list(values)
        values = np.fromiter((uint32_of(value, name) for value in listed), np.uint32, len(listed))
    if values.shape != (n,):
        raise ValueError(f"{name} must have shape ({n},), got {values.shape}")
    if values.dtype != np.uint32:
        if values.dtype.kind not in "iu":
            raise TypeError(f"{name} must be uint32[{n}], got an array of {values.dtype}")
        if n and (values.min() < 0 or values.max() > 0xFFFFFFFF):
            raise ValueError(f"{name} must be 0..2**32-1, got {values.min()}..{values.max()}")
    return np.require(values, np.uint32, "CA")


cdef class FlowTable:
    """A bounded table of flows: keys of one size -> values, with timeouts and eviction.

    Parameters
    ----------
    key_size : int, default 40
        1 to 64 bytes; :func:`fastpath.keys.five_tuple` makes keys of 40 (both families) or 16 (IPv4).
    capacity : int
        Flows at most. The memory is taken at once and never grows. A new flow in a full table takes the place of
        one that is over or, failing that, of the idlest of the about sixteen that share its places.
    idle_timeout_s : float or None, default 60
        A flow that was neither looked up nor inserted for longer is over. None: never.
    absolute_timeout_s : float or None, optional
        A flow that was inserted longer ago is over. None: never.
    clock : callable, optional
        Seconds as a float; :func:`time.monotonic` unless told. Kept in milliseconds. Where it runs backwards or
        gives NaN or an infinity, time stands still.
    dtype : None or "uint32", optional
        As in :class:`fastpath.ExactTable`: objects and ids, or integers.
    counters : bool, default False
        Count packets and bytes of each flow (16 bytes more a flow).
    seed : int, optional
        Of the hash; random unless told.

    Notes
    -----
    A flow that is over is not found, whether or not it has been removed; every write removes a few, and
    :meth:`expire` all. Timeouts are at most 2,000,000 s (23 days).

    Threads: any number of readers beside one writer at a time; a look-up takes no lock, and refreshes the flow with
    one store. A call that writes gives up the GIL when it has to wait for another one.

    Cost: one cache line of memory a look-up of keys up to 48 bytes, plus a word of the index (1.3 bytes a flow,
    which millions of flows leave in the processor's cache); a miss reads the index only. An insert has a bound at
    any load. Memory: 40 bytes a flow for keys up to 16 bytes, 80 for those up to 48.

    Source: bucketised cuckoo hashing with partial keys (Fan et al., "MemC3", 2013), where a bucket knows whether
    flows of its own are in other ones (Le Scouarnec, "Cuckoo++ Hash Tables", 2018); hash: XXH3-64.
    """

    cdef unique_ptr[CFlowTable] table
    cdef Values objects
    cdef FlowOptions options
    cdef object clock
    cdef double start_s
    cdef double latest_ms
    cdef object __weakref__

    def __cinit__(
        self,
        key_size=40,
        *,
        capacity,
        idle_timeout_s=60.0,
        absolute_timeout_s=None,
        clock=None,
        dtype=None,
        counters=False,
        seed=None,
    ):
        for value, name, most in ((key_size, "key_size", 64), (capacity, "capacity", 2**34)):
            if not hasattr(value, "__index__"):
                raise TypeError(f"{name} must be an int, got {type(value).__name__}")
            if not 1 <= operator.index(value) <= most:
                raise ValueError(f"{name} must be 1..{most}, got {operator.index(value)}")
        if clock is not None and not callable(clock):
            raise TypeError(f"clock must be callable, got {type(clock).__name__}")
        plain = False
        if dtype is not None:
            try:
                plain = np.dtype(dtype) == np.uint32
            except TypeError:
                pass
            if not plain:
                raise ValueError(f"dtype must be None (any hashable object) or 'uint32', got {dtype!r}")
        self.options.key_size = operator.index(key_size)
        self.options.capacity = operator.index(capacity)
        self.options.idle_ms = milliseconds(idle_timeout_s, "idle_timeout_s")
        self.options.absolute_ms = milliseconds(absolute_timeout_s, "absolute_timeout_s")
        self.options.counts = bool(counters)
        if seed is None:
            self.options.seed = secrets.randbits(64)
        elif not hasattr(seed, "__index__"):
            raise TypeError(f"seed must be an int or None, got {type(seed).__name__}")
        elif not 0 <= operator.index(seed) < 2**64:
            raise ValueError(f"seed must be 0..2**64-1, got {seed}")
        else:
            self.options.seed = operator.index(seed)
        self.clock = clock
        self.start_s = self.clock_s()
        if not math.isfinite(self.start_s):
            raise ValueError(f"clock must give seconds as a finite number, got {self.start_s}")
        self.table.reset(new CFlowTable(self.options))
        self.objects = None if plain else Values()
        protect(self)

    # --- forks: see fastpath.forking ---

    def _lock_for_fork(self):
        if not self.table.get().busy():
            self.table.get().lock_for_fork()
        else:
            self.table.get().expect_fork()
            with nogil:
                self.table.get().lock_for_fork()

    def _unlock_after_fork(self):
        self.table.get().unlock_after_fork()

    def _unlock_in_child(self):
        if self.objects is not None:
            self.objects.forget_exports()
        self.table.get().unlock_in_child()

    cdef double clock_s(self) except? -1:
        return time.monotonic() if self.clock is None else self.clock()

    cdef uint64_t now(self) except? 0:
        cdef double ms = (self.clock_s() - self.start_s) * 1000
        if self.latest_ms < ms < 9e18:
            self.latest_ms = ms
        cdef uint64_t now_ms = <uint64_t> self.latest_ms
        if self.table.get().stamps_are_old(now_ms):
            with nogil:  # which waits for a writer
                self.table.get().renew_stamps(now_ms)
        return now_ms

    cdef const uint8_t* key_of(self, key, Py_buffer* view) except NULL:
        if PyBytes_CheckExact(key):
            if <size_t> PyBytes_GET_SIZE(key) != self.options.key_size:
                raise ValueError(f"key must be {self.options.key_size} bytes, got {len(key)}")
            return <const uint8_t*> PyBytes_AS_STRING(key)
        if isinstance(key, str) or not PyObject_CheckBuffer(key):
            raise TypeError(f"key must be {self.options.key_size} bytes, got {type(key).__name__}")
        PyObject_GetBuffer(key, view, PyBUF_SIMPLE)
        if <size_t> view.len != self.options.key_size:
            size = view.len
            PyBuffer_Release(view)
            view.buf = NULL
            raise ValueError(f"key must be {self.options.key_size} bytes, got {size}")
        return <const uint8_t*> view.buf

    cdef cnp.ndarray rows_of(self, keys):
        width = self.options.key_size
        if isinstance(keys, np.ndarray):
            if keys.dtype != np.uint8:
                raise TypeError(f"keys must be uint8[n, {width}], got an array of {keys.dtype}")
            if keys.ndim != 2 or keys.shape[1] != width:
                raise ValueError(f"keys must be uint8[n, {width}], got shape {keys.shape}")
            return np.require(keys, requirements="CA")
        if isinstance(keys, (str, bytes, bytearray, memoryview)) or not hasattr(keys, "__iter__"):
            raise TypeError(f"keys must be uint8[n, {width}] or a sequence of bytes, got {type(keys).__name__}")
        listed = list(keys)
        for key in listed:
            if not isinstance(key, (bytes, bytearray)):
                raise TypeError(f"each of keys must be bytes, got {type(key).__name__}")
            if len(key) != width:
                raise ValueError(f"each of keys must be {width} bytes, got {len(key)}")
        return np.frombuffer(b"".join(listed), np.uint8).reshape(len(listed), width)

    cdef object value_of(self, uint32_t number):
        return number if self.objects is None else self.objects.at(number)

    cdef void release_all(self, vector[uint32_t]& gone) except *:
        cdef size_t i
        if self.objects is not None:
            for i in range(gone.size()):
                self.objects.release(gone[i])

    def lookup(self, key, size=0):
        """The value of a flow, which is refreshed, or None; ``size`` bytes are counted if the table counts."""
        cdef Py_buffer view
        cdef uint32_t found = 0
        cdef uint32_t length = uint32_of(size, "size")
        cdef uint64_t now_ms = self.now()
        view.buf = NULL
        cdef const uint8_t* data = self.key_of(key, &view)
        cdef bint hit = self.table.get().find(data, now_ms, length, &found)
        if view.buf != NULL:
            PyBuffer_Release(&view)
        return self.value_of(found) if hit else None

    def get(self, key, default=None):
        """The value of a flow, which is not refreshed, or ``default``."""
        cdef Py_buffer view
        cdef uint32_t found = 0
        cdef uint64_t now_ms = self.now()
        view.buf = NULL
        cdef const uint8_t* data = self.key_of(key, &view)
        cdef bint hit = self.table.get().peek(data, now_ms, &found)
        if view.buf != NULL:
            PyBuffer_Release(&view)
        return self.value_of(found) if hit else default

    def __contains__(self, key):
        cdef object nothing = object()
        return self.get(key, nothing) is not nothing

    def __getitem__(self, key):
        cdef object nothing = object()
        value = self.get(key, nothing)
        if value is nothing:
            raise KeyError(key)
        return value

    def lookup_many(self, keys, *, sizes=None, out=None, default=0):
        """The values (``dtype="uint32"``) or value ids of many flows, all of which are refreshed.

        Parameters
        ----------
        keys : ndarray of uint8, shape (n, key_size), or sequence of bytes
        sizes : ndarray of uint32, shape (n,), optional
            Bytes of each packet, for a table that counts.
        out : ndarray of uint32, shape (n,), optional
        default : int, default 0
            What a miss gives.

        Returns
        -------
        ndarray of uint32, shape (n,)
        """
        cdef uint32_t missing = uint32_of(default, "default")
        cdef cnp.ndarray rows = self.rows_of(keys)
        cdef size_t n = <size_t> cnp.PyArray_DIM(rows, 0)
        cdef cnp.ndarray lengths
        cdef const uint32_t* length_data = NULL
        if sizes is not None:
            lengths = uint32s_of(sizes, n, "sizes")
            length_data = <const uint32_t*> cnp.PyArray_DATA(lengths)
        cdef cnp.ndarray result
        if out is None:
            result = np.empty(n, np.uint32)
        elif not isinstance(out, np.ndarray) or out.dtype != np.uint32:
            raise TypeError(f"out must be uint32[{n}], got {getattr(out, 'dtype', type(out).__name__)}")
        elif out.shape != (n,) or not (out.flags.carray):
            raise ValueError(f"out must be a writeable, contiguous, aligned uint32[{n}], got shape {out.shape}")
        else:
            result = out
            if np.may_share_memory(out, rows):
                rows = rows.copy()
            if length_data != NULL and np.may_share_memory(out, lengths):
                lengths = lengths.copy()
                length_data = <const uint32_t*> cnp.PyArray_DATA(lengths)
        cdef const uint8_t* data = <const uint8_t*> cnp.PyArray_DATA(rows)
        cdef uint32_t* found = <uint32_t*> cnp.PyArray_DATA(result)
        cdef uint64_t now_ms = self.now()
        if n < RELEASE_KEYS:
            self.table.get().find_many(data, length_data, n, now_ms, found, missing)
        else:
            with nogil:
                self.table.get().find_many(data, length_data, n, now_ms, found, missing)
        return result

    def insert(self, key, value, *, idle_timeout_s=..., absolute_timeout_s=...):
        """Insert a flow, or replace the value of a known one and refresh it.

        Parameters
        ----------
        key : bytes-like of ``key_size`` bytes
        value : object
            Hashable and not None; an integer with ``dtype="uint32"``.
        idle_timeout_s, absolute_timeout_s : float or None, optional
            The flow's own timeouts in seconds, None for none. A flow that has none of its own follows the
            table's. Where one is told for a known flow, the other is the table's again, and its time and its
            counters begin anew; where none is told, they stay as they are.

        Raises
        ------
        ValueError, TypeError
            The key has another size, the value is none that the table takes, or a timeout is not positive.

        Notes
        -----
        Never fails for lack of room: the idlest of a few candidates goes, and ``evictions`` counts it. Safe from
        any thread. Cost: some hundred nanoseconds.
        """
        cdef Py_buffer view
        cdef vector[uint32_t] gone
        cdef FlowPut put
        cdef uint32_t idle_ms = DEFAULT
        cdef uint32_t absolute_ms = DEFAULT
        cdef uint64_t now_ms = self.now()
        cdef uint32_t number
        if idle_timeout_s is not ...:
            idle_ms = milliseconds(idle_timeout_s, "idle_timeout_s")
        if absolute_timeout_s is not ...:
            absolute_ms = milliseconds(absolute_timeout_s, "absolute_timeout_s")
        view.buf = NULL
        cdef const uint8_t* data = self.key_of(key, &view)
        cdef bint held = False
        try:
            number = uint32_of(value, "value") if self.objects is None else self.objects.acquire(value)
            held = True
            if self.table.get().busy():
                with nogil:
                    put = self.table.get().put(data, number, now_ms, idle_ms, absolute_ms, &gone)
            else:
                put = self.table.get().put(data, number, now_ms, idle_ms, absolute_ms, &gone)
        except BaseException:
            if held:
                gone.push_back(number)
            self.release_all(gone)
            raise
        finally:
            if view.buf != NULL:
                PyBuffer_Release(&view)
        if not put.added:
            gone.push_back(put.previous)
        self.release_all(gone)

    def __setitem__(self, key, value):
        self.insert(key, value)

    def insert_many(self, keys, values):
        """Insert or replace many flows, in order.

        Parameters
        ----------
        keys : ndarray of uint8, shape (n, key_size), or sequence of bytes
        values : sequence of n values; ``uint32[n]`` is taken as it is with ``dtype="uint32"``

        Returns
        -------
        int
            How many are new.
        """
        cdef cnp.ndarray rows = self.rows_of(keys)
        cdef size_t n = <size_t> cnp.PyArray_DIM(rows, 0)
        cdef cnp.ndarray numbers
        cdef cnp.ndarray before
        cdef uint32_t* number_data
        cdef uint32_t* before_data = NULL
        cdef vector[uint32_t] gone
        cdef vector[uint32_t]* noting = NULL
        cdef const uint8_t* data = <const uint8_t*> cnp.PyArray_DATA(rows)
        cdef uint64_t now_ms = self.now()
        cdef size_t added, i
        cdef size_t held = 0
        if self.objects is None:
            numbers = uint32s_of(values, n, "values")
            number_data = <uint32_t*> cnp.PyArray_DATA(numbers)
        else:
            if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__"):
                raise TypeError(f"values must be a sequence of {n} values, got {type(values).__name__}")
            listed = list(values)
            if <size_t> len(listed) != n:
                raise ValueError(f"values must be {n} values, one a key, got {len(listed)}")
            numbers = np.empty(n, np.uint32)
            before = np.zeros(n, np.uint32)
            number_data = <uint32_t*> cnp.PyArray_DATA(numbers)
            before_data = <uint32_t*> cnp.PyArray_DATA(before)
            noting = &gone
            try:
                for i in range(n):
                    number_data[i] = self.objects.acquire(listed[i])
                    held += 1
            except BaseException:
                for i in range(held):
                    self.objects.release(number_data[i])
                raise
        with nogil:
            added = self.table.get().put_many(data, number_data, n, now_ms, before_data, noting)
        if before_data != NULL:
            for i in range(n):
                self.objects.release(before_data[i])
        self.release_all(gone)
        return added

    def delete(self, key):
        """Remove a flow; KeyError if it is not there, or is over."""
        cdef Py_buffer view
        cdef uint64_t now_ms = self.now()
        cdef uint32_t value = 0
        view.buf = NULL
        cdef const uint8_t* data = self.key_of(key, &view)
        cdef bint hit
        cdef bint live = self.table.get().peek(data, now_ms, &value)
        if self.table.get().busy():
            with nogil:
                hit = self.table.get().erase(data, &value)
        else:
            hit = self.table.get().erase(data, &value)
        if view.buf != NULL:
            PyBuffer_Release(&view)
        if hit and self.objects is not None:
            self.objects.release(value)
        if not (hit and live):
            raise KeyError(key)

    def __delitem__(self, key):
        self.delete(key)

    def expire(self, budget_s=0.0005):
        """Remove flows that are over; returns how many.

        Parameters
        ----------
        budget_s : float or None, default 0.0005
            A call ends after one round or about this time, and the next one goes on where it ended, so that the
            traffic is never held up for long. None: a whole round. Half a millisecond is enough to look at some
            hundred thousand flows, and to remove fifty thousand integers or some five hundred objects.
        """
        cdef vector[uint32_t] gone
        cdef uint64_t now_ms = self.now()
        cdef uint64_t budget_us = <uint64_t> -1
        cdef size_t most = <size_t> -1
        cdef size_t removed, some
        cdef double budget, end, left
        if budget_s is not None:
            budget = seconds_of(budget_s, "budget_s", "seconds as a number or None")
            if not 0 <= budget <= 1e6:
                raise ValueError(f"budget_s must be 0..1000000 seconds or None, got {budget_s}")
            budget_us = <uint64_t> (budget * 1e6)
        if self.objects is None:
            with nogil:
                removed = self.table.get().expire(now_ms, budget_us, most, NULL)
            return removed
        if budget_s is not None:
            most = RELEASE_AT_ONCE
            end = time.perf_counter() + budget
        removed = 0
        while True:
            gone.clear()
            with nogil:
                some = self.table.get().expire(now_ms, budget_us, most, &gone)
            self.release_all(gone)
            removed += some
            if some < most or removed >= RELEASE_VALUES:  # a round or the time is over, or it is enough
                return removed
            left = end - time.perf_counter()
            if left <= 0:
                return removed
            budget_us = <uint64_t> (left * 1e6)

    def clear(self):
        """Remove every flow."""
        cdef vector[uint32_t] gone
        with nogil:
            self.table.get().clear(&gone)
        self.release_all(gone)

    cdef tuple flows(self):
        """Keys (uint8[n, key_size]), records (RECORD) and objects (None for integers) of all live flows."""
        cdef vector[uint8_t] keys
        cdef vector[FlowRecord] flows
        cdef size_t i
        cdef uint64_t now_ms = self.now()
        cdef int phase = 0
        if self.objects is not None:
            phase = self.objects.begin_export()
        try:
            with nogil:  # which waits for a writer
                self.table.get().export_to(now_ms, keys, flows)
            # What is allocated from here on may end other objects, and their ends may edit this table.
            if self.objects is not None:
                for i in range(flows.size()):
                    self.objects.hold(flows[i].value)
        finally:
            if self.objects is not None:
                self.objects.end_export(phase)
        cdef size_t n = flows.size()
        cdef cnp.ndarray packed = np.empty((n, self.options.key_size), np.uint8)
        cdef cnp.ndarray records = np.empty(n, RECORD)
        if n:
            memcpy(cnp.PyArray_DATA(packed), keys.data(), keys.size())
            memcpy(cnp.PyArray_DATA(records), flows.data(), n * sizeof(FlowRecord))
        values = None
        if self.objects is not None:
            values = [self.objects.at(flows[i].value) for i in range(n)]
            for i in range(n):
                self.objects.release(flows[i].value)
        return packed, records, values

    def to_array(self):
        """All live flows as a structured array, at one point in time, in no order.

        Fields: ``key`` (uint8[key_size]), ``value`` (uint32, an id with objects), ``idle_s``, ``age_s`` (float64),
        ``packets``, ``bytes`` (uint64; 0 unless the table counts), ``idle_timeout_s``, ``absolute_timeout_s``
        (float64; inf: none). Idle times and ages end at 2**31 ms (24 days).
        """
        packed, records, _ = self.flows()
        result = np.empty(
            len(records),
            [
                ("key", np.uint8, (self.options.key_size,)),
                ("value", np.uint32),
                ("idle_s", np.float64),
                ("age_s", np.float64),
                ("packets", np.uint64),
                ("bytes", np.uint64),
                ("idle_timeout_s", np.float64),
                ("absolute_timeout_s", np.float64),
            ],
        )
        result["key"] = packed
        for name in ("value", "packets", "bytes"):
            result[name] = records[name]
        for name in ("idle", "age"):
            result[name + "_s"] = records[name + "_ms"] / 1000.0
        for name in ("idle_timeout", "absolute_timeout"):
            ms = records[name + "_ms"]
            result[name + "_s"] = np.where(ms == FOREVER, np.inf, ms / 1000.0)
        return result

    def items(self):
        """List of ``(key, value)`` of the live flows, at one point in time, in no order."""
        packed, records, values = self.flows()
        if values is None:
            values = records["value"].tolist()
        return [(key.tobytes(), value) for key, value in zip(packed, values)]

    def __iter__(self):
        return iter([key for key, _ in self.items()])

    def __len__(self):
        """Flows held, those that are over but not yet removed included."""
        return self.table.get().size()

    @property
    def values(self):
        """Objects by id: ``values[id]``; None for a table of integers."""
        return self.objects

    @property
    def key_size(self):
        """Bytes of a key."""
        return self.options.key_size

    @property
    def capacity(self):
        """Flows that the table holds at most."""
        return self.options.capacity

    @property
    def dtype(self):
        """None (objects) or ``"uint32"``."""
        return "uint32" if self.objects is None else None

    @property
    def idle_timeout_s(self):
        """Seconds without a packet after which a flow is over, or None."""
        return None if self.options.idle_ms == FOREVER else self.options.idle_ms / 1000.0

    @property
    def absolute_timeout_s(self):
        """Seconds after its insertion at which a flow is over, or None."""
        return None if self.options.absolute_ms == FOREVER else self.options.absolute_ms / 1000.0

    @property
    def evictions(self):
        """Live flows that made room for others."""
        return self.table.get().evictions()

    @property
    def expirations(self):
        """Flows removed because they were over."""
        return self.table.get().expirations()

    @property
    def nbytes(self):
        """Bytes held by the compiled side."""
        return self.table.get().nbytes()

    def _settings(self):
        return {
            "key_size": self.options.key_size,
            "capacity": self.options.capacity,
            "idle_timeout_s": self.idle_timeout_s,
            "absolute_timeout_s": self.absolute_timeout_s,
            "clock": self.clock,
            "dtype": self.dtype,
            "counters": bool(self.options.counts),
        }

    def _state(self):
        return (*self.flows(), getattr(self, "__dict__", None))

    def copy(self):
        """A table of its own with the same live flows (idle times, ages, timeouts, counters) and attributes.

        Its seed is new.
        """
        made = _new_flow_table(type(self), self._settings())
        made.__setstate__(self._state())
        return made

    def __copy__(self):
        return self.copy()

    def __deepcopy__(self, memo):
        made = memo[id(self)] = _new_flow_table(type(self), self._settings())
        keys, records, values, attributes = self._state()
        made.__setstate__((keys, records, copy.deepcopy(values, memo), copy.deepcopy(attributes, memo)))
        return made

    def __reduce__(self):
        return _new_flow_table, (type(self), self._settings()), self._state()

    def __setstate__(self, state):
        packed, records, values, attributes = state
        if attributes:
            self.__dict__.update(attributes)
        cdef cnp.ndarray keys = self.rows_of(packed)
        cdef cnp.ndarray flows = np.require(records, RECORD, "CAW")
        cdef size_t n = <size_t> cnp.PyArray_DIM(keys, 0)
        cdef vector[uint32_t] gone
        cdef uint64_t now_ms = self.now()
        cdef FlowPut put
        cdef const uint8_t* key
        cdef const FlowRecord* flow
        cdef size_t i
        if (<object> flows).shape != (n,) or (values is None) != (self.objects is None):
            raise ValueError("this is no state of such a FlowTable")
        if values is not None:
            if <size_t> len(values) != n:
                raise ValueError("this is no state of such a FlowTable")
            flows = flows.copy()
            flows["value"] = [self.objects.acquire(value) for value in values]
        key = <const uint8_t*> cnp.PyArray_DATA(keys)
        flow = <const FlowRecord*> cnp.PyArray_DATA(flows)
        with nogil:
            for i in range(n):
                put = self.table.get().restore(key, flow[i], now_ms, &gone)
                if not put.added:
                    gone.push_back(put.previous)
                key += self.options.key_size
        self.release_all(gone)

    def __repr__(self):
        dtype = "" if self.objects is not None else ", dtype='uint32'"
        return f"<FlowTable({self.options.key_size}{dtype}): {len(self)} of {self.options.capacity} flows>"


def _new_flow_table(cls, settings):
    return cls.__new__(cls, **settings)
