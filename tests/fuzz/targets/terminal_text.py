"""Text of others on a terminal: nothing of it is a control, whatever it was."""

from __future__ import annotations

import re

from dstackd.cli.text import cut, table, width_of
from dstackd.plain_text import _ALSO_SHOWN, coloured_only, harmless

SAMPLES = ("name\x1b[31m\n\u202e\0".encode(), b"\x1b]52;c;aGk=\x07", "é漢字👩‍👩‍👧 \x9b2J".encode())
_COLOUR = re.compile("\x1b\\[[0-9;:]*m")


def run(content: bytes) -> None:
    """See the module."""
    text = content.decode(errors="surrogateescape")
    assert harmless(text).isprintable()
    (line,) = table(("A",), (), width=10)
    lines = table(("A", "B"), [(text, text)], width=40)
    assert all(each.isprintable() for each in [line, *lines])
    assert width_of(cut(harmless(text), 24)) <= 24
    shown = _COLOUR.sub("", coloured_only(text))
    assert all(each.isprintable() or each in _ALSO_SHOWN for each in shown), repr(shown)
