"""Idle machines in the table: offered on their own word, promised once, paid for once, on both databases."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from dstackd import protocol
from dstackd.core.bounds import Bounds
from dstackd.core.budget import IDLE_MARGIN_S
from dstackd.core.cost import machine_cost_usd
from dstackd.core.instance import InstanceState
from dstackd.core.reuse import IdleMachine
from dstackd.errors import StaleRow
from dstackd.protocol import InboxEvent
from dstackd.store import inbox, machines, reuse
from dstackd.store.engine import Database
from dstackd.store.idle import settle_idle
from dstackd.store.launches import Member
from dstackd.store.live import live_by_type
from dstackd.store.queries import counts, job_attempts, list_machines
from dstackd.store.usage import read_usage
from tests.builders import NOW_MS, an_instance
from tests.store import rows
from tests.store.rows import accept, boot

SECONDS = 300
LATER_MS = NOW_MS + 100_000
WAITS = ("3", "15", "0", "0", protocol.IDLE, "1", str(SECONDS))


async def say(
    database: Database,
    *events: tuple[str, tuple[str, ...]],
    job_id: str = "job-1",
    at_ms: int = NOW_MS,
) -> None:
    """The machine's words about a job, its first one."""
    reports = [
        (InboxEvent("i-1", n, kind, job_id, 1, fields), at_ms)
        for n, (kind, fields) in enumerate(events)
    ]
    await database.write(lambda connection: inbox.record(connection, reports, now_ms=at_ms))


async def make_idle(database: Database) -> IdleMachine:
    """The machine of job-1, which has just said that it waits."""
    await boot(database)
    await say(database, (protocol.EXITED, ("0", "exit")), (protocol.DONE, WAITS))
    (machine,) = await idle(database)
    return machine


async def idle(database: Database, now_ms: int = NOW_MS) -> list[IdleMachine]:
    return await database.read(lambda connection: reuse.idle_machines(connection, now_ms=now_ms))


async def claim(database: Database, machine: IdleMachine, job_id: str = "job-2") -> None:
    """Commit the intent."""

    async def work(connection: AsyncConnection) -> None:
        await reuse.commit_reuse(
            connection,
            launch_id=f"launch-of-{job_id}",
            document="{}",
            machine=machine,
            member=Member(job_id, 1, 1, 0.0),
            now_ms=LATER_MS,
        )

    await database.write(work)


async def test_a_machine_waits_on_its_own_word(either: Database) -> None:
    """As many seconds as it says, under its number; its attempt is released and not over."""
    machine = await make_idle(either)
    assert (machine.instance_id, machine.number) == ("i-1", 1)
    assert machine.until_ms == NOW_MS + SECONDS * 1000
    attempt = await rows.attempt(either)
    assert (attempt["released_at_ms"], attempt["ended_at_ms"]) == (NOW_MS, None)
    assert await idle(either, NOW_MS + SECONDS * 1000) == []


@pytest.mark.parametrize(
    "spoils",
    [
        "UPDATE attempt SET outcome = 'exited'",
        "UPDATE attempt SET terminate_requested_at_ms = 1",
        "UPDATE attempt SET notice_at_ms = 1",
        "UPDATE machine SET gone_at_ms = 1",
        "UPDATE machine SET idle_number = 1",
    ],
)
async def test_a_machine_that_has_been_judged_does_not_wait(spoils: str, either: Database) -> None:
    """It was asked to terminate, is reclaimed, gone, or repeats an old word: it is not offered, and goes as always."""
    await boot(either)
    await say(either, (protocol.EXITED, ("0", "exit")))
    await rows.run(either, spoils)
    await say(either, (protocol.DONE, WAITS))
    assert await idle(either) == []
    assert (await rows.attempt(either))["released_at_ms"] is None


@pytest.mark.parametrize(
    "fields",
    [
        ("3", "15", "0", "0"),
        ("3", "15", "0", "0", "nonsense", "1", "300"),
        ("3", "15", "0", "0", "idle"),
        ("3", "15", "0", "0", "idle", "x", "300"),
        ("3", "15", "0", "0", "idle", "0", "300"),
        ("3", "15", "0", "0", "idle", "99999999999", "300"),
    ],
)
async def test_words_that_make_no_sense_offer_nothing(
    fields: tuple[str, ...], either: Database
) -> None:
    """Anybody may write into a bucket."""
    await boot(either)
    await say(either, (protocol.EXITED, ("0", "exit")), (protocol.DONE, fields))
    assert await idle(either) == []


async def test_a_machine_is_promised_once(either: Database) -> None:
    """The second intent for the same decision writes nothing at all."""
    machine = await make_idle(either)
    await accept(either, "job-2", "job-3")
    await claim(either, machine)
    assert await idle(either) == []
    for stale in (machine, replace(machine, number=2)):
        with pytest.raises(StaleRow):
            await claim(either, stale, "job-3")
    assert (await rows.job(either, "job-3"))["phase"] == "queued"
    assert [each.instance_id for each in await either.read(reuse.open_reuses)] == ["i-1"]


async def test_an_answer_is_saved_once(either: Database) -> None:
    """Taken: the job boots there, and the waiting is on the first job's bill once. A refusal after it changes nothing."""
    machine = await make_idle(either)
    await accept(either, "job-2")
    await claim(either, machine)
    (open_reuse,) = await either.read(reuse.open_reuses)
    for save in (reuse.save_taken, reuse.save_taken, reuse.save_refused):
        await either.write(partial(save, reuse=open_reuse, now_ms=LATER_MS))
    assert (await rows.job(either, "job-2"))["phase"] == "booting"
    assert (await rows.attempt(either, "job-2"))["launched_at_ms"] == LATER_MS
    first = await rows.attempt(either)
    assert first["idle_ms"] == LATER_MS - NOW_MS
    whole_usd = machine_cost_usd(0.05, from_ms=NOW_MS, until_ms=LATER_MS)
    await either.write(
        lambda connection: machines.end_attempts(connection, [("job-1", 1)], now_ms=LATER_MS + 9)
    )
    assert (await rows.attempt(either))["cost_usd"] == pytest.approx(whole_usd)
    assert (await rows.job(either))["cost_usd"] == pytest.approx(whole_usd)


async def test_a_machine_that_waits_again_before_the_answer_is_saved(either: Database) -> None:
    """Its next wait is offered, the answer does not end it, and each of its hours is on one bill."""
    machine = await make_idle(either)
    await accept(either, "job-2")
    await claim(either, machine)
    (open_reuse,) = await either.read(reuse.open_reuses)
    again = ("3", "15", "0", "0", protocol.IDLE, "2", str(SECONDS))
    words = ((protocol.EXITED, ("0", "exit")), (protocol.DONE, again))
    await say(either, *words, job_id="job-2", at_ms=LATER_MS)
    (waits,) = await idle(either, LATER_MS)
    await either.write(partial(reuse.save_taken, reuse=open_reuse, now_ms=LATER_MS + 50_000))
    assert await idle(either, LATER_MS) == [waits]
    assert (waits.number, waits.until_ms) == (2, LATER_MS + SECONDS * 1000)
    first, second = await rows.attempt(either), await rows.attempt(either, "job-2")
    assert (first["idle_ms"], second["released_at_ms"]) == (LATER_MS - NOW_MS, LATER_MS)
    over = [("job-1", 1), ("job-2", 1)]
    await either.write(partial(machines.end_attempts, attempts=over, now_ms=LATER_MS + 60_000))
    await either.write(partial(settle_idle, instance_ids=["i-1"], until_ms=LATER_MS + 90_000))
    paid_usd = sum([(await rows.job(either, job_id))["cost_usd"] for job_id, _ in over])
    whole_usd = machine_cost_usd(0.05, from_ms=NOW_MS, until_ms=LATER_MS + 90_000)
    assert paid_usd == pytest.approx(whole_usd)


async def test_a_refusal_sends_the_job_back(either: Database) -> None:
    """The attempt is gone with its number, the machine is not offered again, and still nobody's orphan for a while."""
    machine = await make_idle(either)
    await accept(either, "job-2")
    await claim(either, machine)
    (open_reuse,) = await either.read(reuse.open_reuses)
    await either.write(partial(reuse.save_refused, reuse=open_reuse, now_ms=LATER_MS))
    job = await rows.job(either, "job-2")
    assert (job["phase"], job["attempt"]) == ("queued", 0)
    assert await idle(either, LATER_MS) == []
    for now_ms, needed in ((LATER_MS, True), (LATER_MS + int(IDLE_MARGIN_S * 1000), False)):
        found, _ = await either.read(partial(machines.needed, now_ms=now_ms))
        assert ("i-1" in found) is needed


async def test_a_clock_that_steps_back_offers_a_machine_again(either: Database) -> None:
    """The bucket says once more that the machine has left; a second intent about the same decision breaks nothing."""
    machine = await make_idle(either)
    await accept(either, "job-2", "job-3")
    await claim(either, machine)
    (open_reuse,) = await either.read(reuse.open_reuses)
    await either.write(partial(reuse.save_refused, reuse=open_reuse, now_ms=LATER_MS + 60_000))
    await claim(either, machine, "job-3")
    assert (await rows.job(either, "job-3"))["phase"] == "launching"


async def test_an_idle_machine_is_held_once(either: Database) -> None:
    """By its project while it waits, by the next attempt once it is promised: in bounds, quotas and figures."""
    machine = await make_idle(either)
    bounds = Bounds(budget_per_day_usd=1.0)

    async def held() -> tuple[int, list[tuple[str, str, int]], int]:
        usage = await either.read(partial(read_usage, bounds=bounds, now_ms=LATER_MS))
        idle_count = (await either.read(partial(counts, now_ms=LATER_MS)))["idle_machines"]
        return usage.total.machines, await either.read(live_by_type), idle_count

    assert await held() == (1, [("m5.large", "spot", 1)], 1)
    usage = await either.read(partial(read_usage, bounds=bounds, now_ms=LATER_MS))
    spent_usd = machine_cost_usd(0.05, from_ms=NOW_MS, until_ms=NOW_MS)
    assert usage.total.spent_usd == pytest.approx(spent_usd + 0.05 * 100 / 3600)
    assert usage.total.reserved_usd == pytest.approx(0.05 * (200 + IDLE_MARGIN_S) / 3600)
    await accept(either, "job-2")
    await claim(either, machine)
    assert await held() == (1, [("m5.large", "spot", 1)], 0)


async def test_what_is_shown_of_it(either: Database) -> None:
    """The machine with no job and until when; the attempt with since when."""
    await make_idle(either)
    (machine,) = await either.read(list_machines)
    assert (machine["job_id"], machine["idle_until_ms"]) == (None, NOW_MS + SECONDS * 1000)
    (attempt,) = await either.read(partial(job_attempts, job_id="job-1"))
    assert attempt["idle_since_ms"] == NOW_MS


async def test_the_end_of_an_idle_machine_is_settled_once(either: Database) -> None:
    """Seen gone: what it waited is on the bill, whoever settles again."""
    await make_idle(either)
    gone = an_instance(instance_id="i-1", state=InstanceState.TERMINATED)
    await either.write(partial(machines.save_states, instances=[gone], now_ms=LATER_MS))
    await either.write(partial(settle_idle, instance_ids=["i-1"], until_ms=LATER_MS + 50_000))
    assert (await rows.attempt(either))["idle_ms"] == LATER_MS - NOW_MS


async def test_what_befalls_an_idle_machine_is_not_its_last_jobs(either: Database) -> None:
    """A notice or a failure takes it off the offer, is recorded, and leaves the attempt as it was."""
    await make_idle(either)
    await say(either, (protocol.NOTICE, ("terminate", "now")), (protocol.FAILED, ("x", "y")))
    attempt = await rows.attempt(either)
    assert (attempt["notice_at_ms"], attempt["failed_stage"]) == (None, "")
    assert await idle(either) == []
