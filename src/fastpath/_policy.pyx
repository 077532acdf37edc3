# distutils: language = c++
"""What :class:`fastpath.Policy` is made of."""

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.memory cimport unique_ptr
from libcpp.vector cimport vector

cimport numpy as cnp

from fastpath.forking import protect

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
    ctypedef struct PolicyColumns:
        const void* sources
        const void* destinations
        const uint8_t* protocols
        const uint16_t* source_ports
        const uint16_t* destination_ports
    cdef cppclass CPolicy "fastpath::Policy":
        CPolicy(uint64_t seed) except +
        void add(const Rule4* four, const Rule6* six) except +
        void erase(const Rule4* four, const Rule6* six) except +
        void replace(const vector[Rule4]& four, const vector[Rule6]& six) except +
        void move(
            const vector[Rule4]& four, const vector[uint64_t]& four_orders,
            const vector[Rule6]& six, const vector[uint64_t]& six_orders,
        ) except +
        void compile() except +
        uint32_t decide4(const Packet4& packet, cbool count) noexcept
        uint32_t decide6(const Packet6& packet, cbool count) noexcept
        void decide4_many(const PolicyColumns& packets, size_t n, uint32_t* ids) except +
        void decide6_many(const PolicyColumns& packets, size_t n, uint32_t* ids) except +
        uint64_t hits(uint32_t id) noexcept
        size_t nbytes() except +
        cbool compiled() noexcept
        cbool reclaim() noexcept
        void expect_fork() noexcept
        void lock_for_fork() noexcept
        void unlock_after_fork() noexcept
        void unlock_in_child() noexcept

cdef extern from "fastpath/policy/shadow.hpp" namespace "fastpath" nogil:
    cdef cppclass CShadow "fastpath::PolicyShadow":
        CShadow(const vector[Rule4]& rules, vector[uint8_t] asked) except +
        CShadow(const vector[Rule6]& rules, vector[uint8_t] asked) except +
        cbool run(uint64_t steps) except +
        cbool shadowed(size_t rule) noexcept

ctypedef fused RuleOfFamily:
    Rule4
    Rule6


cdef Address16 wide(address):
    cdef Address16 result
    result.high = address >> 64
    result.low = address & 0xFFFFFFFFFFFFFFFF
    return result


cdef int fill(RuleOfFamily* rule, tuple fields) except -1:
    # number, order, protocol (256: any), source ports, destination ports, and (family, address, length) of
    # source and destination; family 0 is any address
    number, order, protocol, source_ports, destination_ports, source, destination = fields
    rule.order, rule.id, rule.protocol = order, number, protocol
    rule.source_ports[0], rule.source_ports[1] = source_ports
    rule.destination_ports[0], rule.destination_ports[1] = destination_ports
    rule.source_length, rule.destination_length = source[2], destination[2]
    if RuleOfFamily is Rule4:
        rule.source, rule.destination = source[1], destination[1]
    else:
        rule.source, rule.destination = wide(source[1]), wide(destination[1])
    return 0


cdef int run_shadow(CShadow* shadow) except -1:
    """Until it is done, or a signal raises."""
    cdef bint done = False
    while not done:
        with nogil:
            done = shadow.run(1 << 20)
        PyErr_CheckSignals()
    return 0


cdef int families(tuple fields):
    """The forms that a rule has: 1 (IPv4), 2 (IPv6) or 3."""
    cdef tuple named = (fields[5][0], fields[6][0])
    return 1 if 4 in named else 2 if 6 in named else 3


def shadowed(list rules):
    """For each of some rules in order, whether those before it leave it nothing."""
    cdef vector[Rule4] fours
    cdef vector[Rule6] sixes
    cdef Rule4 four
    cdef Rule6 six
    cdef vector[uint8_t] asked
    cdef unique_ptr[CShadow] shadow
    cdef size_t at = 0
    cdef list answers = [True] * len(rules)
    for fields in rules:
        if families(fields) & 1:
            fill(&four, fields)
            fours.push_back(four)
        if families(fields) & 2:
            fill(&six, fields)
            sixes.push_back(six)
    shadow.reset(new CShadow(fours, vector[uint8_t](fours.size(), 1)))
    run_shadow(shadow.get())
    for i, fields in enumerate(rules):
        if families(fields) & 1:
            answers[i] = shadow.get().shadowed(at)
            at += 1
        if families(fields) & 2:
            asked.push_back(answers[i])  # unless it matches in IPv4
    shadow.reset(new CShadow(sixes, asked))
    run_shadow(shadow.get())
    at = 0
    for i, fields in enumerate(rules):
        if families(fields) & 2:
            answers[i] = answers[i] and shadow.get().shadowed(at)
            at += 1
    return answers


cdef class PolicyCore:
    """The compiled side: rules by number, checked by the caller."""

    cdef unique_ptr[CPolicy] policy
    cdef object __weakref__

    def __cinit__(self, seed):
        self.policy.reset(new CPolicy(seed))
        protect(self)

    # --- forks: see fastpath.forking ---

    def _lock_for_fork(self):
        if self.policy.get().reclaim():
            self.policy.get().lock_for_fork()
        else:
            self.policy.get().expect_fork()
            with nogil:
                self.policy.get().lock_for_fork()

    def _unlock_after_fork(self):
        self.policy.get().unlock_after_fork()

    def _unlock_in_child(self):
        self.policy.get().unlock_in_child()

    cdef int fill_both(self, tuple fields, Rule4* four, Rule6* six) except -1:
        """Fills the forms that the rule has; returns 1 (IPv4), 2 (IPv6) or 3."""
        cdef int has = families(fields)
        if has & 1:
            fill(four, fields)
        if has & 2:
            fill(six, fields)
        return has

    def add(self, tuple fields):
        cdef Rule4 four
        cdef Rule6 six
        cdef int has = self.fill_both(fields, &four, &six)
        cdef const Rule4* as4 = &four if has & 1 else NULL
        cdef const Rule6* as6 = &six if has & 2 else NULL
        if self.policy.get().reclaim():
            self.policy.get().add(as4, as6)
        else:
            with nogil:
                self.policy.get().add(as4, as6)

    def erase(self, tuple fields):
        cdef Rule4 four
        cdef Rule6 six
        cdef int has = self.fill_both(fields, &four, &six)
        cdef const Rule4* as4 = &four if has & 1 else NULL
        cdef const Rule6* as6 = &six if has & 2 else NULL
        if self.policy.get().reclaim():
            self.policy.get().erase(as4, as6)
        else:
            with nogil:
                self.policy.get().erase(as4, as6)

    def replace(self, list rules):
        cdef vector[Rule4] fours
        cdef vector[Rule6] sixes
        cdef Rule4 four
        cdef Rule6 six
        cdef int has
        for fields in rules:
            has = self.fill_both(fields, &four, &six)
            if has & 1:
                fours.push_back(four)
            if has & 2:
                sixes.push_back(six)
        self.policy.get().reclaim()
        with nogil:
            self.policy.get().replace(fours, sixes)

    def move(self, list rules, list orders):
        """Gives rules other orders, all at once; among all rules their places stay."""
        cdef vector[Rule4] fours
        cdef vector[Rule6] sixes
        cdef vector[uint64_t] four_orders, six_orders
        cdef Rule4 four
        cdef Rule6 six
        cdef int has
        for fields, order in zip(rules, orders, strict=True):
            has = self.fill_both(fields, &four, &six)
            if has & 1:
                fours.push_back(four)
                four_orders.push_back(order)
            if has & 2:
                sixes.push_back(six)
                six_orders.push_back(order)
        if self.policy.get().reclaim():
            self.policy.get().move(fours, four_orders, sixes, six_orders)
        else:
            with nogil:
                self.policy.get().move(fours, four_orders, sixes, six_orders)

    def compile(self):
        self.policy.get().reclaim()
        with nogil:
            self.policy.get().compile()

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
        cdef uint32_t* ids = <uint32_t*> cnp.PyArray_DATA(out)
        cdef PolicyColumns columns
        columns.sources = cnp.PyArray_DATA(sources)
        columns.destinations = cnp.PyArray_DATA(destinations)
        columns.protocols = <const uint8_t*> cnp.PyArray_DATA(protocols)
        columns.source_ports = <const uint16_t*> cnp.PyArray_DATA(source_ports)
        columns.destination_ports = <const uint16_t*> cnp.PyArray_DATA(destination_ports)
        self.policy.get().reclaim()
        with nogil:
            if four:
                self.policy.get().decide4_many(columns, n, ids)
            else:
                self.policy.get().decide6_many(columns, n, ids)

    def hits(self, uint32_t number):
        return self.policy.get().hits(number)

    @property
    def compiled(self):
        return self.policy.get().compiled()

    @property
    def nbytes(self):
        cdef size_t held
        with nogil:  # which waits for an editor
            held = self.policy.get().nbytes()
        return held
