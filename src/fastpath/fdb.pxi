cdef extern from *:
    """
    #include "fastpath/fdb.hpp"
    namespace {
    void fdb_lookup_many(void* self, const uint64_t* macs, const uint16_t* vlans, uint32_t* ports,
                         size_t n) noexcept {
      const auto* fdb = static_cast<const fastpath::Fdb*>(self);
      fdb->find_many(macs, vlans, n, fdb->native_now_s(), ports, 0);
    }
    size_t fdb_learn_many(void* self, const uint64_t* macs, const uint16_t* vlans, const uint32_t* ports, size_t n,
                          double now_s) noexcept {
      try {
        return static_cast<fastpath::Fdb*>(self)->learn_many(macs, vlans, ports, n, now_s);
      } catch (...) {
        return 0;
      }
    }
    }
    """
    void fdb_lookup_many(void*, const uint64_t*, const uint16_t*, uint32_t*, size_t) noexcept nogil
    size_t fdb_learn_many(
        void*, const uint64_t*, const uint16_t*, const uint32_t*, size_t, double
    ) noexcept nogil

FdbEntry = collections.namedtuple("FdbEntry", ["mac", "vlan", "port", "static", "age_s"])
FdbEntry.__module__ = "fastpath.tables"
FdbEntry.__doc__ = "One station: MAC address as text, VLAN, port, whether it is static, seconds since it was seen."


cdef class Fdb:
    """Forwarding database of a learning bridge: (MAC, VLAN) -> port, with ages.

    Parameters
    ----------
    max_age_s : float, default 300
        A learned entry that was not refreshed for longer is not answered any more, and is removed by :meth:`age` or
        to make room. ``math.inf``: never.
    max_entries : int, default 65536
        When the table is full, a new station takes the place of an old one: of one that is too old if such a one is
        met, else of the oldest of a few that the port with the most stations has learned, so a flood of addresses
        from one port pushes out that port's own entries.
    clock : callable, optional
        Seconds as a float; :func:`time.monotonic` unless told.
    dtype : None or "uint32", optional
        None: a port is any hashable object, and batch results are ids (``fdb.values[id]``, 0 = no entry).
        ``"uint32"``: a port is an integer or anything with ``__index__``.
    max_entries_per_port : int, optional
        A limit for the stations learned on each port; a port that has reached it pays for new ones itself.
    seed : int, optional
        Of the hash; random unless told.

    Notes
    -----
    Group (multicast) addresses and the zero address are never learned. Threads: any number of readers beside one
    writer at a time; a look-up takes no lock. A call that has to wait for a writer gives up the GIL. Cost: one
    cache line a look-up or refresh, about 5 and 9 ns each in batches; a new station 60 ns, or three times as much
    while the table grows. Times are kept in units of 1/65536 s.
    """

    cdef unique_ptr[CFdb] table
    cdef Values objects
    cdef object clock
    cdef bint monotonic
    cdef size_t learning  # calls on their way without the GIL: ports must keep their ids
    cdef vector[uint32_t] leaving  # ids that nothing may hold, to be looked at when no such call is
    cdef FdbLimits limits
    cdef fastpath_fdb_v1 interface

    cdef unique_ptr[CFdb] first_table  # of before __init__(), which another thread may still use
    cdef bint made
    cdef object __weakref__

    def __cinit__(self, *args, **kwargs):
        # A subclass may fail to call __init__(): until then this is an empty table of one station.
        self.limits.max_age_s = 300
        self.limits.max_entries = 1
        self.limits.max_entries_per_port = 1
        self.monotonic = True
        self.table.reset(new CFdb(self.limits, self.now(), self.monotonic, checked_seed(None)))
        self.objects = Values()
        self.table.get().remember_vacated()

    def __init__(
        self,
        *,
        max_age_s=300.0,
        max_entries=65536,
        clock=None,
        dtype=None,
        max_entries_per_port=None,
        seed=None,
    ):
        if self.made:
            raise TypeError("an Fdb is made once")
        try:
            if isinstance(max_age_s, (str, bytes)):
                raise TypeError
            age_s = float(max_age_s)
        except TypeError:
            raise TypeError(f"max_age_s must be seconds as a number, got {type(max_age_s).__name__}") from None
        except OverflowError:
            raise ValueError("max_age_s is more than a float holds (math.inf: for ever)") from None
        if not age_s > 0:
            raise ValueError(f"max_age_s must be more than 0 seconds, got {age_s}")
        if clock is not None and not callable(clock):
            raise TypeError(f"clock must be callable, got {type(clock).__name__}")
        self.limits.max_age_s = age_s
        self.limits.max_entries = checked_count(max_entries, "max_entries", 1)
        self.limits.max_entries_per_port = self.limits.max_entries
        if max_entries_per_port is not None:
            self.limits.max_entries_per_port = checked_count(max_entries_per_port, "max_entries_per_port", 1)
        cdef cbool plain = checked_dtype(dtype)
        self.clock = clock
        self.monotonic = clock is None or clock is time.monotonic
        cdef double start = self.now()
        start -= min(age_s, 1e9)  # so that entries of that age can be restored from a pickle
        cdef unique_ptr[CFdb] table
        table.reset(new CFdb(self.limits, start, self.monotonic, checked_seed(seed)))
        self.made = True
        self.first_table.swap(self.table)
        self.table.swap(table)
        self.objects = None
        if not plain:
            self.objects = Values()
            self.table.get().remember_vacated()
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
        self.learning = 0
        self.table.get().unlock_in_child()

    cdef inline void learned(self) noexcept:
        if self.learning != 0:  # it is after a fork within a call
            self.learning -= 1

    cdef double now(self) except? -1:
        if self.monotonic:
            return time.monotonic()
        cdef double now_s = self.clock()
        if not isfinite(now_s):
            raise ValueError(f"clock must give seconds as a finite number, got {now_s}")
        return now_s

    cdef uint16_t vlan_of(self, vlan) except? 0xFFFF:
        try:
            number = operator.index(vlan)
        except TypeError:
            raise TypeError(f"vlan must be an int, got {type(vlan).__name__}") from None
        if not 0 <= number <= 4095:
            raise ValueError(f"vlan must be 0..4095, got {number}")
        return number

    cdef uint32_t number_of(self, port) except? 0:
        """The core's name of a port; an object gets an id on first sight, which purge() takes back."""
        if self.objects is None:
            return checked_uint32(port, "port")
        return self.objects.intern(port)

    cdef void forget(self, uint32_t number):
        """Takes the id of a port back if nothing holds it."""
        if self.objects is not None and self.objects.holds(number):
            self.leaving.push_back(number)
            self.forget_vacated()

    cdef int forget_vacated(self) except -1:
        """Takes back the ids of ports that lost their last entry, unless a call on its way may use them."""
        cdef vector[uint32_t] vacated
        cdef uint32_t number
        # Who waited here for a thread that forks, with the GIL, would stop it: then the next call does this.
        if self.learning == 0 and self.table.get().has_vacated() and self.table.get().reclaim():
            vacated = self.table.get().take_vacated()
            self.leaving.insert(self.leaving.end(), vacated.begin(), vacated.end())
        while not self.leaving.empty() and self.learning == 0 and self.table.get().reclaim():
            number = self.leaving.back()
            self.leaving.pop_back()
            if self.objects.holds(number) and self.table.get().count_of(number) == 0:
                self.objects.release(number)
        return 0

    cdef int check_port(self, port) except -1:
        """Errors as for a port that is learned, and no id."""
        if self.objects is None:
            checked_uint32(port, "port")
        else:
            self.objects.release(self.objects.acquire(port))
        return 0

    cdef object port_of(self, uint32_t number):
        return number if self.objects is None else self.objects.at(number)

    def learn(self, mac, port, vlan=0):
        """Note that a station was seen on a port.

        Parameters
        ----------
        mac : str, 6 bytes or int
            The source address of a frame. Group addresses and the zero address are ignored.
        port : object
            Hashable and not None; an integer with ``dtype="uint32"``.
        vlan : int, default 0
            0..4095.

        Returns
        -------
        bool
            Whether the entry is new or has moved to another port. False, too, where there is no room for it: all
            entries are static, or have 65,536 ports already. In a full table a learned entry makes room.
        """
        cdef uint64_t address = mac_of(mac)
        cdef uint16_t tag = self.vlan_of(vlan)
        return self.learn_one(address, tag, port, self.now())

    cdef bint learn_one(self, uint64_t address, uint16_t tag, port, double now_s) except -1:
        cdef uint32_t number
        cdef bint changed
        if not mac_is_station(address):
            self.check_port(port)
            return False
        number = self.number_of(port)
        changed = self.learn_all(&address, &tag, &number, 1, now_s) != 0
        self.forget_vacated()
        return changed

    cdef size_t learn_all(
        self, const uint64_t* macs, const uint16_t* vlans, const uint32_t* ports, size_t n, double now_s
    ) except? 0:
        cdef size_t changed
        if self.table.get().reclaim() and n < RELEASE_KEYS:
            return self.table.get().learn_many(macs, vlans, ports, n, now_s)
        self.learning += 1
        try:
            with nogil:  # who writes now may do so for long: meanwhile others run
                changed = self.table.get().learn_many(macs, vlans, ports, n, now_s)
        finally:
            self.learned()
        return changed

    def add_static(self, mac, port, vlan=0):
        """Add an entry that neither ages nor moves; it replaces a learned one.

        Raises
        ------
        CapacityError
            The table is full of static entries.
        """
        cdef uint64_t address = mac_of(mac)
        cdef uint16_t tag = self.vlan_of(vlan)
        cdef double now_s = self.now()
        cdef uint32_t number = self.number_of(port)
        cdef bint added
        if self.table.get().reclaim():
            added = self.table.get().add_static(address, tag, number, now_s)
        else:
            self.learning += 1
            try:
                with nogil:
                    added = self.table.get().add_static(address, tag, number, now_s)
            finally:
                self.learned()
        self.forget_vacated()
        if not added:
            self.forget(number)
            if len(self) < self.limits.max_entries:
                raise CapacityError("a table has entries of at most 65536 ports at a time")
            raise CapacityError(f"all {self.limits.max_entries} entries are static")

    def delete(self, mac, vlan=0):
        """Remove an entry, static or learned; KeyError if it is not there."""
        cdef uint64_t address = mac_of(mac)
        cdef uint16_t tag = self.vlan_of(vlan)
        cdef bint hit
        if self.table.get().reclaim():
            hit = self.table.get().erase(address, tag)
        else:
            self.learning += 1
            try:
                with nogil:
                    hit = self.table.get().erase(address, tag)
            finally:
                self.learned()
        self.forget_vacated()
        if not hit:
            raise KeyError((mac, vlan))

    def lookup(self, mac, vlan=0):
        """The port of a station, or None."""
        cdef uint32_t number = 0
        if not self.table.get().find(mac_of(mac), self.vlan_of(vlan), self.now(), &number):
            return None
        return self.port_of(number)

    def __contains__(self, station):
        cdef uint32_t number = 0
        mac, vlan = station if isinstance(station, tuple) and len(station) == 2 else (station, 0)
        return self.table.get().find(mac_of(mac), self.vlan_of(vlan), self.now(), &number)

    cdef cnp.ndarray vlans_of(self, vlans, size_t n):
        if isinstance(vlans, np.ndarray):
            if vlans.dtype.kind not in "iu":
                raise TypeError(f"vlans must be uint16[{n}], got an array of {vlans.dtype}")
            array = vlans
        elif isinstance(vlans, (str, bytes)):
            raise TypeError(f"vlans must be uint16[{n}], an int or None, got {type(vlans).__name__}")
        elif hasattr(vlans, "__index__"):
            array = np.full(n, self.vlan_of(vlans), np.uint16)
        else:
            try:
                listed = list(vlans)
            except TypeError:
                raise TypeError(
                    f"vlans must be uint16[{n}], an int or None, got {type(vlans).__name__}"
                ) from None
            array = np.fromiter((self.vlan_of(vlan) for vlan in listed), np.uint16, len(listed))
        if array.shape != (n,):
            raise ValueError(f"vlans must have shape ({n},), got {array.shape}")
        if n and (array.min() < 0 or array.max() > 4095):
            raise ValueError(f"vlans must be 0..4095, got {array.min()}..{array.max()}")
        return np.ascontiguousarray(array, np.uint16)

    def learn_many(self, macs, ports, vlans=None):
        """Learn many stations, in order.

        Parameters
        ----------
        macs : ndarray of uint64 (n,) or uint8 (n, 6), or sequence of MAC addresses
        ports : one port for all, or a sequence or ``uint32[n]`` array of n ports
            With objects, an array holds ids of :attr:`values`; a list or tuple is a sequence of ports.
        vlans : ndarray of uint16 (n,), int or None
            None: VLAN 0.

        Returns
        -------
        int
            How many entries are new or have moved.
        """
        cdef cnp.ndarray addresses = checked_macs(macs, "macs")
        cdef size_t n = <size_t> cnp.PyArray_DIM(addresses, 0)
        cdef cnp.ndarray numbers
        cdef cnp.ndarray tags
        cdef const uint16_t* tag_data = NULL
        if vlans is not None:
            tags = self.vlans_of(vlans, n)
            tag_data = <const uint16_t*> cnp.PyArray_DATA(tags)
        cdef const uint64_t* mac_data = <const uint64_t*> cnp.PyArray_DATA(addresses)
        cdef const uint32_t* port_data
        cdef double now_s = self.now()
        cdef size_t changed
        self.learning += 1
        try:
            numbers = self.numbers_of(ports, addresses)
            port_data = <const uint32_t*> cnp.PyArray_DATA(numbers)
            changed = self.learn_all(mac_data, tag_data, port_data, n, now_s)
        finally:
            self.learned()
            self.forget_vacated()
        return changed

    cdef cnp.ndarray numbers_of(self, ports, cnp.ndarray addresses):
        """The core's names of the ports of a batch; a station that is not learned gives its port no id."""
        cdef size_t n = <size_t> cnp.PyArray_DIM(addresses, 0)
        cdef const uint64_t* macs = <const uint64_t*> cnp.PyArray_DATA(addresses)
        cdef cnp.ndarray numbers
        cdef uint32_t* out
        cdef size_t i = 0
        if isinstance(ports, np.ndarray):
            numbers = checked_uint32s(ports, n, "ports")
            if self.objects is not None and n:
                if not 0 < numbers.min() <= numbers.max() < len(self.objects):
                    raise ValueError(f"ports as an array are ids of values, 1..{len(self.objects) - 1}")
                for number in np.unique(numbers).tolist():
                    if self.objects.at(number) is None:
                        raise ValueError(f"no port has id {number}")
            return numbers
        if not isinstance(ports, (list, tuple)):
            while i < n and not mac_is_station(macs[i]):
                i += 1
            if i == n:
                self.check_port(ports)
                return np.zeros(n, np.uint32)
            return np.full(n, self.number_of(ports), np.uint32)
        listed = tuple(ports)
        if <size_t> len(listed) != n:
            raise ValueError(f"ports must be {n} ports, one a MAC address, got {len(listed)}")
        for port in listed:
            self.check_port(port)
        numbers = np.zeros(n, np.uint32)
        out = <uint32_t*> cnp.PyArray_DATA(numbers)
        for i in range(n):
            if mac_is_station(macs[i]):
                out[i] = self.number_of(listed[i])
        return numbers

    def lookup_many(self, macs, vlans=None, *, out=None, default=0):
        """The ports (``dtype="uint32"``) or port ids of many stations; ``default`` where there is none.

        Parameters
        ----------
        macs : ndarray of uint64 (n,) or uint8 (n, 6), or sequence of MAC addresses
        vlans : ndarray of uint16 (n,), int or None
        out : ndarray of uint32, shape (n,), optional
        default : int, default 0

        Returns
        -------
        ndarray of uint32, shape (n,)
        """
        cdef uint32_t missing = checked_uint32(default, "default")
        cdef cnp.ndarray addresses = checked_macs(macs, "macs")
        cdef size_t n = <size_t> cnp.PyArray_DIM(addresses, 0)
        cdef cnp.ndarray tags
        cdef const uint16_t* tag_data = NULL
        if vlans is not None:
            tags = apart_from(self.vlans_of(vlans, n), out)
            tag_data = <const uint16_t*> cnp.PyArray_DATA(tags)
        cdef cnp.ndarray result = checked_out(out, n)
        addresses = apart_from(addresses, out)
        cdef const uint64_t* mac_data = <const uint64_t*> cnp.PyArray_DATA(addresses)
        cdef uint32_t* found = <uint32_t*> cnp.PyArray_DATA(result)
        cdef double now_s = self.now()
        if n < RELEASE_KEYS:
            self.table.get().find_many(mac_data, tag_data, n, now_s, found, missing)
        else:
            with nogil:
                self.table.get().find_many(mac_data, tag_data, n, now_s, found, missing)
        return result

    def age(self):
        """Remove learned entries that are too old; returns how many."""
        cdef double now_s = self.now()
        cdef size_t removed
        self.table.get().reclaim()
        self.learning += 1
        try:
            with nogil:
                removed = self.table.get().age(now_s)
        finally:
            self.learned()
        self.forget_vacated()
        return removed

    def purge(self, port, *, static=False):
        """Remove what was learned on a port, and with ``static=True`` its static entries too; returns how many."""
        cdef size_t removed
        cdef uint32_t number
        cdef Py_hash_t digest
        cdef cbool with_static = static
        if self.objects is None:
            number = checked_uint32(port, "port")
        else:
            number = self.objects.find(port, &digest)
            if number == 0:
                return 0
        if self.table.get().reclaim():
            removed = self.table.get().purge(number, with_static)
        else:
            self.learning += 1
            try:
                with nogil:
                    removed = self.table.get().purge(number, with_static)
            finally:
                self.learned()
        self.forget_vacated()
        self.forget(number)
        return removed

    def clear(self):
        """Remove everything, static entries too."""
        cdef uint32_t number
        if self.table.get().reclaim():
            self.table.get().clear()
        else:
            self.learning += 1
            try:
                with nogil:
                    self.table.get().clear()
            finally:
                self.learned()
        if self.objects is not None:
            self.forget_vacated()
            for number in self.objects.live():
                self.forget(number)

    def entries(self):
        """List of :class:`FdbEntry`: the stations that :meth:`lookup` would find now, at one point in time."""
        cdef vector[FdbStation] found
        cdef double now_s = self.now()
        cdef vector[uint32_t] numbers
        cdef size_t i
        self.learning += 1
        try:
            with nogil:
                found = self.table.get().entries(now_s)
            for i in range(found.size()):
                numbers.push_back(found[i].port)
            if self.objects is not None:
                hold_all(self.objects, numbers)
            ports = list(numbers) if self.objects is None else held_objects(self.objects, numbers)
        finally:
            self.learned()
            self.forget_vacated()
        return [
            FdbEntry(mac_text(found[i].mac), found[i].vlan, ports[i], found[i].is_static, found[i].age_s)
            for i in range(found.size())
        ]

    def __iter__(self):
        return iter(self.entries())

    def __len__(self):
        """Entries held, those that are too old but not yet removed included."""
        return self.table.get().size()

    @property
    def values(self):
        """Ports by id: ``values[id]``; None for a table of integers."""
        return self.objects

    @property
    def dtype(self):
        """None (objects) or ``"uint32"``."""
        return "uint32" if self.objects is None else None

    @property
    def max_age_s(self):
        """Seconds after which a learned entry is not answered any more."""
        return self.limits.max_age_s

    @property
    def max_entries(self):
        """Entries that the table holds at most."""
        return self.limits.max_entries

    cdef FdbCounters counters(self):
        cdef FdbCounters counted
        with nogil:  # which waits for a writer
            counted = self.table.get().counters()
        return counted

    @property
    def moves(self):
        """Stations that were learned on another port than before."""
        return self.counters().moves

    @property
    def evictions(self):
        """Entries that made room for others before they were too old."""
        return self.counters().evictions

    @property
    def refused(self):
        """Stations that were not learned because nothing could make room."""
        return self.counters().refused

    @property
    def nbytes(self):
        """Bytes held by the compiled side, with memory that is ready for growth as in `ExactTable.nbytes`."""
        return self.table.get().nbytes()

    @property
    def capsule(self):
        """The table for other extension modules and native threads (``capi.h``); only with ``dtype="uint32"``."""
        if self.objects is not None:
            raise NotSupported(f"only Fdb(dtype='uint32') has a capsule, this is {self!r}")
        self.interface.version = 1
        self.interface.self = self.table.get()
        self.interface.lookup_many = fdb_lookup_many
        self.interface.learn_many = fdb_learn_many
        return owning_capsule(self, &self.interface, FASTPATH_FDB_CAPSULE)

    def _options(self):
        return {
            "max_age_s": self.limits.max_age_s,
            "max_entries": self.limits.max_entries,
            "max_entries_per_port": self.limits.max_entries_per_port,
            "clock": self.clock,
            "dtype": self.dtype,
        }

    def copy(self):
        """A table of its own with the same entries, ages and attributes; the counters start at 0."""
        made = _new_fdb(type(self), self._options())
        made.__setstate__((self.entries(), attributes_of(self)))
        return made

    def __copy__(self):
        return self.copy()

    def __deepcopy__(self, memo):
        made = memo[id(self)] = _new_fdb(type(self), self._options())
        made.__setstate__(copy.deepcopy((self.entries(), attributes_of(self)), memo))
        return made

    def __reduce__(self):
        return _new_fdb, (type(self), self._options()), (self.entries(), attributes_of(self))

    def __setstate__(self, state):
        entries, attributes = state
        if attributes:
            self.__dict__.update(attributes)
        cdef double now_s = self.now()
        for mac, vlan, port, static, age_s in entries:
            if static:
                self.add_static(mac, port, vlan)
            else:
                self.learn_one(mac_of(mac), self.vlan_of(vlan), port, now_s - age_s)

    def __repr__(self):
        dtype = "" if self.objects is not None else ", dtype='uint32'"
        return f"<Fdb(max_age_s={self.limits.max_age_s:g}{dtype}): {len(self)} of {self.limits.max_entries} entries>"


def _new_fdb(cls, options):
    made = cls.__new__(cls)
    Fdb.__init__(made, **options)
    return made
