"""What machines report, written onto attempts."""

from __future__ import annotations

from itertools import permutations

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from dstackd import protocol
from dstackd.protocol import InboxEvent
from dstackd.store.engine import Database
from dstackd.store.inbox import Receipt, record
from tests.builders import NOW_MS
from tests.store import rows
from tests.store.rows import accept, answer, boot, intend

LIFE = [
    InboxEvent("i-1", 1, protocol.BOOTED, "job-1", 1, ("1.0",)),
    InboxEvent("i-1", 2, protocol.STARTED, "job-1", 1),
    InboxEvent("i-1", 3, protocol.EXITED, "job-1", 1, ("137", "oom", "SIGKILL")),
    InboxEvent("i-1", 4, protocol.SEALED, "job-1", 1, ("complete", "2", "300", "")),
    InboxEvent("i-1", 5, protocol.DONE, "job-1", 1, ("12", "340")),
]
FACTS = (
    *("booted_at_ms", "started_at_ms", "exited_at_ms", "exit_code", "exit_cause", "exit_signal"),
    *("seal_verdict", "artifact_files", "artifact_bytes", "log_lines_sent", "log_bytes_sent"),
)


async def tell(database: Database, *events: InboxEvent, at_ms: int = NOW_MS) -> list[Receipt]:
    """Record events in one transaction, each a millisecond later."""
    reports = [(event, at_ms + event.seq) for event in events]

    async def work(connection: AsyncConnection) -> list[Receipt]:
        return await record(connection, reports, now_ms=at_ms)

    return await database.write(work)


async def facts(database: Database) -> tuple[object, ...]:
    """What the attempt says about its machine."""
    attempt = await rows.attempt(database)
    return tuple(attempt[name] for name in FACTS)


EXPECTED = (
    *(NOW_MS + 1, NOW_MS + 2, NOW_MS + 3, 137, "oom", "SIGKILL"),
    *("complete", 2, 300, 12, 340),
)


async def test_a_life_is_recorded_and_wakes_the_job(either: Database) -> None:
    """Every fact lands in its column, with the bucket's time; the job is to be looked at, and has run once."""
    await boot(either)
    before = await rows.job(either)
    assert await tell(either, *LIFE) == [Receipt.RECORDED] * 5
    assert await facts(either) == EXPECTED
    job = await rows.job(either)
    assert (job["ran_attempts"], job["next_visit_at_ms"]) == (1, 0)
    assert job["version"] > before["version"], "a save that was under way is stale now"


async def test_recording_twice_changes_nothing(either: Database) -> None:
    """The first report of a fact wins, in the same batch and in a later one; it counts once and is noted once."""
    await boot(either)
    await tell(either, *LIFE, *LIFE)
    events = await rows.rows(either, "SELECT kind FROM event")
    version = (await rows.job(either))["version"]
    assert await tell(either, *LIFE, at_ms=NOW_MS + 9000) == [Receipt.RECORDED] * 5
    assert await facts(either) == EXPECTED
    job = await rows.job(either)
    assert (job["ran_attempts"], job["version"]) == (1, version)
    assert await rows.rows(either, "SELECT kind FROM event") == events


@pytest.mark.parametrize("order", list(permutations(range(5)))[::17])
async def test_the_order_does_not_matter(order: tuple[int, ...], database: Database) -> None:
    """S3 lists by key, machines write in parallel: the facts are the same."""
    await boot(database)
    for index in order:
        assert await tell(database, LIFE[index]) == [Receipt.RECORDED]
    assert await facts(database) == EXPECTED
    assert (await rows.job(database))["ran_attempts"] == 1


async def test_a_word_that_comes_before_the_answer_has_to_wait(either: Database) -> None:
    """The machine may be faster than the transaction that saves its id; afterwards it is heard."""
    await accept(either, "job-1")
    launch = await intend(either, "job-1")
    assert await tell(either, LIFE[0]) == [Receipt.TOO_EARLY]
    await answer(either, launch, "i-1")
    assert await tell(either, LIFE[0]) == [Receipt.RECORDED]


async def test_what_is_not_ours_is_foreign(either: Database) -> None:
    """Another machine, another job, another attempt, an unknown kind: nothing is written."""
    await boot(either)
    strangers = [
        InboxEvent("i-2", 1, protocol.STARTED, "job-1", 1),
        InboxEvent("i-1", 1, protocol.STARTED, "job-2", 1),
        InboxEvent("i-1", 1, protocol.STARTED, "job-1", 2),
        InboxEvent("i-1", 1, "dancing", "job-1", 1),
        InboxEvent("i-9", 1, protocol.FAILED, "-", 0, ("document", "gone")),
    ]
    assert await tell(either, *strangers) == [Receipt.FOREIGN] * 5
    assert (await rows.job(either))["ran_attempts"] == 0


async def test_a_machine_that_does_not_know_its_job_is_known_by_its_id(either: Database) -> None:
    """It could not read its document, so it cannot name the job; the failure still reaches it."""
    await boot(either)
    failed = InboxEvent("i-1", 1, protocol.FAILED, "-", 0, ("document", "not there"))
    assert await tell(either, failed) == [Receipt.RECORDED]
    attempt = await rows.attempt(either)
    assert (attempt["failed_stage"], attempt["failed_message"]) == ("document", "not there")


@pytest.mark.parametrize(
    ("more", "final"), [((), 0), (("final",), 1), (("final", "x"), 1), (("finally",), 0)]
)
async def test_a_failure_may_be_final(more: tuple[str, ...], final: int, either: Database) -> None:
    """The third field says that no other machine could mend it; a runner that knows no such field says nothing."""
    await boot(either)
    failed = InboxEvent("i-1", 1, protocol.FAILED, "job-1", 1, ("image", "not there", *more))
    assert await tell(either, failed) == [Receipt.RECORDED]
    assert (await rows.attempt(either))["failed_final"] == final


@pytest.mark.parametrize("figure", ["", "x", "-1", "1.5", "9" * 30, "٣"])
async def test_a_figure_that_is_none_is_left_out(figure: str, either: Database) -> None:
    """Anybody may write into a bucket: nonsense in a key neither stops the loop nor the other events."""
    await boot(either)
    events = [
        InboxEvent("i-1", 3, protocol.EXITED, "job-1", 1, (figure, "exit")),
        InboxEvent("i-1", 5, protocol.DONE, "job-1", 1, (figure, figure)),
        InboxEvent("i-1", 4, protocol.SEALED, "job-1", 1, ("complete", figure, figure, "")),
        InboxEvent("i-1", 6, protocol.STARTED, "job-1", int("9" * 30)),
    ]
    receipts = await tell(either, *events, LIFE[1])
    assert receipts == [*[Receipt.RECORDED] * 3, Receipt.FOREIGN, Receipt.RECORDED]
    attempt = await rows.attempt(either)
    known = 3 if figure == "٣" else None
    assert (attempt["exit_code"], attempt["log_lines_sent"]) == (known, known)
    assert (await rows.job(either))["ran_attempts"] == 1


async def test_a_recommendation_is_a_fact_of_the_attempt(either: Database) -> None:
    """The first one counts; it is in the history."""
    await boot(either)
    first = InboxEvent("i-1", 1, protocol.REBALANCE, "job-1", 1, ("2026-01-02T03:04:05Z",))
    assert await tell(either, first) == [Receipt.RECORDED]
    assert await tell(either, first, at_ms=NOW_MS + 5000) == [Receipt.RECORDED]
    assert (await rows.attempt(either))["rebalance_at_ms"] == NOW_MS + 1
    events = await rows.rows(either, "SELECT message FROM event WHERE kind = 'machine_rebalance'")
    assert events == [{"message": "2026-01-02T03:04:05Z"}]
