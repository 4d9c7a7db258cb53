"""`dstackd explain`."""

from __future__ import annotations

import json
from typing import Any

from dstackd.core.bounds import Bounds
from dstackd.core.instance import Market
from dstackd.errors import BlockScope
from tests.cli.double import as_json, playing
from tests.cli.program import ask, at, dstackd
from tests.cli.test_terminal import WIDTH, on_terminal
from tests.http.region import a_region
from tests.http.test_explain import explained, queued
from tests.http.world import running


async def test_why_a_job_waits() -> None:
    """What it waits for since when, what fits and until when it is blocked, the bounds, its turn, retries and what helps."""
    region = a_region(Bounds(max_machines=5))
    async with running(backend=region.backend) as world:
        job_id = await queued(world, region, "abc", name="nightly")
        region.refuse(Market.SPOT, BlockScope.REGION)
        done = await ask(world, "explain", "abc")
        shown = json.loads((await ask(world, "explain", "--json", "abc")).out)
        assert shown == await explained(world, job_id)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == "abc (nightly) is queued since 08:00:00Z, 0s"
    titles = [line for line in lines if line and not line.startswith(" ")][1:]
    assert titles == ["Waits for", "Next", "What fits", "Bounds", "Its turn", "Retries"]
    assert "  - scheduling.max_machines = 5 machines: 0 in use, the job takes 1; has room" in lines
    assert "  - no job comes before it" in lines
    assert any(
        "until 08:03:00Z: InsufficientInstanceCapacity: sold out (wait)" in each for each in lines
    )
    assert "  0 of 6 offerings open now; first in line is m5.large (spot) in us-east-1a" in lines


async def test_attempts_and_history() -> None:
    """Each station of an attempt with what it took; with --history each event and what was known then."""
    async with running() as world:
        job_id = await world.insert_job(submitted_at_ms=1_000)
        times = {"launched_at_ms": 2_000, "booted_at_ms": 22_000, "started_at_ms": 25_000}
        await world.insert_attempt(
            job_id, 1, instance_id="i-1", outcome="exited", exit_code=3, exit_cause="exit",
            exited_at_ms=200_000, **times,
        )  # fmt: skip
        await world.end_attempt(job_id, 1, lines_sent=0)
        await world.sql("UPDATE attempt SET ended_at_ms = 201000")
        await world.finish_job(job_id, "failed", 3)
        await world.sql(
            "INSERT INTO event (at_ms, job_id, attempt, kind, phase_to, reason, message, detail)"
            " VALUES (1500, ?, 1, 'phase', 'launching', 'intent_committed', 'asking', ?)",
            job_id,
            json.dumps({"launch": "l", "offering": "o"}),
        )
        done = await ask(world, "explain", "--history", job_id)
    lines = done.out.splitlines()
    assert (
        "  launched 1970-01-01T00:00:02Z, booted +20.0s, commands started +3.0s, commands ended +2m55s, over +1.0s"
        in lines
    )
    assert "  end: exited, exit code 3 (exit)" in lines
    assert "      +0.5s launching intent_committed: asking [attempt 1]" in lines
    assert "            launch l, offering o" in lines
    assert any("add error to retry.on" in line for line in lines)


def an_answer() -> dict[str, Any]:
    """A job that says odd things."""
    job = {
        "id": "abc",
        "name": "\x1b[31mred",
        "finished_at_ms": None,
        "submitted_at_ms": 0,
    }
    return {
        "job": job,
        "now_ms": 90_000_000,
        "phase": "running",
        "since_ms": 1_000,
        "reason": "started",
        "message": "",
        "waits_for": [{"text": "a\nb " * 40, "since_ms": 500, "reason": ""}],
        "next_steps": [{"text": "t", "at_ms": 90_010_000, "bound": "limits.x_s", "value_s": 10.0}],
        "retries": [],
        "advice": [],
        "queue": None,
        "attempts": [],
        "events": [],
    }


def test_text_of_others_is_harmless_and_days_are_named() -> None:
    """No control character reaches the terminal; a moment of another day has its date."""
    with playing(lambda _path, _query: as_json(an_answer())) as double:
        done = dstackd("explain", "abc", variables=at(double.socket))
    assert "\x1b" not in done.out
    assert "since 1970-01-01 00:00:01Z, 1d00h" in done.out
    assert "01:00:10Z, in 10s: t (limits.x_s: 10 s)" in done.out


def test_a_terminal_is_not_overflown() -> None:
    """No line is wider than the terminal; headings stand out there, and do not with NO_COLOR."""
    with playing(lambda _path, _query: as_json(an_answer())) as double:
        shown = on_terminal(double.socket, "explain", "abc")
        plain = on_terminal(double.socket, "explain", "abc", NO_COLOR="1")
    assert "\x1b[1mWaits for\x1b[0m" in shown
    assert "\x1b" not in plain
    assert max(map(len, plain.splitlines())) <= WIDTH


def test_no_daemon() -> None:
    """69, as with every client."""
    assert (
        dstackd("explain", "x", variables={"DSTACKD_STATE__DIRECTORY": "/nonexistent"}).code == 69
    )
