"""Text and JSON as an enemy writes them. Law: strategies only; what has to hold of it is in the tests.

A strategy of hypothesis draws short things; the long and the deep ones are given as they are, since size is their point.
"""

from __future__ import annotations

import json

from hypothesis import strategies as st

MEGABYTE = 1_000_000

ESCAPES = (
    "\x1b[2J\x1b[H",  # clears the screen
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x1b]52;c;cm0gLXJmIC8=\x07",  # writes the clipboard
    "\x1b]8;;https://example.com\x1b\\link\x1b]8;;\x1b\\",
    "\x1bP$q\x1b\\",
    "\x1bc",  # resets the terminal
    "\x9b31m",  # CSI as one character
    "\x9d0;title\x9c",
    "\x1b[6n",  # the terminal answers into standard input
    "\x1b",
    "\x1b[",
)
CONTROLS = ("\n", "\r", "\r\n", "\0", "\b", "\x7f", "\t", "\v", "\f", "\x85", "\u2028", "\u2029")
MARKS = ("\u202e", "\u202d", "\u2066", "\u2069", "\u200f", "\u200e", "\u061c", "\u200b", "\ufeff")
PATHS = (
    "../",
    "../../etc/passwd",
    "/etc/passwd",
    "..",
    ".",
    "",
    "a//b",
    "~/.ssh/id",
    "C:\\x",
    "a/../b",
)
SURROGATES = ("\ud800", "\udfff", "\ud83d")
LOOKALIKES = (
    "\u0440\u0430\u0443\u0440\u0430l",  # Cyrillic
    "\uff41\uff44\uff4d\uff49\uff4e",  # full width
    "ⅳ",
    "٣",
    "²",
    "ﬁ",
    "I\u0307",
    "ß",
    "👩\u200d👩\u200d👧",
)
FLOODS = ("a" + "\u0301" * 2_000, "\u0489" * 500)
QUOTES = (
    "'",
    '"',
    "`",
    "$(reboot)",
    "${{ secrets.X }}",
    "%s%n",
    "{0}",
    "<!--",
    "]]>",
    "';DROP TABLE job",
)

_PIECES = (*ESCAPES, *CONTROLS, *MARKS, *PATHS, *LOOKALIKES, *FLOODS, *QUOTES)


def hostile_text(*, surrogates: bool = False, nul: bool = True) -> st.SearchStrategy[str]:
    """Some pieces in a row. `surrogates`: also halves of pairs, which UTF-8 cannot write."""
    pieces = [each for each in _PIECES if nul or "\0" not in each]
    pieces += SURROGATES if surrogates else ()
    excluded = "" if nul else "\0"
    whole = st.characters(exclude_categories=["Cs"], exclude_characters=excluded)
    some = st.text(st.characters(exclude_characters=excluded) if surrogates else whole)
    return st.lists(st.sampled_from(pieces) | some, max_size=5).map("".join)


LONG = ("x" * MEGABYTE, "\x1b[31m" * (MEGABYTE // 5), "\u202e" * MEGABYTE, "\u0301" * MEGABYTE)
"""As they are: a megabyte of each."""

DEEP = 100_000

JSON_BOMBS: tuple[str, ...] = (
    "[" * DEEP,
    "[" * DEEP + "]" * DEEP,
    '{"a":' * DEEP + "1" + "}" * DEEP,
    "1" * 5_000,
    "-" + "9" * 100_000,
    "1e999999999",
    "-1e999",
    "NaN",
    "[Infinity]",
    '{"a":1,"a":2}',
    '"\\ud800"',
    '"\\u0000"',
    '{"":{"":{}}}',
    "",
    " ",
    "nul",
    "\ufeff{}",
    "[1,]",
    "{'a':1}",
    '"' + "x" * MEGABYTE + '"',
    "[" + "0," * 50_000 + "0]",
)
"""Texts that are too much for somebody who reads JSON without care."""


def hostile_json() -> st.SearchStrategy[object]:
    """Values that JSON can hold, with hostile text and figures in them."""
    text = hostile_text()
    figures = st.integers() | st.sampled_from([2**63, -(2**63) - 1, 2**64, 10**300, 0, -1])
    floats = st.floats(allow_nan=False, allow_infinity=False)
    return st.recursive(
        st.none() | st.booleans() | figures | floats | text,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
        max_leaves=12,
    )


def mutated(sample: bytes) -> st.SearchStrategy[bytes]:
    """The sample with a part cut out, doubled, overwritten, or another put in."""
    size = len(sample)
    inserts = st.binary(max_size=12) | hostile_text().map(lambda text: text.encode())

    @st.composite
    def one(draw: st.DrawFn) -> bytes:
        body = sample
        for _ in range(draw(st.integers(1, 3))):
            start = draw(st.integers(0, size))
            length = draw(st.integers(0, 40))
            body = body[:start] + draw(inserts) + body[start + length :]
        return body

    return one()


def truncated(sample: bytes) -> st.SearchStrategy[bytes]:
    """The sample without its end."""
    return st.integers(0, len(sample)).map(lambda length: sample[:length])


def as_text(value: object) -> str:
    """The value as JSON text, every character as it is where JSON can hold it."""
    return json.dumps(value, ensure_ascii=False)
