# distutils: language = c++
"""The compiled longest-prefix-match table: hot scalar and array calls, argument checks."""

import ipaddress

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_SIZE
from cpython.object cimport PyObject_TypeCheck, PyTypeObject
from cython.operator cimport dereference as deref
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from libcpp cimport bool as cbool
from libcpp.memory cimport make_unique, shared_ptr, unique_ptr
from libcpp.optional cimport optional
from libcpp.string cimport string
from libcpp.vector cimport vector

import numpy as np

cimport numpy as cnp

cnp.import_array()

cdef extern from "<string_view>" namespace "std" nogil:
    cdef cppclass string_view:
        string_view()
        string_view(const char*, size_t)
        const char* data() noexcept
        size_t size() noexcept

cdef extern from "fastpath/addresses.hpp" namespace "fastpath" nogil:
    cdef cppclass TextPrefix:
        int family
        unsigned length
        cbool host_bits
        uint8_t address[16]
    TextPrefix parse_prefix(const char* p, const char* end) noexcept
    cbool parse_ipv4(const char* p, const char* end, uint32_t& address) noexcept
    cbool parse_ipv6(const char* p, const char* end, uint8_t* address) noexcept
    cbool host_bits_set(const uint8_t* address, unsigned width, unsigned length) noexcept
    void mask_host_bits(uint8_t* address, unsigned width, unsigned length) noexcept

cdef extern from "fastpath/cpu.hpp" namespace "fastpath" nogil:
    cdef enum class Isa(int):
        scalar
        avx2
        avx512
        neon
    Isa isa_in_use() noexcept

cdef extern from "fastpath/fib_view.hpp" namespace "fastpath::fib" nogil:
    cdef cppclass View:
        uint32_t none
    cdef cppclass Match:
        uint32_t leaf
        uint8_t length
    cdef cppclass Kernels:
        uint32_t (*lookup4)(const View& view, uint32_t address) noexcept
        uint32_t (*lookup6)(const View& view, const uint8_t* address) noexcept
        Match (*match4)(const View& view, uint32_t address) noexcept
        Match (*match6)(const View& view, const uint8_t* address) noexcept
        void (*lookup_many4)(const View& view, const uint32_t* addresses, uint32_t* out, size_t n,
                             uint32_t missing) noexcept
        void (*lookup_many6)(const View& view, const uint8_t* addresses, uint32_t* out, size_t n,
                             uint32_t missing) noexcept
    const Kernels* kernels_for(Isa isa) noexcept
    const Kernels* kernels_named(string_view name) noexcept

cdef extern from "fastpath/fib.hpp" namespace "fastpath" nogil:
    cdef cppclass Gate "fastpath::fib::Gate":
        void lock()
        void renew() noexcept
        cbool try_lock()
        void unlock()
    cdef cppclass Route "fastpath::fib::Route":
        uint8_t address[16]
        uint32_t value
        uint8_t length
        uint8_t family
        cbool contains(const Route& other) noexcept
    cdef cppclass Table "fastpath::Fib":
        Table() except +
        const View& view() noexcept
        Gate& gate()
        void forget_threads() noexcept
        cbool insert(int family, const uint8_t* address, unsigned length, uint32_t value) except +
        cbool erase(int family, const uint8_t* address, unsigned length) except +
        size_t erase_many(const vector[Route]& routes) except +
        optional[uint32_t] get(int family, const uint8_t* address, unsigned length)
        void insert_many(const vector[Route]& routes) except +
        void clear() except +
        vector[Route] routes(int family, const uint8_t* address, unsigned length) except +
        vector[Route] aggregated(int family) except +
        size_t size(int family) noexcept
        size_t nbytes() noexcept
        void collect() except +
        unique_ptr[Table] snapshot() except +
        void begin() except +
        void commit() except +
        void rollback() except +
        Table* before() noexcept
        string saved(const string& extra) except +
        @staticmethod
        unique_ptr[Table] open(uint8_t* contents, size_t size, shared_ptr[void] keeps, string_view& extra) except +
        void lookup_many4(const Kernels& kernels, const uint32_t* addresses, uint32_t* out, size_t n,
                          uint32_t missing) noexcept
        void lookup_many6(const Kernels& kernels, const uint8_t* addresses, uint32_t* out, size_t n,
                          uint32_t missing) noexcept
        void match_many4(const Kernels& kernels, const uint32_t* addresses, uint32_t* out, uint8_t* lengths,
                         size_t n, uint32_t missing) noexcept
        void match_many6(const Kernels& kernels, const uint8_t* addresses, uint32_t* out, uint8_t* lengths,
                         size_t n, uint32_t missing) noexcept

cdef extern from "fastpath/fib_text.hpp" namespace "fastpath::fib" nogil:
    cdef cppclass TextError:
        int kind
        size_t line
        const char* begin
        const char* end
    TextError parse_lines(const char* text, size_t size, cbool strict, vector[Route]& routes) except +

cdef extern from "Python.h":
    bint PyUnicode_IS_ASCII(object o)
    void* PyUnicode_DATA(object o)
    Py_ssize_t PyUnicode_GET_LENGTH(object o)
    bint PyLong_Check(object o)
    bint PyIndex_Check(object o)
    unsigned long PyThread_get_thread_ident() noexcept
    long long PyLong_AsLongLongAndOverflow(object o, int* overflow) except? -1

cdef extern from *:
    """
    static inline std::uint32_t fastpath_from_network(const std::uint8_t* p) {
      return std::uint32_t{p[0]} << 24 | std::uint32_t{p[1]} << 16 | std::uint32_t{p[2]} << 8 | p[3];
    }
    static inline void fastpath_to_network(std::uint32_t v, std::uint8_t* p) {
      p[0] = std::uint8_t(v >> 24); p[1] = std::uint8_t(v >> 16); p[2] = std::uint8_t(v >> 8); p[3] = std::uint8_t(v);
    }
    static inline std::shared_ptr<void> fastpath_keep(PyObject* object) {
      Py_INCREF(object);
      return std::shared_ptr<void>(object, [](void* held) {
        PyGILState_STATE state = PyGILState_Ensure();
        Py_DECREF(static_cast<PyObject*>(held));
        PyGILState_Release(state);
      });
    }
    """
    shared_ptr[void] keep_object "fastpath_keep"(object held)
    uint32_t from_network "fastpath_from_network"(const uint8_t* p) noexcept nogil
    void to_network "fastpath_to_network"(uint32_t v, uint8_t* p) noexcept nogil

cdef object IPv4Address = ipaddress.IPv4Address
cdef object IPv6Address = ipaddress.IPv6Address
cdef object IPv4Network = ipaddress.IPv4Network
cdef object IPv6Network = ipaddress.IPv6Network
cdef object IPv4Interface = ipaddress.IPv4Interface
cdef object IPv6Interface = ipaddress.IPv6Interface

# Below this many addresses a batch is shorter than the time that releasing the GIL takes.
cdef enum:
    RELEASE_GIL_FROM = 1024
    COLLECT_EVERY = 64

cdef enum Missing:
    RAISE
    RETURN


cdef str described(object thing):
    if isinstance(thing, np.ndarray):
        return f"{thing.dtype}[{','.join(map(str, thing.shape))}]"
    return type(thing).__name__


# `iter` with a message that tells what was expected.
cdef object iterated(object things, str expected):
    try:
        return iter(things)
    except TypeError:
        raise TypeError(f"expected {expected}, not {described(things)}") from None


cdef object _columns = None


# What takes columns of other libraries; imported when the first one comes.
cdef object columns():
    global _columns
    if _columns is None:
        from fastpath.tables import columns as found

        _columns = found
    return _columns


# A value in a message. Python refuses to write integers of thousands of digits.
cdef str shown(object thing):
    if PyLong_Check(thing) and thing.bit_length() > 256:
        return f"an int of {thing.bit_length()} bits"
    try:
        return repr(thing)[:80]
    except ValueError:
        return f"a {type(thing).__name__}"


cdef int address_of_int(object value, uint8_t* out) except 0:
    cdef int overflow = 0
    cdef long long number = PyLong_AsLongLongAndOverflow(value, &overflow)
    if overflow != 0 or number < 0 or number > 0xFFFFFFFF:
        raise ValueError(f"{shown(value)} is not an IPv4 address: an int from 0 to 4294967295 was expected")
    to_network(<uint32_t>number, out)
    return 4


# Writes 4 or 16 bytes and returns the family.
cdef int address_of(object address, uint8_t* out) except 0:
    cdef const char* text
    cdef Py_ssize_t size
    cdef uint32_t value = 0
    if type(address) is str or isinstance(address, str):
        text = <const char*>PyUnicode_DATA(address)
        size = PyUnicode_GET_LENGTH(address)
        if PyUnicode_IS_ASCII(address):
            if parse_ipv4(text, text + size, value):
                to_network(value, out)
                return 4
            if parse_ipv6(text, text + size, out):
                return 6
        raise ValueError(f"{address[:80]!r} is not an IPv4 or IPv6 address")
    if PyLong_Check(address):
        return address_of_int(address, out)
    if type(address) is bytes or isinstance(address, bytes):
        size = PyBytes_GET_SIZE(address)
        if size == 4 or size == 16:
            memcpy(out, PyBytes_AS_STRING(address), size)
            return 4 if size == 4 else 6
        raise ValueError(f"{address[:32]!r} is not a packed address: 4 or 16 bytes were expected, not {size}")
    if isinstance(address, IPv4Address):
        return address_of_int(address._ip, out)
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            raise ValueError(f"{address} has a scope id: an address without one was expected")
        packed = address.packed
        memcpy(out, PyBytes_AS_STRING(packed), 16)
        return 6
    if PyIndex_Check(address):
        return address_of_int(int(address), out)
    raise TypeError(
        f"expected an address as str, ipaddress object, 4 or 16 bytes or int, not {type(address).__name__}"
    )


include "fib_groups.pxi"


cdef class FibCore:
    """What :class:`fastpath.Fib` is made of; see there."""

    cdef unique_ptr[Table] table
    cdef const Kernels* kernels
    cdef readonly bint strict
    cdef readonly bint plain
    # Next hops by id, and ids by next hop. Snapshots share them: an id that a prefix may have keeps its next hop
    # in these very objects, and clear() takes new ones.
    cdef list _values
    cdef dict _ids
    cdef list spare  # ids without a next hop
    cdef object _stored  # next hops in a file, instead of `_values`
    cdef tuple _frozen  # what `values` gave last, or None
    cdef Spread _spread  # next-hop groups that look-ups with hashes asked for, or None
    cdef unsigned holders  # calls under way that have ids which no prefix need have
    cdef unsigned writes
    cdef unsigned long owner  # thread of the open transaction, which holds the lock until its end
    cdef bint working  # the transaction's thread is within a call
    cdef bint abandoned  # another thread ended the transaction meanwhile
    cdef readonly bint readonly
    cdef Gate changing  # closed while the table is changed without the GIL, and while it is copied by a fork
    cdef object __weakref__
    # As of the last write that is done.
    cdef size_t size4
    cdef size_t size6
    cdef size_t held

    def __cinit__(self, *, strict=True, dtype=None, **_):
        self.table = make_unique[Table]()
        self.kernels = kernels_for(isa_in_use())
        self.strict = bool(strict)
        self.plain = False
        if dtype is not None:
            try:
                self.plain = np.dtype(dtype) == np.uint32
            except TypeError:
                pass
            if not self.plain:
                raise ValueError(f"dtype {dtype!r} is not supported: None or 'uint32' was expected")
        self._values = [None]
        self._ids = {}
        self.spare = []
        self.publish_sizes()

    def _use(self, str name):
        """Answer with the kernels of one name from now on; False where there are none."""
        cdef bytes spelled = name.encode()
        cdef const Kernels* found = kernels_named(string_view(<const char*>spelled, len(spelled)))
        if found != NULL:
            self.kernels = found
        return found != NULL

    # --- arguments ---

    # Writes the address; returns family << 8 | length.
    cdef int prefix_of(self, object prefix, uint8_t* out) except 0:
        cdef TextPrefix parsed
        cdef const char* text
        cdef int family = 0
        cdef unsigned length = 0
        cdef unsigned width
        if isinstance(prefix, str):
            text = <const char*>PyUnicode_DATA(prefix)
            if PyUnicode_IS_ASCII(prefix):
                parsed = parse_prefix(text, text + PyUnicode_GET_LENGTH(prefix))
                family = parsed.family
            if family == 0:
                raise ValueError(f"{prefix[:80]!r} is not an IPv4 or IPv6 prefix")
            length = parsed.length
            memcpy(out, parsed.address, 16)
        elif isinstance(prefix, IPv4Network):
            family, length = 4, prefix._prefixlen
            to_network(prefix.network_address._ip, out)
        elif isinstance(prefix, IPv6Network):
            family = address_of(prefix.network_address, out)
            length = prefix._prefixlen
        elif isinstance(prefix, tuple):
            if len(prefix) != 2:
                raise ValueError(f"{shown(prefix)} is not a prefix: (address, prefixlen) was expected")
            address, bits = prefix
            family = address_of(address, out)
            if not PyIndex_Check(bits):
                raise TypeError(f"expected a prefix length as int, not {type(bits).__name__}")
            if not 0 <= bits <= (32 if family == 4 else 128):
                raise ValueError(f"prefix length {shown(bits)} is not from 0 to {32 if family == 4 else 128}")
            length = bits
        elif isinstance(prefix, (IPv4Interface, IPv6Interface)):
            family, length = address_of(prefix, out), prefix.network.prefixlen
        else:
            try:
                family = address_of(prefix, out)
            except TypeError:
                raise TypeError(
                    "expected a prefix as str, ipaddress network or (address, prefixlen), "
                    f"not {type(prefix).__name__}"
                ) from None
            length = 32 if family == 4 else 128
        width = 32 if family == 4 else 128
        if host_bits_set(out, width, length):
            if self.strict:
                raise ValueError(f"{prefix!s} has host bits set (Fib(strict=False) masks them)")
            mask_host_bits(out, width, length)
        return family << 8 | <int>length

    cdef uint32_t id_of(self, object value) except? 0xFFFFFFFF:
        if self.plain:
            if not PyIndex_Check(value):
                raise TypeError(f"expected a next hop as int, not {type(value).__name__}")
            if not 0 <= value <= 0xFFFFFFFF:
                raise ValueError(f"next hop {shown(value)} is not from 0 to 4294967295")
            return value
        # Hashing and comparing may run Python code, which may come back here or let another thread do so. A next
        # hop is hashed and compared by two calls of the dict, each of which counts as done at once.
        found = self._ids.get(value)
        if found is not None:
            return found
        if value is None:
            raise ValueError("next hop None means 'no entry' and cannot be stored")
        cdef Py_ssize_t fresh
        if self.spare:
            fresh = self.spare.pop()
        else:
            fresh = len(self._values)
            if fresh >= 0xFFFFFFFE:
                raise ValueError("too many distinct next hops: at most 4294967293")
            self._values.append(None)
        try:
            found = self._ids.setdefault(value, fresh)
        except BaseException:
            self.spare.append(fresh)
            raise
        if found == fresh:
            self._values[fresh] = value
            self._frozen = None
        else:
            self.spare.append(fresh)
        return found

    cdef inline object value_of(self, uint32_t leaf):
        if self.plain:
            return leaf
        if <Py_ssize_t>leaf < PyList_GET_SIZE(self._values):  # bounds are not looked at elsewhere
            return self._values[leaf]
        return hop_of(self.hops(), leaf)

    # Next hops by id, for a while without the lock; None where ids are the next hops.
    cdef inline object hops(self):
        if self.plain:
            return None
        return self._values if self._stored is None else self._stored

    cdef inline int refuse_readonly(self) except -1:
        if self.readonly:
            raise TypeError("this table is read-only: a snapshot or an opened file")
        return 0

    # Writers queue without holding the GIL, so one that has released it can always go on. The thread that holds the
    # transaction holds the lock already.
    cdef inline int lock(self) except -1:
        self.refuse_readonly()
        if self.owner != 0 and self.owner == PyThread_get_thread_ident():
            self.working = True
        else:
            self.wait()
        return 0

    cdef inline void wait(self) noexcept:
        cdef Table* table = self.table.get()
        if not table.gate().try_lock():
            with nogil:
                table.gate().lock()

    cdef inline int unlock(self, bint collect) except -1:
        if self.owner != 0:
            self.working = False
            if self.abandoned:
                self.finish(False)
            return 0
        try:
            self.writes += 1
            if collect or self.writes % COLLECT_EVERY == 0:
                self.table.get().collect()
        finally:
            self.publish_sizes()
            self.table.get().gate().unlock()
        return 0

    cdef inline void publish_sizes(self) noexcept:
        cdef Table* table = self.table.get()
        self.size4, self.size6, self.held = table.size(4), table.size(6), table.nbytes()

    # What answers about exact prefixes: during a transaction the table before it, which needs no lock.
    cdef inline Table* lock_exact(self) noexcept:
        cdef Table* before = self.table.get().before()
        if before != NULL:
            return before
        self.wait()
        return self.table.get()

    cdef inline void unlock_exact(self, Table* asked) noexcept:
        if asked == self.table.get():
            self.table.get().gate().unlock()

    # --- forks: see fastpath.forking ---

    # A transaction may stay open for long, so its end is not waited for; neither are writers that wait for it.
    def _lock_for_fork(self):
        if not self.changing.try_lock():
            with nogil:
                self.changing.lock()

    def _unlock_after_fork(self):
        self.changing.unlock()

    def _unlock_in_child(self):
        """Let changes go on. Those of other threads are forgotten, and so is their transaction."""
        cdef Table* table = self.table.get()
        self.changing.renew()
        self.holders = 0
        table.forget_threads()
        if self.owner != 0:
            table.gate().lock()
            if self.owner != PyThread_get_thread_ident():
                self.working = False
                self.finish(False)

    # --- transactions, snapshots, files ---

    def _begin(self):
        if self.owner != 0 and self.owner == PyThread_get_thread_ident():
            raise RuntimeError("this thread has a transaction open already")
        self.lock()
        try:
            self.table.get().begin()
        except BaseException:
            self.table.get().gate().unlock()
            raise
        self.owner = PyThread_get_thread_ident()

    def _end(self, bint commit):
        """End the transaction, whichever thread began it."""
        if self.owner == 0:
            raise RuntimeError("there is no transaction open")
        if self.working:
            self.abandoned = True
            raise RuntimeError("the transaction's thread is changing the table: its changes will be forgotten")
        self.finish(commit)

    cdef int finish(self, bint commit) except -1:
        try:
            if commit:
                self.table.get().commit()
            else:
                self.table.get().rollback()
        finally:
            self.abandoned = False
            self.owner = 0
            self.unlock(True)
        return 0

    def snapshot(self):
        cdef FibCore copy = type(self).__new__(type(self), strict=self.strict, dtype="uint32" if self.plain else None)
        cdef Table* table = self.lock_exact()
        try:
            copy.table = table.snapshot()
            copy._values, copy._ids, copy.spare, copy._stored = self._values, self._ids, self.spare, self._stored
            copy.kernels = self.kernels
            copy.readonly = True
            copy.publish_sizes()
        finally:
            self.unlock_exact(table)
        return copy

    def _saved(self, bytes extra):
        cdef string described = extra
        cdef string contents
        cdef Table* table = self.lock_exact()
        try:
            contents = table.saved(described)
        finally:
            self.unlock_exact(table)
        return <bytes>contents

    def _open(self, contents):
        """This fresh table with what a file holds, read in place; returns what `_saved` was given."""
        cdef cnp.ndarray array = np.frombuffer(contents, np.uint8)
        cdef string_view extra
        cdef const char* start = <const char*>cnp.PyArray_DATA(array)
        self.table = Table.open(<uint8_t*>start, cnp.PyArray_DIM(array, 0), keep_object(array), extra)
        self.publish_sizes()
        self.readonly = True
        return array[extra.data() - start:][:extra.size()]

    def _adopt(self, bint strict, bint plain, stored):
        """What this opened table is, and its next hops, by id, that are made when they are asked for."""
        self.strict = strict
        self.plain = plain
        self._stored = stored

    # The next hops of another table by id.
    cdef int _take_values(self, values) except -1:
        values = list(values)
        if not values or values[0] is not None or any(value is None for value in values[1:]):
            raise ValueError("expected next hops by id: None for id 0, and for no other")
        ids = {value: i for i, value in enumerate(values) if i}
        if len(ids) != len(values) - 1:
            raise ValueError("expected next hops by id: no two of them equal")
        self._values, self._ids = values, ids
        return 0

    # --- exact prefixes ---

    def insert(self, prefix, next_hop):
        """Insert a prefix, or give it another next hop.

        Raises
        ------
        ValueError
            The prefix is malformed or (unless ``strict=False``) has host bits set; the next hop is None, or with
            dtype="uint32" not from 0 to 2**32 - 1.
        TypeError
            Neither a str, network, (address, length) nor address; the next hop is not hashable or not an int.

        Notes
        -----
        Cost: half a microsecond as a rule; one or two where a prefix is the first beyond a node's 8 bits.
        """
        cdef uint8_t[16] address
        cdef int named
        cdef uint32_t value
        self.refuse_readonly()
        named = self.prefix_of(prefix, address)
        self.holders += 1
        try:
            value = self.id_of(next_hop)
            self.lock()
            try:
                self.table.get().insert(named >> 8, address, named & 0xFF, value)
            finally:
                self.unlock(False)
        finally:
            self.holders -= 1

    def delete(self, prefix):
        """Delete a prefix.

        Raises
        ------
        KeyError
            It is not in the table.
        ValueError, TypeError
            As for :meth:`insert`.
        """
        cdef uint8_t[16] address
        cdef int named = self.prefix_of(prefix, address)
        cdef bint removed = False
        self.lock()
        try:
            removed = self.table.get().erase(named >> 8, address, named & 0xFF)
        finally:
            self.unlock(False)
        if not removed:
            raise KeyError(prefix)

    def get(self, prefix, default=None):
        """Return the next hop of exactly this prefix, or `default`.

        Raises
        ------
        ValueError, TypeError
            As for :meth:`insert`.

        Notes
        -----
        Waits for a writer that is at work; look-ups never do.
        """
        cdef uint8_t[16] address
        cdef int named = self.prefix_of(prefix, address)
        cdef optional[uint32_t] found
        cdef Table* table = self.lock_exact()
        found = table.get(named >> 8, address, named & 0xFF)
        self.unlock_exact(table)
        return self.value_of(found.value()) if found.has_value() else default

    def clear(self):
        """Delete every prefix, and (outside of a transaction) forget the next hops: ids begin again with 1."""
        self.lock()
        try:
            self.table.get().clear()
            if self.owner == 0 and self.holders == 0:
                # Kept to the end of the call: next hops end after the lock is free.
                _forgotten = self._values, self._ids, self.spare, self._frozen, self._spread
                self._values, self._ids, self.spare, self._frozen, self._spread = [None], {}, [], None, None
        finally:
            self.unlock(True)

    # --- many prefixes ---

    cdef void routes_of_arrays(self, cnp.ndarray addresses, cnp.ndarray lengths, vector[Route]& routes) except *:
        cdef int family = 0
        if addresses.dtype.newbyteorder("=") == np.uint32 and addresses.ndim == 1:
            family = 4
        elif addresses.dtype == np.uint8 and addresses.ndim == 2 and addresses.shape[1] == 16:
            family = 6
        else:
            raise TypeError(f"expected addresses uint32[n] or uint8[n,16], not {described(addresses)}")
        if lengths.dtype != np.uint8 or lengths.ndim != 1:
            raise TypeError(f"expected prefix lengths uint8[n], not {described(lengths)}")
        cdef cnp.ndarray packed = np.ascontiguousarray(addresses, dtype=np.uint32 if family == 4 else np.uint8)
        cdef cnp.ndarray bits = np.ascontiguousarray(lengths)
        if cnp.PyArray_DIM(packed, 0) != cnp.PyArray_DIM(bits, 0):
            raise ValueError(f"{len(addresses)} addresses with {len(lengths)} prefix lengths")
        cdef const uint8_t* source = <const uint8_t*>cnp.PyArray_DATA(packed)
        cdef const uint8_t* length = <const uint8_t*>cnp.PyArray_DATA(bits)
        cdef Py_ssize_t n = cnp.PyArray_DIM(bits, 0)
        cdef Py_ssize_t row = 0
        cdef unsigned width = 32 if family == 4 else 128
        cdef bint strict = self.strict
        cdef int problem = 0
        cdef Route route
        with nogil:
            routes.reserve(n)
            for row in range(n):
                if family == 4:
                    to_network((<const uint32_t*>source)[row], route.address)
                else:
                    memcpy(route.address, source + 16 * row, 16)
                route.length = length[row]  # once: another thread may write to the array
                if route.length > width:
                    problem = 1
                    break
                if host_bits_set(route.address, width, route.length):
                    if strict:
                        problem = 2
                        break
                    mask_host_bits(route.address, width, route.length)
                route.family = <uint8_t>family
                route.value = 0
                routes.push_back(route)
        if problem == 1:
            raise ValueError(f"row {row}: prefix length {route.length} is not from 0 to {width}")
        if problem == 2:
            given = network_of(route, width, family).network_address
            raise ValueError(
                f"row {row}: {given}/{route.length} has host bits set (Fib(strict=False) masks them)"
            )

    cdef void routes_of_text(self, bytes text, vector[Route]& routes) except *:
        cdef TextError error
        cdef const char* data = PyBytes_AS_STRING(text)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(text)
        cdef cbool strict = self.strict
        with nogil:
            error = parse_lines(data, size, strict, routes)
        if error.kind == 0:
            return
        prefix = error.begin[:min(error.end - error.begin, 80)].decode("ascii", "backslashreplace")
        if error.kind == 1:
            raise ValueError(f"line {error.line}: {shown(prefix)} is not an IPv4 or IPv6 prefix")
        raise ValueError(f"line {error.line}: {prefix} has host bits set (Fib(strict=False) masks them)")

    cdef void routes_of(self, object prefixes, vector[Route]& routes) except *:
        cdef Route route
        cdef int named
        if isinstance(prefixes, (bytes, bytearray, memoryview)):
            self.routes_of_text(bytes(prefixes), routes)
            return
        if isinstance(prefixes, str):
            raise TypeError("expected an iterable of prefixes, or bytes with a prefix a line, not one str")
        if isinstance(prefixes, tuple) and len(prefixes) == 2 and columns().is_column(prefixes[0]):
            if not columns().is_column(prefixes[1]):
                raise TypeError(f"expected prefix lengths uint8[n], not {described(prefixes[1])}")
            self.routes_of_arrays(columns().addresses_of(prefixes[0]), columns().array_of(prefixes[1]), routes)
            return
        if columns().is_column(prefixes):
            prefixes = columns().prefixes_of(prefixes)
        cdef Py_ssize_t row = 0
        for prefix in iterated(prefixes, "an iterable of prefixes, or bytes with a prefix a line"):
            try:
                named = self.prefix_of(prefix, route.address)
            except (TypeError, ValueError) as error:
                raise in_row(row, error) from error
            route.family = <uint8_t>(named >> 8)
            route.length = <uint8_t>(named & 0xFF)
            route.value = 0
            routes.push_back(route)
            row += 1

    def insert_many(self, prefixes, next_hops):
        """Insert many prefixes: all of them or, where one is malformed, none.

        Parameters
        ----------
        prefixes
            An iterable of prefixes; ``bytes`` (or what holds some) with a prefix a line (empty lines and lines that
            begin with ``#`` do not count; parsed with the GIL released); or a pair of arrays, uint32[n] or
            uint8[n,16] addresses and uint8[n] lengths. Of equal prefixes the last wins. Columns (pandas, pyarrow,
            polars) are taken as :meth:`lookup_many` takes them, and columns of prefixes as str.
        next_hops
            A sequence or column as long as there are prefixes; with dtype="uint32" also uint32[n].

        Returns
        -------
        int
            How many prefixes were read.

        Raises
        ------
        ValueError, TypeError
            As for :meth:`insert`, naming the line (from 1) or the row (from 0); lengths that do not fit.

        Notes
        -----
        Cost: about 90 ns a prefix from text and 50 ns from arrays into an empty table; up to one microsecond a
        prefix for a few into a large one.
        """
        cdef vector[Route] routes
        self.refuse_readonly()
        self.routes_of(prefixes, routes)
        if isinstance(next_hops, (str, bytes)):
            raise TypeError(f"expected a sequence of next hops or uint32[n], not {type(next_hops).__name__}")
        if columns().is_column(next_hops):
            next_hops = columns().array_of(next_hops)
            if next_hops.ndim != 1:
                raise ValueError(f"expected next hops uint32[n], not {described(next_hops)}")
            if self.plain and next_hops.dtype.newbyteorder("=") != np.uint32:
                raise TypeError(f"expected next hops uint32[n], not {described(next_hops)}")
            next_hops = np.ascontiguousarray(next_hops, dtype=np.uint32) if self.plain else next_hops.tolist()
        if not isinstance(next_hops, np.ndarray):
            # A list may change while its next hops are hashed.
            next_hops = tuple(iterated(next_hops, "a sequence of next hops or uint32[n]"))
        if <size_t>len(next_hops) != routes.size():
            raise ValueError(f"{routes.size()} prefixes with {len(next_hops)} next hops")
        self.insert_routes(routes, next_hops)
        return routes.size()

    # `hops` is uint32[n] or a tuple of n.
    cdef int insert_routes(self, vector[Route]& routes, object hops) except -1:
        cdef Table* table = self.table.get()
        cdef const uint32_t* values
        cdef size_t row = 0
        self.holders += 1
        try:
            if isinstance(hops, tuple):
                for hop in hops:
                    try:
                        routes[row].value = self.id_of(hop)
                    except (TypeError, ValueError) as error:
                        raise in_row(row, error) from error
                    row += 1
            else:
                values = <const uint32_t*>cnp.PyArray_DATA(hops)
                for row in range(routes.size()):
                    routes[row].value = values[row]
            self.lock()
            try:
                with nogil:
                    self.changing.lock()
                    try:
                        table.insert_many(routes)
                    finally:
                        self.changing.unlock()
            finally:
                self.unlock(True)
        finally:
            self.holders -= 1
        return 0

    def _insert_numbered(self, bytes text):
        """`insert_many` of a text whose prefixes have the next hops 1, 2, 3 ..."""
        cdef vector[Route] routes
        self.routes_of_text(text, routes)
        self.insert_routes(routes, tuple(range(1, routes.size() + 1)))

    def delete_many(self, prefixes):
        """Delete those of many prefixes that are in the table.

        Parameters
        ----------
        prefixes
            As for :meth:`insert_many`. Where one is malformed, nothing is deleted.

        Returns
        -------
        int
            How many were in the table.
        """
        cdef vector[Route] routes
        cdef size_t removed = 0
        cdef Table* table = self.table.get()
        self.refuse_readonly()
        self.routes_of(prefixes, routes)
        self.lock()
        try:
            with nogil:
                self.changing.lock()
                try:
                    removed = table.erase_many(routes)
                finally:
                    self.changing.unlock()
        finally:
            self.unlock(True)
        return removed

    # --- what a packet asks ---

    def lookup(self, address):
        """Return the next hop of the longest prefix that holds the address, or None.

        Parameters
        ----------
        address
            str, ipaddress object, 4 or 16 bytes, or (IPv4) int.

        Raises
        ------
        ValueError, TypeError
            Not an address, or not of these kinds.

        Notes
        -----
        Cost: 40 to 70 ns on a full Internet table. Never waits.
        """
        cdef uint8_t[16] bits
        cdef uint32_t leaf
        cdef int family = address_of(address, bits)
        cdef const View* view = &self.table.get().view()  # no Python code from here on: a writer could free it
        if family == 4:
            leaf = self.kernels.lookup4(deref(view), from_network(bits))
        else:
            leaf = self.kernels.lookup6(deref(view), bits)
        if leaf == view.none:
            return None
        return self.value_of(leaf)

    def match(self, address):
        """Return the longest prefix that holds the address, as a network, and its next hop; or None.

        Raises
        ------
        ValueError, TypeError
            As for :meth:`lookup`.
        """
        cdef uint8_t[16] bits
        cdef Match found
        cdef Route route
        cdef int family = address_of(address, bits)
        cdef const View* view = &self.table.get().view()  # no Python code from here on: a writer could free it
        if family == 4:
            found = self.kernels.match4(deref(view), from_network(bits))
        else:
            found = self.kernels.match6(deref(view), bits)
        if found.leaf == view.none:
            return None
        hop = self.value_of(found.leaf)
        mask_host_bits(bits, 32 if family == 4 else 128, found.length)
        memcpy(route.address, bits, 16)
        return network_of(route, found.length, family), hop

    cdef cnp.ndarray checked_addresses(self, object addresses):
        cdef int kind = cnp.PyArray_TYPE(addresses) if type(addresses) is cnp.ndarray else -1
        if kind != cnp.NPY_UINT32 and kind != cnp.NPY_UINT8:
            if not columns().is_column(addresses):
                raise TypeError(f"expected addresses as uint32[n] or uint8[n,16], not {described(addresses)}")
            addresses = columns().addresses_of(addresses)
        cdef cnp.ndarray array = addresses
        kind = cnp.PyArray_TYPE(array)
        cdef int ndim = cnp.PyArray_NDIM(array)
        if kind == cnp.NPY_UINT32 and ndim == 1:
            pass
        elif kind == cnp.NPY_UINT8 and ndim == 2 and cnp.PyArray_DIM(array, 1) == 16:
            pass
        elif kind == cnp.NPY_UINT32 or kind == cnp.NPY_UINT8:
            raise ValueError(f"expected addresses as uint32[n] or uint8[n,16], not {described(array)}")
        else:
            raise TypeError(f"expected addresses as uint32[n] or uint8[n,16], not {described(array)}")
        if not cnp.PyArray_IS_C_CONTIGUOUS(array) or not cnp.PyArray_ISNOTSWAPPED(array):
            array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
        return array

    def lookup_many(self, addresses, hashes=None, *, out=None, default=0):
        """Look many addresses of one family up.

        Parameters
        ----------
        addresses
            uint32[n] (the values of ``int(IPv4Address)``) or uint8[n,16] (network order); not copied where
            C-contiguous. Columns that hand out such an array (pandas, pyarrow, polars) are taken too, and
            columns of str, of 4 or 16 bytes, and of ipaddress objects, whose first row tells the family; nulls
            are refused.
        hashes
            uint64[n], or a column of them: answer with the member that each hash chooses where the next hop is a
            :class:`fastpath.NextHopGroup`.
        out
            uint32[n] to write to, contiguous. It may lie over the addresses, which are then copied first.
        default
            What addresses without a match get, from 0 to 2**32 - 1.

        Returns
        -------
        uint32[n]
            Ids (``values[id]`` is the next hop), or with dtype="uint32" the next hops themselves.

        Raises
        ------
        TypeError, ValueError
            Another dtype; another shape.

        Notes
        -----
        Cost: about 0.1 microseconds a call, then 1.5 ns an IPv4 and 3.5 ns an IPv6 address on a full Internet
        table with AVX-512. The GIL is released from 1,024 addresses on. Never waits.
        """
        cdef cnp.ndarray array = self.checked_addresses(addresses)
        cdef cnp.npy_intp n = cnp.PyArray_DIM(array, 0)
        cdef cnp.ndarray result
        if out is None:
            result = cnp.PyArray_EMPTY(1, &n, cnp.NPY_UINT32, 0)
        else:
            if not isinstance(out, cnp.ndarray) or cnp.PyArray_TYPE(out) != cnp.NPY_UINT32:
                raise TypeError(f"expected out as uint32[{n}], not {described(out)}")
            result = out
            if cnp.PyArray_NDIM(result) != 1 or cnp.PyArray_DIM(result, 0) != n:
                raise ValueError(f"expected out as uint32[{n}], not {described(out)}")
            if not cnp.PyArray_ISCARRAY(result):
                raise ValueError("expected out to be writable, aligned and contiguous")
            if overlap(array, result):
                array = array.copy()
        cdef uint32_t missing = checked_default(default)
        if hashes is None:
            self.look_up(array, result, missing)
            return result
        hashes = self.checked_hashes(hashes, n)
        if self._stored is not None:  # files hold no groups
            self.look_up(array, result, missing)
            return result
        if np.may_share_memory(hashes, result):
            hashes = hashes.copy()
        self.holders += 1
        try:
            self.look_up(array, result, 0)
            self.choose(result, hashes, missing)
        finally:
            self.holders -= 1
        return result

    cdef int look_up(self, cnp.ndarray addresses, cnp.ndarray result, uint32_t missing) except -1:
        cdef const void* source = cnp.PyArray_DATA(addresses)
        cdef uint32_t* target = <uint32_t*>cnp.PyArray_DATA(result)
        cdef cnp.npy_intp n = cnp.PyArray_DIM(addresses, 0)
        cdef Table* table = self.table.get()
        cdef bint v4 = cnp.PyArray_NDIM(addresses) == 1
        if n < RELEASE_GIL_FROM:
            # Nothing is freed while the GIL is held.
            if v4:
                self.kernels.lookup_many4(table.view(), <const uint32_t*>source, target, n, missing)
            else:
                self.kernels.lookup_many6(table.view(), <const uint8_t*>source, target, n, missing)
        else:
            with nogil:
                if v4:
                    table.lookup_many4(deref(self.kernels), <const uint32_t*>source, target, n, missing)
                else:
                    table.lookup_many6(deref(self.kernels), <const uint8_t*>source, target, n, missing)
        return 0

    cdef object checked_hashes(self, object hashes, Py_ssize_t n):
        if self.plain:
            raise TypeError("a table of integers (dtype='uint32') has no next-hop groups to choose from")
        if columns().is_column(hashes):
            hashes = columns().array_of(hashes)
        if not isinstance(hashes, np.ndarray) or hashes.dtype.newbyteorder("=") != np.uint64:
            raise TypeError(f"expected hashes as uint64[{n}], not {described(hashes)}")
        if hashes.ndim != 1 or len(hashes) != n:
            raise ValueError(f"expected hashes as uint64[{n}], not {described(hashes)}")
        return np.require(hashes, np.uint64, "CA")

    # Puts members in the place of groups, and `missing` where nothing matched.
    cdef int choose(self, cnp.ndarray ids, cnp.ndarray hashes, uint32_t missing) except -1:
        cdef vector[size_t] rows, unknown
        cdef cnp.ndarray known, buckets
        cdef uint64_t* entries
        cdef const uint32_t* members
        cdef const uint64_t* choosing = <const uint64_t*>cnp.PyArray_DATA(hashes)
        cdef uint32_t* target = <uint32_t*>cnp.PyArray_DATA(ids)
        cdef size_t size, n = cnp.PyArray_DIM(ids, 0)
        cdef const size_t* those = NULL
        if self._spread is None:
            self._spread = Spread()
        cdef Spread spread = self._spread
        while True:
            known, buckets = spread.known, spread.buckets
            entries, size = <uint64_t*>cnp.PyArray_DATA(known), cnp.PyArray_DIM(known, 0)
            members = <const uint32_t*>cnp.PyArray_DATA(buckets)
            if n < RELEASE_GIL_FROM:
                choose_rows(entries, size, members, choosing, target, n, missing, those, unknown)
            else:
                with nogil:
                    choose_rows(entries, size, members, choosing, target, n, missing, those, unknown)
            if unknown.empty():
                return 0
            rows.swap(unknown)
            unknown.clear()
            those, n = rows.data(), rows.size()
            groups = {}
            spread.sort_out(target, rows, self.hops(), groups)
            for number, group in groups.items():
                groups[number] = self.members_by_bucket(group)
            spread.take_in(groups)

    cdef object members_by_bucket(self, object group):
        ids = {member: self.id_of(member) for member in group.weights}
        buckets = group.buckets
        if not buckets:
            raise ValueError(f"{group!r} has no buckets")
        return np.fromiter([ids[member] for member in buckets], np.uint32, len(buckets))

    def match_many(self, addresses):
        """Look many addresses of one family up, with the lengths of the prefixes that match.

        Parameters
        ----------
        addresses
            As for :meth:`lookup_many`.

        Returns
        -------
        (uint32[n], uint8[n])
            Ids (or integers) and prefix lengths; 0 and 0 where nothing matches.
        """
        cdef cnp.ndarray array = self.checked_addresses(addresses)
        cdef cnp.npy_intp n = cnp.PyArray_DIM(array, 0)
        cdef cnp.ndarray ids = cnp.PyArray_EMPTY(1, &n, cnp.NPY_UINT32, 0)
        cdef cnp.ndarray lengths = cnp.PyArray_EMPTY(1, &n, cnp.NPY_UINT8, 0)
        cdef const void* source = cnp.PyArray_DATA(array)
        cdef uint32_t* target = <uint32_t*>cnp.PyArray_DATA(ids)
        cdef uint8_t* bits = <uint8_t*>cnp.PyArray_DATA(lengths)
        cdef Table* table = self.table.get()
        cdef bint v4 = cnp.PyArray_NDIM(array) == 1
        with nogil:
            if v4:
                table.match_many4(deref(self.kernels), <const uint32_t*>source, target, bits, n, 0)
            else:
                table.match_many6(deref(self.kernels), <const uint8_t*>source, target, bits, n, 0)
        return ids, lengths

    # --- reading back ---

    # These fill `routes` and return the next hops by id.
    cdef object routes_below(self, int family, const uint8_t* address, unsigned length, vector[Route]& routes):
        cdef Table* table = self.lock_exact()
        try:
            routes = table.routes(family, address, length)
            return self.hops()
        finally:
            self.unlock_exact(table)

    cdef object routes_above(self, int family, const uint8_t* address, unsigned most, vector[Route]& routes):
        cdef Route route
        cdef optional[uint32_t] found
        cdef unsigned length
        cdef Table* table = self.lock_exact()
        try:
            for length in range(most + 1):
                memcpy(route.address, address, 16)
                mask_host_bits(route.address, 32 if family == 4 else 128, length)
                found = table.get(family, route.address, length)
                if found.has_value():
                    route.family, route.length, route.value = <uint8_t>family, <uint8_t>length, found.value()
                    routes.push_back(route)
            return self.hops()
        finally:
            self.unlock_exact(table)

    # Both families as of one moment; returns the next hops of then by id.
    cdef object all_routes(self, vector[Route]& four, vector[Route]& six, bint aggregated):
        cdef uint8_t[16] zero = [0] * 16
        cdef Table* table = self.lock_exact()
        try:
            if aggregated:
                four, six = table.aggregated(4), table.aggregated(6)
            else:
                four, six = table.routes(4, zero, 0), table.routes(6, zero, 0)
            return self.hops()
        finally:
            self.unlock_exact(table)

    def _items(self):
        cdef vector[Route] four, six
        hops = self.all_routes(four, six, False)
        return listed(4, four, hops) + listed(6, six, hops)

    def _networks(self):
        cdef vector[Route] four, six
        cdef size_t i
        self.all_routes(four, six, False)
        networks = [network_of(four[i], four[i].length, 4) for i in range(four.size())]
        networks += [network_of(six[i], six[i].length, 6) for i in range(six.size())]
        return networks

    def _cut(self, bint aggregated=False):
        """The table as of one moment: the arrays of both families, in address order, and the next hops by id."""
        cdef vector[Route] four, six
        hops = self.all_routes(four, six, aggregated)
        return (arrays_of(4, four), arrays_of(6, six)), hops

    def _covered(self, prefix):
        cdef uint8_t[16] address
        cdef int named = self.prefix_of(prefix, address)
        cdef vector[Route] routes
        hops = self.routes_below(named >> 8, address, named & 0xFF, routes)
        return listed(named >> 8, routes, hops)

    def _children(self, prefix):
        cdef uint8_t[16] address
        cdef int named = self.prefix_of(prefix, address)
        cdef vector[Route] routes
        cdef vector[Route] children
        cdef size_t i
        hops = self.routes_below(named >> 8, address, named & 0xFF, routes)
        for i in range(routes.size()):
            if routes[i].length > (named & 0xFF) and (
                    children.empty() or not children.back().contains(routes[i])):
                children.push_back(routes[i])
        return listed(named >> 8, children, hops)

    def _covered_arrays(self, prefix):
        cdef uint8_t[16] address
        cdef int named = self.prefix_of(prefix, address)
        cdef vector[Route] routes
        self.routes_below(named >> 8, address, named & 0xFF, routes)
        return arrays_of(named >> 8, routes)

    def _covering(self, prefix):
        cdef uint8_t[16] address
        cdef int named = self.prefix_of(prefix, address)
        cdef vector[Route] routes
        hops = self.routes_above(named >> 8, address, named & 0xFF, routes)
        return listed(named >> 8, routes, hops)

    def _covering_arrays(self, prefix):
        cdef uint8_t[16] address
        cdef int named = self.prefix_of(prefix, address)
        cdef vector[Route] routes
        self.routes_above(named >> 8, address, named & 0xFF, routes)
        return arrays_of(named >> 8, routes)

    def _arrays(self, int family):
        """Addresses, lengths and ids of one family, in address order."""
        cdef uint8_t[16] zero = [0] * 16
        cdef vector[Route] routes
        self.routes_below(family, zero, 0, routes)
        return arrays_of(family, routes)

    def _restore(self, families, values):
        """Fill an empty table from what `_arrays` gave, ids and all."""
        cdef vector[Route] routes
        cdef vector[Route] part
        cdef Table* table = self.table.get()
        cdef cnp.ndarray ids
        cdef size_t i
        if values is not None:
            self._take_values(values)
        for addresses, lengths, leaves in families:
            part.clear()
            self.routes_of_arrays(addresses, lengths, part)
            if not isinstance(leaves, np.ndarray) or leaves.dtype != np.uint32:
                raise TypeError(f"expected ids uint32[n], not {described(leaves)}")
            ids = np.ascontiguousarray(leaves)
            if cnp.PyArray_NDIM(ids) != 1 or <size_t>cnp.PyArray_DIM(ids, 0) != part.size():
                raise ValueError(f"{part.size()} prefixes with ids {described(ids)}")
            for i in range(part.size()):
                part[i].value = (<uint32_t*>cnp.PyArray_DATA(ids))[i]
                if not self.plain and not 0 < part[i].value < <size_t>len(self._values):
                    raise ValueError(
                        f"id {part[i].value} has no value: ids from 1 to {len(self._values) - 1} were expected"
                    )
            routes.insert(routes.end(), part.begin(), part.end())
        self.lock()
        try:
            table.insert_many(routes)
        finally:
            self.unlock(True)

    def __len__(self):
        return self.size4 + self.size6

    def _sizes(self):
        return self.size4, self.size6

    @property
    def nbytes(self):
        """Bytes that the compiled side holds."""
        return self.held + (0 if self._spread is None else self._spread.nbytes())

    @property
    def values(self):
        """The next hops by id, ``values[0]`` being None; None with dtype="uint32".

        An id keeps its next hop as long as the table lives, even when no prefix has it any more: arrays of ids
        that were handed out are not known to the table, and an id in one of them must not come to name another
        next hop. So a table whose next hops are new objects all the time grows; :meth:`clear` and copies hold
        none but those in use.
        """
        if self.plain:
            return None
        stored = self._stored
        if stored is not None:
            self._values = list(stored)
            self._stored = None
        frozen = self._frozen
        if frozen is None or len(frozen) != len(self._values):
            self._frozen = frozen = tuple(self._values)
        return frozen


# The next hop of an id, of what hops() gave.
cdef object hop_of(object hops, uint32_t number):
    if type(hops) is list and <Py_ssize_t>number >= PyList_GET_SIZE(hops):
        raise IndexError(f"next hop {number} of {PyList_GET_SIZE(hops)}")
    return number if hops is None else hops[number]


cdef list listed(int family, const vector[Route]& routes, object hops):
    cdef size_t i
    return [
        (network_of(routes[i], routes[i].length, family), hop_of(hops, routes[i].value)) for i in range(routes.size())
    ]


# The same kind of error with its row in front.
cdef object in_row(size_t row, object error):
    return (TypeError if isinstance(error, TypeError) else ValueError)(f"row {row}: {error}")


cdef inline bint overlap(cnp.ndarray a, cnp.ndarray b) noexcept:
    cdef const char* first = <const char*>cnp.PyArray_DATA(a)
    cdef const char* other = <const char*>cnp.PyArray_DATA(b)
    return first < other + cnp.PyArray_NBYTES(b) and other < first + cnp.PyArray_NBYTES(a)


cdef inline uint32_t checked_default(object default) except? 0xFFFFFFFF:
    cdef int overflow = 0
    if not PyIndex_Check(default):
        raise TypeError(f"expected default as int, not {type(default).__name__}")
    cdef long long number = PyLong_AsLongLongAndOverflow(default, &overflow)
    if overflow != 0 or number < 0 or number > 0xFFFFFFFF:
        raise ValueError(f"default {shown(default)} is not from 0 to 4294967295")
    return <uint32_t>number


cdef object network_of(const Route& route, unsigned length, int family):
    if family == 4:
        return IPv4Network((from_network(route.address), length), False)
    return IPv6Network(((<const char*>route.address)[:16], length), False)


cdef tuple arrays_of(int family, const vector[Route]& routes):
    cdef size_t i
    n = routes.size()
    cdef cnp.ndarray addresses = np.empty(n, np.uint32) if family == 4 else np.empty((n, 16), np.uint8)
    cdef cnp.ndarray lengths = np.empty(n, np.uint8)
    cdef cnp.ndarray ids = np.empty(n, np.uint32)
    cdef uint8_t* a = <uint8_t*>cnp.PyArray_DATA(addresses)
    cdef uint8_t* b = <uint8_t*>cnp.PyArray_DATA(lengths)
    cdef uint32_t* c = <uint32_t*>cnp.PyArray_DATA(ids)
    for i in range(routes.size()):
        if family == 4:
            (<uint32_t*>a)[i] = from_network(routes[i].address)
        else:
            memcpy(a + 16 * i, routes[i].address, 16)
        b[i] = routes[i].length
        c[i] = routes[i].value
    return addresses, lengths, ids
