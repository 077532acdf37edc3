"""Records cut into pieces that the engine puts together; the layout is that of ``dns_message.hpp``."""

from __future__ import annotations

from typing import TypeAlias

from fastpath.dns.names import Labels, labels_of, wire_of
from fastpath.dns.records import TYPES, Record
from fastpath.dns.zone import Found

# revision, rcode, authoritative, order, limit, answers (piece, weight, priority, index of additional or -1),
# additional pieces, authority pieces (none or one), the service that it depends on alone (or "")
Answers: TypeAlias = tuple[tuple[bytes, int, int, int], ...]
Image: TypeAlias = tuple[int, int, bool, int, int, Answers, tuple[bytes, ...], tuple[bytes, ...], str]

ORDERS = {"registered": 0, "random": 1, "weighted": 2}
_NOERROR, _SERVFAIL, _NXDOMAIN, _REFUSED = 0, 2, 3, 5
_QUESTION_AT = 12


def image_of(name: Labels, found: Found, order: str, limit: int | None) -> Image:
    """The image of what was found for a name."""
    revision = found.revision
    if found.soa is None and not found.exists:
        return (revision, _REFUSED, False, 0, 0, (), (), (), "")
    suffixes = _suffixes(name)
    if found.soa is not None:
        rcode = _NOERROR if found.exists else _NXDOMAIN
        soa = _piece(found.soa, labels_of(found.soa.name), suffixes)
        return (revision, rcode, True, 0, 0, (), (), (soa,), "")
    additional: dict[bytes, int] = {}
    answers = []
    for entry in found.entries:
        extra = -1
        if entry.additional is not None:
            piece = _piece(entry.additional, labels_of(entry.additional.name), suffixes)
            extra = additional.setdefault(piece, len(additional))
        answers.append((_piece(entry.record, name, suffixes), entry.weight, entry.priority, extra))
    service = found.entries[0].service
    return (
        revision,
        _NOERROR,
        True,
        ORDERS[order],
        limit or 0,
        tuple(answers),
        tuple(additional),
        (),
        service,
    )


def servfail(revision: int) -> Image:
    """The image of trouble."""
    return (revision, _SERVFAIL, False, 0, 0, (), (), (), "")


def _suffixes(name: Labels) -> dict[Labels, bytes]:
    """Pointers to every tail of the question's name, which stands at a fixed place."""
    pointers = {}
    at = _QUESTION_AT
    for i, label in enumerate(name):
        pointers[name[i:]] = (0xC000 | at).to_bytes(2)
        at += len(label) + 1
    return pointers


def _piece(record: Record, owner: Labels, suffixes: dict[Labels, bytes]) -> bytes:
    def compress(labels: Labels) -> bytes:
        for i in range(len(labels)):
            if labels[i:] in suffixes:
                return wire_of(labels[:i])[:-1] + suffixes[labels[i:]]
        return wire_of(labels)

    rdata = record.rdata(compress)
    return b"".join(
        (
            compress(owner),
            TYPES[record.rdtype].to_bytes(2),
            b"\0\1",
            record.ttl_s.to_bytes(4),
            len(rdata).to_bytes(2),
            rdata,
        )
    )
