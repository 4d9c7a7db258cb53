"""Sizes, durations and ranges as people write them, and back.

LAW: pure text and numbers. 1 GB is 1,024 MiB everywhere in a spec, because that is how EC2 counts
the memory of its instances; GiB is accepted as the same unit.
"""

import re

from dstackd.spec.limits import DURATION_S_MAX
from dstackd.spec.model import Range
from dstackd.spec.reading import Reader, RefusedError, refuse

_WRITTEN = re.IGNORECASE | re.ASCII
_SIZE = re.compile(r"([0-9]{1,9})(?:\.([0-9]{1,9}))?\s*(?:([MGT])(?:I?B)?)?", _WRITTEN)
_MIB_OF = {"M": 1, "G": 1024, "T": 1024 * 1024}
_MIB_IN_GIB = 1024

_DURATION = re.compile(
    r"(?:([0-9]{1,9})w)?\s*(?:([0-9]{1,9})d)?\s*(?:([0-9]{1,9})h)?\s*"
    r"(?:([0-9]{1,9})m)?\s*(?:([0-9]{1,9})s)?",
    _WRITTEN,
)
_SECONDS_OF = (604_800, 86_400, 3600, 60, 1)
_PLAIN_SECONDS = re.compile(r"[0-9]{1,12}")
_DURATION_FIX = "write it like 30s, 10m, 2h, 1d or 1h30m; a plain number is seconds"


def size_mib(*, low_mib: int, high_mib: int, fix: str) -> Reader[int]:
    """A reader of `16GB`, `512MB`, `1.5TB` or a plain number of GB; the result is in MiB."""

    def read(value: object) -> int:
        mib = _as_mib(value, fix=fix)
        if not low_mib <= mib <= high_mib:
            refuse(value, f"between {size_text(low_mib)} and {size_text(high_mib)}", fix)
        return mib

    return read


def _as_mib(value: object, *, fix: str) -> int:
    plain = isinstance(value, int | float | str) and not isinstance(value, bool)
    # A number is quoted only up to a length, so that no integer is too large to be turned to text.
    match = _SIZE.fullmatch(_short_text(value)) if plain else None
    if match is None:
        refuse(value, "a size", fix)
    whole, fraction, unit = match[1], match[2] or "", (match[3] or "G").upper()
    scale: int = 10 ** len(fraction)
    mib, rest = divmod(int(whole + fraction) * _MIB_OF[unit], scale)
    if rest:
        raise RefusedError("is not a whole number of MB", f"write {mib + 1}MB")
    return mib


def _short_text(value: object) -> str:
    if isinstance(value, int) and value.bit_length() > 64:  # noqa: PLR2004 - no size has more bits
        return ""
    return str(value).strip()


def size_text(mib: int) -> str:
    """MiB as a spec writes them: `16GB`, or `1536MB` where GB would not be whole."""
    whole = mib % _MIB_IN_GIB == 0
    return f"{mib // _MIB_IN_GIB}GB" if whole else f"{mib}MB"


def duration_s(
    *, low_s: int, high_s: int = DURATION_S_MAX, fix: str = _DURATION_FIX
) -> Reader[int]:
    """A reader of durations in seconds, both ends included."""

    def read(value: object) -> int:
        seconds = _as_seconds(value)
        if seconds is None:
            refuse(value, "a duration", fix)
        if not low_s <= seconds <= high_s:
            refuse(value, f"between {low_s} and {high_s} seconds", fix)
        return seconds

    return read


def duration_or_off(value: object) -> int | None:
    """A duration of at least a second, or None for `off` (which older YAML reads as false)."""
    if value is False or (isinstance(value, str) and value.lower() in {"off", "false"}):
        return None
    return duration_s(low_s=1, fix=f"{_DURATION_FIX}; off means no limit")(value)


def _as_seconds(value: object) -> int | None:
    match value:
        case bool():
            return None
        case int():
            return value
        case float() if value.is_integer():
            return int(value)
        case str():
            return _seconds_of_text(value.strip())
        case _:
            return None


def _seconds_of_text(written: str) -> int | None:
    if _PLAIN_SECONDS.fullmatch(written):
        return int(written)
    match = _DURATION.fullmatch(written)
    if match is None or not any(match.groups()):
        return None
    parts = zip(match.groups(), _SECONDS_OF, strict=True)
    return sum(int(amount) * seconds for amount, seconds in parts if amount)


def range_of(read_end: Reader[int], *, fix: str) -> Reader[Range[int]]:
    """A reader of `4` (exactly), `4..`, `2..8`, `..8` and `..` (any)."""

    def read(value: object) -> Range[int]:
        if not isinstance(value, str) or ".." not in value:
            exact = read_end(value)
            return Range(exact, exact)
        low_text, _, high_text = value.partition("..")
        low = read_end(low_text) if low_text.strip() else None
        high = read_end(high_text) if high_text.strip() else None
        if low is not None and high is not None and low > high:
            refuse(value, "a range: its first number is the larger one", fix)
        return Range(low, high)

    return read


def range_text(amount: Range[int], *, unit: str = "") -> str:
    """A range as a spec writes it, the opposite of `range_of`."""
    low, high = ("" if end is None else f"{end}{unit}" for end in (amount.min, amount.max))
    return low if low == high != "" else f"{low}..{high}"
