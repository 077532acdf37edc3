from libc.stdint cimport uint32_t
from libcpp.vector cimport vector


cdef class Values:
    cdef list objects
    cdef dict ids
    cdef vector[size_t] counts
    cdef vector[uint32_t] unused

    cdef uint32_t acquire(self, value) except 0
    cdef void hold(self, uint32_t number) noexcept
    cdef void release(self, uint32_t number)
    cdef void compact(self)
    cdef object at(self, uint32_t number)
