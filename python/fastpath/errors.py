"""The exceptions of fastpath.

Misuse raises the standard library's exceptions (``ValueError``, ``TypeError``, ``KeyError``); what only
this library can know derives from :class:`Error`.
"""

from __future__ import annotations


class Error(Exception):
    """Root of every exception that fastpath defines."""


class CapacityError(Error):
    """A table that was told a limit has reached it."""


class NotSupported(Error):
    """The machine, the kernel or an extra that is not installed stands in the way; the message says which."""


class StoreError(Error):
    """A saved file or a database is truncated, altered, foreign or cannot be written."""


class ResolveError(Error):
    """A name could not be answered."""


class NXDOMAIN(ResolveError):
    """The name does not exist (RFC 8020: nor does anything below it)."""


class NoAnswer(ResolveError):
    """The name exists, but has no record of the type asked for (RFC 2308, NODATA)."""
