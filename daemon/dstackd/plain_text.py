"""Text of others made safe to show on a terminal.

Law: standard library only, pure, light to import. A job's name, a message or a path comes from
whoever inserted the row, and must not be able to move the cursor or rewrite what stands there.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

_COLOUR = re.compile(r"\x1b\[[0-9;:]{0,64}m")
"""SGR: colours and weights, which change nothing but the letters behind them (ECMA-48, "Select Graphic Rendition")."""
_MARKS_MAX = 8
"""Over one letter; no writing needs more."""
_RESET = "\x1b[0m"
_ALSO_SHOWN = frozenset("\t\xa0\u200c\u200d\u202f\u3000")
"""Blanks, and what joins letters and emoji: of use in a text, and without a way to reorder it."""


def harmless(text: object) -> str:
    """The text with every character that is not printable (controls, escapes, direction marks, line
    ends, lone surrogates) written as its escape, and so a flood of marks over one letter, which
    would reach into the lines above.
    """
    written = str(text)
    if written.isascii():
        if written.isprintable():
            return written
        return "".join(each if each.isprintable() else _escape(each) for each in written)
    return "".join(_without_floods(written))


def _without_floods(text: str) -> Iterator[str]:
    marks = 0
    for each in text:
        marks = marks + 1 if unicodedata.combining(each) else 0
        yield each if each.isprintable() and marks <= _MARKS_MAX else _escape(each)


def coloured_only(text: str) -> str:
    """A line that a job has written, with its colours; every other control (cursor, title, clipboard, direction of writing) as
    its escape. A colour ends with the line at the latest.
    """
    if text.isprintable():
        return text
    colours = _COLOUR.findall(text)
    parts = [_shown(part) for part in _COLOUR.split(text)]
    pairs = zip(parts, [*colours, ""], strict=True)
    left_on = bool(colours) and colours[-1] not in {_RESET, "\x1b[m"}
    return "".join(part + colour for part, colour in pairs) + (_RESET if left_on else "")


def _shown(text: str) -> str:
    return "".join(
        each if each.isprintable() or each in _ALSO_SHOWN else _escape(each) for each in text
    )


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")
