"""Names of services answered by DNS: in process, as messages, over UDP and TCP."""

from fastpath.dns.records import (
    AddressRecord,
    HinfoRecord,
    NsRecord,
    PtrRecord,
    Record,
    SoaRecord,
    SrvRecord,
)
from fastpath.dns.resolver import Answer, Resolver
from fastpath.dns.server import DnsServer

__all__ = [
    "AddressRecord",
    "Answer",
    "DnsServer",
    "HinfoRecord",
    "NsRecord",
    "PtrRecord",
    "Record",
    "Resolver",
    "SoaRecord",
    "SrvRecord",
]
