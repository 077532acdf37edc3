"""What this build of fastpath is: version, compiler, instruction sets."""

from __future__ import annotations

from fastpath import _build
from fastpath._version import __version__


def build_info() -> dict[str, object]:
    """Facts of the build.

    Returns
    -------
    dict
        ``version``, ``compiler``, ``cplusplus``, ``architecture``, ``assertions``, and the instruction sets
        ``isa_compiled``, ``isa_supported`` (by this machine) and ``isa_in_use``. The environment variable
        ``FASTPATH_ISA`` (``scalar``, ``avx2``, ``avx512``, ``neon``) forces one that the machine supports;
        it is read once, before the first table is made.
    """
    return {"version": __version__, **_build.facts()}
