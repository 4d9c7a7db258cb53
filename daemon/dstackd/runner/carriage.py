"""What a terminal shows of a line that is drawn over again and again. Law: pure; colours stay, what was
drawn over and what erased it does not.

A carriage return goes back to the line's beginning, and what is drawn next takes the place of what was
there, as bars do it: they pad or erase. Erasing (ECMA-48, EL): `ESC [ K` to the right of the cursor,
`ESC [ 2 K` the whole line.
"""

from __future__ import annotations

import re

_ERASE_LINE = re.compile(rb"\x1b\[2K")
_ERASE_RIGHT = re.compile(rb"\x1b\[0?K")


def shown(line: bytes) -> bytes:
    """The last state of a line that holds carriage returns."""
    for drawn in reversed(line.split(b"\r")):
        if drawn:
            return _ERASE_RIGHT.sub(b"", _ERASE_LINE.split(drawn)[-1])
    return b""


def kept(line: bytes) -> bytes:
    """The least that shows the same as `line`, now and whatever is drawn after it."""
    before, _, drawing = line.rpartition(b"\r")
    return b"\r" + drawing if drawing else shown(before) + b"\r"
