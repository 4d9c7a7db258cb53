"""Saving jobs: guarded by the version, along the table, one event each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dstackd.core.phase import TERMINAL, TRANSITIONS, Phase, Reason
from dstackd.errors import InvariantError, StaleRow
from dstackd.store.engine import Database
from dstackd.store.jobs import queued_jobs, request_cancel
from dstackd.store.moves import FAR_MS, Move, save_fresh_moves, save_moves, visit_later
from tests.builders import NOW_MS
from tests.store import rows
from tests.store.rows import accept, submit

LAUNCH = Move(
    "job-1", 1, Phase.QUEUED, NOW_MS, phase=Phase.LAUNCHING, reason=Reason.INTENT_COMMITTED
)


async def save(database: Database, *moves: Move) -> None:
    """One transaction."""
    await database.write(lambda connection: save_moves(connection, moves))


async def test_a_move_is_one_version_and_one_event(either: Database) -> None:
    """The row says where it is, why and since when; the history says where it came from."""
    await accept(either, "job-1")
    await save(either, replace(LAUNCH, message="why", attempt=1, detail={"a": 1}))
    job = await rows.job(either)
    assert (job["phase"], job["reason"], job["message"]) == ("launching", "intent_committed", "why")
    assert (job["version"], job["phase_since_ms"], job["finished_at_ms"]) == (2, NOW_MS, None)
    assert job["next_visit_at_ms"] == FAR_MS
    events = await rows.rows(either, "SELECT * FROM event ORDER BY id DESC LIMIT 1")
    assert (events[0]["phase_from"], events[0]["phase_to"]) == ("queued", "launching")
    assert (events[0]["detail"], events[0]["attempt"]) == ('{"a": 1}', 1)


async def test_a_save_on_an_older_version_is_refused_as_a_whole(either: Database) -> None:
    """Somebody moved one of the rows on: none is written."""
    await accept(either, "job-1", "job-2")
    await save(either, LAUNCH)
    with pytest.raises(StaleRow, match="job-1"):
        await save(either, replace(LAUNCH, job_id="job-2"), LAUNCH)
    assert (await rows.job(either, "job-2"))["phase"] == "queued"


async def test_fresh_rows_do_not_wait_for_a_stale_one(either: Database) -> None:
    """Where rows are independent, the stale ones are named and the others written."""
    await accept(either, "job-1", "job-2")
    await save(either, LAUNCH)
    both = (LAUNCH, replace(LAUNCH, job_id="job-2"))
    stale = await either.write(lambda connection: save_fresh_moves(connection, both))
    assert stale == {"job-1"}
    assert (await rows.job(either, "job-1"))["version"] == 2
    assert (await rows.job(either, "job-2"))["phase"] == "launching"


ILLEGAL = [(start, end) for start in Phase for end in Phase if end not in TRANSITIONS[start]]


async def test_an_illegal_move_is_a_bug_of_ours(database: Database) -> None:
    """What is not in the table is not written, whoever asks for it."""
    await submit(database, "job-1")
    for start, end in ILLEGAL:
        with pytest.raises(InvariantError, match="not a legal move"):
            await save(database, Move("job-1", 0, start, NOW_MS, phase=end))
    assert (await rows.job(database))["phase"] == "submitted"


async def test_terminal_phases_have_their_time(either: Database) -> None:
    """Every end sets finished_at_ms, as the table's CHECK demands; nothing leaves it."""
    reachable = [end for end in TERMINAL if end in TRANSITIONS[Phase.SUBMITTED]]
    assert len(reachable) == 2
    for end in reachable:
        await submit(either, f"job-{end}")
        await save(either, Move(f"job-{end}", 0, Phase.SUBMITTED, NOW_MS, phase=end))
        assert (await rows.job(either, f"job-{end}"))["finished_at_ms"] == NOW_MS


async def test_a_wake_up_is_not_slept_through(either: Database) -> None:
    """Whoever read the job before it was woken does not put it to sleep, nor save over it."""
    await accept(either, "job-1", "job-2")
    await either.write(lambda connection: request_cancel(connection, ["job-1"]))
    read_before = [("job-1", 1), ("job-2", 1)]
    await either.write(
        lambda connection: visit_later(connection, read_before, next_visit_at_ms=FAR_MS)
    )
    assert (await rows.job(either, "job-1"))["next_visit_at_ms"] == 0
    assert (await rows.job(either, "job-2"))["next_visit_at_ms"] == FAR_MS
    with pytest.raises(StaleRow):
        await save(either, LAUNCH)


async def test_a_cancel_of_what_is_over_or_cancelled_does_nothing(either: Database) -> None:
    """The count says how many were asked."""
    await submit(either, "job-1")
    await accept(either, "job-2")
    await save(either, Move("job-1", 0, Phase.SUBMITTED, NOW_MS, phase=Phase.REJECTED))
    names = ["job-1", "job-2", "job-3"]
    counts = [
        await either.write(lambda connection: request_cancel(connection, names)) for _ in "ab"
    ]
    assert counts == [1, 0]


async def test_the_queue_is_in_order(either: Database) -> None:
    """Priority first, then age; what is not due stays out."""
    await accept(either, "old", "new", "urgent", "later")
    await rows.run(either, "UPDATE job SET priority = 5 WHERE id = 'urgent'")
    await rows.run(either, "UPDATE job SET next_visit_at_ms = :at WHERE id = 'later'", at=FAR_MS)
    found = await either.read(
        lambda connection: queued_jobs(connection, due_at_ms=NOW_MS, count_max=10)
    )
    assert [job.id for job in found] == ["urgent", "old", "new"]
