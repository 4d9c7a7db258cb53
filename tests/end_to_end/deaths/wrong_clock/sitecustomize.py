"""A wall clock that is wrong by what a file says. Law: a daemon under test imports this by its PYTHONPATH; nothing else does.

The file holds eight bytes: nanoseconds to add, of either sign. Whoever writes them makes the clock jump.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from pathlib import Path

_TRUE_NS = time.time_ns


def _install(path: Path) -> None:
    with path.open("rb") as file:
        shown = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)

    def wrong_ns() -> int:
        return _TRUE_NS() + int(struct.unpack("<q", shown[:])[0])

    time.time_ns = wrong_ns
    time.time = lambda: wrong_ns() / 1e9


if "WRONG_CLOCK" in os.environ:
    _install(Path(os.environ["WRONG_CLOCK"]))
