"""`dstackd plan`."""

from __future__ import annotations

import json
from pathlib import Path

from dstackd.core.instance import Market
from dstackd.errors import BlockScope
from tests.cli.double import as_json, playing
from tests.cli.program import ask, at, dstackd
from tests.http.region import a_region
from tests.http.world import running

TYPE = ("--instance-type", "m5.large")


async def test_a_command_is_planned() -> None:
    """A line an offering in the order of asking, the verdict on standard error, nothing submitted."""
    async with running(plan=a_region().plan) as world:
        done = await ask(world, "plan", *TYPE, "--", "true")
        assert await world.sql("SELECT id FROM job") == []
    header, first, second, *rest = done.out.splitlines()
    assert header.split() == [
        *("#", "TYPE", "MARKET", "ZONE", "VCPU", "MEMORY", "GPU", "USD/H", "STATE")
    ]
    assert first.split() == [
        *("1", "m5.large", "spot", "us-east-1a", "2", "8", "GiB", "-", "0.0350"),
        *("would", "be", "asked", "first"),
    ]
    assert second.split()[-2:] == ["0.0360", "open"]
    assert len(rest) == 4
    assert done.err == (
        "EC2 would be asked for m5.large (spot) in us-east-1a, 0.0350 USD an hour\n"
    )
    assert done.code == 0


async def test_blocked_offerings_say_why_and_until_when() -> None:
    """Those that are open are asked for instead; when none is, the exit code says so."""
    region = a_region()
    region.refuse(Market.SPOT, BlockScope.OFFERING)
    async with running(plan=region.plan) as world:
        some = await ask(world, "plan", *TYPE, "--", "true")
        region.refuse(Market.SPOT, BlockScope.REGION)
        none = await ask(world, "plan", *TYPE, "--", "true")
    _, first, second, *_ = some.out.splitlines()
    assert "until 20" in first
    assert "InsufficientInstanceCapacity: sold out (wait)" in first
    assert second.endswith("would be asked first")
    assert some.code == 0
    assert none.code == 1
    assert "nothing would be launched now: " in none.err


async def test_estimates_are_marked() -> None:
    """Nobody has told a spot price of m4.large."""
    async with running(plan=a_region().plan) as world:
        done = await ask(world, "plan", "--instance-type", "m4.large", "--", "true")
    assert "  ~0.0400  would be asked first" in done.out
    assert "~0.0400 USD an hour" in done.err


async def test_files_are_planned_job_by_job(tmp_path: Path) -> None:
    """Each with its name; one job that nothing fits makes the exit code 1; --json has it all."""
    text = "commands: [a]\ninstance_types: [m5.large]\n---\ncommands: [b]\nmax_price: 0.001\n"
    (tmp_path / "jobs.yaml").write_text(text)
    async with running(plan=a_region().plan) as world:
        done = await ask(world, "plan", "jobs.yaml", folder=tmp_path)
        stdin = await ask(world, "plan", "--json", "-", stdin=text.encode())
    assert done.code == 1
    assert done.out.startswith("jobs.yaml: job 1\n")
    assert "\njobs.yaml: job 2\n" in done.out
    assert "nothing would be launched now: nothing that fits costs at most 0.001" in done.err
    one, two = json.loads(stdin.out)
    assert (one["first"], one["total"], two["first"], two["total"]) == (0, 6, None, 0)
    assert (stdin.code, stdin.err) == (1, "")


async def test_long_lists_are_cut_but_for_the_first_open_one() -> None:
    """-n says how many; what would be asked for is shown however far behind."""
    region = a_region()
    for market in (Market.SPOT, Market.ON_DEMAND):
        region.refuse(market, BlockScope.SUBNET)
    async with running(plan=region.plan) as world:
        done = await ask(world, "plan", "-n", "1", *TYPE, "--", "true")
    _, first, asked = done.out.splitlines()
    assert first.startswith("1  m5.large  spot    us-east-1a")
    assert asked.startswith("2  m5.large  spot    us-east-1b")
    assert "2 of 6 offerings shown; more: -n 6" in done.err


def row(at_index: int, *, blocked: bool) -> dict[str, object]:
    """An offering as the daemon shows it."""
    return {
        "instance_type": f"m{at_index}.large",
        "zone": "z",
        "subnet": "s",
        "market": "spot",
        "price_usd_h": 0.1,
        "estimated": False,
        "vcpus": 2,
        "memory_gib": 1.5,
        "gpu": {"name": "T4", "count": 1},
        "blocked": {"until_ms": 0, "reason": "code\x1b[31m"} if blocked else None,
    }


def test_what_the_daemon_says_is_shown_safely() -> None:
    """The 201st row has no number of its own; text of others cannot play with the terminal."""
    rows = [row(each, blocked=each < 200) for each in range(201)]
    answer = {"offerings": rows, "first": 200, "why_none": None, "total": 999}
    with playing(lambda _path, _query: as_json(answer)) as double:
        done = dstackd("plan", "--", "true", variables=at(double.socket))
    lines = done.out.splitlines()
    assert len(lines) == 1 + 20 + 1
    assert lines[-1].split()[:2] == ["…", "m200.large"]
    assert "1.5 GiB  1 T4" in lines[1]
    assert "\x1b" not in done.out
    assert "21 of 999 offerings shown" in done.err


async def test_wrong_specs_and_command_lines() -> None:
    """As with submit: before anything is asked."""
    assert "nothing to plan" in dstackd("plan").err
    wrong = dstackd("plan", "--cpu", "lots", "--", "true")
    assert wrong.code == 2
    assert "resources.cpu: " in wrong.err
    async with running() as world:
        done = await ask(world, "plan", "--", "true")
    assert done.code == 69
    assert "no backend" in done.err
