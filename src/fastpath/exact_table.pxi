# cython: language_level=3

cdef inline int put_one(CExactTable* table, const uint8_t* key, uint32_t value, uint32_t* previous) except -1:
    if table.reclaim():
        table.put(key, value, previous)
    else:  # who writes now may do so for long: meanwhile others run
        with nogil:
            table.put(key, value, previous)
    return 0


cdef class ExactTable:
    """Exact match on keys of one size, scalar and in batches.

    Parameters
    ----------
    key_size : int
        1 to 64 bytes.
    dtype : None or "uint32", optional
        None: values are hashable objects, and batch results are ids (``table.values[id]``, 0 = no entry).
        ``"uint32"``: values are integers 0..2**32-1, and batch results are those integers.
    capacity : int, optional
        Keys to make room for at once. The table grows by itself either way, a little with each insert.
    seed : int, optional
        Of the hash, 0..2**64-1. Drawn at random unless told, so that nobody can choose keys that collide.

    Notes
    -----
    Threads: any number of readers beside one writer at a time. A look-up takes no lock, waits for nobody and sees
    each entry as before or after a write; batch calls release the GIL when they are large enough. A batch is not
    one point in time: entries that change while it runs may appear either way.

    Cost: one cache line a look-up for keys up to 16 bytes, two for longer ones; about 5 to 25 ns each in batches.
    Memory: 9 to 30 bytes a key beyond the key itself, which counts as 32 or 64 bytes if it is longer than 16; more
    while the table grows and shortly before, see :attr:`nbytes`. An id of :attr:`values` may be used again once no
    entry holds it.

    Source: bucketised hashing with one line a bucket and hop marks (Herlihy, Shavit, Tzafrir, "Hopscotch hashing",
    2008); hash: XXH3-64.
    """

    cdef unique_ptr[CExactTable] table
    cdef Values objects  # None when values are integers
    cdef size_t size_of_key
    cdef unique_ptr[CExactTable] first_table  # of before __init__(), which another thread may still use
    cdef bint made
    cdef object __weakref__

    def __cinit__(self, *args, **kwargs):
        # A subclass may fail to call __init__(): until then this is an empty table of one-byte keys.
        self.size_of_key = 1
        self.table = CExactTable.make(1, 0, checked_seed(None))
        self.objects = Values()

    def __init__(self, key_size, *, dtype=None, capacity=None, seed=None):
        cdef size_t room = 0 if capacity is None else checked_count(capacity, "capacity", 0)
        try:
            number = operator.index(key_size)
        except TypeError:
            raise TypeError(f"key_size must be an int, got {type(key_size).__name__}") from None
        if not 1 <= number <= 64:
            raise ValueError(f"key_size must be 1..64 bytes, got {number}")
        if self.made:
            raise TypeError("an ExactTable is made once")
        cdef cbool plain = checked_dtype(dtype)
        cdef unique_ptr[CExactTable] table = CExactTable.make(number, room, checked_seed(seed))
        self.made = True
        self.first_table.swap(self.table)
        self.table.swap(table)
        self.size_of_key = number
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

    cdef const uint8_t* key_of(self, key, Py_buffer* view) except NULL:
        """The bytes of a key; if `view` is filled (view.buf not NULL), the caller gives it back."""
        if PyBytes_CheckExact(key):
            if <size_t> PyBytes_GET_SIZE(key) != self.size_of_key:
                raise ValueError(f"key must be {self.size_of_key} bytes, got {len(key)}")
            return <const uint8_t*> PyBytes_AS_STRING(key)
        if isinstance(key, str) or not PyObject_CheckBuffer(key):
            raise TypeError(f"key must be {self.size_of_key} bytes, got {type(key).__name__}")
        PyObject_GetBuffer(key, view, PyBUF_SIMPLE)
        if <size_t> view.len != self.size_of_key:
            size = view.len
            PyBuffer_Release(view)
            view.buf = NULL
            raise ValueError(f"key must be {self.size_of_key} bytes, got {size}")
        return <const uint8_t*> view.buf

    cdef bint find(self, key, uint32_t* found) except -1:
        cdef Py_buffer view
        cdef bint hit
        view.buf = NULL
        cdef const uint8_t* data = self.key_of(key, &view)
        hit = self.table.get().find(data, found)
        if view.buf != NULL:
            PyBuffer_Release(&view)
        return hit

    def lookup(self, key):
        """The value of a key, or None.

        Raises
        ------
        TypeError
            The key is not bytes-like.
        ValueError
            The key has another size than ``key_size``.
        """
        cdef uint32_t found = 0
        if not self.find(key, &found):
            return None
        return found if self.objects is None else self.objects.at(found)

    def get(self, key, default=None):
        """The value of a key, or ``default``."""
        cdef uint32_t found = 0
        if not self.find(key, &found):
            return default
        return found if self.objects is None else self.objects.at(found)

    def __getitem__(self, key):
        cdef uint32_t found = 0
        if not self.find(key, &found):
            raise KeyError(key)
        return found if self.objects is None else self.objects.at(found)

    def __contains__(self, key):
        cdef uint32_t found = 0
        return self.find(key, &found)

    def insert(self, key, value):
        """Insert a key, or replace its value.

        Raises
        ------
        TypeError
            The key is not bytes-like; the value is not hashable (or no integer, with ``dtype="uint32"``).
        ValueError
            The key has another size than ``key_size``; the value is None or beyond 32 bits.
        CapacityError
            More keys than a bucket can hold have the same hash: the seed is known to whoever chooses the keys.
        """
        cdef Py_buffer view
        cdef uint32_t previous = 0
        cdef uint32_t number
        view.buf = NULL
        cdef const uint8_t* data = self.key_of(key, &view)
        try:
            if self.objects is None:
                put_one(self.table.get(), data, checked_uint32(value, "value"), &previous)
                return
            number = self.objects.acquire(value)
            try:
                put_one(self.table.get(), data, number, &previous)
            except BaseException:
                self.objects.release(number)
                raise
            self.objects.release(previous)
        finally:
            if view.buf != NULL:
                PyBuffer_Release(&view)

    def __setitem__(self, key, value):
        self.insert(key, value)

    def insert_many(self, keys, values):
        """Insert or replace many keys; of equal keys the last one wins.

        Parameters
        ----------
        keys : ndarray of uint8, shape (n, key_size), or sequence of bytes
        values : sequence of n values
            ``uint32[n]`` is taken as it is with ``dtype="uint32"``.

        Returns
        -------
        int
            How many keys are new.
        """
        cdef cnp.ndarray rows = checked_rows(keys, self.size_of_key, "keys")
        cdef size_t n = <size_t> cnp.PyArray_DIM(rows, 0)
        cdef cnp.ndarray plain_values
        cdef const uint8_t* row_data = <const uint8_t*> cnp.PyArray_DATA(rows)
        cdef vector[uint32_t] numbers
        cdef vector[uint32_t] before
        if self.objects is None:
            plain_values = checked_uint32s(values, n, "values")
            return self.put_many(row_data, <const uint32_t*> cnp.PyArray_DATA(plain_values), n, NULL)
        acquire_all(self.objects, listed_values(values, n, "values"), numbers)
        # What each insertion puts out of use: the value before, or, of those that an error prevents, its own.
        try:
            before = numbers
        except BaseException:
            release_all(self.objects, numbers)
            raise
        try:
            return self.put_many(row_data, numbers.data(), n, before.data())
        finally:
            release_all(self.objects, before)

    cdef size_t put_many(
        self, const uint8_t* keys, const uint32_t* values, size_t n, uint32_t* before
    ) except? 0:
        cdef size_t added
        if self.table.get().reclaim() and n < RELEASE_KEYS:
            return self.table.get().put_many(keys, values, n, before)
        with nogil:
            added = self.table.get().put_many(keys, values, n, before)
        return added

    def delete(self, key):
        """Remove a key; KeyError if it is not there."""
        cdef Py_buffer view
        cdef uint32_t previous = 0
        cdef bint hit
        view.buf = NULL
        cdef const uint8_t* data = self.key_of(key, &view)
        if self.table.get().reclaim():
            hit = self.table.get().erase(data, &previous)
        else:
            with nogil:
                hit = self.table.get().erase(data, &previous)
        if view.buf != NULL:
            PyBuffer_Release(&view)
        if not hit:
            raise KeyError(key)
        if self.objects is not None:
            self.objects.release(previous)

    def __delitem__(self, key):
        self.delete(key)

    def delete_many(self, keys):
        """Remove those of the keys that are there.

        Parameters
        ----------
        keys : ndarray of uint8, shape (n, key_size), or sequence of bytes

        Returns
        -------
        int
            How many were there.
        """
        cdef cnp.ndarray rows = checked_rows(keys, self.size_of_key, "keys")
        cdef const uint8_t* data = <const uint8_t*> cnp.PyArray_DATA(rows)
        cdef size_t n = <size_t> cnp.PyArray_DIM(rows, 0)
        cdef vector[uint32_t] gone
        cdef vector[uint32_t]* noting = NULL
        if self.objects is not None:
            noting = &gone
        cdef size_t removed
        if self.table.get().reclaim() and n < RELEASE_KEYS:
            removed = self.table.get().erase_many(data, n, noting)
        else:
            with nogil:
                removed = self.table.get().erase_many(data, n, noting)
        if noting != NULL:
            release_all(self.objects, gone)
        return removed

    def lookup_many(self, keys, *, out=None, default=0):
        """The values (``dtype="uint32"``) or value ids of many keys.

        Parameters
        ----------
        keys : ndarray of uint8, shape (n, key_size), or sequence of bytes
            A C-contiguous array is not copied.
        out : ndarray of uint32, shape (n,), optional
            Reused for the result.
        default : int, default 0
            What a miss gives.

        Returns
        -------
        ndarray of uint32, shape (n,)

        Raises
        ------
        TypeError
            ``keys`` is not uint8, or ``out`` not uint32.
        ValueError
            Another shape than ``(n, key_size)``, or ``out`` of another size, not contiguous, not aligned or
            read-only. It may overlap the keys.
        """
        cdef uint32_t missing = checked_uint32(default, "default")
        cdef cnp.ndarray rows = checked_rows(keys, self.size_of_key, "keys")
        cdef size_t n = <size_t> cnp.PyArray_DIM(rows, 0)
        cdef cnp.ndarray result = checked_out(out, n)
        rows = apart_from(rows, out)
        cdef const uint8_t* data = <const uint8_t*> cnp.PyArray_DATA(rows)
        cdef uint32_t* found = <uint32_t*> cnp.PyArray_DATA(result)
        if n < RELEASE_KEYS:
            self.table.get().find_many(data, n, found, missing)
        else:
            with nogil:
                self.table.get().find_many(data, n, found, missing)
        return result

    def to_arrays(self):
        """All entries as ``(keys uint8[n, key_size], values uint32[n])``, at one point in time, in no order.

        With objects the second array holds their ids, which another thread may put out of use meanwhile.
        """
        cdef vector[uint8_t] keys
        cdef vector[uint32_t] numbers
        with nogil:
            self.table.get().export_to(keys, numbers)
        values = np.empty(numbers.size(), np.uint32)
        if numbers.size():
            memcpy(cnp.PyArray_DATA(<cnp.ndarray> values), numbers.data(), 4 * numbers.size())
        return rows_of(keys, self.size_of_key), values

    cdef tuple contents(self):
        """Keys as uint8[n, key_size] and values, as a list of objects or uint32[n]."""
        cdef vector[uint8_t] keys
        cdef vector[uint32_t] numbers
        if self.objects is None:
            return self.to_arrays()
        cdef int phase = self.objects.begin_export()
        try:
            with nogil:  # which waits for a writer
                self.table.get().export_to(keys, numbers)
            hold_all(self.objects, numbers)
        finally:
            self.objects.end_export(phase)
        listed = held_objects(self.objects, numbers)
        return rows_of(keys, self.size_of_key), listed

    def items(self):
        """List of ``(key, value)``, at one point in time, in no order."""
        keys, values = self.contents()
        packed = keys.tobytes()
        width = self.size_of_key
        listed = values.tolist() if self.objects is None else values
        return [(packed[i * width : (i + 1) * width], value) for i, value in enumerate(listed)]

    def __iter__(self):
        return iter([key for key, _ in self.items()])

    def __len__(self):
        return self.table.get().size()

    def clear(self):
        """Remove everything and give the memory back."""
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
    def key_size(self):
        """Bytes of a key."""
        return self.size_of_key

    @property
    def dtype(self):
        """None (objects) or ``"uint32"``."""
        return "uint32" if self.objects is None else None

    @property
    def seed(self):
        """Of the hash."""
        return self.table.get().seed()

    @property
    def nbytes(self):
        """Bytes held by the compiled side.

        A table that single inserts (or batches below 1024 keys) fill to 81 % also holds the memory that it
        will grow into, if that is 2 MiB and more: a thread makes it ready, so that no insert waits for it.
        """
        return self.table.get().nbytes()

    def copy(self):
        """A table of its own with the same entries and attributes (and another random seed)."""
        made = _new_exact_table(type(self), self.size_of_key, self.dtype, len(self))
        made.__setstate__((*self.contents(), attributes_of(self)))
        return made

    def __copy__(self):
        return self.copy()

    def __deepcopy__(self, memo):
        made = memo[id(self)] = _new_exact_table(type(self), self.size_of_key, self.dtype, len(self))
        keys, values = self.contents()
        made.__setstate__((keys, copy.deepcopy(values, memo), copy.deepcopy(attributes_of(self), memo)))
        return made

    def __reduce__(self):
        # The seed stays behind: a pickle may travel, and whoever reads it could choose colliding keys.
        state = (*self.contents(), attributes_of(self))
        return _new_exact_table, (type(self), self.size_of_key, self.dtype, len(self)), state

    def __setstate__(self, state):
        keys, values, attributes = state
        (<ExactTable> self).insert_many(keys, values)
        if attributes:
            self.__dict__.update(attributes)

    def __repr__(self):
        dtype = "" if self.objects is not None else ", dtype='uint32'"
        return f"<ExactTable({self.size_of_key}{dtype}): {len(self)} keys>"


def _new_exact_table(cls, key_size, dtype, capacity):
    made = cls.__new__(cls)
    ExactTable.__init__(made, key_size, dtype=dtype, capacity=capacity)
    return made


cdef object attributes_of(table):
    """What an object of a subclass has beside its entries, or None."""
    return getattr(table, "__dict__", None)
