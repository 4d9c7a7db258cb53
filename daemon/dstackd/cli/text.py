"""How times, sizes and tables are shown to a person.

Law: pure but for the terminal's size; text of others passes `harmless`. Programs use --json.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from dstackd.plain_text import harmless

_UNITS: Final = ((86_400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s"))
_KILO: Final = 1000
_GAP: Final = "  "
_COLOURS: Final = {
    "running": "34",
    "succeeded": "32",
    "failed": "31",
    "rejected": "31",
    "cancelled": "33",
}
_BOLD: Final = "1"


def duration_text(seconds: float) -> str:
    """`8s`, `3m12s`, `2h05m`, `4d03h`."""
    whole = max(0, int(seconds))
    for large, large_name, small, small_name in _UNITS:
        if whole >= large:
            return f"{whole // large}{large_name}{whole % large // small:02d}{small_name}"
    return f"{whole}s"


def moment_text(at_ms: int) -> str:
    """UTC, as RFC 3339 with milliseconds; a figure that no calendar has, as it is."""
    try:
        moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return f"{at_ms} ms"
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at_ms % 1000:03d}Z"


def size_text(size_bytes: int) -> str:
    """`812 B`, `1.2 kB`, `3.4 GB`: powers of 1,000."""
    size: float = size_bytes
    for unit in ("B", "kB", "MB", "GB"):
        if size < _KILO:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= _KILO
    return f"{size:.1f} TB"


def cost_text(usd: float) -> str:
    """`$0.0123`: enough digits for a minute of a small machine."""
    return f"${usd:.4f}"


def count_text(count: int, noun: str) -> str:
    """`1 line`, `2 lines`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def width_of(text: str) -> int:
    """Columns that the text takes on a terminal."""
    if text.isascii():
        return len(text)
    import unicodedata

    wide = sum(unicodedata.east_asian_width(each) in "WF" for each in text)
    marks = sum(unicodedata.combining(each) != 0 for each in text)
    return len(text) + wide - marks


def cut(text: str, width: int) -> str:
    """The text in at most `width` columns, with an ellipsis where it was longer."""
    columns = end = 0
    for at, each in enumerate(text):
        columns += width_of(each)
        if columns > width:
            return f"{text[:end]}…" if width > 0 else ""
        if columns < width:
            end = at + 1
    return text


_CHARACTERS_A_COLUMN: Final = 10
"""At the most: a letter and the marks that `harmless` lets stand over it."""


def shortened(text: object, width: int | None) -> str:
    """The text, harmless; of a long one about as much as has room in `width` columns, and some more, for `cut`."""
    written = str(text)
    return harmless(written if width is None else written[: (width + 1) * _CHARACTERS_A_COLUMN])


def terminal_width() -> int | None:
    """Columns of the terminal that standard output is; None where it is none: nothing is cut."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def coloured(text: str, phase: str) -> str:
    """The text in the phase's colour, on a terminal and without NO_COLOR."""
    code = _COLOURS.get(phase)
    return text if code is None else _painted(text, code)


def bold(text: str) -> str:
    """The text as a heading, on a terminal and without NO_COLOR."""
    return _painted(text, _BOLD)


def _painted(text: str, code: str) -> str:
    if os.environ.get("NO_COLOR") or not sys.stdout.isatty():
        return text
    return f"\x1b[{code}m{text}\x1b[0m"


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    width: int | None = None,
    spare: Sequence[str] = (),
    right: Sequence[str] = (),
) -> list[str]:
    """Lines of a table, its header first, in at most `width` columns.

    Where it is too wide, the columns named in `spare` go, in that order; then the last column is
    cut. Columns named in `right` are aligned to the right.
    """
    columns = [
        [name, *(shortened(row[at], width) for row in rows)] for at, name in enumerate(header)
    ]
    if width is not None:
        columns = _without_spare(columns, width=width, spare=spare)
    widths = [max(map(width_of, column)) for column in columns[:-1]]
    lines = []
    for cells in zip(*columns, strict=True):
        padded = [
            _padded(cell, wide, to_right=column[0] in right)
            for cell, wide, column in zip(cells, widths, columns, strict=False)
        ]
        line = _GAP.join([*padded, cells[-1]]).rstrip()
        lines.append(line if width is None else cut(line, width))
    return lines


_LAST_COLUMN_MIN: Final = 20


def _without_spare(
    columns: list[list[str]], *, width: int, spare: Sequence[str]
) -> list[list[str]]:
    for name in spare:
        fixed = sum(max(map(width_of, column)) + len(_GAP) for column in columns[:-1])
        last = min(_LAST_COLUMN_MIN, max(map(width_of, columns[-1])))
        if fixed + last <= width:
            break
        columns = [column for column in columns if column[0] != name]
    return columns


def _padded(cell: str, width: int, *, to_right: bool) -> str:
    room = " " * (width - width_of(cell))
    return room + cell if to_right else cell + room


def need_text(need: Mapping[str, Any]) -> str:
    """`3f0c to succeed (running)`."""
    verb = "succeed" if need["on"] == "success" else "end"
    return f"{need['id']} to {verb} ({need['phase'] or 'no such job'})"
