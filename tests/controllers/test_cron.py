"""Times of cron expressions: by the wall clock, through every change of the clocks, the same however they are asked for."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dstackd.cron import Calendar, read_calendar
from dstackd.spec.errors import SpecError

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu")
CRONS = (
    *("30 2 * * *", "*/30 2 * * *", "0 * * * *", "*/7 * * * *", "15 1,2,3 * * *"),
    *("0 0 L * *", "0 6 * * MON-FRI", "59 23 29 2 *", "0 3 * * 0#1"),
)


def ms(written: str) -> int:
    """Of a moment with its offset."""
    return int(datetime.fromisoformat(written).timestamp()) * 1000


def times(cron: str, zone: str, after: str, count: int) -> list[str]:
    """The next times, one asked for after the other, as the zone writes them."""
    calendar, at_ms, found = read_calendar(cron, zone), ms(after), []
    for _ in range(count):
        next_ms = calendar.next_after(at_ms)
        assert next_ms is not None
        at_ms = next_ms
        found.append(datetime.fromtimestamp(at_ms / 1000, calendar.zone).isoformat())
    return found


@pytest.mark.parametrize(
    ("cron", "after", "expected"),
    [
        # 29 March 2026, 2:00 becomes 3:00: a fixed time in the gap runs right after it, once.
        ("30 2 * * *", "2026-03-28T12:00+01:00", ["2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"]),
        # What goes by the hour or the minute skips it.
        ("0 * * * *", "2026-03-29T01:10+01:00", ["2026-03-29T03:00:00+02:00", "2026-03-29T04:00:00+02:00"]),
        ("*/30 2 * * *", "2026-03-28T12:00+01:00", ["2026-03-30T02:00:00+02:00"]),
        # 25 October 2026, 3:00 becomes 2:00: a fixed time that comes twice runs the first time,
        ("30 2 * * *", "2026-10-24T12:00+02:00", ["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"]),
        # also when nobody has looked before the second;
        ("30 2 * * *", "2026-10-25T02:10+01:00", ["2026-10-26T02:30:00+01:00"]),
        # what goes by the hour runs in both.
        (
            "0 * * * *",
            "2026-10-25T01:30+02:00",
            ["2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00", "2026-10-25T03:00:00+01:00"],
        ),
    ],
)  # fmt: skip
def test_changes_of_the_clocks(cron: str, after: str, expected: list[str]) -> None:
    """As Debian's cron has it, and as the documentation says."""
    assert times(cron, "Europe/Berlin", after, len(expected)) == expected


@pytest.mark.parametrize(
    ("written", "same"),
    [("@daily", "0 0 * * *"), (" @Hourly ", "0 * * * *"), ("0  6 * * mon", "0 6 * * MON")],
)
def test_other_ways_to_write(written: str, same: str) -> None:
    """Names for common ones, spaces and case make no difference."""
    after = "2026-07-24T06:30+00:00"
    assert times(written, "UTC", after, 3) == times(same, "UTC", after, 3)


@pytest.mark.parametrize(
    ("cron", "zone", "message"),
    [
        ("61 * * * *", "UTC", 'cron: "61 * * * *" is no cron expression: bad minute; write minute, hour'),
        ("* * * * * *", "UTC", 'cron: "* * * * * *" has 6 fields, not 5; write'),
        ("", "UTC", 'cron: "" has 0 fields, not 5; write'),
        ("0 6 * * *", "Europe/Berln", "did you mean Europe/Berlin?"),
        ("0 6 * * *", "../../etc/passwd", 'timezone: "../../etc/passwd" is no time zone; write'),
        ("0 6 * * *", "Europe", 'timezone: "Europe" is no time zone; '),
        ("x", "y", "\ncron: "),
    ],
)  # fmt: skip
def test_refusals_name_field_and_fix(cron: str, zone: str, message: str) -> None:
    """Whoever writes a schedule is told what is wrong with which field, and what to write."""
    with pytest.raises(SpecError) as caught:
        read_calendar(cron, zone)
    assert message in str(caught.value)


@given(st.text(max_size=30), st.text(max_size=30))
@example("0 0 * * 7", "\x00")
@example("٣ * * * *", "UTC")
@example("0 0 1-99999999999 * *", "UTC")
def test_any_text_is_a_calendar_or_refused(cron: str, zone: str) -> None:
    """Nothing that a row can hold breaks the daemon."""
    for pair in ((cron, "UTC"), ("0 * * * *", zone), (cron, zone)):
        try:
            calendar = read_calendar(*pair)
        except SpecError:
            continue
        calendar.next_after(0)


CALENDARS = st.builds(read_calendar, st.sampled_from(CRONS), st.sampled_from(ZONES))
MOMENTS = st.datetimes(datetime(2024, 1, 1), datetime(2028, 1, 1)).map(  # noqa: DTZ001 - bounds of naive ones
    lambda at: int(at.replace(tzinfo=UTC).timestamp() * 1000)
)


CHANGES = (
    *("2026-03-29T01:00+00:00", "2026-10-25T01:00+00:00", "2026-03-08T07:00+00:00"),
    *("2026-11-01T06:00+00:00", "2026-04-04T15:00+00:00", "2026-10-03T15:30+00:00"),
)
"""Of the clocks, in the zones above."""
NEAR_CHANGES = st.builds(
    lambda change, seconds: ms(change) + seconds * 1000,
    st.sampled_from(CHANGES),
    st.integers(-20_000, 20_000),
)


@settings(max_examples=250, deadline=None)
@given(CALENDARS, MOMENTS | NEAR_CHANGES)
@example(read_calendar("30 2 * * *", "Europe/Berlin"), ms("2026-10-25T02:10+01:00"))
@example(read_calendar("30 2 * * *", "Europe/Berlin"), ms("2026-10-25T02:40+01:00"))
@example(read_calendar("*/30 2 * * *", "Europe/Berlin"), ms("2026-03-29T03:10+02:00"))
@example(read_calendar("30 2 * * *", "Europe/Berlin"), ms("2026-03-29T03:00+02:00"))
@example(read_calendar("15 1,2,3 * * *", "Australia/Lord_Howe"), ms("2026-04-05T01:50+10:30"))
def test_last_and_next_are_neighbours(calendar: Calendar, at_ms: int) -> None:
    """Between the last time that has come and the next there is none, and both are what they would be for whoever asks at
    another moment between them.
    """
    last_ms, next_ms = calendar.last_until(at_ms), calendar.next_after(at_ms)
    assert last_ms is not None
    assert next_ms is not None
    assert last_ms <= at_ms < next_ms
    assert calendar.next_after(last_ms) == next_ms
    assert calendar.last_until(next_ms) == next_ms
    assert calendar.last_until(next_ms - 1) == last_ms
