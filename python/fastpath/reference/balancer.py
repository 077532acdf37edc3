"""The balancer, slow and obvious: one function a rule, and everything is recomputed at every pick."""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

from fastpath.reference.hashing import xxh64

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_TRIES = 32
_RESTING = 256  # ids that were given back wait for so many others
HASH_POLICIES = ("maglev", "ketama", "rendezvous", "jump", "stable")


# --- draws ------------------------------------------------------------------------------------------------


def mix64(x: int) -> int:
    """The finalizer of SplitMix64."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def draw(seed: int, position: int) -> int:
    """The draw of a position."""
    return mix64((seed + (position + 1) * _GOLDEN) & _MASK)


def next_draw(x: int) -> int:
    """A further draw of the same position."""
    return mix64((x + _GOLDEN) & _MASK)


def reduce(x: int, n: int) -> int:
    """A number below n."""
    return ((x >> 32) * n) >> 32


def unit(x: int) -> float:
    """[0, 1)."""
    return (x >> 11) * 2.0**-53


# --- tables -----------------------------------------------------------------------------------------------


def smooth_schedule(weights: list[int]) -> list[int]:
    """nginx: everybody earns its weight, the richest is picked and pays the sum."""
    credit = [0] * len(weights)
    order = []
    for _ in range(sum(weights)):
        credit = [c + w for c, w in zip(credit, weights, strict=True)]
        best = credit.index(max(credit))
        credit[best] -= sum(weights)
        order.append(best)
    return order


def even_schedule(weights: list[int]) -> list[int]:
    """Earliest deadline first among picks that are due."""
    total = sum(weights)
    done = [0] * len(weights)
    order = []
    for step in range(total):
        due = [
            (-(-(done[i] + 1) * total // w), i)
            for i, w in enumerate(weights)
            if done[i] < w and done[i] * total // w <= step
        ]
        _, best = min(due)
        done[best] += 1
        order.append(best)
    return order


def deviation(order: list[int], weights: list[int]) -> Fraction:
    """The largest distance of a prefix from its share, in picks."""
    total = sum(weights)
    count = [0] * len(weights)
    worst = Fraction(0)
    for step, picked in enumerate(order, 1):
        count[picked] += 1
        for i, w in enumerate(weights):
            worst = max(worst, abs(count[i] - Fraction(step * w, total)))
    return worst


def weighted_schedule(weights: list[int]) -> list[int]:
    """nginx's order, unless a prefix of it is a whole pick off."""
    divisor = math.gcd(*weights)
    weights = [w // divisor for w in weights]
    order = smooth_schedule(weights)
    return order if deviation(order, weights) < 1 else even_schedule(weights)


def even_starts(order: list[int], weights: list[int]) -> list[int]:
    """Where picks may begin so that no prefix is a whole pick off."""
    return [s for s in range(len(order)) if deviation(order[s:] + order[:s], weights) < 1]


def alias_table(weights: list[float]) -> list[tuple[int, int]]:
    """Vose: (threshold of 2**32, other index) of every index."""
    n = len(weights)
    total = 0.0
    for weight in weights:
        total += weight
    share = [w * n / total for w in weights]
    table = [(0, 0)] * n
    small = [i for i in range(n) if share[i] < 1.0]
    large = [i for i in range(n) if share[i] >= 1.0]

    def threshold(probability: float) -> int:
        return min(int(probability * 2.0**32), 0xFFFFFFFF)

    while small and large:
        less = small.pop()
        more = large[-1]
        table[less] = (threshold(share[less]), more)
        share[more] = (share[more] + share[less]) - 1.0
        if share[more] < 1.0:
            small.append(large.pop())
    for i in small + large:
        table[i] = (0xFFFFFFFF, i)
    return table


def maglev_table(names: list[str], weights: list[float], slots: int) -> list[int]:
    """Rounds in order of names; a backend takes a turn when its weight has earned one."""
    order = sorted(range(len(names)), key=lambda i: names[i].encode())
    total = 0.0
    for weight in weights:
        total += weight
    share = [w / total for w in weights]
    largest = max(share)
    target = [0.0] * len(names)
    position = [xxh64(name.encode()) % slots for name in names]
    skip = [xxh64(name.encode(), 1) % (slots - 1) + 1 for name in names]
    table: list[int | None] = [None] * slots
    filled = 0
    turn = 0
    while filled < slots:
        turn += 1
        for i in order:
            if filled == slots or turn * share[i] < target[i]:
                continue
            target[i] += largest
            while table[position[i]] is not None:
                position[i] = (position[i] + skip[i]) % slots
            table[position[i]] = i
            filled += 1
    return [owner for owner in table if owner is not None]


def stable_table(names: list[str], weights: list[float], slots: int, slack: float) -> list[int]:
    """Darts in order of their times; a free slot is taken by who is below its cap."""
    total = 0.0
    for weight in weights:
        total += weight
    nodes = [xxh64(name.encode()) for name in names]
    room = [math.ceil(w / total * slots * (1.0 + slack)) for w in weights]
    table: list[int | None] = [None] * slots

    def dart(i: int, j: int) -> tuple[float, int, int]:
        return ((j + unit(draw(nodes[i], 2 * j + 1))) / weights[i], i, j)

    darts = [dart(i, 0) for i in range(len(names))]
    heapq.heapify(darts)
    free = slots
    while free:
        _, i, j = heapq.heappop(darts)
        slot = draw(nodes[i], 2 * j) % slots
        if room[i] > 0:
            heapq.heappush(darts, dart(i, j + 1))
            if table[slot] is None:
                table[slot] = i
                room[i] -= 1
                free -= 1
    return [owner for owner in table if owner is not None]


def ring(names: list[str], weights: list[float], points: int) -> list[tuple[int, int]]:
    """(point, index), sorted; points for one unit of weight."""
    total = 0.0
    for weight in weights:
        total += weight
    scale = 1.0 if max(weights) >= 1 else 2.0 ** -(math.frexp(max(weights))[1] - 1)
    if total * points * scale > 1 << 24:
        while total * points * scale > min(max(len(names) * points, 1 << 20), 1 << 24):
            scale /= 2.0
    made = []
    parts = {}
    for i, (name, weight) in enumerate(zip(names, weights, strict=True)):
        node = xxh64(name.encode())
        wanted = weight * scale * points
        whole = math.floor(wanted + 1e-9)
        made += [(draw(node, k), i) for k in range(whole)]
        if wanted - whole >= 1e-9 or whole == 0:
            parts[draw(node, whole), i] = wanted - whole
    if len(names) == 1 or not made:
        return sorted([*made, *parts], key=lambda point: point[0])
    everybody = sorted([*made, *parts], key=lambda point: (point[0], point[1]))
    # A part of a point leaves the rest of its arc to the next whole one.
    for k, point in enumerate(everybody):
        if point in parts:
            turned = everybody[k + 1 :] + everybody[:k]
            owner = next(i for hash, i in turned if (hash, i) not in parts)
            arc = (point[0] - everybody[k - 1][0]) & _MASK
            made.append(((point[0] - max(1, int(parts[point] * float(arc)))) & _MASK, owner))
    return sorted([*made, *parts], key=lambda point: point[0])


def ring_shares(names: list[str], weights: list[float], points: int) -> list[float]:
    """The part of the hashes, of 2**64, that ends up at a point of each."""
    made = ring(names, weights, points)
    arcs = [0] * len(names)
    for (before, _), (point, i) in zip([made[-1], *made], made, strict=False):
        arcs[i] += (point - before) & _MASK
    return [float(arc) for arc in arcs]


def jump_hash(key: int, buckets: int) -> int:
    """Jump consistent hash."""
    bucket, following = -1, 0
    while following < buckets:
        bucket = following
        key = (key * 2862933555777941757 + 1) & _MASK
        following = int((bucket + 1) * (float(1 << 31) / ((key >> 33) + 1)))
    return bucket


# --- priorities -------------------------------------------------------------------------------------------


def priority_loads(
    healthy: list[int], totals: list[int], factor: int = 140, threshold: float = 50.0
) -> list[tuple[int, bool]]:
    """Envoy's integers: (load in percent, panic) of every priority."""
    health = [min(100, factor * h // t) if t else 0 for h, t in zip(healthy, totals, strict=True)]
    normalized = min(100, sum(health))
    loads = [0] * len(health)
    if normalized:
        left = 100
        for i, h in enumerate(health):
            loads[i] = min(left, h * 100 // normalized)
            left -= loads[i]
        loads[next(i for i, h in enumerate(health) if h)] += left
    if normalized == 100:
        return [(load, False) for load in loads]
    panic = [(100.0 * h / t if t else 0.0) < threshold for h, t in zip(healthy, totals, strict=True)]
    everybody = sum(totals)
    if all(panic) and everybody:
        loads = [100 * t // everybody for t in totals]
        loads[next(i for i, t in enumerate(totals) if t)] += 100 - sum(loads)
    return list(zip(loads, panic, strict=True))


# --- the balancer -----------------------------------------------------------------------------------------


@dataclass
class Member:
    """One backend."""

    id: str
    slot: int
    weight: float
    priority: int = 0
    local: bool = True
    healthy: bool = True
    draining: bool = False
    in_flight: int = 0
    cost: float = 0.0
    stamp: float = 0.0
    suspicious: bool = False
    outset: float = 0.0
    ramp_start: float = -math.inf


class ReferenceBalancer:
    """The twin of :class:`fastpath.Balancer`: the same picks, by hash or by (seed, position)."""

    def __init__(
        self,
        policy: str,
        *,
        seed: int = 0,
        table_size: int = 65537,
        points_per_weight: int = 160,
        slack: float = 0.05,
        load_bound: float | None = None,
        max_in_flight: int | None = None,
        subset_size: int | None = None,
        panic_threshold: float = 0.5,
        panic_mode: str = "all",
        overprovisioning: float = 1.4,
        slow_start_s: float = 0.0,
        decay_s: float = 10.0,
        failure_latency_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.policy = policy
        self.even = policy in ("round_robin", "random")
        self.slow_start_s = slow_start_s
        self.decay_s = decay_s
        self.failure_latency_s = failure_latency_s
        self.clock = clock
        self.seed = seed
        self.position = 0
        self.slots = table_size
        self.points = points_per_weight
        self.slack = slack
        self.load_bound = load_bound
        self.max_in_flight = max_in_flight
        self.subset_size = subset_size
        self.threshold = panic_threshold * 100.0
        self.panic_fail = panic_mode == "fail"
        self.factor = round(overprovisioning * 100)
        self.members: dict[str, Member] = {}
        self.free: list[int] = []
        self.slots_used = 0
        self.known: set[tuple[int, str]] = set()  # keys, each with whom it was picked for
        self.slowest = 0.0
        self.slowest_stamp = 0.0

    def add(self, id: str, weight: float = 1, priority: int = 0, local: bool = True) -> None:
        """A new member."""
        if id in self.members:
            raise ValueError(f"backend {id!r} is there already")
        if len(self.free) > _RESTING:
            slot = self.free.pop(0)
        else:
            self.slots_used += 1
            slot = self.slots_used
        self.members[id] = Member(id, slot, weight, priority, local)
        self.members[id].ramp_start = self.clock()

    def set_weight(self, id: str, weight: float) -> None:
        """A raise begins where the member is now."""
        member = self.members[id]
        if weight == member.weight:
            return
        # To those who do not look at weights, only 0 says something.
        if not (self.even and weight > 0 and member.weight > 0):
            reached = member.weight * self.ramp(member)
            member.outset = reached
            member.ramp_start = self.clock() if weight > reached else -math.inf
        member.weight = weight

    def ramp_part(self, member: Member) -> float:
        """How much of its way to the new weight a member has made."""
        elapsed = max(self.clock() - member.ramp_start, 0.001)
        return 1.0 if elapsed >= self.slow_start_s else max(0.1, elapsed / self.slow_start_s)

    def ramp(self, member: Member) -> float:
        """The part of its weight that a member has reached."""
        part = self.ramp_part(member)
        if part == 1.0 or member.weight == 0:
            return 1.0
        start = min(member.outset / member.weight, 1.0)
        return start + (1.0 - start) * part

    def report(self, id: str, ok: bool, latency_s: float) -> None:
        """A latency: up at once, down by its moving average."""
        member = self.members[id]
        slowest = self.slowest
        if slowest > 0:
            slowest *= math.exp((self.slowest_stamp - self.clock()) / self.decay_s)
        queue = sum(m.in_flight for m in self.members.values()) / len(self.members)
        # Eight times the slowest answer behind an average queue, what failures cost left out.
        least = max(self.failure_latency_s, 8.0 * slowest * (1.0 + queue))
        seen = latency_s if ok else max(latency_s, least)
        keep = math.exp(-max(0.0, self.clock() - member.stamp) / self.decay_s)
        decayed = member.cost * keep + seen * (1.0 - keep)
        member.cost = max(seen if seen > member.cost else decayed, 1e-9)
        member.stamp = self.clock()
        member.suspicious = not ok or (member.suspicious and member.cost > slowest)
        if ok:
            self.slowest = max(slowest, seen if member.suspicious else member.cost)
            self.slowest_stamp = member.stamp

    def remove(self, id: str) -> None:
        """Takes a member out."""
        self.free.append(self.members.pop(id).slot)

    def score(self, member: Member) -> tuple[int, int]:
        """Who has the highest is in the subset."""
        return mix64(self.seed ^ xxh64(member.id.encode())), member.slot

    def tiers(self) -> list[tuple[int, bool, list[Member]]]:
        """(priority, remote, members) in the order in which they are filled."""
        groups: dict[tuple[int, bool], list[Member]] = {}
        able = [member for member in self.members.values() if member.weight > 0]
        inside = sorted(able, key=self.score, reverse=True)[: self.subset_size]
        for member in able:
            if member in inside:
                groups.setdefault((member.priority, not member.local), []).append(member)
        return [(priority, remote, groups[priority, remote]) for priority, remote in sorted(groups)]

    def loads(self) -> list[tuple[int, bool]]:
        """(load in percent, panic) of every tier."""
        tiers = self.tiers()
        totals = [sum(1 for m in members if not m.draining) for _, _, members in tiers]
        healthy = [sum(1 for m in members if not m.draining and m.healthy) for _, _, members in tiers]
        priorities = sorted({priority for priority, _, _ in tiers})
        rank = [priorities.index(priority) for priority, _, _ in tiers]
        split = priority_loads(
            [sum(h for h, r in zip(healthy, rank, strict=True) if r == k) for k in range(len(priorities))],
            [sum(t for t, r in zip(totals, rank, strict=True) if r == k) for k in range(len(priorities))],
            self.factor,
            self.threshold,
        )
        result: list[tuple[int, bool]] = []
        for i in range(len(tiers)):
            load, panic = split[rank[i]]
            if i > 0 and rank[i - 1] == rank[i]:
                load -= result[-1][0]
            elif i + 1 < len(tiers) and rank[i + 1] == rank[i]:
                here, there = (totals[i], totals[i + 1]) if panic else (healthy[i], healthy[i + 1])
                share = 100 if there == 0 else min(100, self.factor * here // totals[i]) if totals[i] else 0
                load = load * share // 100
            result.append((load, panic))
        if result and not any(load for load, _ in result):
            result[0] = (100, result[0][1])
        return result

    def pick(self, hash: int | None = None) -> str | None:
        """The id of the pick; `hash` for policies with keys."""
        hashed = self.policy in HASH_POLICIES
        position = self.position
        x = draw(self.seed, position)
        tiers = self.tiers()
        if not tiers:
            return None
        if not hashed or hash is None:
            self.position = position + 1
        keyed = hashed and hash is not None
        h = x if hash is None else hash
        loads = self.loads()
        pattern = [i for i, (load, _) in enumerate(loads) for _ in range(load)]
        if not hashed:
            pattern = [pattern[k * 61 % 100] for k in range(100)]
        sole = len(set(pattern)) == 1
        step = h % 100 if hashed else position % 100
        which = pattern[step]
        cursor = position
        if not sole and not hashed:
            cursor = position // 100 * pattern.count(which) + pattern[:step].count(which)
        refused = loads[which][1] and self.panic_fail
        if keyed:
            # Keys of members that drain stay, in tiers that would have been asked before.
            for i in range(which + refused):
                panic = loads[i][1] and not self.panic_fail
                kept, _ = _Tier(self, tiers[i][2], panic, h).choose(h, cursor, False)
                if kept is not None and kept.draining:
                    self.known.add((h, kept.id))
                    return kept.id
        if refused:
            return None
        tier = _Tier(self, tiers[which][2], loads[which][1], h if keyed else None)
        chosen, used = tier.choose(h if hashed else x, cursor, sole)
        if sole and not hashed and chosen is not None:
            self.position = position + used
        # A tier that is full is no dead end.
        for i, (_, panic) in enumerate(loads):
            if chosen is None and i != which and not (panic and self.panic_fail):
                tier = _Tier(self, tiers[i][2], panic, h if keyed else None)
                chosen, _ = tier.choose(h if hashed else x, cursor, False)
        if keyed and chosen is not None:
            self.known.add((h, chosen.id))
        return chosen.id if chosen is not None else None


class _Tier:
    """One pick among the members of one tier."""

    def __init__(
        self, balancer: ReferenceBalancer, members: list[Member], panic: bool, key: int | None
    ) -> None:
        self.balancer = balancer
        self.members = members
        self.panic = panic
        self.key = key
        self.salt = key if key is not None else 0
        self.warming = "by_look"
        self.bound = math.inf
        live = sum(m.weight for m in members if m.healthy and self.state_ok(m) and not m.draining)
        if balancer.load_bound is not None and live > 0:
            self.bound = balancer.load_bound * (sum(m.in_flight for m in members) + 1.0) / live

    def state_ok(self, member: Member) -> bool:
        """Healthy enough and not full."""
        limit = self.balancer.max_in_flight
        return (member.healthy or self.panic) and (limit is None or member.in_flight < limit)

    def below_bound(self, member: Member) -> bool:
        """Whether one more request fits below the load bound."""
        return self.bound == math.inf or member.in_flight < math.ceil(self.bound * member.weight)

    def open(self, member: Member) -> bool:
        """Whether it may take this pick."""
        sticky = (self.key, member.id) in self.balancer.known
        if not self.state_ok(member) or (member.draining and not sticky):
            return False
        return self.warm(member) and self.below_bound(member)

    def warm(self, member: Member) -> bool:
        """Of the looks at it, or of the keys that it is to get, a member in slow start takes its part."""
        if self.warming == "ignored":
            return True
        part = self.balancer.ramp(member)
        if self.warming == "by_key":
            total = sum(m.weight for m in self.members)
            lacking = member.weight * (1.0 - part)
            part = self.balancer.ramp_part(member) * total / (total - lacking)
        return part >= 1.0 or unit(mix64(self.salt ^ (member.slot * _GOLDEN & _MASK))) < part

    def fallback(self, x: int, without: Member | None = None) -> Member | None:
        """By weight among all that are open to anybody."""
        left = [
            m
            for m in self.members
            if self.state_ok(m) and not m.draining and self.below_bound(m) and m is not without
        ]
        weights = [(1.0 if self.balancer.even else m.weight) * self.balancer.ramp(m) for m in left]
        total = 0.0
        for weight in weights:
            total += weight
        rest = unit(x) * total
        for m, weight in zip(left, weights, strict=True):
            if rest < weight:
                return m
            rest -= weight
        return left[-1] if left else None

    def choose(self, x: int, cursor: int, alone: bool) -> tuple[Member | None, int]:
        """The member and how many positions it took, if the tier takes all picks (`alone`)."""
        self.salt = x
        policy = self.balancer.policy
        if policy in ("round_robin", "weighted_round_robin"):
            order = list(range(len(self.members)))
            if policy == "weighted_round_robin":
                order = weighted_schedule([int(m.weight) for m in self.members])
            place = cursor % len(order)
            self.salt = draw(self.balancer.seed, cursor)
            for step in range(len(order) if alone else _TRIES):
                member = self.members[order[place]]
                if self.open(member):
                    return member, step + 1
                if alone:
                    place = (place + 1) % len(order)
                    self.salt = draw(self.balancer.seed, cursor + step + 1)
                else:
                    # From turn to turn each of all places once; then whichever is drawn.
                    away = cursor // len(order) + draw(self.balancer.seed, place)
                    self.salt = next_draw(self.salt)
                    drawn = reduce(self.salt, len(order))
                    place = ((place + away) & _MASK) % len(order) if step == 0 else drawn
            return self.fallback(x), 1
        if policy in ("random", "weighted_random") or (
            self.key is None and policy in ("ketama", "rendezvous", "jump")
        ):
            y = x
            for _ in range(_TRIES):
                member = self.drawn(y)
                self.salt = y
                if self.open(member):
                    return member, 1
                y = next_draw(y)
            return self.fallback(y), 1
        if policy in ("power_of_two", "peak_ewma"):
            return self.two(x), 1
        if policy == "least_request":
            return self.least(x), 1
        return self.hashed(x), 0

    def drawn(self, x: int) -> Member:
        """The member of a draw, by weight or by its part of the ring."""
        policy = self.balancer.policy
        i = reduce(x, len(self.members))
        weights = [m.weight for m in self.members]
        if policy == "ketama" and len(weights) > 1:
            weights = ring_shares([m.id for m in self.members], weights, self.balancer.points)
        even = len(set(weights)) == 1 and policy in ("jump", "rendezvous")
        if policy != "random" and not even:
            threshold, other = alias_table(weights)[i]
            i = i if x & 0xFFFFFFFF < threshold else other
        return self.members[i]

    def two(self, x: int) -> Member | None:
        """The less loaded of two different ones."""
        chosen: list[Member] = []
        for _ in range(2):
            found: Member | None = None
            for _ in range(_TRIES):
                member = self.drawn(x)
                self.salt = x
                x = next_draw(x)
                if member not in chosen and self.open(member):
                    found = member
                    break
            if found is None:
                found = self.fallback(x, chosen[0] if chosen else None)
                x = next_draw(x)
            if found is not None:
                chosen.append(found)
        if not chosen:
            return None
        if self.balancer.policy == "peak_ewma":
            one, other = chosen[0], chosen[-1]
            return other if self.latency(other) < self.latency(one) * (1.0 - 1e-9) else one
        one, other = chosen[0], chosen[-1]
        return other if other.in_flight * self.reached(one) < one.in_flight * self.reached(other) else one

    def reached(self, member: Member) -> float:
        """The weight that it has reached."""
        return member.weight * self.balancer.ramp(member)

    def latency(self, member: Member) -> float:
        """What a request would wait for, by what is remembered."""
        b = self.balancer
        total = 0.0
        for m in self.members:
            total += m.weight
        cost = member.cost * math.exp(-max(0.0, b.clock() - member.stamp) / b.decay_s) if member.cost else 0.0
        if cost == 0.0:
            return 1e300 * (1.0 + member.in_flight) if member.in_flight else 0.0
        return cost * (1.0 + member.in_flight * (total / len(self.members)) / self.reached(member))

    def least(self, x: int) -> Member | None:
        """The least loaded of all; among equal ones by weight."""
        self.warming = "ignored"
        able = [m for m in self.members if self.open(m)]
        if not able:
            return self.fallback(x)
        least = min(m.in_flight / self.reached(m) for m in able)
        tied = [m for m in able if m.in_flight / self.reached(m) == least]
        total = 0.0
        for m in tied:
            total += self.reached(m)
        rest = unit(x) * total
        for m in tied:
            if rest < self.reached(m):
                return m
            rest -= self.reached(m)
        return tied[-1]

    def hashed(self, h: int) -> Member | None:
        """The first open one of the key's chain; a key that one is not to have yet stays where it was."""
        b = self.balancer
        now = {m.id: float(m.weight) for m in self.members}
        warming = [m for m in self.members if b.ramp_part(m) < 1.0]
        before = {m.id: m.outset if m in warming else m.weight for m in self.members}
        if b.policy == "jump":
            before = {id: math.floor(weight) for id, weight in before.items()}
        before = {id: weight for id, weight in before.items() if weight > 0}
        find = {m.id: m for m in self.members}
        self.warming = "by_key"
        for step, (salt, name) in enumerate(self.chain(h, now)):
            member = find[name]
            self.salt = salt
            if self.open(member):
                return (
                    self.leaver(salt, before) or member
                    if b.policy == "jump" and warming and not member.draining
                    else member
                )
            # Of the scores of `rendezvous` only the best asks.
            if before and warming and self.refused(member) and (step == 0 or b.policy != "rendezvous"):
                kept = find[next(name for _, name in self.chain(salt, before))]
                self.warming = "ignored"
                stays = self.open(kept)
                self.warming = "by_key"
                if stays:
                    return kept
        return self.fallback(mix64(h))

    def leaver(self, salt: int, before: dict[str, float]) -> Member | None:
        """Whom the layout takes a key from that leaves later, as others come."""
        if not before:
            return None
        name = next(name for _, name in self.chain(salt, before))
        kept = next(m for m in self.members if m.id == name)
        if self.balancer.ramp_part(kept) == 1.0 or self.warm(kept):
            return None
        self.warming = "ignored"
        stays = self.open(kept)
        self.warming = "by_key"
        return kept if stays else None

    def refused(self, member: Member) -> bool:
        """Whether nothing but slow start keeps it from this pick."""
        sticky = (self.key, member.id) in self.balancer.known
        return self.state_ok(member) and (not member.draining or sticky) and not self.warm(member)

    def chain(self, h: int, weights: dict[str, float]) -> Iterator[tuple[int, str]]:
        """(salt, id) of whom a hash asks, in order."""
        b = self.balancer
        names = list(weights)
        some = list(weights.values())
        if b.policy == "rendezvous":
            scores = {
                name: -math.log(((mix64(h ^ xxh64(name.encode())) >> 11) + 1) * 2.0**-53) * (1.0 / weight)
                for name, weight in weights.items()
            }
            yield from ((h, name) for name in sorted(names, key=lambda name: scores[name]))
            return
        if b.policy == "ketama":
            points = ring(names, some, b.points)
            start = next((k for k, (point, _) in enumerate(points) if point >= h), 0)
            yield from ((h, names[points[(start + k) % len(points)][1]]) for k in range(len(points)))
            return
        table: list[int] = []
        if b.policy == "jump":
            divisor = math.gcd(*(int(w) for w in some))
            for i, weight in enumerate(some):
                table += [i] * (int(weight) // divisor)
        elif b.policy == "maglev":
            table = maglev_table(names, some, b.slots)
        else:
            table = stable_table(names, some, b.slots, b.slack)
        for attempt in range(_TRIES):
            salt = h if attempt == 0 else draw(h, attempt - 1)
            place = jump_hash(salt, len(table)) if b.policy == "jump" else salt % len(table)
            yield salt, names[table[place]]
