"""Where a line that does not end is cut. Law: pure; never inside a character, and never inside what a
mask would have hidden: two halves of a secret in two lines are a secret that was told.
"""

from __future__ import annotations

from collections.abc import Callable

Mask = Callable[[str], str]
Cut = Callable[[bytes, int], int]
"""(bytes, the last place that will do) -> the place."""

SECRET_BYTES_MAX = 65_536
"""Secrets Manager holds no longer one (GetSecretValue, SecretString)."""

_CONTINUATION_BYTES_MAX = 3
_STEPS_BACK_MAX = 64


def character_start(line: bytes, at: int) -> int:
    """The nearest place at or before `at` that is not inside a UTF-8 character."""
    for back in range(min(_CONTINUATION_BYTES_MAX, at - 1) + 1):
        if line[at - back] & 0xC0 != 0x80:  # noqa: PLR2004 - a continuation byte is 10xxxxxx
            return at - back
    return at


def cut_for(mask: Mask | None) -> Cut:
    """The rule for lines that `mask` will be applied to, piece by piece.

    It sees a secret that goes across the place only if all of it is in the bytes that it is given.
    """
    if mask is None:
        return character_start
    hide = mask
    return lambda line, at: _outside_secrets(line, character_start(line, at), hide)


def _outside_secrets(line: bytes, at: int, mask: Mask) -> int:
    head, tail = (part.decode("utf-8", "surrogateescape") for part in (line[:at], line[at:]))
    whole, masked_head = mask(head + tail), mask(head)
    if whole == masked_head + mask(tail):
        return at
    # Up to the secret that goes across, the head is masked alike alone and with what follows.
    same = _common_prefix_chars(whole, masked_head)
    begin = len(head) - (len(masked_head) - same)
    for place in range(begin, max(0, begin - _STEPS_BACK_MAX), -1):
        if mask(head[:place]) + mask(head[place:] + tail) == whole:
            return len(head[:place].encode("utf-8", "surrogateescape"))
    return len(line)  # all of it in one piece, masked as a whole


def _common_prefix_chars(one: str, other: str) -> int:
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[:middle] == other[:middle]:
            low = middle
        else:
            high = middle - 1
    return low
