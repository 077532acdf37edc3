"""Several next hops in the place of one: equal or weighted multipath with resilient hashing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from operator import index
from types import MappingProxyType
from typing import Any, NamedTuple


class Regrouped(NamedTuple):
    """A group with other members, and the share of hashes that now choose another member, from 0 to 1."""

    group: NextHopGroup
    moved_fraction: float


class NextHopGroup:
    """Next hops of which a flow's hash chooses one, by weight.

    Hashes fall into buckets, and each bucket has a member; how many follows the weights to within one bucket;
    a member that would get none gets one, at the expense of others.
    :meth:`with_members` keeps every bucket whose member stays and is not above its share, so that as few
    flows move as the new weights allow (the kernel's "resilient" next-hop groups).

    A group is immutable, and equal to a group with the same buckets and the same weights: usable as the next
    hop of a :class:`fastpath.Fib`, whose ``lookup_many(addresses, hashes)`` answers with the ids of chosen
    members.

    Parameters
    ----------
    members
        Next hops, or pairs of next hop and weight (an int above 0), or a mapping from next hop to weight;
        each once. A next hop that is a tuple of two itself must come with its weight.
    buckets
        How finely hashes are divided, at least one for each member.

    Raises
    ------
    ValueError
        No members, one of them twice, a weight below 1, or fewer buckets than members.
    TypeError
        A member that is not hashable, a weight or a number of buckets that is no int.

    Examples
    --------
    >>> group = NextHopGroup([("a", 3), ("b", 1)], buckets=8)
    >>> [group.member(hash) for hash in range(8)]
    ['a', 'a', 'a', 'a', 'a', 'a', 'b', 'b']
    >>> group.with_members(["a"]).moved_fraction
    0.25

    """

    __slots__ = ("_hash", "buckets", "weights")

    buckets: tuple[Hashable, ...]
    weights: Mapping[Hashable, int]
    _hash: int

    def __init__(self, members: Iterable[Any] | Mapping[Any, int], *, buckets: int = 128) -> None:
        weights = _weights(members)
        if not isinstance(buckets, int):
            raise TypeError(f"expected buckets as int, not {type(buckets).__name__}")
        if buckets < len(weights):
            raise ValueError(f"{buckets} buckets for {len(weights)} members: at least one each was expected")
        self._fill(weights, [None] * buckets)

    def _fill(self, weights: dict[Hashable, int], buckets: list[Any]) -> None:
        """Give buckets that are None, or whose member has too many, to the members that have too few."""
        wanted = _shares(weights, len(buckets), Counter(buckets))
        for i, member in enumerate(buckets):
            if member is None or wanted.get(member, 0) == 0:
                buckets[i] = None
            else:
                wanted[member] -= 1
        owed = iter([member for member, count in wanted.items() for _ in range(count)])
        self._set(weights, tuple(next(owed) if member is None else member for member in buckets))

    def _set(self, weights: dict[Hashable, int], buckets: tuple[Hashable, ...]) -> None:
        for name, value in (
            ("weights", MappingProxyType(weights)),
            ("buckets", buckets),
            # Many weights give the same few buckets: without them, edits of weights would collide.
            ("_hash", hash((buckets, frozenset(weights.items())))),
        ):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} of a NextHopGroup cannot be set: with_members() makes another group")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{name} of a NextHopGroup cannot be deleted")

    @property
    def members(self) -> tuple[Hashable, ...]:
        """The next hops, in the order they were given."""
        return tuple(self.weights)

    def member(self, hash: int) -> Hashable:
        """Return the next hop that a hash chooses.

        Raises
        ------
        TypeError, ValueError
            The hash is no int, or not one of 0 to 2**64 - 1.

        """
        try:
            number = index(hash)
        except TypeError:
            raise TypeError(f"expected a hash as int, not {type(hash).__name__}") from None
        if not 0 <= number < 1 << 64:
            raise ValueError(f"expected a hash from 0 to 2**64 - 1, not {number}")
        return self.buckets[number % len(self.buckets)]

    def with_members(self, members: Iterable[Any] | Mapping[Any, int]) -> Regrouped:
        """Return ``(group, moved_fraction)``: one with these members that moves as few hashes as it can.

        Parameters
        ----------
        members
            As for the class.

        Returns
        -------
        Regrouped
            The new group, and the share of hashes that choose another member than they do here.

        Raises
        ------
        ValueError, TypeError
            As for the class.

        """
        weights = _weights(members)
        if len(self.buckets) < len(weights):
            raise ValueError(
                f"{len(self.buckets)} buckets for {len(weights)} members: at least one each was expected"
            )
        other = object.__new__(NextHopGroup)
        other._fill(weights, list(self.buckets))
        moved = sum(a != b for a, b in zip(self.buckets, other.buckets, strict=True))
        return Regrouped(other, moved / len(self.buckets))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NextHopGroup):
            return NotImplemented
        return self.buckets == other.buckets and self.weights == other.weights

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (dict(self.weights), self.buckets)

    def __repr__(self) -> str:
        members = ", ".join(f"{member!r}: {weight}" for member, weight in self.weights.items())
        return f"<NextHopGroup {{{members}}}, {len(self.buckets)} buckets>"


def _weights(members: Iterable[Any] | Mapping[Any, int]) -> dict[Hashable, int]:
    weights: dict[Hashable, int] = {}
    if isinstance(members, (str, bytes)) or not isinstance(members, Iterable):
        raise TypeError(
            f"expected members, pairs of member and weight, or a mapping, not {type(members).__name__}"
        )
    for entry in members.items() if isinstance(members, Mapping) else members:
        member, weight = entry if isinstance(entry, tuple) and len(entry) == 2 else (entry, 1)
        try:
            weight = index(weight)
        except TypeError:
            raise TypeError(
                f"expected the weight of {member!r} as int, not {type(weight).__name__}"
            ) from None
        if weight < 1:
            raise ValueError(f"weight {weight} of {member!r} is below 1")
        if member is None or isinstance(member, NextHopGroup):
            raise ValueError(f"{member!r} cannot be a member")
        if member in weights:
            raise ValueError(f"member {member!r} is there twice")
        weights[member] = weight
    if not weights:
        raise ValueError("a group needs a member")
    return weights


def _shares(weights: Mapping[Hashable, int], buckets: int, held: Mapping[Any, int]) -> dict[Hashable, int]:
    """Buckets for each member by largest remainder, at least one.

    Of equal remainders that of the member which holds more buckets goes first.
    """
    total = sum(weights.values())
    exact = {member: divmod(weight * buckets, total) for member, weight in weights.items()}
    shares = {member: max(1, whole) for member, (whole, _) in exact.items()}
    spare = buckets - sum(shares.values())
    if spare < 0:
        # Those that get one for none leave too few for the others, who divide what is left.
        small = {member for member, (whole, _) in exact.items() if whole == 0}
        large = {member: weight for member, weight in weights.items() if member not in small}
        return shares | _shares(large, buckets - len(small), held)
    rounded = [member for member, (whole, _) in exact.items() if whole > 0]
    rounded.sort(key=lambda member: (-exact[member][1], -held.get(member, 0)))
    for member in rounded[:spare]:
        shares[member] += 1
    return shares


def _restored(weights: Any, buckets: Any) -> NextHopGroup:
    checked = _weights(weights) if isinstance(weights, Mapping) else {}
    if not isinstance(buckets, tuple) or set(buckets) != set(checked):
        raise ValueError("expected buckets of a group: a tuple of its members, each of them at least once")
    group = object.__new__(NextHopGroup)
    group._set(checked, buckets)
    return group
