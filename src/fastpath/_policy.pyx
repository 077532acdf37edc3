# distutils: language = c++
"""What :class:`fastpath.Policy` is made of."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.memory cimport unique_ptr
from libcpp.vector cimport vector

cimport numpy as cnp

cnp.import_array()

cdef extern from "fastpath/policy.hpp" namespace "fastpath" nogil:
    ctypedef struct Address16:
        uint64_t high
        uint64_t low
    ctypedef struct Rule4 "fastpath::Policy::Rule4":
        uint64_t order
        uint32_t id
        uint16_t protocol
        uint16_t source_ports[2]
        uint16_t destination_ports[2]
        uint8_t source_length
        uint8_t destination_length
        uint32_t source
        uint32_t destination
    ctypedef struct Rule6 "fastpath::Policy::Rule6":
        uint64_t order
        uint32_t id
        uint16_t protocol
        uint16_t source_ports[2]
        uint16_t destination_ports[2]
        uint8_t source_length
        uint8_t destination_length
        Address16 source
        Address16 destination
    ctypedef struct Packet4 "fastpath::PolicyPacket<std::uint32_t>":
        uint32_t source
        uint32_t destination
        uint16_t source_port
        uint16_t destination_port
        uint8_t protocol
    ctypedef struct Packet6 "fastpath::PolicyPacket<fastpath::Address16>":
        Address16 source
        Address16 destination
        uint16_t source_port
        uint16_t destination_port
        uint8_t protocol
    cdef cppclass CPolicy "fastpath::Policy":
        CPolicy(uint64_t seed) except +
        void add(const Rule4* four, const Rule6* six) except +
        void erase(uint32_t id) except +
        void replace(const vector[Rule4]& four, const vector[Rule6]& six, cbool keep_hits) except +
        uint32_t decide4(const Packet4& packet, cbool count) noexcept
        uint32_t decide6(const Packet6& packet, cbool count) noexcept
        void decide4_many(
            const uint32_t* sources,
            const uint32_t* destinations,
            const uint8_t* protocols,
            const uint16_t* source_ports,
            const uint16_t* destination_ports,
            size_t n,
            uint32_t* ids,
        ) except +
        void decide6_many(
            const uint8_t* sources,
            const uint8_t* destinations,
            const uint8_t* protocols,
            const uint16_t* source_ports,
            const uint16_t* destination_ports,
            size_t n,
            uint32_t* ids,
        ) except +
        uint64_t hits(uint32_t id) noexcept
        size_t nbytes() except +
        size_t tuples() except +
        void reclaim() noexcept


cdef Address16 wide(address):
    cdef Address16 result
    result.high = address >> 64
    result.low = address & 0xFFFFFFFFFFFFFFFF
    return result


cdef class PolicyCore:
    """The compiled side: rules by number, checked by the caller."""

    cdef unique_ptr[CPolicy] policy

    def __cinit__(self, seed):
        self.policy.reset(new CPolicy(seed))

    # fields: number, order, protocol (256: any), source ports, destination ports,
    # (family, address, length) of source and destination; family 0 is any address
    cdef int fill(self, tuple fields, Rule4* four, Rule6* six) except -1:
        """Fills the forms that the rule has; returns 1 (IPv4), 2 (IPv6) or 3."""
        number, order, protocol, source_ports, destination_ports, source, destination = fields
        cdef int families = 3
        if 4 in (source[0], destination[0]):
            families = 1
        elif 6 in (source[0], destination[0]):
            families = 2
        if families & 1:
            four.order, four.id, four.protocol = order, number, protocol
            four.source_ports[0], four.source_ports[1] = source_ports
            four.destination_ports[0], four.destination_ports[1] = destination_ports
            four.source, four.source_length = source[1], source[2]
            four.destination, four.destination_length = destination[1], destination[2]
        if families & 2:
            six.order, six.id, six.protocol = order, number, protocol
            six.source_ports[0], six.source_ports[1] = source_ports
            six.destination_ports[0], six.destination_ports[1] = destination_ports
            six.source, six.source_length = wide(source[1]), source[2]
            six.destination, six.destination_length = wide(destination[1]), destination[2]
        return families

    def add(self, tuple fields):
        cdef Rule4 four
        cdef Rule6 six
        cdef int families = self.fill(fields, &four, &six)
        self.policy.get().reclaim()
        self.policy.get().add(&four if families & 1 else NULL, &six if families & 2 else NULL)

    def replace(self, list rules, bint keep_hits):
        cdef vector[Rule4] fours
        cdef vector[Rule6] sixes
        cdef Rule4 four
        cdef Rule6 six
        cdef int families
        for fields in rules:
            families = self.fill(fields, &four, &six)
            if families & 1:
                fours.push_back(four)
            if families & 2:
                sixes.push_back(six)
        self.policy.get().reclaim()
        with nogil:
            self.policy.get().replace(fours, sixes, keep_hits)

    def erase(self, uint32_t number):
        self.policy.get().reclaim()
        self.policy.get().erase(number)

    def decide(
        self, int family, source, destination, uint8_t protocol, uint16_t source_port, uint16_t destination_port,
        bint count,
    ):
        cdef Packet4 four
        cdef Packet6 six
        if family == 4:
            four.source, four.destination, four.protocol = source, destination, protocol
            four.source_port, four.destination_port = source_port, destination_port
            return self.policy.get().decide4(four, count)
        six.source, six.destination, six.protocol = wide(source), wide(destination), protocol
        six.source_port, six.destination_port = source_port, destination_port
        return self.policy.get().decide6(six, count)

    def decide_many(
        self,
        cnp.ndarray sources,
        cnp.ndarray destinations,
        cnp.ndarray protocols,
        cnp.ndarray source_ports,
        cnp.ndarray destination_ports,
        cnp.ndarray out,
    ):
        cdef size_t n = <size_t> cnp.PyArray_DIM(out, 0)
        cdef bint four = cnp.PyArray_TYPE(sources) == cnp.NPY_UINT32
        cdef const void* source = cnp.PyArray_DATA(sources)
        cdef const void* destination = cnp.PyArray_DATA(destinations)
        cdef const uint8_t* protocol = <const uint8_t*> cnp.PyArray_DATA(protocols)
        cdef const uint16_t* source_port = <const uint16_t*> cnp.PyArray_DATA(source_ports)
        cdef const uint16_t* destination_port = <const uint16_t*> cnp.PyArray_DATA(destination_ports)
        cdef uint32_t* ids = <uint32_t*> cnp.PyArray_DATA(out)
        with nogil:
            if four:
                self.policy.get().decide4_many(
                    <const uint32_t*> source, <const uint32_t*> destination, protocol, source_port,
                    destination_port, n, ids,
                )
            else:
                self.policy.get().decide6_many(
                    <const uint8_t*> source, <const uint8_t*> destination, protocol, source_port,
                    destination_port, n, ids,
                )

    def hits(self, uint32_t number):
        return self.policy.get().hits(number)

    @property
    def nbytes(self):
        return self.policy.get().nbytes()

    @property
    def tuples(self):
        return self.policy.get().tuples()
