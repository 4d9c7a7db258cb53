"""Tables, ages, and text of others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstackd.cli.exit_codes import exit_code_of
from dstackd.cli.text import cost_text, cut, duration_text, moment_text, size_text, table, width_of
from dstackd.plain_text import harmless

ANYTHING = st.text(alphabet=st.characters(exclude_categories=()), max_size=40)


@given(ANYTHING)
def test_harmless_text_moves_no_cursor(text: str) -> None:
    """Every character that is left is printable, and the text can be encoded."""
    assert harmless(text).isprintable()
    assert harmless(text).encode().decode() == harmless(text)


@given(st.text(alphabet=st.characters(categories=["L", "N", "P", "S"]), max_size=40))
def test_printable_text_stays(text: str) -> None:
    """Names in any script are shown as they are."""
    assert harmless(text) == text


@given(
    st.lists(st.tuples(ANYTHING, ANYTHING, ANYTHING), max_size=4),
    st.integers(min_value=1, max_value=100),
)
def test_tables_fit(rows: list[tuple[str, str, str]], width: int) -> None:
    """No line is wider than the terminal, whatever is in the rows."""
    lines = table(("A", "B", "C"), rows, width=width, spare=("B",))
    assert len(lines) == len(rows) + 1
    assert max(map(width_of, lines)) <= width


def test_tables_drop_what_matters_least() -> None:
    """Where it is too wide, the spare columns go before anything is cut."""
    rows = [("id", "x" * 30, "why it waits")]
    assert table(("ID", "TYPE", "REASON"), rows, width=80) == [
        f"ID  {'TYPE':30}  REASON",
        f"id  {'x' * 30}  why it waits",
    ]
    narrow = table(("ID", "TYPE", "REASON"), rows, width=30, spare=("TYPE",))
    assert narrow == ["ID  REASON", "id  why it waits"]


@given(ANYTHING.map(harmless), st.integers(min_value=0, max_value=50))
def test_cut_text_fits(text: str, width: int) -> None:
    """A text is cut to its columns, and stays whole when it fits."""
    assert width_of(cut(text, width)) <= width
    assert cut(text, width_of(text)) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.9, "59s"), (61, "1m01s"), (7500, "2h05m"), (400_000, "4d15h"), (-3, "0s")],
)
def test_durations(seconds: float, text: str) -> None:
    """The two largest units."""
    assert duration_text(seconds) == text


def test_other_figures() -> None:
    """Sizes in powers of 1,000, costs to a hundredth of a cent, moments in UTC."""
    assert [size_text(size) for size in (0, 999, 1000, 1_234_567)] == [
        *("0 B", "999 B", "1.0 kB", "1.2 MB")
    ]
    assert cost_text(0.01234) == "$0.0123"
    assert moment_text(1_700_000_000_005) == "2023-11-14T22:13:20.005Z"


@pytest.mark.parametrize(
    ("phase", "reason", "exit_code", "code"),
    [
        ("succeeded", "exited", 0, 0),
        ("failed", "exited", 3, 3),
        ("failed", "exited", 137, 137),
        ("failed", "retries_exhausted", 5, 5),
        ("failed", "machine_lost", None, 100),
        ("failed", "machine_failed", 0, 100),
        ("failed", "timed_out", 143, 124),
        ("failed", "exited", 3_221_225_477, 100),
        ("cancelled", "cancel_requested", 143, 103),
        ("cancelled", "cancel_requested", None, 103),
        ("rejected", "bad_spec", None, 100),
    ],
)
def test_exit_codes(phase: str, reason: str, exit_code: int | None, code: int) -> None:
    """An ended job's exit code says first how it ended, then what it said itself."""
    assert exit_code_of({"phase": phase, "reason": reason, "exit_code": exit_code}) == code
