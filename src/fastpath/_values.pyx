# distutils: language = c++
"""The objects that a table stores, each once, under a small id."""

import operator

from cpython.object cimport Py_EQ, PyObject_RichCompareBool
from cython.operator cimport dereference

cdef int MOST_TRIES = 1000


cdef class Values:
    """Objects by id: ``values[id]``. Id 0 is "no entry", and ``values[0]`` is None.

    An id belongs to its object as long as an entry of the table holds it, and may then be given to another one.
    Equal objects share an id.
    """

    # Hashing, comparing and ending an object may run Python code, which may come back to this table or let
    # another thread do so. Everything else here runs none, so it is done as if at once: an object is hashed and
    # compared before anything changes, the comparison counts only if nothing changed meanwhile, and an object
    # that nobody holds any more ends after the last change.

    def __cinit__(self):
        self.objects = [None]
        self.slots.resize(1)
        self.slots[0].count = 1

    cdef uint32_t find(self, value, Py_hash_t* digest) except? 0xFFFFFFFF:
        """The id of an equal object, or 0; nothing has changed since the comparison."""
        cdef uint32_t number
        cdef uint64_t version
        cdef bint equal
        try:
            digest[0] = hash(value)
        except TypeError as error:
            raise TypeError(f"values must be hashable, got {type(value).__name__}") from error
        for _ in range(MOST_TRIES):
            version = self.version
            chain = self.first.find(digest[0])
            if chain == self.first.end():
                return 0
            number = dereference(chain).second
            while number != 0:
                known = self.objects[number]
                equal = PyObject_RichCompareBool(known, value, Py_EQ)
                if self.version != version:
                    break
                if equal:
                    return number
                number = self.slots[number].next
            else:
                return 0
        raise RuntimeError(f"comparing values of type {type(value).__name__} changes the table each time")

    cdef uint32_t enter(self, value, bint again) except 0:
        """The id of `value`, new with one hold, or known and, if `again`, held once more."""
        cdef Py_hash_t digest
        cdef uint32_t number
        cdef uint32_t* chain
        if value is None:
            raise ValueError("None means 'no entry' and cannot be a value")
        number = self.find(value, &digest)
        if number != 0:
            self.slots[number].count += again
            return number
        if self.unused.size() == 0:
            if self.slots.size() > 0xFFFFFFFF:
                raise MemoryError("a table holds at most 2**32-1 different values")
            self.objects.append(None)
            try:
                self.slots.resize(self.slots.size() + 1)
                self.unused.reserve(self.slots.capacity())  # giving an id back allocates nothing
            except BaseException:
                self.slots.resize(len(self.objects) - 1)
                self.objects.pop()
                raise
            self.unused.push_back(<uint32_t> (self.slots.size() - 1))
        number = self.unused.back()
        chain = &self.first[digest]
        self.unused.pop_back()
        self.slots[number].count = 1
        self.slots[number].digest = digest
        self.slots[number].next = chain[0]
        chain[0] = number
        self.objects[number] = value
        self.used += 1
        self.version += 1
        return number

    cdef uint32_t acquire(self, value) except 0:
        """The id of `value`, held once more."""
        return self.enter(value, True)

    cdef uint32_t intern(self, value) except 0:
        """The id of `value`, held once however often it is asked for."""
        return self.enter(value, False)

    cdef void hold(self, uint32_t number) noexcept:
        """Holds an id once more; runs no Python code."""
        self.slots[number].count += 1

    cdef void release(self, uint32_t number):
        """Gives one hold of the id back."""
        if number == 0:
            return
        if self.exports[0] != 0 or self.exports[1] != 0:
            if self.slots[number].count == 1:
                self.put_off(number)
                return
            if self.slots[number].late != NOT_LATE:
                self.slots[number].late = LATE_AGAIN
        self.give_back(number)

    cdef void put_off(self, uint32_t number) noexcept:
        """Has a list of ids that come late take over the last hold of the id."""
        self.slots[number].late = LATE
        self.slots[number].later = self.late[self.phase]
        self.late[self.phase] = number

    cdef void give_back(self, uint32_t number):
        """The same, whatever is exported."""
        cdef uint32_t* link
        self.slots[number].count -= 1
        if self.slots[number].count != 0:
            return
        chain = self.first.find(self.slots[number].digest)
        link = &dereference(chain).second
        while link[0] != number:
            link = &self.slots[link[0]].next
        link[0] = self.slots[number].next
        if dereference(chain).second == 0:
            self.first.erase(chain)
        gone = self.objects[number]
        self.objects[number] = None
        self.unused.push_back(number)
        self.used -= 1
        self.version += 1
        del gone

    # A table that is exported without the GIL gives ids, which name their objects until its caller has the GIL
    # again and holds them: from the first to the last of that, no Python code runs and no fork begins in this thread.
    # An id comes late in one of two phases. The phase changes when no export of the other one is left, so that ids wait
    # for those of their own phase alone, however many begin meanwhile. One that a table came to hold again while it
    # waited, and gave back, may be in exports that began since: it waits once more, for those.
    cdef int begin_export(self) noexcept:
        self.exports[self.phase] += 1
        return self.phase

    cdef void end_export(self, int phase):
        cdef uint32_t number
        cdef int other
        self.exports[phase] -= 1
        while True:
            other = 1 - self.phase
            if self.exports[other] != 0:
                return
            number = self.late[other]
            if number != 0:
                self.late[other] = self.slots[number].later
                if self.slots[number].late == LATE_AGAIN and self.slots[number].count == 1:
                    self.put_off(number)
                else:
                    self.slots[number].late = NOT_LATE
                    self.give_back(number)
            elif self.late[self.phase] != 0:
                self.phase = other
            else:
                return

    cdef void forget_exports(self) noexcept:
        """In the child of a fork, where the threads of exports are gone; the next one gives ids back."""
        self.exports[0] = self.exports[1] = 0

    cdef void compact(self):
        """Forgets the ids that were used if none is any more."""
        if self.used == 0:
            del self.objects[1:]
            self.slots.resize(1)
            self.unused.clear()
            self.version += 1

    cdef list live(self):
        """The ids that are held."""
        cdef vector[uint32_t] held
        cdef size_t number
        for number in range(1, self.slots.size()):
            if self.slots[number].count != 0:
                held.push_back(<uint32_t> number)
        return held

    cdef bint holds(self, uint32_t number) noexcept:
        """Whether the id is held."""
        return number < self.slots.size() and self.slots[number].count != 0

    cdef object at(self, uint32_t number):
        return self.objects[number]

    def __getitem__(self, index):
        """The object of an id, or a list of them for a sequence or array of ids."""
        try:
            number = operator.index(index)
        except TypeError:
            if isinstance(index, str):
                raise TypeError("ids are integers, got str") from None
            return [self.objects[number] for number in map(self._checked, index)]
        return self.objects[self._checked(number)]

    def _checked(self, index):
        number = operator.index(index)
        if not 0 <= number < len(self.objects):
            raise IndexError(f"id {number} is not in 0..{len(self.objects) - 1}")
        return number

    def __len__(self):
        return len(self.objects)

    def __iter__(self):
        return iter(list(self.objects))

    def __contains__(self, value):
        cdef Py_hash_t digest
        try:
            return self.find(value, &digest) != 0
        except TypeError:
            return False

    def __repr__(self):
        return f"<Values: {self.used} objects>"
