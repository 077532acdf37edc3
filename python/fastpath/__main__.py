"""``python -m fastpath`` is the command ``fastpath``."""

from __future__ import annotations

import sys

from fastpath.cli import main

if __name__ == "__main__":
    sys.exit(main())
