"""Launch intents and their answers: each saved once, whoever saves it again."""

from __future__ import annotations

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from dstackd.core.phase import Reason
from dstackd.errors import StaleRow
from dstackd.store import launches, machines
from dstackd.store.engine import Database
from dstackd.store.launches import Launch
from tests.builders import NOW_MS, a_request
from tests.store import rows
from tests.store.rows import accept, answer, intend


async def fail(database: Database, launch: Launch) -> None:
    """EC2 refused."""

    async def work(connection: AsyncConnection) -> None:
        await launches.save_failure(
            connection,
            launch,
            code="InsufficientInstanceCapacity",
            reason=Reason.NO_CAPACITY,
            message="none left",
            now_ms=NOW_MS,
        )

    await database.write(work)


async def needed(connection: AsyncConnection) -> tuple[frozenset[str], frozenset[str]]:
    """What the reaper leaves alone now."""
    return await machines.needed(connection, now_ms=NOW_MS)


async def test_an_intent_is_committed_as_a_whole(either: Database) -> None:
    """The launch, one attempt a job in the order of the index, and the jobs' moves; read back, the request is identical."""
    await accept(either, "job-1", "job-2")
    launch = await intend(either, "job-1", "job-2")
    (found,) = await either.read(launches.open_launches)
    assert found == launch
    attempts = await rows.rows(either, "SELECT * FROM attempt ORDER BY launch_index")
    assert [(each["job_id"], each["number"]) for each in attempts] == [("job-1", 1), ("job-2", 1)]
    assert {(await rows.job(either, name))["phase"] for name in ("job-1", "job-2")} == {"launching"}


async def test_an_intent_with_a_stale_job_is_not_committed(either: Database) -> None:
    """Nothing is left of it: no launch, no attempt, no move."""
    await accept(either, "job-1", "job-2")
    await rows.run(either, "UPDATE job SET version = 9 WHERE id = 'job-2'")
    with pytest.raises(StaleRow):
        await intend(either, "job-1", "job-2")
    assert await either.read(launches.open_launches) == []
    assert await rows.rows(either, "SELECT * FROM attempt") == []
    assert (await rows.job(either, "job-1"))["phase"] == "queued"


async def test_an_answer_is_saved_once(either: Database) -> None:
    """The second time nothing happens, not even an event."""
    await accept(either, "job-1")
    launch = await intend(either, "job-1")
    await answer(either, launch, "i-1")
    events = await rows.rows(either, "SELECT id FROM event")
    await answer(either, launch, "i-1")
    await fail(either, launch)
    job = await rows.job(either)
    assert (job["phase"], job["attempt"]) == ("booting", 1)
    assert (await rows.attempt(either))["instance_id"] == "i-1"
    assert len(await rows.rows(either, "SELECT * FROM machine")) == 1
    assert await rows.rows(either, "SELECT id FROM event") == events


async def test_what_ec2_did_not_give_goes_back_at_once(either: Database) -> None:
    """The first job boots; the second is in the queue again, with the reason, its attempt not counted."""
    await accept(either, "job-1", "job-2")
    await answer(either, await intend(either, "job-1", "job-2"), "i-1")
    assert (await rows.job(either, "job-1"))["phase"] == "booting"
    job = await rows.job(either, "job-2")
    assert (job["phase"], job["reason"], job["attempt"]) == ("queued", "no_capacity", 0)
    assert await rows.rows(either, "SELECT * FROM attempt WHERE job_id = 'job-2'") == []


async def test_a_failure_is_saved_once_and_the_number_is_used_again(either: Database) -> None:
    """No attempt is left; the next intent has the same number."""
    await accept(either, "job-1")
    launch = await intend(either, "job-1")
    for _ in range(2):
        await fail(either, launch)
    job = await rows.job(either)
    assert (job["phase"], job["attempt"], job["ran_attempts"]) == ("queued", 0, 0)
    assert job["message"] == "none left"
    (row,) = await rows.rows(either, "SELECT * FROM launch")
    assert (row["state"], row["error_code"]) == ("failed", "InsufficientInstanceCapacity")


async def test_a_client_token_is_used_once(either: Database) -> None:
    """Two launches with one token would be one machine for two."""
    await accept(either, "job-1", "job-2")
    launch = await intend(either, "job-1")
    assert launch.request == a_request(client_token="token-launch-1")
    with pytest.raises(Exception, match=r"(?i)unique|duplicate"):
        await intend(either, "job-2")


async def test_a_machine_of_ours_may_exist_from_the_intent_to_the_end_of_the_attempt(
    either: Database,
) -> None:
    """An open intent, a live machine, and an attempt whose machine has gone but whose last word was not read."""
    assert not await either.read(machines.anything_live)
    await accept(either, "job-1")
    launch = await intend(either, "job-1")
    assert await either.read(machines.anything_live)
    assert await either.read(needed) == (frozenset(), frozenset({"launch-1"}))
    await answer(either, launch, "i-1")
    assert await either.read(needed) == (frozenset({"i-1"}), frozenset())
    await rows.run(either, "UPDATE machine SET gone_at_ms = :at", at=NOW_MS)
    assert await either.read(machines.anything_live)
    await rows.run(either, "UPDATE attempt SET ended_at_ms = :at", at=NOW_MS)
    assert not await either.read(machines.anything_live)
