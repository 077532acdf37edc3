# Next-hop groups of a Fib: which member a hash chooses. Included by _fib.pyx.

cdef object _group = None


# The type NextHopGroup; imported when hashes come for the first time.
cdef object group_type():
    global _group
    if _group is None:
        from fastpath.tables.next_hop_group import NextHopGroup as found

        _group = found
    return _group


# What is known of an id: 0 for nothing, PLAIN for a next hop that is no group, or where the ids of a group's buckets
# begin (upper 32 bits) and how many they are (lower 31), with USED where a look-up came by since the last sweep.
cdef enum:
    USED = 0x80000000
    PLAIN = 0x80000000
    FEWEST = 4096


# False where nothing is known of the row's id.
cdef inline bint choose_row(uint64_t* known, size_t size, const uint32_t* buckets, const uint64_t* hashes,
                            uint32_t* ids, size_t row, uint32_t missing) noexcept nogil:
    cdef uint32_t number = ids[row]
    cdef uint64_t entry
    cdef uint32_t count
    if number == 0:
        ids[row] = missing
        return True
    entry = known[number] if number < size else 0
    count = <uint32_t>entry & ~<uint32_t>USED
    if count == 0:
        return entry != 0
    if not entry & USED:
        known[number] = entry | USED
    if count & (count - 1) == 0:
        ids[row] = buckets[(entry >> 32) + (hashes[row] & (count - 1))]
    else:
        ids[row] = buckets[(entry >> 32) + hashes[row] % count]
    return True


# Chooses in the rows of `rows`, or where that is NULL in all n; `unknown` are the rows left.
cdef int choose_rows(uint64_t* known, size_t size, const uint32_t* buckets, const uint64_t* hashes, uint32_t* ids,
                     size_t n, uint32_t missing, const size_t* rows, vector[size_t]& unknown) except -1 nogil:
    cdef size_t i, row
    for i in range(n):
        row = i if rows == NULL else rows[i]
        if not choose_row(known, size, buckets, hashes, ids, row, missing):
            unknown.push_back(row)
    return 0


cdef class Spread:
    """The groups that look-ups asked for, as ids of their members by bucket.

    Arrays are written to where nothing was known, and replaced, not moved: who holds them may go on reading without
    the GIL. What changes them runs no Python code and keeps the GIL.
    """

    cdef cnp.ndarray known  # uint64 by id
    cdef cnp.ndarray buckets  # uint32
    cdef size_t end

    def __cinit__(self):
        self.known = np.zeros(64, np.uint64)
        self.buckets = np.empty(0, np.uint32)

    cdef size_t nbytes(self):
        return cnp.PyArray_NBYTES(self.known) + cnp.PyArray_NBYTES(self.buckets)

    # Has room for ids below `size`.
    cdef int reserve(self, size_t size) except -1:
        cdef size_t before = cnp.PyArray_DIM(self.known, 0)
        if size <= before:
            return 0
        cdef cnp.ndarray larger = np.zeros(max(size, 2 * before), np.uint64)
        before = cnp.PyArray_DIM(self.known, 0)  # another thread may have been here
        if before < <size_t>cnp.PyArray_DIM(larger, 0):
            memcpy(cnp.PyArray_DATA(larger), cnp.PyArray_DATA(self.known), 8 * before)
            self.known = larger
        return 0

    # Notes the groups among the ids of these rows in `groups`, and that the others are none.
    cdef int sort_out(self, const uint32_t* ids, const vector[size_t]& rows, object hops, dict groups) except -1:
        cdef size_t i
        cdef uint32_t number
        cdef uint64_t* known
        cdef object kind = group_type()
        self.reserve(len(hops))
        for i in range(rows.size()):
            number = ids[rows[i]]
            hop = hop_of(hops, number)
            known = <uint64_t*>cnp.PyArray_DATA(self.known)
            if PyObject_TypeCheck(hop, <PyTypeObject*>kind):
                groups[number] = hop
            elif number < <size_t>cnp.PyArray_DIM(self.known, 0):
                known[number] = PLAIN
        return 0

    # Takes the groups of some ids in, as lists of their members' ids.
    cdef int take_in(self, dict groups) except -1:
        cdef size_t more = sum(map(len, groups.values()))
        cdef size_t count
        cdef cnp.ndarray ids
        cdef uint64_t* known
        self.make_room(more)
        for number, members in groups.items():
            ids = members
            count = cnp.PyArray_DIM(ids, 0)
            known = <uint64_t*>cnp.PyArray_DATA(self.known) + <size_t>number
            if known[0] == 0 and self.end + count <= <size_t>cnp.PyArray_DIM(self.buckets, 0):
                memcpy(<uint32_t*>cnp.PyArray_DATA(self.buckets) + self.end, cnp.PyArray_DATA(ids), 4 * count)
                known[0] = <uint64_t>self.end << 32 | USED | count
                self.end += count
        return 0

    # Where room is short, groups go that no look-up came by since that was last so.
    cdef int make_room(self, size_t more) except -1:
        if self.end + more <= <size_t>cnp.PyArray_DIM(self.buckets, 0):
            return 0
        cdef cnp.ndarray known_before = self.known
        cdef cnp.ndarray buckets_before = self.buckets
        cdef size_t size = cnp.PyArray_DIM(known_before, 0)
        cdef const uint64_t* old = <const uint64_t*>cnp.PyArray_DATA(known_before)
        cdef size_t i, count, kept = 0
        for i in range(size):
            if old[i] != PLAIN and old[i] & USED:
                kept += <uint32_t>old[i] & ~<uint32_t>USED
        if kept + more > 0x7FFFFFFF:
            raise MemoryError("next-hop groups have too many buckets")
        cdef cnp.ndarray known = np.zeros(size, np.uint64)
        # Half of it again: of groups that came and went since, twice as much would let it grow for ever.
        cdef size_t room = kept + more + max((kept + more) // 2, size)
        cdef cnp.ndarray buckets = np.empty(max(<size_t>FEWEST, room), np.uint32)
        cdef uint64_t* entries = <uint64_t*>cnp.PyArray_DATA(known)
        cdef uint32_t* target = <uint32_t*>cnp.PyArray_DATA(buckets)
        cdef const uint32_t* source = <const uint32_t*>cnp.PyArray_DATA(buckets_before)
        cdef size_t end = 0
        for i in range(size):
            if old[i] == PLAIN:
                entries[i] = PLAIN
            elif old[i] & USED:
                count = <uint32_t>old[i] & ~<uint32_t>USED
                if end + count > kept:
                    continue  # a look-up came by meanwhile
                memcpy(target + end, source + (old[i] >> 32), 4 * count)
                entries[i] = <uint64_t>end << 32 | count
                end += count
        self.known, self.buckets, self.end = known, buckets, end
        return 0
