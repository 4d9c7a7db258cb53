"""`dstackd reap`."""

from __future__ import annotations

import json
from typing import Any

from dstackd.core.orphan import ORPHAN_GRACE_MS
from tests.cli.double import Reply, as_json, playing
from tests.cli.program import ask, at, dstackd
from tests.cli.test_terminal import WIDTH, on_terminal
from tests.http.region import a_region
from tests.http.test_reap import launch
from tests.http.world import running

BACKEND = "INSERT INTO backend (name, region, bucket, created_at_ms) VALUES ('main', 'r', 'b', 1)"


async def test_a_dry_run_shows_all_and_touches_nothing() -> None:
    """A line a machine; 0 when nothing would go, 1 when something would."""
    region = a_region()
    async with running(backend=region.backend) as world:
        world.clock.now_ms = region.clock.now_ms  # type: ignore[method-assign]
        empty = await ask(world, "reap", "--dry-run")
        orphan, foreign = await launch(region, "a"), await launch(region, "b", owner="another")
        young = await ask(world, "reap", "--dry-run")
        region.clock.advance(ORPHAN_GRACE_MS / 1000 + 10)
        old = await ask(world, "reap", "--dry-run")
        shown = json.loads((await ask(world, "reap", "--dry-run", "--json")).out)
    assert (empty.code, empty.out) == (0, "")
    assert empty.err == "0 machines of ours; nothing to reap\n"
    assert young.code == 0
    assert old.code == 1
    header, first, second = old.out.splitlines()
    assert header.split() == ["MACHINE", "IS", "TYPE", "MARKET", "ZONE", "AGE", "COST", "FOR"]
    assert first == (
        f"{orphan}  orphan   m5.large  spot    us-east-1a  2m10s     ?  nobody; not looked at before"
    )
    assert second.split()[:2] == [foreign, "foreign"]
    assert second.endswith("owner another")
    assert old.err == "1 machine of ours, 1 of other installations (never touched); 1 to reap\n"
    assert shown["to_reap"] == 1
    assert region.cloud.calls["TerminateInstances"] == 0


async def test_reaping_is_asked_for() -> None:
    """Off a terminal only with --yes, before anything is done; with nothing to reap nobody is asked."""
    region = a_region()
    async with running(backend=region.backend) as world:
        world.clock.now_ms = region.clock.now_ms  # type: ignore[method-assign]
        nothing = await ask(world, "reap")
        await launch(region, "a")
        region.clock.advance(ORPHAN_GRACE_MS / 1000 + 10)
        refused = await ask(world, "reap")
    assert nothing.code == 0
    assert refused.code == 2
    assert "say --yes" in refused.err
    assert region.cloud.calls["TerminateInstances"] == 0


async def test_what_was_looked_at_before_goes_at_once() -> None:
    """The daemon's own look counts as the first; the second terminates."""
    region = a_region()
    async with running(backend=region.backend) as world:
        world.clock.now_ms = region.clock.now_ms  # type: ignore[method-assign]
        await world.sql(BACKEND)
        orphan = await launch(region, "a")
        region.clock.advance(ORPHAN_GRACE_MS / 1000 + 10)
        assert world.context.reaper is not None
        await world.context.reaper.reap_now()
        region.clock.advance(10.0)
        done = await ask(world, "reap", "--yes")
    assert done.code == 0
    assert f"{orphan}: asked to terminate" in done.err
    assert "confirmed" in done.out


def a_view() -> dict[str, Any]:
    """One suspect."""
    machine = {
        "instance_id": "i-1",
        "standing": "orphan",
        "why": "\x1b[31m",
        "owner": "",
        "state": "running",
        "instance_type": "m5.large",
        "market": "spot",
        "zone": "us-east-1a",
        "launch_id": "l",
        "launched_at_ms": 0,
        "price_usd_h": None,
        "cost_usd": 1.25,
        "job_id": None,
        "attempt": None,
        "idle_until_ms": None,
        "since_ms": 3_000,
    }
    request = {"id": "sir-1", "launch_id": "l", "marked_since_ms": None, "confirmed": False}
    machines = [machine, {**machine, "instance_id": "i-2", "standing": "stuck"}]
    return {
        "taken_at_ms": 60_000,
        "machines": machines,
        "spot_requests": [request],
        "to_reap": 2,
    }


def test_the_first_look_may_be_the_marking_one() -> None:
    """It looks again, seconds later, and says what went when."""
    answers = iter(
        [
            {"terminated": [], "marked": ["i-1"], "cancelled": [], "marked_requests": []},
            {"terminated": ["i-1"], "marked": [], "cancelled": ["sir-1"], "marked_requests": []},
        ]
    )
    views: list[object] = [a_view()]

    def answer(_path: str, _query: dict[str, str]) -> Reply:
        return as_json(views.pop() if views else next(answers))

    with playing(answer) as double:
        done = dstackd("reap", "--yes", "--json", variables=at(double.socket))
    assert done.code == 0
    assert json.loads(done.out)["terminated"] == ["i-1"]
    assert "looked once; again in 6 s" in done.err
    assert "sir-1: cancelled" in done.err


def test_what_is_shown_fits_and_is_harmless() -> None:
    """On a terminal of 60 columns; what will not go is said to be stuck."""
    with playing(lambda _path, _query: as_json(a_view())) as double:
        seen = on_terminal(double.socket, "reap", "--dry-run")
        done = dstackd("reap", "--dry-run", variables=at(double.socket))
    assert max(map(len, seen.splitlines())) <= max(
        WIDTH, len("spot request sir-1 is open without a launch; not looked at before")
    )
    assert "nobody; marked at 00:00:03Z" in done.out
    assert "spot request sir-1 is open without a launch; not looked at before" in done.out
    assert "1 that will not go" in done.err
    assert done.code == 1
    assert "\x1b" not in done.out


def test_no_daemon() -> None:
    """69, and where it looked."""
    done = dstackd("reap", "--dry-run", variables={"DSTACKD_STATE__DIRECTORY": "/nonexistent"})
    assert done.code == 69
