"""PutLogEvents and FilterLogEvents as CloudWatch Logs documents them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from botocore.exceptions import ClientError  # type: ignore[import-untyped]

from tests.local.conftest import Account, wait_until

NOW_MS = int(time.time() * 1000)
DAY_MS = 24 * 3600 * 1000
NUMBERS = itertools.count()


class Group:
    """A log group of one test."""

    def __init__(self, account: Account, name: str, streams: Sequence[str]) -> None:
        self.logs = account.client("logs")
        self.name = f"/dstack/jobs/{name}"
        self.logs.create_log_group(logGroupName=self.name)
        for stream in streams:
            self.logs.create_log_stream(logGroupName=self.name, logStreamName=stream)

    def put(self, stream: str, events: Sequence[tuple[int, str]]) -> dict[str, Any]:
        """Send (timestamp, message) pairs."""
        answer: dict[str, Any] = self.logs.put_log_events(
            logGroupName=self.name,
            logStreamName=stream,
            logEvents=[{"timestamp": at, "message": text} for at, text in events],
        )
        return answer

    def page(self, **request: object) -> dict[str, Any]:
        """One page of FilterLogEvents."""
        answer: dict[str, Any] = self.logs.filter_log_events(logGroupName=self.name, **request)
        return answer

    def pages(self, **request: object) -> Iterator[list[dict[str, Any]]]:
        """All pages, until there is no token."""
        while True:
            answer = self.page(**request)
            yield answer["events"]
            if "nextToken" not in answer:
                return
            request["nextToken"] = answer["nextToken"]

    def messages(self, **request: object) -> list[str]:
        """Messages of all pages, in order."""
        return [event["message"] for page in self.pages(**request) for event in page]


def test_streams_are_interleaved_in_order_of_time(account: Account) -> None:
    """Events of all streams come sorted by timestamp, then by when they were taken in."""
    group = Group(account, "interleaved", ["a", "b"])
    group.put("a", [(NOW_MS, "1"), (NOW_MS + 2, "3")])
    group.put("b", [(NOW_MS, "2"), (NOW_MS + 1, "2.5"), (NOW_MS + 2, "4")])
    assert group.messages() == ["1", "2", "2.5", "3", "4"]
    assert group.messages(startFromHead=False, limit=2) == ["4", "3", "2.5", "2", "1"]


def test_event_ids_are_unique_and_stay(account: Account) -> None:
    """The same event has the same id in every answer, equal events have different ones."""
    group = Group(account, "ids", ["a"])
    group.put("a", [(NOW_MS, "same"), (NOW_MS, "same")])
    first, second = ([event["eventId"] for event in group.page()["events"]] for _ in range(2))
    assert first == second
    assert len(set(first)) == 2


def test_streams_are_chosen_by_name_or_prefix(account: Account) -> None:
    """Names, a prefix, never both; a name that is unknown is ResourceNotFoundException."""
    group = Group(account, "chosen", ["job-1/0", "job-1/1", "job-2/0"])
    for stream in ("job-1/0", "job-1/1", "job-2/0"):
        group.put(stream, [(NOW_MS, stream)])
    assert group.messages(logStreamNamePrefix="job-1/") == ["job-1/0", "job-1/1"]
    assert group.messages(logStreamNames=["job-2/0"]) == ["job-2/0"]
    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        group.page(logStreamNames=["job-3/0"])
    with pytest.raises(ClientError, match="InvalidParameterException"):
        group.page(logStreamNames=["job-1/0"], logStreamNamePrefix="job")


def test_the_time_range_is_of_timestamps(account: Account) -> None:
    """Both ends, startTime and endTime, are inclusive and look at timestamps, not at ingestion."""
    group = Group(account, "range", ["a"])
    group.put("a", [(NOW_MS - 3 + index, str(index)) for index in range(4)])
    assert group.messages(startTime=NOW_MS - 2, endTime=NOW_MS - 1) == ["1", "2"]


def test_a_page_holds_one_megabyte(account: Account) -> None:
    """A page ends before 1 MB; the token leads to the rest, and the last page has none."""
    group = Group(account, "megabyte", ["a"])
    for index in range(3):
        group.put("a", [(NOW_MS + index, "x" * 500_000)])
    assert [len(page) for page in group.pages()] == [2, 1]


def test_a_page_holds_ten_thousand_events(account: Account) -> None:
    """The default and the largest limit are 10,000 events."""
    group = Group(account, "ten-thousand", ["a"])
    group.put("a", [(NOW_MS, "x")] * 10_000)
    group.put("a", [(NOW_MS + 1, "y")])
    assert [len(page) for page in group.pages()] == [10_000, 1]


def test_pages_can_be_empty(account: Account) -> None:
    """With little examined for a page, pages are empty and yet have a token, as AWS warns."""
    group = Group(account, "empty", ["noise", "wanted"])
    group.put("noise", [(NOW_MS, "n")] * 25)
    group.put("wanted", [(NOW_MS + 1, "w")])
    account.cloud.control.faults(log_scan_events=10)
    sizes = [len(page) for page in group.pages(logStreamNames=["wanted"])]
    assert sizes == [0, 0, 1]


def test_a_walk_over_pages_keeps_its_place(account: Account) -> None:
    """Events that arrive during a walk, before its place, neither repeat nor hide others."""
    group = Group(account, "walk", ["a"])
    group.put("a", [(NOW_MS + index, str(index)) for index in range(4)])
    first = group.page(limit=2)
    group.put("a", [(NOW_MS - 10, "late")])
    second = group.page(limit=2, nextToken=first["nextToken"])
    assert [event["message"] for event in second["events"]] == ["2", "3"]
    assert group.messages()[0] == "late"


def test_events_show_after_a_lag(account: Account) -> None:
    """With an ingestion lag an event is not found at first, then with its own ingestion time."""
    group = Group(account, "lag", ["a"])
    account.cloud.control.faults(ingestion_lag_s=1.0)
    sent_ms = int(time.time() * 1000)
    group.put("a", [(NOW_MS, "later")])
    assert group.messages() == []
    wait_until(lambda: group.messages() == ["later"])
    assert group.page()["events"][0]["ingestionTime"] - sent_ms < 900


@pytest.mark.parametrize(
    "events",
    [
        [(NOW_MS, "x" * (1_048_576 - 26 + 1))],
        [(NOW_MS, "é" * 524_276)],  # as long in UTF-8 as the one above
        [(NOW_MS, "x")] * 10_001,
        [(NOW_MS, "x"), (NOW_MS - 1, "y")],
        [(NOW_MS - DAY_MS - 1, "x"), (NOW_MS, "y")],
    ],
    ids=["too large", "too large in UTF-8", "too many", "out of order", "more than a day"],
)
def test_a_bad_batch_is_refused(account: Account, events: list[tuple[int, str]]) -> None:
    """A batch outside the limits is InvalidParameterException, and nothing of it is stored."""
    group = Group(account, f"bad-{next(NUMBERS)}", ["a"])
    with pytest.raises(ClientError, match="InvalidParameterException"):
        group.put("a", events)
    assert group.messages() == []


def test_the_largest_batch_is_taken(account: Account) -> None:
    """1,048,576 bytes with 26 for each event are within the limit."""
    group = Group(account, "largest", ["a"])
    group.put("a", [(NOW_MS, "x" * (524_288 - 26))] * 2)
    assert len(group.messages()) == 2


def test_events_too_old_or_too_new_are_named(account: Account) -> None:
    """They are left out and their place in the batch is told; the others are stored."""
    group = Group(account, "window", ["a"])
    old = group.put("a", [(NOW_MS - 15 * DAY_MS, "old"), (NOW_MS, "kept")])
    new = group.put("a", [(NOW_MS, "kept too"), (NOW_MS + 3 * 3600 * 1000, "new")])
    assert old["rejectedLogEventsInfo"] == {"tooOldLogEventEndIndex": 1}
    assert new["rejectedLogEventsInfo"] == {"tooNewLogEventStartIndex": 1}
    assert group.messages() == ["kept", "kept too"]


def test_an_unknown_stream_takes_nothing(account: Account) -> None:
    """PutLogEvents into a stream or group that does not exist is ResourceNotFoundException."""
    group = Group(account, "unknown", [])
    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        group.put("nowhere", [(NOW_MS, "x")])
    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        group.logs.filter_log_events(logGroupName="/dstack/jobs/nowhere")


def test_a_group_may_be_named_by_its_arn(account: Account) -> None:
    """A name or an ARN may be given as logGroupIdentifier, in place of logGroupName."""
    group = Group(account, "identifier", ["a"])
    group.put("a", [(NOW_MS, "x")])
    [described] = group.logs.describe_log_groups(logGroupNamePrefix=group.name)["logGroups"]
    for identifier in (group.name, described["arn"]):
        answer = group.logs.filter_log_events(logGroupIdentifier=identifier)
        assert [event["message"] for event in answer["events"]] == ["x"]
