"""Lines in number order out of events in any order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstackd.core import log_assembly
from dstackd.core.log_assembly import LogAssembly
from dstackd.core.log_line import StoredLine

arrivals = st.lists(st.lists(st.integers(1, 25), max_size=10), max_size=12)


def feed(assembly: LogAssembly, pages: list[list[int]]) -> list[StoredLine]:
    """Add pages of line numbers, taking what is ready after each."""
    lines: list[StoredLine] = []
    for page in pages:
        for n in page:
            assembly.add(n, n * 1000, "stdout", f"line {n}")
        lines += assembly.take_ready()
    return lines


@given(arrivals, st.integers(0, 5), st.none() | st.integers(25, 30))
def test_each_line_comes_once_in_order_and_holes_are_named(
    pages: list[list[int]], stored: int, expected: int | None
) -> None:
    """Whatever comes late, twice or never: every number up to the last is a line or part of a named hole."""
    assembly = LogAssembly(stored + 1)
    assembly.expected = expected
    lines = feed(assembly, pages)
    arrived = {n for page in pages for n in page if n > stored}
    assert assembly.seen == stored + len(arrived)
    lines += assembly.close()
    assert [line.n for line in lines if not line.missing] == sorted(arrived)
    assert all(line.log == f"line {line.n}" for line in lines if not line.missing)
    covered = [n for line in lines for n in range(line.n, line.last_n + 1)]
    last = max([stored, *arrived] if expected is None else [stored, *arrived, expected])
    assert covered == list(range(stored + 1, last + 1))


@given(arrivals)
def test_nothing_is_handed_out_behind_a_hole(pages: list[list[int]]) -> None:
    """While a line may still come, those behind it wait."""
    lines = feed(LogAssembly(1), pages)
    assert [line.n for line in lines] == list(range(1, len(lines) + 1))


def test_one_lost_event_cannot_eat_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hole with too much behind it is given up: named, counted as missing, and the rest goes on."""
    monkeypatch.setattr(log_assembly, "PENDING_MAX", 3)
    assembly = LogAssembly(1)
    lines = feed(assembly, [[3, 4, 5], [6]])
    assert lines == [
        StoredLine(1, missing=2),
        *(StoredLine(n, n * 1000, "stdout", f"line {n}") for n in (3, 4, 5, 6)),
    ]
    assert assembly.seen == 4
    assert feed(assembly, [[1, 2, 7]]) == [StoredLine(7, 7000, "stdout", "line 7")]
