# distutils: language = c++
"""Picks, leases and reports of a balancer; :class:`fastpath.Balancer` adds the members and the options."""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_CheckBuffer, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItemWithError
from cpython.exc cimport PyErr_Clear, PyErr_Occurred
from cpython.list cimport PyList_GET_ITEM
from cpython.long cimport PyLong_CheckExact
from cpython.ref cimport PyObject
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.math cimport isfinite
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.string cimport string
from libcpp.vector cimport vector

cimport numpy as cnp

import numbers
import operator
import time

import numpy as np

cnp.import_array()

cdef extern from "Python.h":
    # Without `except`: a try block costs more than the call.
    unsigned long long PyLong_AsUnsignedLongLong(object value) noexcept
    long long PyLong_AsLongLongAndOverflow(object value, int* overflow) noexcept

cdef extern from "fastpath/hash.hpp" namespace "fastpath" nogil:
    uint64_t xxh3_64(const void* data, size_t size, uint64_t seed) noexcept
    uint64_t xxh64(const void* data, size_t size, uint64_t seed) noexcept
    uint32_t crc32(const void* data, size_t size, uint32_t crc) noexcept

cdef extern from *:
    """
    #include <time.h>
    #include "fastpath/balance/balancer.hpp"
    #include "fastpath/balance/md5.hpp"
    #include "fastpath/balance/priority.hpp"
    namespace fastpath::balance {
    static inline double monotonic_s() noexcept {
      timespec now;
      clock_gettime(CLOCK_MONOTONIC, &now);
      return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
    }
    // The same clock at its last tick, milliseconds ago at most, at a third of the cost.
    static inline double ticks_s() noexcept {
    #ifdef CLOCK_MONOTONIC_COARSE
      timespec now;
      clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
      return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
    #else
      return monotonic_s();
    #endif
    }
    static inline std::uint64_t md5_word(const void* data, std::size_t size) noexcept {
      return hash_detail::load32(md5(data, size).data());
    }
    }
    """
    double monotonic_s "fastpath::balance::monotonic_s"() noexcept nogil
    double ticks_s "fastpath::balance::ticks_s"() noexcept nogil
    uint64_t md5_word "fastpath::balance::md5_word"(const void* data, size_t size) noexcept nogil

cdef extern from "fastpath/balance/table.hpp" namespace "fastpath::balance" nogil:
    cpdef enum class Policy(uint8_t):
        round_robin
        weighted_round_robin
        random
        weighted_random
        least_request
        power_of_two
        peak_ewma
        maglev
        ketama
        rendezvous
        jump
        stable
    cpdef enum class Compat(uint8_t):
        none
        nginx
        envoy
        envoy_murmur2
        grpc
        lvs
        libmemcached
        pymemcache
    cdef struct CTableOptions "fastpath::balance::TableOptions":
        Policy policy
        Compat compat
        uint32_t slots
        uint32_t points
        uint64_t ring_min
        uint64_t ring_max
        double slack
        cbool repair
    bint is_hash_policy(Policy policy) noexcept
    void check_size(const vector[double]& weights, const CTableOptions& options) except +
    bint is_prime_c "fastpath::balance::is_prime"(uint64_t n) noexcept
    uint32_t jump_hash_c "fastpath::balance::jump_hash"(uint64_t key, uint32_t buckets) noexcept
    vector[uint32_t] smooth_schedule_c "fastpath::balance::smooth_schedule"(const vector[uint64_t]& weights) except +
    vector[uint32_t] even_schedule_c "fastpath::balance::even_schedule"(const vector[uint64_t]& weights) except +
    vector[uint32_t] maglev_fill_c "fastpath::balance::maglev_fill"(
        const vector[uint64_t]& offsets, const vector[uint64_t]& skips, const vector[double]& weights, uint32_t slots
    ) except +
    vector[uint32_t] even_starts_c "fastpath::balance::even_starts"(
        const vector[uint32_t]& order, size_t n
    ) except +
    vector[uint16_t] stride_weights_c "fastpath::balance::stride_weights"(
        const vector[double]& weights, cbool grpc
    ) except +
    cdef cppclass CIdArray "fastpath::balance::IdArray":
        uint32_t operator[](size_t i) noexcept
        size_t size() noexcept
    cdef cppclass CRing "fastpath::balance::Ring":
        size_t size() noexcept
        uint64_t hash(size_t i) noexcept
        uint32_t owner(size_t i) noexcept
    cdef cppclass CTable "fastpath::balance::Table":
        vector[uint32_t] members
        CIdArray ids
        CRing ring

cdef extern from "fastpath/balance/priority.hpp" namespace "fastpath::balance" nogil:
    cdef cppclass CPriorityLoad "fastpath::balance::PriorityLoad":
        uint64_t healthy
        uint64_t total
        uint32_t load
        cbool panic
    void distribute_load(vector[CPriorityLoad]& priorities, uint64_t factor, double panic_threshold) except +

cdef extern from "fastpath/balance/balancer.hpp" namespace "fastpath::balance" nogil:
    cdef struct COutlier "fastpath::balance::Outlier":
        cbool on
        uint32_t consecutive_failures
        double interval_s
        double base_ejection_s
        double max_ejection_s
        double max_ejected
        double stdev_factor
        double failure_share
        uint32_t min_hosts
        uint32_t min_requests
        double jitter_s
    cdef struct COptions "fastpath::balance::Options":
        CTableOptions table
        uint64_t seed
        double load_bound
        double slow_start_s
        double slow_start_min
        double slow_start_aggression
        double panic_threshold
        cbool panic_fail
        uint64_t overprovisioning
        uint32_t subset_size
        uint32_t max_in_flight
        uint32_t sticky_bits
        double decay_s
        double failure_latency_s
        double retry_budget
        uint32_t min_retries
        COutlier outlier
    cdef enum CReason "fastpath::balance::Reason":
        pass
    cdef struct CConsidered "fastpath::balance::Considered":
        uint32_t id
        CReason verdict
    cdef cppclass CAsk "fastpath::balance::Ask":
        CAsk()
        cbool keyed
        uint64_t hash
        const void* key
        size_t key_size
        uint64_t position
        double now
        const vector[cbool]* exclude
        vector[CConsidered]* trace
    cdef struct CDecision "fastpath::balance::Decision":
        uint32_t id
        CReason reason
        uint64_t next
    cdef cppclass CTier "fastpath::balance::Tier":
        CTable table
        int priority
        cbool remote
    cdef cppclass CBalancer "fastpath::balance::Balancer":
        CBalancer(const COptions& options) except +
        const COptions& options() noexcept
        void forget_readers() noexcept
        bint uses_time() noexcept
        uint32_t pick(double now, cbool alone) noexcept
        uint32_t pick_hash(uint64_t hash, double now) noexcept
        uint32_t pick_key(uint64_t hash, const void* key, size_t size, double now) noexcept
        CDecision decide(const CAsk& ask) noexcept
        void pick_many(uint32_t* ids, size_t n, double now) noexcept
        void pick_many(const uint64_t* hashes, uint32_t* ids, size_t n, double now) noexcept
        void pick_many_keys(const uint8_t* keys, size_t size, uint32_t* ids, size_t n, double now) noexcept
        uint64_t position() noexcept
        void set_position(uint64_t position) noexcept
        uint64_t look(uint32_t* ids, size_t n, uint64_t position, double now) noexcept
        void start_near(uint64_t position) except +
        void reserve(size_t more) except +
        uint32_t add(
            const string& key, double weight, int priority, cbool local, double now, cbool ramp, uint32_t leased
        ) except +
        void remove(uint32_t id) except +
        void set_key(uint32_t id, const string& key) except +
        void set_place(uint32_t id, int priority, cbool local) except +
        void set_weight(uint32_t id, double weight, double now) except +
        void set_healthy(uint32_t id, cbool healthy) except +
        void set_draining(uint32_t id, cbool draining) except +
        uint8_t flags(uint32_t id) noexcept
        bint dirty() noexcept
        void rebuild() except +
        size_t sample_size() noexcept
        void sample_owners(uint32_t* owners, double now) except +
        vector[double] shares(double now) except +
        void acquire(uint32_t id) noexcept
        void release(uint32_t id) noexcept
        uint32_t in_flight(uint32_t id) noexcept
        bint retry_begins() noexcept
        void retry_ends() noexcept
        bint wants_reports() noexcept
        void report(uint32_t id, cbool ok, double latency_s, double now) except +
        void report_abandoned(uint32_t id, double waited_s, double now) except +
        bint due(double now) noexcept
        void tick(double now) except +
        double cost(uint32_t id, double now) noexcept
        double effective_weight(uint32_t id, double now) noexcept
        uint32_t total_in_flight() noexcept
        uint32_t retries() noexcept
        size_t capacity() noexcept
        size_t nbytes() noexcept

cdef extern from *:
    """
    static inline std::size_t tier_count(const fastpath::balance::Balancer& b) { return b.generation()->tiers.size(); }
    static inline std::uint32_t tier_load(const fastpath::balance::Tier& tier) {
      return tier.load.load(std::memory_order_relaxed);
    }
    static inline const fastpath::balance::Tier& tier_at(const fastpath::balance::Balancer& b, std::size_t i) {
      return *b.generation()->tiers[i];
    }
    """
    uint32_t tier_load(const CTier& tier) noexcept
    size_t tier_count(const CBalancer& b) noexcept
    const CTier& tier_at(const CBalancer& b, size_t i) noexcept

# From this many picks on, a batch gives up the GIL: below, that costs more than the work.
cdef enum:
    RELEASE_PICKS = 8192


cdef class Core:
    """What :class:`fastpath.Balancer` is built on: the compiled state, and the calls made once a request."""

    cdef CBalancer* c
    cdef list _values
    cdef dict _ids
    cdef dict _leaving  # ids of members that are gone, as long as their leases run
    cdef tuple _frozen
    cdef object _clock
    cdef bint _monotonic
    cdef bint _coarse
    cdef bint _hashed
    cdef bint _begun
    cdef bint _held
    cdef Py_ssize_t _batches  # that move the position without the GIL
    cdef uint64_t _no_key  # the hash of an empty one
    cdef Compat _compat
    cdef object __weakref__

    def __cinit__(self, *args, **kwargs):
        cdef COptions options
        self.c = new CBalancer(options)
        self._values = [None]
        self._ids = {}
        self._leaving = {}
        self._clock = time.monotonic
        self._monotonic = True
        self._coarse = False
        self._compat = Compat.none

    def __dealloc__(self):
        del self.c

    def _begin(self, dict options, position, object clock):
        """Takes checked options by the names of the core's struct, once."""
        if self._begun:
            raise TypeError("a Balancer is initialised once")
        cdef COptions checked = options
        cdef CBalancer* made = new CBalancer(checked)
        del self.c
        self.c = made
        self.c.set_position(position)
        self._hashed = is_hash_policy(checked.table.policy)
        self._compat = checked.table.compat
        self._no_key = self.hash_bytes(b"", 0)
        self._clock = clock
        self._monotonic = clock is time.monotonic
        # Ends of slow start and of ejections may be seen a tick late, unless they are short.
        self._coarse = (
            self._monotonic
            and (checked.slow_start_s == 0.0 or checked.slow_start_s >= 1.0)
            and (not checked.outlier.on or min(checked.outlier.base_ejection_s, checked.outlier.interval_s) >= 1.0)
        )
        self._begun = True

    def _forget_readers(self):
        """In the child of a fork, where no other thread is."""
        self._batches = 0
        self.c.forget_readers()

    # --- helpers ---------------------------------------------------------------------------------------------

    cdef inline double now(self) except? -1.0:
        return monotonic_s() if self._monotonic else self.asked()

    cdef double asked(self) except? -1.0:
        cdef double now = self._clock()
        if not isfinite(now):
            raise ValueError(f"clock must return finite seconds, got {now}")
        return now

    # Applies what edits and time have left to do; returns the time if picks depend on it. A clock of the user
    # comes first: it may edit, or let another thread do so.
    @cython.final
    cdef double settle(self) except? -1.0:
        cdef double now = 0.0
        if self.c.uses_time():
            now = ticks_s() if self._coarse else self.now()
        # Who is still in slow start is asked by the rebuild.
        if self.c.due(now):
            self.c.tick(now)
        if self.c.dirty() and not self._held:
            self.c.rebuild()
        return now

    @cython.final
    cdef uint64_t hash_bytes(self, const char* data, Py_ssize_t size) noexcept:
        if self._compat == Compat.none or self._compat == Compat.pymemcache:
            return xxh3_64(data, size, 0)
        if self._compat == Compat.nginx:
            return crc32(data, size, 0)
        if self._compat == Compat.libmemcached:
            return md5_word(data, size)
        return xxh64(data, size, 0)

    @cython.final
    cdef uint64_t hash_of(self, key) except? 0:
        cdef const char* data
        cdef Py_ssize_t size
        cdef Py_buffer view
        cdef uint64_t result
        cdef long long small
        cdef int overflow
        if PyBytes_CheckExact(key):
            return self.hash_bytes(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
        if PyLong_CheckExact(key):
            # The signed conversion is the faster one by far.
            small = PyLong_AsLongLongAndOverflow(key, &overflow)
            if overflow == 0 and small >= 0:
                return <uint64_t> small
            result = PyLong_AsUnsignedLongLong(key)
            if result == <uint64_t> -1 and PyErr_Occurred() != NULL:
                PyErr_Clear()
                raise ValueError(f"key as a hash must be 0..2**64-1, got {key}")
            return result
        if isinstance(key, str):
            data = PyUnicode_AsUTF8AndSize(key, &size)
            return self.hash_bytes(data, size)
        if hasattr(key, "__index__") and not isinstance(key, bool):
            return self.hash_of(operator.index(key))
        if PyObject_CheckBuffer(key):
            PyObject_GetBuffer(key, &view, PyBUF_SIMPLE)
            result = self.hash_bytes(<const char*> view.buf, view.len)
            PyBuffer_Release(&view)
            return result
        raise TypeError(f"key must be bytes, str or an int that is its hash, got {type(key).__name__}")

    # An empty key is no key: all requests that lack one must not meet at one backend.
    cdef bint is_empty(self, key, uint64_t hash) except -1:
        if hash != self._no_key or hasattr(key, "__index__"):
            return False
        return not key if isinstance(key, (str, bytes)) else memoryview(key).nbytes == 0

    cdef inline uint32_t slot_of(self, id) except 0:
        cdef PyObject* slot = PyDict_GetItemWithError(self._ids, id)
        if slot == NULL:
            raise KeyError(f"no backend {id!r} in this balancer")
        return <object> slot

    @cython.final
    cdef inline uint32_t choose(self, key) except? 0:
        cdef double now = 0.0
        if key is not None and self._hashed:
            return self.choose_by_key(key)
        if self.c.dirty() or self.c.uses_time():
            now = self.settle()
        return self.c.pick(now, self._batches == 0)

    @cython.final
    cdef uint32_t choose_by_key(self, key) except? 0:
        cdef double now = 0.0
        cdef uint64_t hash = self.hash_of(key)
        if self.c.dirty() or self.c.uses_time():
            now = self.settle()
        if hash == self._no_key and self.is_empty(key, hash):
            return self.c.pick(now, self._batches == 0)
        if self._compat == Compat.pymemcache and isinstance(key, (bytes, str)):
            data = key.encode() if isinstance(key, str) else key
            return self.c.pick_key(hash, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), now)
        return self.c.pick_hash(hash, now)

    # --- picks -----------------------------------------------------------------------------------------------

    def pick(self, key=None):
        """One backend, or None when nobody is eligible.

        Parameters
        ----------
        key : bytes, str or int, optional
            What the hash policies choose by; an int is a 64-bit hash and used as it is. Policies without keys
            ignore it. An empty key is no key. A hash policy without a key draws by the shares of its layout,
            never the same backend for all.

        Raises
        ------
        TypeError, ValueError
            The key is of another kind, or an int outside of 0..2**64-1.

        Notes
        -----
        Any number of threads. Constant time, but for ``least_request`` and ``jump`` by key (logarithmic) and
        ``rendezvous`` by key (every backend is looked at); backends out of order cost another look each, and
        ``least_request`` looks at every backend while one is in slow start.
        """
        cdef uint32_t id = self.choose(key)
        if id == 0:
            return None
        cdef object backend = <object> PyList_GET_ITEM(self._values, id)
        return backend

    def pick_many(self, n_or_hashes, *, out=None):
        """Many picks in one call.

        Parameters
        ----------
        n_or_hashes : int, uint64[n], uint8[n, k] or sequence of keys
            How many picks to make, or ready hashes, or keys. A policy without keys makes one pick for each.
        out : uint32[n], optional
            Where to put the result; C-contiguous. It may overlap the hashes.

        Returns
        -------
        uint32[n]
            Ids: ``balancer.values[id]`` is the backend, 0 is none. The same picks as one by one, in order.

        Raises
        ------
        TypeError, ValueError
            Another dtype or shape, a negative number, or keys that ``pick`` would refuse.

        Notes
        -----
        Large batches release the GIL and work on published tables that no edit changes. Keys are not remembered
        for draining (see ``drain``).
        """
        return self.many(n_or_hashes, out, True)

    def _look(self, n_or_hashes):
        """What pick_many would return, with nothing advanced."""
        return self.many(n_or_hashes, None, False)

    cdef cnp.ndarray many(self, n_or_hashes, out, bint advance):
        cdef cnp.ndarray ids
        cdef cnp.ndarray hashes = None
        cdef cnp.ndarray keys
        cdef double now
        cdef Py_ssize_t n
        cdef Py_ssize_t i
        cdef Py_ssize_t size
        cdef uint64_t* hash_data
        cdef uint32_t* id_data
        cdef const uint8_t* key_data
        cdef tuple items = None
        cdef uint64_t position
        cdef bint array = isinstance(n_or_hashes, np.ndarray)
        if array and self._hashed and n_or_hashes.ndim == 2 and n_or_hashes.shape[1] == 0:
            n = key_array(n_or_hashes).shape[0]  # empty keys are none
        elif array:
            if self._hashed and self._compat == Compat.none and n_or_hashes.ndim == 2:
                now = self.settle()
                keys = key_array(n_or_hashes)
                n = keys.shape[0]
                size = keys.shape[1]
                ids = result_array(out, n)
                if overlap(keys, ids):
                    keys = keys.copy()
                key_data = <const uint8_t*> cnp.PyArray_DATA(keys)
                id_data = <uint32_t*> cnp.PyArray_DATA(ids)
                if n >= RELEASE_PICKS:
                    with nogil:
                        self.c.pick_many_keys(key_data, size, id_data, n, now)
                else:
                    self.c.pick_many_keys(key_data, size, id_data, n, now)
                return ids
            hashes = self.hash_array(n_or_hashes)
            n = hashes.shape[0]
        elif isinstance(n_or_hashes, (list, tuple)):
            items = tuple(n_or_hashes)  # an item's __index__ could change the list
            n = len(items)
            hashes = np.empty(n, dtype=np.uint64)
            hash_data = <uint64_t*> cnp.PyArray_DATA(hashes)
            for i in range(n):
                hash_data[i] = self.hash_of(items[i])
        elif isinstance(n_or_hashes, (bool, str, bytes)) or not hasattr(n_or_hashes, "__index__"):
            raise TypeError(
                "pick_many takes a number of picks, uint64[n] hashes, uint8[n,k] keys or a list of keys, "
                f"got {type(n_or_hashes).__name__}"
            )
        else:
            count = operator.index(n_or_hashes)
            if not 0 <= count < 1 << 40:
                raise ValueError(f"the number of picks must be 0..2**40-1, got {count}")
            n = count
        now = self.settle()
        ids = result_array(out, n)
        if n == 0:
            return ids
        if hashes is not None and overlap(hashes, ids):
            hashes = hashes.copy()
        id_data = <uint32_t*> cnp.PyArray_DATA(ids)
        cdef bint keyed = hashes is not None and self._hashed
        if keyed:
            hash_data = <uint64_t*> cnp.PyArray_DATA(hashes)
            if items is not None and (self._compat == Compat.pymemcache or self._no_key in hashes):
                position = self.c.position()
                for i in range(n):
                    if not self.is_empty(items[i], hash_data[i]):
                        id_data[i] = self._decide(items[i], 0, None, None)[0]
                    elif advance:
                        self.c.pick_many(&id_data[i], 1, now)
                    else:
                        position = self.c.look(&id_data[i], 1, position, now)
            elif self._compat == Compat.pymemcache and n_or_hashes.ndim == 2:
                for i in range(n):
                    id_data[i] = self._decide(n_or_hashes[i].tobytes(), 0, None, None)[0]
            elif n >= RELEASE_PICKS and self._compat != Compat.pymemcache:  # whose keys writers move
                with nogil:
                    self.c.pick_many(hash_data, id_data, n, now)
            else:
                self.c.pick_many(hash_data, id_data, n, now)
        elif not advance:
            self.c.look(id_data, n, self.c.position(), now)
        elif n >= RELEASE_PICKS and self._compat != Compat.pymemcache:
            self._batches += 1
            with nogil:
                self.c.pick_many(id_data, n, now)
            self._batches -= 1
        else:
            self.c.pick_many(id_data, n, now)
        return ids

    cdef cnp.ndarray hash_array(self, cnp.ndarray keys):
        cdef cnp.ndarray hashes
        cdef uint64_t* hash_data
        cdef const char* data
        cdef Py_ssize_t n
        cdef Py_ssize_t size
        cdef Py_ssize_t i
        if keys.ndim == 1 and cnp.PyArray_TYPE(keys) == cnp.NPY_UINT64 and keys.dtype.isnative:
            return contiguous(keys)
        keys = key_array(keys)
        n = keys.shape[0]
        size = keys.shape[1]
        hashes = np.empty(n, dtype=np.uint64)
        hash_data = <uint64_t*> cnp.PyArray_DATA(hashes)
        data = <const char*> cnp.PyArray_DATA(keys)
        for i in range(n):
            hash_data[i] = self.hash_bytes(data + size * i, size)
        return hashes

    def _decide(self, key, uint64_t position, list exclude, list trace):
        """(id, reason) of the pick at a position, with nothing advanced; `trace` receives (id, reason)."""
        cdef CAsk ask
        cdef CDecision decision
        cdef vector[CConsidered] considered
        cdef vector[cbool] without
        cdef bytes data = None
        ask.now = self.settle()
        ask.position = position
        if key is not None and self._hashed:
            ask.hash = self.hash_of(key)
            ask.keyed = not self.is_empty(key, ask.hash)
            if self._compat == Compat.pymemcache and isinstance(key, (bytes, str)):
                data = key.encode() if isinstance(key, str) else key
                ask.key = PyBytes_AS_STRING(data)
                ask.key_size = len(data)
        if exclude:
            without.resize(self.c.capacity(), False)
            for id in exclude:
                without[<uint32_t> id] = True
            ask.exclude = &without
        if trace is not None:
            ask.trace = &considered
        decision = self.c.decide(ask)
        if trace is not None:
            for item in considered:
                trace.append((item.id, <int> item.verdict))
        return decision.id, <int> decision.reason

    # --- load ------------------------------------------------------------------------------------------------

    def acquire(self, key=None, *, retry=False):
        """Picks a backend and counts a request on it until the lease is released.

        Parameters
        ----------
        key
            As for ``pick``.
        retry : bool
            This is another attempt of a request that failed. So many may be in flight at a time: the requests
            in flight (retries among them, this one not yet) times ``retry_budget``, rounded down, or
            ``min_retries`` if that is more; beyond that the lease has no backend.

        Returns
        -------
        Lease
            To be used as ``with balancer.acquire(key) as lease:`` (or ``async with``). ``lease.backend`` is
            None, and the lease false, when nobody is eligible. A lease that is dropped releases itself.
        """
        cdef Lease lease = Lease.__new__(Lease)
        cdef uint32_t id
        lease.core = self
        if retry:
            if not self.c.retry_begins():
                return lease
            lease.retry = True
        id = self.choose(key)
        if id == 0:
            lease.end()
            return lease
        self.c.acquire(id)
        lease.id = id
        lease.backend = <object> PyList_GET_ITEM(self._values, id)
        if self.c.wants_reports():
            lease.began = self.now()
        return lease

    def in_flight(self, id=None):
        """Leases held on a backend now; without an id, on all of them.

        Raises
        ------
        KeyError
            No such backend.
        """
        if id is None:
            return self.c.total_in_flight()
        return self.c.in_flight(self.slot_of(id))

    def report(self, id, ok=True, latency_s=None):
        """How a request went, for ``peak_ewma`` and outlier detection. Leases report by themselves.

        Parameters
        ----------
        id : str
            The backend's.
        ok : bool
            False: it failed. A failure counts as slow, however fast it came.
        latency_s : float, optional
            Seconds that it took.

        Raises
        ------
        KeyError
            No such backend.
        TypeError, ValueError
            A latency that is no number, or out of 0..1e9.
        """
        cdef uint32_t slot = self.slot_of(id)
        cdef double latency = -1.0
        if latency_s is not None:
            if not isinstance(latency_s, (int, float)) and not isinstance(latency_s, numbers.Real):
                raise TypeError(f"latency_s must be a number of seconds, got {type(latency_s).__name__}")
            if not 0.0 <= latency_s <= 1e9:
                raise ValueError(f"latency_s must be 0..1e9 seconds, got {latency_s}")
            latency = latency_s
        self.c.report(slot, bool(ok), latency, self.now())

    def set_healthy(self, id, healthy):
        """Takes a backend out of the picks, or back into them. A flag is set; no table changes.

        Raises
        ------
        KeyError
            No such backend.
        """
        self.c.set_healthy(self.slot_of(id), bool(healthy))

    # --- members, for the Python face ------------------------------------------------------------------------

    def _apply(self, list added, list changed, list removed, bint ramp):
        """One edit of many members: no pick sees a part of it.

        `added` and `changed` hold (backend, key, local), `removed` ids. Additions come first, so that no id
        changes hands within one edit.
        """
        cdef double now = self.now()
        cdef uint32_t slot
        cdef uint32_t leased
        cdef list gone = []  # until the edit is whole: what goes with a backend may run code of the user
        self.c.reserve(len(added))
        self._held = True
        self._frozen = None
        try:
            self._leaving = {id: slot for id, slot in self._leaving.items() if self.c.in_flight(slot) != 0}
            for backend, key, local in added:
                leased = self._leaving.pop(backend.id, 0)
                if leased != 0 and self.c.in_flight(leased) == 0:
                    leased = 0  # ended just now
                slot = self.c.add(key, backend.weight, backend.priority, local, now, ramp, leased)
                if slot == <uint32_t> len(self._values):
                    self._values.append(backend)
                else:
                    self._values[slot] = backend
                self._ids[backend.id] = slot
            for backend, key, local in changed:
                slot = self.slot_of(backend.id)
                self.c.set_key(slot, key)
                self.c.set_place(slot, backend.priority, local)
                self.c.set_weight(slot, backend.weight, now)
                gone.append(self._values[slot])
                self._values[slot] = backend
            for id in removed:
                slot = self.slot_of(id)
                self.c.remove(slot)
                if self.c.in_flight(slot) != 0:
                    self._leaving[id] = slot
                del self._ids[id]
                gone.append(self._values[slot])
                self._values[slot] = None
        finally:
            self._held = False

    def _start_near(self, uint64_t position):
        """Picks begin near this position."""
        self.c.start_near(position)

    def _check_size(self, weights):
        """Raises ValueError if a table of these weights would be too large."""
        check_size(weights, self.c.options().table)

    def _slot(self, id):
        return self.slot_of(id)

    def _member(self, id):
        return self._values[self.slot_of(id)]

    def _set_draining(self, id, bint draining):
        self.c.set_draining(self.slot_of(id), draining)

    def _status(self, id):
        """(flags, effective weight, leases, measured latency) of a member, now."""
        cdef uint32_t slot = self.slot_of(id)
        cdef double now
        self.settle()
        now = self.now()
        return self.c.flags(slot), self.c.effective_weight(slot, now), self.c.in_flight(slot), self.c.cost(slot, now)

    def _sample(self):
        """What disruption is measured by: the pick of every sampled hash, or every id's share of the picks."""
        cdef double now = self.settle()
        if not self._hashed:
            return np.array(self.c.shares(now), dtype=np.float64)
        cdef cnp.ndarray owners = np.empty(self.c.sample_size(), dtype=np.uint32)
        self.c.sample_owners(<uint32_t*> cnp.PyArray_DATA(owners), now)
        return owners

    def _tiers(self):
        """(priority, remote, load in percent, member ids, ids in order, ring points, ring owners) of every tier."""
        self.settle()
        result = []
        cdef size_t i
        cdef size_t k
        cdef const CTier* tier
        for i in range(tier_count(self.c[0])):
            tier = &tier_at(self.c[0], i)
            result.append(
                (
                    tier.priority,
                    bool(tier.remote),
                    tier_load(tier[0]),
                    list(tier.table.members),
                    [tier.table.ids[k] for k in range(tier.table.ids.size())],
                    [tier.table.ring.hash(k) for k in range(tier.table.ring.size())],
                    [tier.table.ring.owner(k) for k in range(tier.table.ring.size())],
                )
            )
        return result

    @property
    def values(self):
        """The backend of every id: ``values[id]``, with ``values[0] is None``. A tuple, as of now.

        The id of a member that was removed answers None at first, and another backend only after 256 more ids
        have become free: ids of a batch from before an edit may still be looked up.
        """
        if self._frozen is None:
            self._frozen = tuple(self._values)
        return self._frozen

    @property
    def position(self):
        """Where the picks stand. Together with the seed it replays any sequence: set it, and pick again."""
        self.settle()  # which may choose where to begin
        return self.c.position()

    @position.setter
    def position(self, value):
        number = operator.index(value)
        if not 0 <= number < 1 << 64:
            raise ValueError(f"position must be 0..2**64-1, got {number}")
        self.c.set_position(number)

    @property
    def seed(self):
        """What the draws depend on, besides the position."""
        return self.c.options().seed

    @property
    def nbytes(self):
        """Bytes held by the compiled side."""
        return self.c.nbytes()

    def __len__(self):
        return len(self._ids)

    def __contains__(self, id):
        return id in self._ids

    def __iter__(self):
        return iter([self._values[slot] for slot in self._ids.values()])


cdef cnp.ndarray contiguous(cnp.ndarray array):
    return array if cnp.PyArray_ISCARRAY_RO(array) else array.copy()


cdef bint overlap(cnp.ndarray one, cnp.ndarray other) noexcept:
    cdef const char* first = <const char*> cnp.PyArray_DATA(one)
    cdef const char* second = <const char*> cnp.PyArray_DATA(other)
    return first < second + cnp.PyArray_NBYTES(other) and second < first + cnp.PyArray_NBYTES(one)


cdef cnp.ndarray key_array(cnp.ndarray keys):
    if keys.ndim == 2 and cnp.PyArray_TYPE(keys) == cnp.NPY_UINT8:
        return contiguous(keys)
    wanted = f"hashes must be uint64[n], keys uint8[n,k], got {keys.dtype} of shape {(<object> keys).shape}"
    if keys.dtype == np.uint64 or (keys.dtype == np.uint8 and keys.ndim != 1):
        if keys.dtype.isnative:
            raise ValueError(wanted)
    raise TypeError(wanted)


cdef cnp.ndarray result_array(out, Py_ssize_t n):
    if out is None:
        return np.empty(n, dtype=np.uint32)
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be uint32[{n}], got {type(out).__name__}")
    if out.dtype != np.uint32:
        raise TypeError(f"out must be uint32[{n}], got {out.dtype}")
    if out.ndim != 1 or out.shape[0] != n or not cnp.PyArray_ISCARRAY(out):
        raise ValueError(f"out must be uint32[{n}], contiguous, aligned and writable, got shape {out.shape}")
    return out


@cython.final
@cython.no_gc_clear
@cython.freelist(256)
cdef class Lease:
    """A request under way on a backend; made by ``Balancer.acquire``.

    As a context manager (``with`` and ``async with``) it is released at the end, and reports a failure when an
    exception leaves the block; cancellation and ``KeyboardInterrupt`` say nothing of success, only that it would
    have taken longer. ``release`` may be called any number of times; a lease that nobody holds any more releases
    itself, without a report. Leases cannot be copied.
    """

    cdef Core core
    cdef readonly object backend
    cdef uint32_t id
    cdef bint retry
    cdef bint failed
    cdef double began

    def __init__(self):
        raise TypeError("leases come from Balancer.acquire()")

    def __reduce__(self):
        raise TypeError("a Lease cannot be copied or pickled: it is one request, which is released once")

    cdef void end(self) noexcept:
        if self.core is None:
            return
        if self.id != 0:
            self.core.c.release(self.id)
            self.id = 0
        if self.retry:
            self.core.c.retry_ends()
            self.retry = False

    def __dealloc__(self):
        self.end()

    def release(self):
        """Ends the request; a second call does nothing."""
        cdef uint32_t id = self.id
        cdef double now
        if id == 0:
            return
        self.end()
        if self.core.c.wants_reports():
            now = self.core.now()
            self.core.c.report(id, not self.failed, max(now - self.began, 0.0), now)

    def fail(self):
        """Ends the request as a failed one."""
        self.failed = True
        self.release()

    @property
    def released(self):
        """Whether the request has ended, or never had a backend."""
        return self.id == 0

    def __bool__(self):
        return self.backend is not None

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        cdef uint32_t id = self.id
        cdef double now
        if error is None or isinstance(error, Exception):
            self.failed = self.failed or error is not None
            self.release()
        elif id != 0:
            self.end()
            if self.core.c.wants_reports():
                now = self.core.now()
                self.core.c.report_abandoned(id, max(now - self.began, 0.0), now)

    async def __aenter__(self):
        return self

    async def __aexit__(self, kind, error, trace):
        self.__exit__(kind, error, trace)

    def __repr__(self):
        state = "released" if self.id == 0 else "held"
        return f"<Lease {state}, backend {self.backend.id!r}>" if self.backend is not None else "<Lease of nobody>"


# --- parts that the tests hold against known answers ---------------------------------------------------------


def is_prime(uint64_t n):
    """Whether a table of n slots lets every skip visit all of them."""
    return is_prime_c(n)


def jump_hash(uint64_t key, uint32_t buckets):
    """Jump consistent hash: the bucket of a 64-bit key."""
    if buckets == 0:
        raise ValueError("buckets must be at least 1, got 0")
    return jump_hash_c(key, buckets)


def smooth_schedule(weights):
    """One period of nginx's smooth weighted round robin, as indexes."""
    return list(smooth_schedule_c(weights))


def even_schedule(weights):
    """One period of picks of which no prefix is a whole pick away from its share."""
    return list(even_schedule_c(weights))


def even_starts(order):
    """Where picks may begin in the order of a schedule, so that no prefix is a whole pick off."""
    return list(even_starts_c(order, max(order, default=0) + 1))


def stride_weights(weights, bint grpc=True):
    """The 16-bit weights of gRPC's static stride scheduler; empty: it would not build one."""
    return list(stride_weights_c(weights, grpc))


def maglev_table(offsets, skips, weights, uint32_t slots):
    """A Maglev table from given permutations."""
    if not len(offsets) == len(skips) == len(weights) > 0 or not is_prime_c(slots):
        raise ValueError("as many offsets as skips and weights, and a prime number of slots")
    return list(maglev_fill_c(offsets, skips, weights, slots))


def priority_loads(healthy, totals, overprovisioning=1.4, panic_threshold=0.5):
    """Envoy's split of traffic over priorities: a list of (load in percent, panic).

    Parameters
    ----------
    healthy, totals : sequence of int
        Healthy and all backends of every priority, first priority first.
    """
    cdef vector[CPriorityLoad] priorities
    cdef CPriorityLoad one
    if len(healthy) != len(totals):
        raise ValueError(f"as many healthy counts as totals, got {len(healthy)} and {len(totals)}")
    for some, everybody in zip(healthy, totals, strict=True):
        if not 0 <= some <= everybody:
            raise ValueError(f"healthy must be 0..total, got {some} of {everybody}")
        one.healthy = some
        one.total = everybody
        priorities.push_back(one)
    distribute_load(priorities, round(overprovisioning * 100), panic_threshold * 100.0)
    return [(item.load, bool(item.panic)) for item in priorities]
