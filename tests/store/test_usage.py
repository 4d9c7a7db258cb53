"""What is in use, as the tables show it: machines, vCPUs, launches of the last minute, the day's money."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from dstackd.core.bounds import Bounds, ProjectBounds
from dstackd.core.budget import day_start_ms
from dstackd.core.cost import machine_cost_usd
from dstackd.core.scheduling import Holding, Usage
from dstackd.store import machines
from dstackd.store.engine import Database
from dstackd.store.usage import MINUTE_MS, read_usage
from tests.builders import NOW_MS
from tests.store import rows
from tests.store.rows import accept, answer, intend
from tests.store.test_indices import plan_of

BOUNDS = Bounds(budget_per_day_usd=100.0, launches_per_minute=10)
DAY_MS = day_start_ms(NOW_MS)
HOUR_MS = 3_600_000


async def usage_of(database: Database, bounds: Bounds = BOUNDS, *, now_ms: int = NOW_MS) -> Usage:
    """What is in use."""
    return await database.read(
        lambda connection: read_usage(connection, bounds=bounds, now_ms=now_ms)
    )


async def set_attempts(database: Database, **values: float | None) -> None:
    """Columns of every attempt."""
    columns = ", ".join(f"{name} = :{name}" for name in values)
    await rows.run(database, f"UPDATE attempt SET {columns}", **values)


async def test_nothing_is_in_use_at_first(either: Database) -> None:
    """An empty queue and a queue that waits hold nothing."""
    assert await usage_of(either) == Usage({}, 0)
    await accept(either, "job-1")
    assert (await usage_of(either)).total == Holding()


async def test_a_machine_is_held_from_the_intent_to_the_end(either: Database) -> None:
    """Also while EC2 has not answered, and while the last word of a machine that is gone is not read."""
    await accept(either, "job-1", "job-2")
    await accept(either, "job-3", project="lab")
    launch = await intend(either, "job-1", "job-2")
    await intend(either, "job-3", launch_id="launch-2")
    await set_attempts(either, vcpus=4, reserved_usd=2.0)
    whole = Usage({"main": Holding(2, 8, 0.0, 4.0), "lab": Holding(1, 4, 0.0, 2.0)}, 3)
    assert await usage_of(either) == whole
    await answer(either, launch, "i-1", "i-2")
    assert (await usage_of(either)).total.machines == 3
    await rows.run(either, "UPDATE machine SET gone_at_ms = :at", at=NOW_MS)
    assert (await usage_of(either)).total.machines == 3
    await rows.run(
        either, "UPDATE attempt SET ended_at_ms = :at WHERE job_id <> 'job-3'", at=NOW_MS
    )
    after = await usage_of(either)
    assert (after.total.machines, after.total.vcpus) == (1, 4)


async def test_what_ec2_did_not_give_is_not_held(either: Database) -> None:
    """Neither as a machine nor in the launch rate."""
    await accept(either, "job-1", "job-2")
    await answer(either, await intend(either, "job-1", "job-2"), "i-1")
    usage = await usage_of(either)
    assert (usage.total.machines, usage.launched_last_minute) == (1, 1)


async def test_a_launch_counts_for_a_minute(either: Database) -> None:
    """From its intent; what was launched since then and is over already counts, too."""
    await rows.boot(either)
    await set_attempts(either, ended_at_ms=NOW_MS)
    at_last = await usage_of(either, now_ms=NOW_MS + MINUTE_MS - 1)
    assert at_last.launched_last_minute == 1
    after = await usage_of(either, now_ms=NOW_MS + MINUTE_MS)
    assert after.launched_last_minute == 0


async def test_money_moves_from_reserved_to_spent(either: Database) -> None:
    """Their sum is the worst case as long as the machine is there; what is not spent is free at its end."""
    await rows.boot(either)
    await set_attempts(either, price_usd_h=1.0, reserved_usd=3.0)
    for hours in (1, 2):
        total = (await usage_of(either, now_ms=NOW_MS + hours * HOUR_MS)).total
        assert (total.spent_usd, total.reserved_usd) == pytest.approx((hours, 3 - hours))
    over = (await usage_of(either, now_ms=NOW_MS + 4 * HOUR_MS)).total
    assert (over.spent_usd, over.reserved_usd) == pytest.approx((4, 0))
    await rows.run(either, "UPDATE machine SET gone_at_ms = :at", at=NOW_MS + HOUR_MS)
    gone = (await usage_of(either, now_ms=NOW_MS + 2 * HOUR_MS)).total
    assert (gone.spent_usd, gone.reserved_usd) == pytest.approx((1, 0))


async def test_the_end_of_an_attempt_changes_no_sum(either: Database) -> None:
    """What counts as spent is what the job is billed, before and after."""
    await rows.boot(either)
    at_ms = NOW_MS + HOUR_MS
    await rows.run(either, "UPDATE machine SET gone_at_ms = :at", at=at_ms - 5000)
    before = (await usage_of(either, now_ms=at_ms)).total.spent_usd
    await either.write(lambda c: machines.end_attempts(c, [("job-1", 1)], now_ms=at_ms))
    after = (await usage_of(either, now_ms=at_ms)).total.spent_usd
    assert before == pytest.approx(after)
    assert (await rows.job(either))["cost_usd"] == pytest.approx(after)


async def test_only_what_is_bounded_is_read(either: Database) -> None:
    """Without a daily budget and a launch rate their sums are not asked for."""
    await rows.boot(either)
    await set_attempts(either, reserved_usd=3.0)
    assert await usage_of(either, Bounds(max_machines=1)) == Usage({"main": Holding(1, 0)}, 0)
    own = Bounds(projects={"lab": ProjectBounds(budget_per_day_usd=1.0)})
    assert (await usage_of(either, own)).total.reserved_usd > 0


async def test_sums_are_those_of_a_ledger(either: Database) -> None:
    """For many attempts of every age, over several days: the same as added up one by one."""
    drawn = random.Random(7)
    now_ms = DAY_MS + 7 * HOUR_MS
    await accept(either, "job-0")
    await intend(either, "job-0")
    await rows.run(either, "UPDATE attempt SET ended_at_ms = 0")
    expected: dict[str, Holding] = defaultdict(Holding)
    for number in range(1, 80):
        project = drawn.choice(["lab", "web", "ops"])
        launched_ms = now_ms - drawn.randrange(40 * HOUR_MS)
        gone_ms = drawn.choice([None, drawn.randrange(launched_ms, now_ms)])
        is_over = gone_ms is not None and drawn.random() < 0.7
        ended_ms = min(gone_ms + 30_000, now_ms) if is_over and gone_ms else None
        price, reserved = drawn.uniform(0.01, 3), drawn.uniform(0, 60)
        until_ms = gone_ms or now_ms
        whole = machine_cost_usd(price, from_ms=launched_ms, until_ms=until_ms)
        await add_attempt(
            either,
            job=f"job-{number}",
            project=project,
            instance=f"i-{number}",
            launched=launched_ms,
            gone=gone_ms,
            ended=ended_ms,
            price=price,
            reserved=reserved,
            cost=whole if is_over else 0.0,
        )
        before = price * max(DAY_MS - launched_ms, 0) / HOUR_MS
        if ended_ms is None or ended_ms >= DAY_MS:
            left = 0.0 if gone_ms is not None else max(reserved - whole, 0)
            live = 0 if ended_ms is not None else 1
            expected[project] += Holding(live, 2 * live, max(whole - before, 0), left)
    usage = await usage_of(either, now_ms=now_ms)
    assert set(usage.projects) == set(expected)
    for name, held in expected.items():
        found = usage.projects[name]
        assert (found.machines, found.vcpus) == (held.machines, held.vcpus)
        assert found.spent_usd == pytest.approx(held.spent_usd)
        assert found.reserved_usd == pytest.approx(held.reserved_usd)


async def add_attempt(database: Database, **values: object) -> None:
    """A job with an attempt on a machine of its own."""

    async def work(connection: AsyncConnection) -> None:
        for statement in (
            "INSERT INTO job (id, spec, project) VALUES (:job, '{}', :project)",
            """INSERT INTO machine (instance_id, backend, launch_id, launch_index, instance_type, zone,
                market, price_usd_h, launched_at_ms, gone_at_ms)
            VALUES (:instance, 'main', 'launch-1', 0, 'm5.large', 'a', 'spot', :price, :launched, :gone)""",
            """INSERT INTO attempt (job_id, number, launch_id, launch_index, instance_id, instance_type,
                zone, market, price_usd_h, launched_at_ms, ended_at_ms, vcpus, reserved_usd, cost_usd)
            VALUES (:job, 1, 'launch-1', 0, :instance, 'm5.large', 'a', 'spot', :price, :launched,
                :ended, 2, :reserved, :cost)""",
        ):
            names = {name for name in values if f":{name}" in statement}
            await connection.execute(text(statement), {name: values[name] for name in names})

    await database.write(work)


async def test_no_history_is_read(database: Database) -> None:
    """Attempts that are over are found by the day, launches by the minute; no table is scanned."""
    plan = await plan_of(database, lambda c: read_usage(c, bounds=BOUNDS, now_ms=NOW_MS))
    assert "attempt_ended" in plan, plan
    assert "launch_created" in plan, plan
    assert "SCAN" not in plan, plan
