"""`dstackd describe`. Law: everything that is known of one job, in the order in which a person asks; --json is what the daemon says."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from dstackd.cli.api import connect
from dstackd.cli.options import config_option, json_option
from dstackd.cli.text import (
    cost_text,
    count_text,
    duration_text,
    moment_text,
    need_text,
    size_text,
    table,
)
from dstackd.plain_text import harmless

Row = Mapping[str, Any]

_LABEL_WIDTH: Final = 12
_ELEMENTS_SHOWN_MAX: Final = 20


@click.command()
@click.argument("job")
@json_option
@config_option
def describe(*, job: str, as_json: bool, config: Path | None) -> None:
    """Show all about a job.

    JOB is an id, or the beginning of one. Shows the spec, attempts with machine, log and artifacts,
    the history with reasons, and the cost.
    """
    answer = connect(config).get("v1", "jobs", job)
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    click.echo("\n".join(harmless(line) for line in lines_of(answer, now_ms=time.time() * 1000)))


def lines_of(answer: Row, *, now_ms: float) -> Iterator[str]:
    """The whole description."""
    job, attempts = answer["job"], answer["attempts"]
    yield from _head(job, attempts, answer["elements"], now_ms=now_ms)
    if needs := answer.get("needs"):
        yield _field("Needs", "; ".join(map(need_text, needs)))
    yield "Spec"
    yield from (f"  {line}" for line in _spec_lines(job["spec"]))
    for attempt in attempts:
        yield ""
        yield from _attempt(attempt, job, now_ms=now_ms)
    yield ""
    yield "Timeline"
    yield from _timeline(answer["events"], job["submitted_at_ms"])


def _head(
    job: Row, attempts: Sequence[Row], elements: Sequence[str], *, now_ms: float
) -> Iterator[str]:
    since_s = (now_ms - job["phase_since_ms"]) / 1000
    yield _field("Job", job["id"])
    yield _field("Name", job["name"] or "-")
    yield _field("Project", f"{job['project']}, priority {job['priority']}")
    yield _field("Phase", f"{job['phase']} for {duration_text(since_s)}{_stopping(job)}")
    if job["reason"] or job["message"]:
        yield _field("Reason", ": ".join(filter(None, (job["reason"], job["message"]))))
    if job["exit_code"] is not None:
        yield _field("Exit code", job["exit_code"])
    if job["unique_key"] is not None:
        yield _field("Unique key", job["unique_key"])
    yield _field("Submitted", _ago(job["submitted_at_ms"], now_ms=now_ms))
    if job["run_at_ms"] is not None:
        yield _field("Run at", moment_text(job["run_at_ms"]))
    if job["finished_at_ms"] is not None:
        yield _field("Finished", _ago(job["finished_at_ms"], now_ms=now_ms))
    ran = f"{len(attempts)}, of which {job['ran_attempts']} ran" if attempts else "none yet"
    yield _field("Attempts", "those of its elements" if elements else ran)
    yield _field("Cost", f"{cost_text(job['cost_usd'])} (estimate)")
    if job["array_parent"]:
        yield _field("Element", f"{job['array_index']} of array {job['array_parent']}")
    if elements:
        more = len(elements) - _ELEMENTS_SHOWN_MAX
        shown = " ".join(elements[:_ELEMENTS_SHOWN_MAX])
        yield _field("Elements", f"{shown} and {more} more" if more > 0 else shown)


def _stopping(job: Row) -> str:
    return ", asked to stop" if job["cancel_requested"] and job["finished_at_ms"] is None else ""


def _spec_lines(spec: object) -> list[str]:
    """A row may hold anything: what is no JSON value is shown as the text it is."""
    if isinstance(spec, str):
        return spec.splitlines()
    return json.dumps(spec, indent=2, ensure_ascii=False).splitlines()


def _attempt(attempt: Row, job: Row, *, now_ms: float) -> Iterator[str]:
    yield f"Attempt {attempt['number']}: {outcome_text(attempt)}"
    machine = f"{attempt['instance_type']} {attempt['market']} in {attempt['zone']}"
    price = f"${attempt['price_usd_h']:.4f}/h"
    again = ", used again" if attempt["reused"] else ""
    yield _field("  Machine", f"{attempt['instance_id'] or 'none yet'}, {machine}, {price}{again}")
    yield _field("  Ran", _times(attempt, job, now_ms=now_ms))
    yield from _notices(attempt, job)
    if attempt["failed_stage"]:
        yield _field("  Failed", f"{attempt['failed_stage']}: {attempt['failed_message']}")
    yield _field("  Log", log_verdict(attempt))
    yield _field("  Artifacts", artifacts_verdict(attempt))
    if waiting := idle_text(attempt, now_ms=now_ms):
        yield _field("  Idle", waiting)
    yield _field("  Cost", cost_text(attempt["cost_usd"]))


def _notices(attempt: Row, job: Row) -> Iterator[str]:
    """What EC2 has said about the machine's future."""
    for column, what in (
        ("rebalance_at_ms", "EC2 expected to take the machine back"),
        ("notice_at_ms", "EC2 announced to take the machine back"),
    ):
        if attempt[column] is not None:
            after = _after(attempt[column], job["submitted_at_ms"])
            yield _field("  Notice", f"{what}, {after}")


def outcome_text(attempt: Row) -> str:
    """How it ended, with code, signal and cause."""
    if attempt["outcome"] is None:
        return "in progress"
    code = "" if attempt["exit_code"] is None else f", exit code {attempt['exit_code']}"
    causes = [text for text in (attempt["exit_signal"], attempt["exit_cause"]) if text]
    cause = f" ({', '.join(causes)})" if causes else ""
    return f"{attempt['outcome']}{code}{cause}"


def idle_text(attempt: Row, *, now_ms: float) -> str:
    """How long the machine has waited for another job on this attempt's account; empty when it has not."""
    since_ms, until_ms = attempt["idle_since_ms"], attempt["idle_until_ms"]
    if since_ms is not None:
        waited = f"for {duration_text((now_ms - since_ms) / 1000)} so far, not in the cost yet"
        until = (
            "being taken" if until_ms is None else f"until {moment_text(until_ms)} at the latest"
        )
        return f"{waited}, {until}"
    return f"waited {duration_text(attempt['idle_ms'] / 1000)}" if attempt["idle_ms"] else ""


def _times(attempt: Row, job: Row, *, now_ms: float) -> str:
    """When the commands ran, from the job's submission on."""
    started_ms = attempt["started_at_ms"]
    if started_ms is None:
        return "its commands have not started"
    begin = _after(started_ms, job["submitted_at_ms"])
    ended_ms = attempt["exited_at_ms"] or attempt["ended_at_ms"]
    took = duration_text(((ended_ms or now_ms) - started_ms) / 1000)
    return f"from {begin} for {took}" + ("" if ended_ms else " so far")


def log_verdict(attempt: Row) -> str:
    """How many lines are here, and whether these are all that the job wrote."""
    seen = count_text(attempt["log_lines_seen"], "line")
    verdict = attempt["log_verdict"]
    if not verdict:
        return (
            f"{seen} so far" if attempt["ended_at_ms"] is None else "none: the commands never ran"
        )
    lost = attempt["log_lines_lost"]
    disk = f"; the machine's disk did not take {lost}" if lost else ""
    return f"{seen}, {verdict}{disk}"


def artifacts_verdict(attempt: Row) -> str:
    """What was sealed, or why nothing was."""
    verdict = attempt["seal_verdict"]
    if not verdict:
        return "not sealed yet" if attempt["ended_at_ms"] is None else "none sealed"
    files, size_bytes = attempt["artifact_files"] or 0, attempt["artifact_bytes"] or 0
    message = f": {attempt['seal_message']}" if attempt["seal_message"] else ""
    return f"{verdict}, {count_text(files, 'file')}, {size_text(size_bytes)}{message}"


def _timeline(events: Sequence[Row], from_ms: int) -> Iterator[str]:
    rows = [
        (
            _after(event["at_ms"], from_ms),
            event["attempt"] or "-",
            event["phase_to"] or "",
            event["reason"] or event["kind"],
            event["message"],
        )
        for event in events
    ]
    header = ("AFTER", "ATTEMPT", "PHASE", "WHY", "MESSAGE")
    yield from (f"  {line}" for line in table(header, rows, right=("AFTER", "ATTEMPT")))


def _after(at_ms: int, from_ms: int) -> str:
    seconds = (at_ms - from_ms) / 1000
    return f"+{seconds:.1f}s" if seconds < 60 else f"+{duration_text(seconds)}"  # noqa: PLR2004 - a minute


def _ago(at_ms: int, *, now_ms: float) -> str:
    return f"{moment_text(at_ms)}, {duration_text((now_ms - at_ms) / 1000)} ago"


def _field(label: str, value: object) -> str:
    return f"{label:<{_LABEL_WIDTH}} {value}"
