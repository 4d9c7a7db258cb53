"""`dstackd schedules`, and needs on the command line."""

from __future__ import annotations

import json

from tests.cli.program import ask
from tests.http.region import a_region
from tests.http.world import running


async def test_schedules_are_listed() -> None:
    """A line each: the next time, the last job, and what is wrong."""
    async with running() as world:
        assert "no schedules yet" in (await ask(world, "schedules")).err
        row = "INSERT INTO schedule (name, cron, spec, enabled) VALUES (?, ?, '{}', ?)"
        await world.sql(row, "nightly", "0 6 * * *", 1)
        await world.sql(row, "off", "0 7 * * *", 0)
        await world.sql(
            "UPDATE schedule SET next_run_at_ms = 1784874600000, last_job_id = 'j-1' WHERE name = 'nightly'"
        )
        done = await ask(world, "schedules")
        rows = json.loads((await ask(world, "schedules", "--json")).out)
    header, nightly, off = done.out.splitlines()
    assert header.split()[:4] == ["NAME", "CRON", "TIMEZONE", "NEXT"]
    assert "2026-07-24T06:30:00" in nightly
    assert "j-1" in nightly
    assert off.split()[-5:] == ["off", "-", "-", "-", "-"]
    assert [each["name"] for each in rows] == ["nightly", "off"]


async def test_needs_are_given_and_shown() -> None:
    """`--depends-on ID` and `ID:any`; plan and describe say where these jobs are."""
    async with running(plan=a_region().plan) as world:
        other = await world.insert_job()
        given = ("--depends-on", other, "--depends-on", "gone:any", "--instance-type", "m5.large")
        planned = await ask(world, "plan", *given, "--", "true")
        sent = await ask(world, "submit", *given, "--", "true")
        shown = await ask(world, "describe", sent.out.strip())
        bad = await ask(world, "submit", "--depends-on", f"{other}:sometimes", "--", "true")
    text = f"{other} to succeed (submitted); gone to end (no such job)"
    assert f"first it needs {text}" in planned.err
    assert f"Needs        {text}" in shown.out
    assert bad.code != 0
    assert "depends_on[0].on" in bad.err
