"""What the demo expects: nothing when all went well, and the right complaint for each thing that did not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from dstackd.demo import jobs as names
from dstackd.demo.evidence import Evidence, LaunchCall, read_calls
from dstackd.demo.expectations import judge
from tests.end_to_end.demo_evidence import ELEMENTS, attempt, good, machine, steps


def with_job(seen: Evidence, name: str, **changes: Any) -> Evidence:  # noqa: ANN401 - fields of JobView
    """The same evidence with one job changed."""
    return replace(
        seen, jobs=tuple(replace(one, **changes) if one.name == name else one for one in seen.jobs)
    )


def with_lines(seen: Evidence, name: str, lines: Mapping[int, Sequence[str]]) -> Evidence:
    """The same evidence with one job's output changed."""
    return replace(seen, lines={**seen.lines, name: lines})


def with_calls(seen: Evidence, *launches: LaunchCall) -> Evidence:
    """The same evidence with more launch calls."""
    return replace(seen, calls=replace(seen.calls, launches=(*seen.calls.launches, *launches)))


def test_good_evidence_meets_every_expectation() -> None:
    """A demo in which all went well is not failed."""
    assert [one for one in judge(good()) if not one.held] == []


AGAIN = LaunchCall("t-lines", 3)
TROUBLES: dict[str, tuple[str, Callable[[Evidence], Evidence]]] = {
    "line lost": (
        names.LINES,
        lambda e: with_lines(e, names.LINES, {1: names.expected_lines()[1:]}),
    ),
    "not followed": (names.LINES, lambda e: replace(e, followed={names.LINES: 99})),
    "artifact differs": (
        names.WORDS,
        lambda e: replace(e, pulled={**e.pulled, "out/words.tsv": b""}),
    ),
    "artifact too many": (names.WORDS, lambda e: replace(e, pulled={**e.pulled, "out/more": b""})),
    "no manifest": (names.WORDS, lambda e: replace(e, manifest=None)),
    "wrong exit code": (names.FAILS, lambda e: with_job(e, names.FAILS, exit_code=1)),
    "tried again": (
        names.FAILS,
        lambda e: with_job(e, names.FAILS, attempts=(attempt(), attempt(2))),
    ),
    "no reclaim": (names.RESUMES, lambda e: replace(e, reclaimed=False)),
    "from the start": (
        names.RESUMES,
        lambda e: with_lines(e, names.RESUMES, {1: steps(1, 10), 2: steps(1, 20)}),
    ),
    "wrong result": (names.SQUARES, lambda e: with_lines(e, ELEMENTS[3], {1: ["3 * 3 = 10"]})),
    "two launches": (names.SQUARES, lambda e: with_calls(e, LaunchCall("t-more", names.ARRAY))),
    "no field named": (names.BROKEN, lambda e: with_job(e, names.BROKEN, message="is wrong")),
    "lines unseen": (
        "logs",
        lambda e: with_job(e, names.FAILS, attempts=(attempt(lines=1, log_lines_sent=2),)),
    ),
    "lines unknown": (
        "logs",
        lambda e: with_job(e, names.FAILS, attempts=(attempt(log_lines_sent=None),)),
    ),
    "called twice": ("launches", lambda e: with_calls(e, AGAIN)),
    "launched twice": (
        "launches",
        lambda e: replace(e, machines=(*e.machines, machine("t-lines", 0))),
    ),
    "no intent": ("launches", lambda e: replace(e, launches=e.launches[1:])),
    "kill too late": ("daemon", lambda e: replace(e, kill_wanted=True)),
    "machine left": (
        "machines",
        lambda e: replace(e, machines=({**e.machines[0], "state": "running"}, *e.machines[1:])),
    ),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_each_trouble_is_noticed(trouble: str) -> None:
    """An expectation about the right thing is not held, whatever single thing went wrong."""
    about, change = TROUBLES[trouble]
    assert about in {one.about for one in judge(change(good())) if not one.held}


def test_a_killed_daemon_may_repeat_a_call_but_not_a_launch() -> None:
    """After a kill the identical call is repeated: the same token, and no machine more."""
    killed = replace(good(), kill_wanted=True, killed_while_running=True)
    assert all(one.held for one in judge(with_calls(killed, AGAIN)))
    twice = replace(killed, machines=(*killed.machines, machine("t-lines", 0)))
    assert not all(one.held for one in judge(twice))


def test_calls_are_counted_by_side() -> None:
    """The daemon's calls and the machines' are apart, and launches keep their token and count."""

    def record(principal: str, operation: str, **parameters: str) -> dict[str, Any]:
        return {
            "principal": principal,
            "service_name": "ec2",
            "operation": operation,
            "parameters": parameters,
        }

    report = {
        "records": [
            record("client", "RunInstances", ClientToken="t", MaxCount="8"),
            record("client", "DescribeInstances"),
            record("i-1", "DescribeInstances"),
        ]
    }
    calls = read_calls(report)
    assert calls.daemon == {"ec2:RunInstances": 1, "ec2:DescribeInstances": 1}
    assert calls.machines == {"ec2:DescribeInstances": 1}
    assert calls.launches == (LaunchCall("t", 8),)
