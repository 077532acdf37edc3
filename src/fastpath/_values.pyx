# distutils: language = c++
"""The objects that a table stores, each once, under a small id."""

import operator

from libc.stdint cimport uint32_t


cdef class Values:
    """Objects by id: ``values[id]``. Id 0 is "no entry", and ``values[0]`` is None.

    An id belongs to its object as long as an entry of the table holds it, and may then be given to another one.
    Equal objects share an id.
    """

    def __cinit__(self):
        self.objects = [None]
        self.ids = {}
        self.counts.push_back(1)

    cdef uint32_t acquire(self, value) except 0:
        """The id of `value`, held once more."""
        cdef uint32_t number
        if value is None:
            raise ValueError("None means 'no entry' and cannot be a value")
        try:
            known = self.ids.get(value)
        except TypeError:
            raise TypeError(f"values must be hashable, got {type(value).__name__}") from None
        if known is not None:
            number = known
            self.counts[number] += 1
            return number
        if self.unused.size() != 0:
            number = self.unused.back()
            self.unused.pop_back()
            self.objects[number] = value
            self.counts[number] = 1
        else:
            if self.counts.size() > 0xFFFFFFFF:
                raise MemoryError("a table holds at most 2**32-1 different values")
            number = <uint32_t> self.counts.size()
            self.objects.append(value)
            self.counts.push_back(1)
        self.ids[value] = number
        return number

    cdef void hold(self, uint32_t number) noexcept:
        """Holds an id once more; runs no Python code."""
        self.counts[number] += 1

    cdef void release(self, uint32_t number):
        """Gives one hold of the id back."""
        if number == 0:
            return
        self.counts[number] -= 1
        if self.counts[number] == 0:
            del self.ids[self.objects[number]]
            self.objects[number] = None
            self.unused.push_back(number)

    cdef void compact(self):
        """Forgets the ids that were used if none is any more."""
        if len(self.ids) == 0:
            del self.objects[1:]
            self.counts.resize(1)
            self.unused.clear()

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
        try:
            return value in self.ids
        except TypeError:
            return False

    def __repr__(self):
        return f"<Values: {len(self.ids)} objects>"
