"""Hides secrets in text. Law: pure; nothing of what it holds is shown by it.

A value is hidden as it stands, line by line, and in the forms that programs print most: base64 (also
inside a longer text, as of `user:password`), percent-encoding, JSON, a shell's and Python's quotes. Other
transformations (reversed, cut, encrypted) pass; so do values and lines of less than four characters.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus

MASK = "***"
CHARS_MIN = 4
"""What is shorter is in too many words to be hidden."""
_BASE64_CHARS_MIN = 8
_GROUP_BYTES = 3
_URL_SAFE = str.maketrans("+/", "-_")


class Masker:
    """Hides some values. May be used from several threads."""

    def __init__(self, values: Iterable[str]) -> None:
        forms = {form for value in values for form in _forms(value)}
        # The longest first: a shorter form may be a part of a longer one.
        self._forms = tuple(sorted(forms, key=lambda form: (-len(form), form)))

    def mask(self, text: str) -> str:
        """The text with every form of every value replaced; of one line or several."""
        # A loop over `in` is faster than a regular expression: each is one search for a fixed text.
        for form in self._forms:
            if form in text:
                text = text.replace(form, MASK)
        return text


def _forms(value: str) -> Iterator[str]:
    lines = [line.strip("\r") for line in value.split("\n")]
    for part in {value, value.strip(), *lines, *(line.strip() for line in lines)}:
        if len(part.strip()) >= CHARS_MIN:
            yield from _plain_forms(part)
            yield from _base64_forms(part.encode("utf-8", "surrogatepass"))


def _plain_forms(part: str) -> Iterator[str]:
    yield part
    yield quote(part, safe="", errors="replace")
    yield quote(part, safe="/", errors="replace")
    yield quote_plus(part, errors="replace")
    yield json.dumps(part)[1:-1]
    yield json.dumps(part, ensure_ascii=False)[1:-1]
    yield repr(part)[1:-1]
    yield part.replace("'", "'\\''")


def _base64_forms(part: bytes) -> Iterator[str]:
    """The characters that stand for `part` alone, wherever it begins within a group of three bytes."""
    for before in range(_GROUP_BYTES):
        encoded = base64.b64encode(b"\0" * before + part).decode()
        # The first characters also hold bits of what is before, and the last ones of what is behind.
        begin = (before * 8 + 5) // 6
        end = (before + len(part)) * 8 // 6
        inner = encoded[begin:end]
        if len(inner) >= _BASE64_CHARS_MIN:
            yield inner
            yield inner.translate(_URL_SAFE)
