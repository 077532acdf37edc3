cdef extern from "fastpath/capi.h":
    ctypedef struct fastpath_forwarding_v1:
        uint32_t version
        void* self
        void (*lookup_many)(void*, const uint64_t*, const uint64_t*, uint32_t*, size_t) noexcept nogil
        int (*insert)(void*, uint64_t, uint64_t, uint32_t) noexcept nogil
        int (*erase)(void*, uint64_t, uint64_t) noexcept nogil
    const char* FASTPATH_FORWARDING_CAPSULE
    ctypedef struct fastpath_fdb_v1:
        uint32_t version
        void* self
        void (*lookup_many)(void*, const uint64_t*, const uint16_t*, uint32_t*, size_t) noexcept nogil
        size_t (*learn_many)(
            void*, const uint64_t*, const uint16_t*, const uint32_t*, size_t, double
        ) noexcept nogil
    const char* FASTPATH_FDB_CAPSULE

cdef extern from *:
    """
    #include "fastpath/forwarding_table.hpp"
    #include "fastpath/mac.hpp"
    namespace {
    void forwarding_lookup_many(void* self, const uint64_t* sources, const uint64_t* destinations, uint32_t* egress,
                                size_t n) noexcept {
      static_cast<fastpath::ForwardingTable*>(self)->find_many(reinterpret_cast<const uint8_t*>(sources),
                                                               reinterpret_cast<const uint8_t*>(destinations), n,
                                                               egress, 0);
    }
    int forwarding_insert(void* self, uint64_t source, uint64_t destination, uint32_t egress) noexcept {
      try {
        static_cast<fastpath::ForwardingTable*>(self)->learn(reinterpret_cast<const uint8_t*>(&source),
                                                             reinterpret_cast<const uint8_t*>(&destination), egress);
        return 0;
      } catch (...) {
        return -1;
      }
    }
    int forwarding_erase(void* self, uint64_t source, uint64_t destination) noexcept {
      return static_cast<fastpath::ForwardingTable*>(self)->unlearn(reinterpret_cast<const uint8_t*>(&source),
                                                                    reinterpret_cast<const uint8_t*>(&destination));
    }
    }
    """
    void forwarding_lookup_many(void*, const uint64_t*, const uint64_t*, uint32_t*, size_t) noexcept nogil
    int forwarding_insert(void*, uint64_t, uint64_t, uint32_t) noexcept nogil
    int forwarding_erase(void*, uint64_t, uint64_t) noexcept nogil

_KINDS = {"mac": 8, "ipv4": 4, "ipv6": 16}


cdef tuple without_none(sources):
    """Sources without those that are None, and ``bool[n]`` of which ones are not; None if all are not."""
    if isinstance(sources, (np.ndarray, str, bytes, bytearray)) or not hasattr(sources, "__iter__"):
        return sources, None
    listed = list(sources)
    if not any(source is None for source in listed):
        return listed, None
    named = np.fromiter((source is not None for source in listed), bool, len(listed))
    return [source for source in listed if source is not None], named


cdef class ForwardingTable:
    """(source, destination) -> egress: the exact pair first, then any source.

    Parameters
    ----------
    kind : {"mac", "ipv4", "ipv6"}
        What the addresses are. MAC: ``"aa:bb:cc:dd:ee:ff"`` (also ``-`` and bare hex), 6 bytes or an int. IP: str,
        :mod:`ipaddress` objects, packed bytes, or (IPv4 only) an int.
    dtype : None or "uint32", optional
        None: an egress is any hashable object, and batch results are ids (``table.values[id]``, 0 = no entry).
        ``"uint32"``: an egress is an integer or anything with ``__index__``, and batch results are the integers.
    capacity : int, optional
        Pairs to make room for at once.
    seed : int, optional
        Of the hash; random unless told.

    Notes
    -----
    A mapping of ``(source, destination)`` pairs; a source of None stands for any source. Iteration gives the
    addresses as text. Threads, cost and ids: as in :class:`ExactTable`, of which this is two.
    """

    cdef unique_ptr[CForwardingTable] table
    cdef Values objects
    cdef str kind_name
    cdef size_t width
    cdef uint64_t hash_seed
    cdef fastpath_forwarding_v1 interface
    cdef unique_ptr[CForwardingTable] first_table  # of before __init__(), which another thread may still use
    cdef bint made
    cdef object __weakref__

    def __cinit__(self, *args, **kwargs):
        # A subclass may fail to call __init__(): until then this is an empty table made without arguments.
        self.kind_name = "mac"
        self.width = 8
        self.hash_seed = checked_seed(None)
        self.table.reset(new CForwardingTable(8, 0, self.hash_seed))
        self.objects = Values()

    def __init__(self, kind="mac", *, dtype=None, capacity=None, seed=None):
        if not isinstance(kind, str):
            raise TypeError(f"kind must be 'mac', 'ipv4' or 'ipv6', got {type(kind).__name__}")
        if kind not in _KINDS:
            raise ValueError(f"kind must be 'mac', 'ipv4' or 'ipv6', got {kind!r}")
        if self.made:
            raise TypeError("a ForwardingTable is made once")
        cdef size_t room = 0 if capacity is None else checked_count(capacity, "capacity", 0)
        cdef cbool plain = checked_dtype(dtype)
        cdef uint64_t drawn = checked_seed(seed)
        cdef size_t width = _KINDS[kind]
        cdef unique_ptr[CForwardingTable] table
        table.reset(new CForwardingTable(width, room, drawn))
        self.made = True
        self.first_table.swap(self.table)
        self.table.swap(table)
        self.hash_seed = drawn
        self.width = width
        self.kind_name = kind
        self.objects = None if plain else Values()
        protect(self)

    # --- forks: see fastpath.forking ---

    def _lock_for_fork(self):
        if self.table.get().reclaim():
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

    cdef int packed(self, address, uint8_t* out) except -1:
        """Writes an address in the form of the core."""
        cdef uint64_t mac
        cdef uint32_t word
        if self.width == 8:
            mac = mac_of(address)
            memcpy(out, &mac, 8)
            return 0
        made = self.ip_of(address)
        if self.width == 4:
            word = int(made)
            memcpy(out, &word, 4)
        else:
            raw = made.packed
            memcpy(out, PyBytes_AS_STRING(raw), 16)
        return 0

    cdef object ip_of(self, address):
        wanted = ipaddress.IPv4Address if self.width == 4 else ipaddress.IPv6Address
        if isinstance(address, str):
            address = wanted(address)
        if isinstance(address, wanted):
            if self.width == 16 and address.scope_id is not None:
                raise ValueError(f"an address without a scope is wanted, got {str(address)!r}")
            return address
        if isinstance(address, (ipaddress.IPv4Address, ipaddress.IPv6Address)):
            raise ValueError(f"an address of kind {self.kind_name} is wanted, got {address}")
        if isinstance(address, (bytes, bytearray)):
            if <size_t> len(address) != self.width:
                raise ValueError(f"a packed {self.kind_name} address has {self.width} bytes, got {len(address)}")
            return wanted(bytes(address))
        if self.width == 4:
            try:
                return wanted(operator.index(address))
            except TypeError:
                pass
        raise TypeError(f"{address!r} is not an {self.kind_name} address: {type(address).__name__}")

    cdef str text(self, const uint8_t* packed):
        cdef uint64_t mac
        cdef uint32_t word
        if self.width == 8:
            memcpy(&mac, packed, 8)
            return mac_text(mac)
        if self.width == 4:
            memcpy(&word, packed, 4)
            return str(ipaddress.IPv4Address(word))
        return str(ipaddress.IPv6Address(PyBytes_FromStringAndSize(<const char*> packed, 16)))

    cdef object egress_of(self, uint32_t number):
        return number if self.objects is None else self.objects.at(number)

    def insert(self, source, destination, egress):
        """Insert a pair, or replace its egress.

        Parameters
        ----------
        source : address or None
            None: any source.
        destination : address
        egress : object
            Hashable and not None; with ``dtype="uint32"`` an integer 0..2**32-1 or anything with ``__index__``.
        """
        cdef uint8_t from_[16]
        cdef uint8_t to[16]
        cdef uint8_t* first = NULL
        cdef uint32_t previous = 0
        cdef uint32_t number
        if source is not None:
            self.packed(source, from_)
            first = from_
        self.packed(destination, to)
        if self.objects is None:
            self.put(first, to, checked_uint32(egress, "egress"), &previous)
            return
        number = self.objects.acquire(egress)
        try:
            self.put(first, to, number, &previous)
        except BaseException:
            self.objects.release(number)
            raise
        self.objects.release(previous)

    cdef int put(
        self, const uint8_t* source, const uint8_t* destination, uint32_t egress, uint32_t* previous
    ) except -1:
        if self.table.get().reclaim():
            self.table.get().put(source, destination, egress, previous)
        else:  # who writes now may do so for long: meanwhile others run
            with nogil:
                self.table.get().put(source, destination, egress, previous)
        return 0

    cdef tuple pairs_to_write(self, sources, destinations):
        """Sources (None: any), destinations, and ``bool[n]`` of those that have a source; None if all or none have."""
        second = self.addresses(destinations, "destinations")
        named = None
        first = None
        if sources is not None:
            sources, named = without_none(sources)
            first = self.addresses(sources, "sources")
            given = len(first) if named is None else len(named)
            if given != len(second):
                raise ValueError(f"sources and destinations differ in length: {given} and {len(second)}")
        return first, second, named

    def insert_many(self, sources, destinations, egresses):
        """Insert or replace many pairs; of equal pairs the last one wins. Returns how many are new.

        Parameters
        ----------
        sources : array of n addresses, sequence of addresses or None, or None
            None: any source.
        destinations : array of n addresses, or sequence of them
        egresses : sequence of n values
            All are checked before the first pair is inserted.
        """
        cdef vector[uint32_t] ids
        first, second, named = self.pairs_to_write(sources, destinations)
        if self.objects is None:
            numbers = checked_uint32s(egresses, len(second), "egresses")
        else:
            acquire_all(self.objects, listed_values(egresses, len(second), "egresses"), ids)
            numbers = np.asarray(ids, np.uint32)
        if named is None:
            groups = [(first, second, numbers, numbers.copy())]
        else:
            groups = [(first, second[named], numbers[named], numbers[named])]
            groups.append((None, second[~named], numbers[~named], numbers[~named]))
        added = 0
        try:
            for group in groups:
                added += self.put_group(group[0], group[1], group[2], group[3])
        finally:
            # What each insertion puts out of use: the egress before, or, of those that an error prevents, its own.
            if self.objects is not None:
                for group in groups:
                    ids = group[3]
                    release_all(self.objects, ids)
        return added

    cdef size_t put_group(
        self, cnp.ndarray sources, cnp.ndarray destinations, cnp.ndarray numbers, cnp.ndarray before
    ) except? 0:
        cdef const uint8_t* from_ = NULL
        cdef const uint8_t* to = <const uint8_t*> cnp.PyArray_DATA(destinations)
        cdef const uint32_t* egress = <const uint32_t*> cnp.PyArray_DATA(numbers)
        cdef uint32_t* previous = <uint32_t*> cnp.PyArray_DATA(before)
        cdef size_t n = <size_t> cnp.PyArray_DIM(numbers, 0)
        cdef size_t added
        if sources is not None:
            from_ = <const uint8_t*> cnp.PyArray_DATA(sources)
        self.table.get().reclaim()
        with nogil:
            added = self.table.get().put_many(from_, to, egress, n, previous)
        return added

    def delete(self, source, destination):
        """Remove exactly this entry (None: the one for any source); KeyError if it is not there."""
        cdef uint8_t from_[16]
        cdef uint8_t to[16]
        cdef uint8_t* first = NULL
        cdef uint32_t previous = 0
        if source is not None:
            self.packed(source, from_)
            first = from_
        self.packed(destination, to)
        cdef bint hit
        if self.table.get().reclaim():
            hit = self.table.get().erase(first, to, &previous)
        else:
            with nogil:
                hit = self.table.get().erase(first, to, &previous)
        if not hit:
            raise KeyError((source, destination))
        if self.objects is not None:
            self.objects.release(previous)

    def delete_many(self, sources, destinations):
        """Remove exactly those of the entries that are there.

        Parameters
        ----------
        sources : array of n addresses, sequence of addresses or None, or None
            None: the entry for any source.
        destinations : array of n addresses, or sequence of them
            All are checked before the first entry is removed.

        Returns
        -------
        int
            How many were there.
        """
        first, second, named = self.pairs_to_write(sources, destinations)
        if named is None:
            return self.erase_group(first, second)
        return self.erase_group(first, second[named]) + self.erase_group(None, second[~named])

    cdef size_t erase_group(self, cnp.ndarray sources, cnp.ndarray destinations) except? 0:
        cdef const uint8_t* from_ = NULL
        cdef const uint8_t* to = <const uint8_t*> cnp.PyArray_DATA(destinations)
        cdef size_t n = <size_t> cnp.PyArray_DIM(destinations, 0)
        cdef vector[uint32_t] gone
        cdef vector[uint32_t]* noting = NULL
        cdef size_t removed
        if sources is not None:
            from_ = <const uint8_t*> cnp.PyArray_DATA(sources)
        if self.objects is not None:
            noting = &gone
        self.table.get().reclaim()
        with nogil:
            removed = self.table.get().erase_many(from_, to, n, noting)
        if noting != NULL:
            release_all(self.objects, gone)
        return removed

    cdef bint find_exactly(self, source, destination, uint32_t* egress) except -1:
        cdef uint8_t from_[16]
        cdef uint8_t to[16]
        cdef uint8_t* first = NULL
        if source is not None:
            self.packed(source, from_)
            first = from_
        self.packed(destination, to)
        return self.table.get().get(first, to, egress)

    def get(self, source, destination, default=None):
        """The egress of exactly this entry (None: the one for any source), or ``default``."""
        cdef uint32_t egress = 0
        if not self.find_exactly(source, destination, &egress):
            return default
        return self.egress_of(egress)

    def lookup(self, source, destination):
        """Where a packet goes: the egress of the exact pair, else of any source, else None."""
        cdef uint8_t from_[16]
        cdef uint8_t to[16]
        cdef uint8_t* first = NULL
        cdef uint32_t egress = 0
        if source is not None:
            self.packed(source, from_)
            first = from_
        self.packed(destination, to)
        if not self.table.get().find(first, to, &egress):
            return None
        return self.egress_of(egress)

    cdef cnp.ndarray addresses(self, addresses, str name):
        """An address array in the form of the core."""
        asked = self.asked_addresses(addresses, name)
        if self.width == 8 and asked.size and int(asked.max()) >> 48:
            return asked & np.uint64(0xFFFFFFFFFFFF)
        return asked

    cdef cnp.ndarray asked_addresses(self, addresses, str name):
        """The same for look-ups, which mind the low 48 bits of a MAC themselves."""
        if self.width == 8:
            return checked_macs(addresses, name)
        if self.width == 4 and is_plain(addresses, cnp.NPY_UINT32, 1):
            return addresses
        if isinstance(addresses, np.ndarray):
            if self.width == 4:
                if addresses.dtype != np.uint32:
                    raise TypeError(f"{name} must be uint32[n], got an array of {addresses.dtype}")
                if addresses.ndim != 1:
                    raise ValueError(f"{name} must be uint32[n], got shape {addresses.shape}")
                return contiguous(addresses)
            return checked_rows(addresses, 16, name)
        if isinstance(addresses, (str, bytes, bytearray)):
            raise TypeError(f"{name} must be an array or a sequence of addresses, got one {type(addresses).__name__}")
        try:
            listed = [self.ip_of(address) for address in addresses]
        except TypeError:
            if not hasattr(addresses, "__iter__"):
                raise TypeError(
                    f"{name} must be an array or a sequence of addresses, got {type(addresses).__name__}"
                ) from None
            raise
        if self.width == 4:
            return np.fromiter((int(address) for address in listed), np.uint32, len(listed))
        return np.frombuffer(b"".join(address.packed for address in listed), np.uint8).reshape(len(listed), 16)

    def lookup_many(self, sources, destinations, *, out=None, default=0):
        """Where many packets go.

        Parameters
        ----------
        sources : array of n addresses, sequence of addresses or None, or None
            MAC: ``uint64[n]`` (low 48 bits) or ``uint8[n, 6]``; IPv4: ``uint32[n]``; IPv6: ``uint8[n, 16]``. None,
            as in :meth:`lookup`: only entries for any source match.
        destinations : array of n addresses, or sequence of them
        out : ndarray of uint32, shape (n,), optional
            Reused for the result.
        default : int, default 0
            What a miss gives.

        Returns
        -------
        ndarray of uint32, shape (n,)
            Ids, or the integers themselves with ``dtype="uint32"``.
        """
        cdef uint32_t missing = checked_uint32(default, "default")
        cdef cnp.ndarray first = None
        cdef cnp.ndarray second
        cdef cnp.ndarray result
        cdef size_t given = 0
        cdef size_t n
        named = None
        if sources is not None:
            if not cnp.PyArray_Check(sources):
                sources, named = without_none(sources)
            first = self.asked_addresses(sources, "sources")
            given = <size_t> cnp.PyArray_DIM(first, 0) if named is None else len(named)
        second = self.asked_addresses(destinations, "destinations")
        n = <size_t> cnp.PyArray_DIM(second, 0)
        if sources is not None and given != n:
            raise ValueError(f"sources and destinations differ in length: {given} and {n}")
        result = checked_out(out, n)
        if named is not None:
            by_pair = np.empty(len(first), np.uint32)
            by_destination = np.empty(n - len(first), np.uint32)
            self.find_group(first, second[named], by_pair, missing)
            self.find_group(None, second[~named], by_destination, missing)
            result[named] = by_pair
            result[~named] = by_destination
            return result
        if first is not None:
            first = apart_from(first, out)
        self.find_group(first, apart_from(second, out), result, missing)
        return result

    cdef int find_group(
        self, cnp.ndarray sources, cnp.ndarray destinations, cnp.ndarray result, uint32_t missing
    ) except -1:
        cdef const uint8_t* from_ = NULL
        cdef const uint8_t* to = <const uint8_t*> cnp.PyArray_DATA(destinations)
        cdef uint32_t* egress = <uint32_t*> cnp.PyArray_DATA(result)
        cdef size_t n = <size_t> cnp.PyArray_DIM(result, 0)
        if sources is not None:
            from_ = <const uint8_t*> cnp.PyArray_DATA(sources)
        if n < RELEASE_KEYS:
            self.table.get().find_many(from_, to, n, egress, missing)
        else:
            with nogil:
                self.table.get().find_many(from_, to, n, egress, missing)
        return 0

    def __getitem__(self, pair):
        cdef uint32_t egress = 0
        source, destination = self.pair_of(pair)
        if not self.find_exactly(source, destination, &egress):
            raise KeyError(pair)
        return self.egress_of(egress)

    def __setitem__(self, pair, egress):
        source, destination = self.pair_of(pair)
        self.insert(source, destination, egress)

    def __delitem__(self, pair):
        source, destination = self.pair_of(pair)
        self.delete(source, destination)

    def __contains__(self, pair):
        cdef uint32_t egress = 0
        source, destination = self.pair_of(pair)
        return self.find_exactly(source, destination, &egress)

    cdef tuple pair_of(self, pair):
        if not isinstance(pair, tuple):
            raise TypeError(f"a key is a (source, destination) pair, got {type(pair).__name__}")
        if len(pair) != 2:
            raise ValueError(f"a key is a (source, destination) pair, got {len(pair)} elements")
        return pair

    def items(self):
        """List of ``((source, destination), egress)`` with addresses as text; a source of None is any source."""
        cdef vector[uint8_t] keys
        cdef vector[uint32_t] numbers
        cdef vector[uint8_t] any_keys
        cdef vector[uint32_t] any_numbers
        cdef size_t i
        cdef size_t exact = 0
        cdef int phase = 0
        if self.objects is not None:
            phase = self.objects.begin_export()
        try:
            with nogil:  # which waits for a writer
                self.table.get().pairs().export_to(keys, numbers)
                self.table.get().any().export_to(any_keys, any_numbers)
                exact = numbers.size()
                numbers.insert(numbers.end(), any_numbers.begin(), any_numbers.end())
            if self.objects is not None:
                hold_all(self.objects, numbers)
        finally:
            if self.objects is not None:
                self.objects.end_export(phase)
        egresses = list(numbers) if self.objects is None else held_objects(self.objects, numbers)
        pairs = []
        for i in range(exact):
            source = self.text(keys.data() + 2 * self.width * i)
            pairs.append((source, self.text(keys.data() + 2 * self.width * i + self.width)))
        for i in range(any_numbers.size()):
            pairs.append((None, self.text(any_keys.data() + self.width * i)))
        return list(zip(pairs, egresses))

    def __iter__(self):
        return iter([pair for pair, _ in self.items()])

    def __len__(self):
        return self.table.get().size()

    def clear(self):
        """Remove everything."""
        cdef vector[uint32_t] gone
        cdef vector[uint32_t]* noting = NULL
        if self.objects is not None:
            noting = &gone
        self.table.get().reclaim()
        with nogil:
            self.table.get().clear(noting)
        if noting == NULL:
            return
        release_all(self.objects, gone)
        self.objects.compact()

    @property
    def values(self):
        """Objects by id: ``values[id]``; None for a table of integers."""
        return self.objects

    @property
    def kind(self):
        """``"mac"``, ``"ipv4"`` or ``"ipv6"``."""
        return self.kind_name

    @property
    def dtype(self):
        """None (objects) or ``"uint32"``."""
        return "uint32" if self.objects is None else None

    @property
    def seed(self):
        """Of the hash."""
        return self.hash_seed

    @property
    def nbytes(self):
        """Bytes held by the compiled side, with memory that is ready for growth as in `ExactTable.nbytes`."""
        cdef size_t held
        with nogil:
            held = self.table.get().nbytes()
        return held

    @property
    def capsule(self):
        """The table for other extension modules and native threads (``capi.h``).

        Only for MAC addresses and integers: native code can hold neither objects nor their ids.
        """
        if self.width != 8 or self.objects is not None:
            raise NotSupported(
                f"only ForwardingTable('mac', dtype='uint32') has a capsule, this is {self!r}"
            )
        self.interface.version = 1
        self.interface.self = self.table.get()
        self.interface.lookup_many = forwarding_lookup_many
        self.interface.insert = forwarding_insert
        self.interface.erase = forwarding_erase
        return owning_capsule(self, &self.interface, FASTPATH_FORWARDING_CAPSULE)

    def copy(self):
        """A table of its own with the same entries and attributes."""
        made = _new_forwarding_table(type(self), self.kind_name, self.dtype, len(self))
        made.__setstate__((self.items(), attributes_of(self)))
        return made

    def __copy__(self):
        return self.copy()

    def __deepcopy__(self, memo):
        made = memo[id(self)] = _new_forwarding_table(type(self), self.kind_name, self.dtype, len(self))
        made.__setstate__((copy.deepcopy(self.items(), memo), copy.deepcopy(attributes_of(self), memo)))
        return made

    def __reduce__(self):
        state = (self.items(), attributes_of(self))
        return _new_forwarding_table, (type(self), self.kind_name, self.dtype, len(self)), state

    def __setstate__(self, state):
        entries, attributes = state
        for (source, destination), egress in entries:
            self.insert(source, destination, egress)
        if attributes:
            self.__dict__.update(attributes)

    def __repr__(self):
        dtype = "" if self.objects is not None else ", dtype='uint32'"
        return f"<ForwardingTable({self.kind_name!r}{dtype}): {len(self)} entries>"


def _new_forwarding_table(cls, kind, dtype, capacity):
    made = cls.__new__(cls)
    ForwardingTable.__init__(made, kind, dtype=dtype, capacity=capacity)
    return made
