"""Text of others made safe to show on a terminal.

Law: standard library only, pure, light to import. A job's name, a message or a path comes from
whoever inserted the row, and must not be able to move the cursor or rewrite what stands there.
"""

from __future__ import annotations


def harmless(text: object) -> str:
    """The text with every character that is not printable (controls, escapes, direction marks, line
    ends, lone surrogates) written as its escape.
    """
    written = str(text)
    if written.isprintable():
        return written
    return "".join(each if each.isprintable() else _escape(each) for each in written)


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")
