"""In which order artifacts go up. Law: pure. Time may end before the last one, so what is small and
new comes first: a file that is both smaller and newer than another never comes after it.
"""

from __future__ import annotations

from collections.abc import Iterable

from dstackd.runner.collect import Found

CALL_BYTES = 64 * 1024
"""What a request costs besides its bytes, in bytes."""
_MOMENT_NS = 10_000_000_000
"""Files whose times differ by a few seconds belong to one checkpoint: the smaller goes first."""


def most_valuable_first(files: Iterable[Found]) -> list[Found]:
    """By size times age, age counted from the newest of them; equal ones by path."""
    files = list(files)
    newest_ns = max((file.seen.mtime_ns for file in files), default=0)

    def cost(file: Found) -> tuple[int, str]:
        age_ns = newest_ns - file.seen.mtime_ns
        return (file.seen.size + CALL_BYTES) * (age_ns + _MOMENT_NS), file.path

    return sorted(files, key=cost)
