"""What this build of fastpath is: version, compiler, instruction sets."""

from __future__ import annotations

import os
import warnings

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


def check_isa() -> None:
    """Warn (`RuntimeWarning`) if ``FASTPATH_ISA`` names what this build or machine has not."""
    wanted = os.environ.get("FASTPATH_ISA")
    facts = _build.facts()
    if wanted is not None and wanted not in facts["isa_supported"]:
        warnings.warn(
            f"FASTPATH_ISA={wanted!r} is none of {', '.join(facts['isa_supported'])}, which this machine "
            f"supports; {facts['isa_in_use']} is used",
            RuntimeWarning,
            stacklevel=3,
        )
