"""Readers of single values: text, whole numbers, switches, prices, words of a list.

LAW: readers and makers of readers (see reading.py); no paths, no collecting.
"""

import math
import re
from enum import StrEnum
from typing import TypeVar

from dstackd.spec.reading import Reader, RefusedError, is_text, refuse

E = TypeVar("E", bound=StrEnum)

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_DECIMAL = re.compile(r"[0-9]{1,9}(\.[0-9]{0,18})?")
_SWITCH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def text(value: object, *, fix: str, chars_max: int, lines: bool = False) -> str:
    """A non-blank string that every program can read.

    Without `lines`, control characters are refused; with it, only NUL is.
    """
    if not isinstance(value, str):
        refuse(value, "text", fix)
    if not is_text(value):
        raise RefusedError("holds half of a surrogate pair, which is no character", fix)
    if not value.strip():
        raise RefusedError("is empty", fix)
    if len(value) > chars_max:
        raise RefusedError(f"is {len(value)} characters long", f"use at most {chars_max}")
    if "\0" in value:
        raise RefusedError("holds a NUL character", "remove it")
    if not lines and has_control_character(value):
        raise RefusedError("holds a control character", "remove it; write it on one line")
    return value


def has_control_character(value: str) -> bool:
    """Whether the text would break a line or drive a terminal where it is shown."""
    return _CONTROL.search(value) is not None


def whole_number(*, low: int, high: int, fix: str, expected: str = "a whole number") -> Reader[int]:
    """A reader of whole numbers from `low` to `high`; `4`, `4.0` and `"4"` are the same."""

    def read(value: object) -> int:
        number = _as_whole(value)
        if number is None:
            refuse(value, expected, fix)
        if not low <= number <= high:
            refuse(value, f"between {low} and {high}", fix)
        return number

    return read


def _as_whole(value: object) -> int | None:
    match value:
        case bool():
            return None
        case int():
            return value
        case float() if value.is_integer():
            return int(value)
        case str() if _WHOLE.fullmatch(value.strip()):
            return int(value)
        case _:
            return None


def switch(value: object) -> bool:
    """A bool, also as one of the words that YAML once took for it."""
    if isinstance(value, bool):
        return value
    known = _SWITCH.get(value.lower()) if isinstance(value, str) else None
    if known is None:
        refuse(value, "true or false", "write true or false")
    return known


def dollars(*, high: float, expected: str, fix: str) -> Reader[float]:
    """A reader of US dollars, above 0 and up to `high`."""

    def read(value: object) -> float:
        number = float(value) if isinstance(value, str) and _DECIMAL.fullmatch(value) else value
        if isinstance(number, bool) or not isinstance(number, int | float):
            refuse(value, expected, fix)
        if not 0 < number <= high or not math.isfinite(number):
            refuse(value, f"{expected} above 0 and up to {high:.0f}", fix)
        return float(number)

    return read


def word_of(words: type[E]) -> Reader[E]:
    """A reader of the members of an enum; `_` is taken for `-` and case does not matter."""
    members = {member.value.lower(): member for member in words}
    fix = f"write one of {', '.join(words)}"

    def read(value: object) -> E:
        word = value.lower().replace("_", "-") if isinstance(value, str) else ""
        if word not in members:
            refuse(value, "a word this field knows", fix)
        return members[word]

    return read
