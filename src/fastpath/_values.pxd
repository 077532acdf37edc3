from libc.stdint cimport uint32_t, uint64_t
from libcpp.unordered_map cimport unordered_map
from libcpp.vector cimport vector


cdef enum Late:
    NOT_LATE
    LATE  # on a list, which has the last hold
    LATE_AGAIN  # somebody held it since, and gave that back


cdef struct Slot:
    size_t count  # holds; 0: the id is free
    Py_hash_t digest
    uint32_t next  # the next id whose object has the same hash
    uint32_t later  # the next id that is to be given back
    Late late


cdef class Values:
    cdef list objects
    cdef vector[Slot] slots
    cdef vector[uint32_t] unused
    cdef unordered_map[Py_hash_t, uint32_t] first
    cdef size_t used
    cdef uint64_t version
    cdef size_t exports[2]  # on their way, by phase: meanwhile no id goes to another object
    cdef uint32_t late[2]  # first of the ids whose last hold is to be given back after them
    cdef int phase  # of exports that begin and ids that come now

    cdef uint32_t find(self, value, Py_hash_t* digest) except? 0xFFFFFFFF
    cdef uint32_t enter(self, value, bint again) except 0
    cdef uint32_t acquire(self, value) except 0
    cdef uint32_t intern(self, value) except 0
    cdef void hold(self, uint32_t number) noexcept
    cdef void release(self, uint32_t number)
    cdef void put_off(self, uint32_t number) noexcept
    cdef void give_back(self, uint32_t number)
    cdef int begin_export(self) noexcept
    cdef void end_export(self, int phase)
    cdef void forget_exports(self) noexcept
    cdef void compact(self)
    cdef list live(self)
    cdef bint holds(self, uint32_t number) noexcept
    cdef object at(self, uint32_t number)
