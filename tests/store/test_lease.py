"""One owner a backend, on either database: what has been taken over cannot be written any more, and what lives is not taken."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import anyio
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from dstackd.clock import SystemClock
from dstackd.errors import LeaseLost, LeaseUnsure, StorageFailed, StoreBusy
from dstackd.simulated.clock import SimulatedClock
from dstackd.store import lease as store
from dstackd.store.backends import ensure_backend
from dstackd.store.engine import Database, open_database
from tests.store import rows

T = TypeVar("T")

MAIN = "main"


async def prepare(database: Database) -> None:
    """A backend that nobody owns."""
    await database.write(
        lambda connection: ensure_backend(
            connection,
            name=MAIN,
            region="us-east-1",
            bucket="bucket",
            subnet=None,
            endpoint_url=None,
            now_ms=1,
        )
    )


async def state(database: Database) -> store.LeaseState:
    """The lease's columns."""
    return await database.read(lambda connection: store.read_lease(connection, MAIN))


async def take(database: Database, holder: str) -> store.Lease:
    """As the lease is now."""
    seen = await state(database)
    lease = await database.write(
        lambda connection: store.take(connection, MAIN, seen, holder=holder)
    )
    assert lease is not None
    return lease


def tenure_of(lease: store.Lease) -> store.Tenure:
    """A daemon's that holds it."""
    clock = SystemClock()
    tenure = store.Tenure(MAIN, clock=clock)
    tenure.begin(lease, asked_at_s=clock.monotonic_s())
    return tenure


def insert_job(job_id: str) -> Callable[[AsyncConnection], Awaitable[None]]:
    """Something that a loop writes."""

    async def work(connection: AsyncConnection) -> None:
        statement = text("INSERT INTO job (id, spec) VALUES (:id, '{}')")
        await connection.execute(statement, {"id": job_id})

    return work


async def test_who_was_taken_over_writes_nothing(either: Database) -> None:
    """The old owner's transaction fails before its first statement; the new one's goes through."""
    await prepare(either)
    first = either.owned(tenure_of(await take(either, "a/1")))
    await first.write(insert_job("before"))
    second = either.owned(tenure_of(await take(either, "b/1")))
    with pytest.raises(LeaseLost):
        await first.write(insert_job("behind"))
    await second.write(insert_job("other"))

    found = await rows.rows(either, "SELECT id FROM job ORDER BY seq")
    assert [row["id"] for row in found] == ["before", "other"]
    assert (await state(either)).fence == 2


async def test_who_owns_nothing_writes_nothing(either: Database) -> None:
    """A tenure that has not begun, or has ended, is no owner's."""
    await prepare(either)
    with pytest.raises(LeaseLost):
        await either.owned(store.Tenure(MAIN, clock=SystemClock())).write(insert_job("a"))
    tenure = tenure_of(await take(either, "a/1"))
    tenure.end()
    with pytest.raises(LeaseLost):
        await either.owned(tenure).write(insert_job("a"))


async def test_an_answer_in_between_keeps_the_lease(either: Database) -> None:
    """Whoever has waited takes what it has seen, and nothing else: an owner that answers at the last moment goes on."""
    await prepare(either)
    lease = await take(either, "a/1")
    seen = await state(either)
    await either.write(lambda connection: store.ask(connection, MAIN, seen))
    asked = await state(either)
    assert asked.is_waited_for
    await either.write(lambda connection: store.answer(connection, lease))

    taken = await either.write(lambda connection: store.take(connection, MAIN, asked, holder="b/1"))
    assert taken is None
    assert (await state(either)).holder == "a/1"


async def test_many_who_wait_ask_one_question(either: Database) -> None:
    """A second daemon that waits does not ask what is asked already, so that its owner need not answer twice."""
    await prepare(either)
    await take(either, "a/1")
    seen = await state(either)
    for _ in range(2):
        await either.write(lambda connection: store.ask(connection, MAIN, seen))
    assert (await state(either)).asked == seen.asked + 1


async def test_one_of_two_takes_over(either: Database) -> None:
    """Both have waited long enough and seen the same: the second finds it taken."""
    await prepare(either)
    await take(either, "a/1")
    seen = await state(either)

    async def take_as(holder: str) -> store.Lease | None:
        return await either.write(
            lambda connection: store.take(connection, MAIN, seen, holder=holder)
        )

    assert await take_as("b/1") is not None
    assert await take_as("c/1") is None


async def test_an_owner_that_was_followed_cannot_answer(either: Database) -> None:
    """It learns so by its answer, whatever it has read before."""
    await prepare(either)
    lease = await take(either, "a/1")
    await take(either, "b/1")
    with pytest.raises(LeaseLost):
        await either.write(lambda connection: store.answer(connection, lease))


async def test_what_is_given_back_is_free_and_a_late_gift_takes_nothing(either: Database) -> None:
    """Giving back is the owner's alone."""
    await prepare(either)
    lease = await take(either, "a/1")
    await either.write(lambda connection: store.give_back(connection, lease))
    assert (await state(either)).holder is None
    await take(either, "b/1")
    await either.write(lambda connection: store.give_back(connection, lease))
    assert (await state(either)).holder == "b/1"


def test_a_permit_ends_before_anybody_can_take_over() -> None:
    """Without a look that confirms it, an owner changes nothing outside the database, well before its lease can be taken."""
    clock = SimulatedClock()
    tenure = store.Tenure(MAIN, clock=clock)
    with pytest.raises(LeaseUnsure):
        tenure.permit()
    tenure.begin(store.Lease(MAIN, "a/1", 1), asked_at_s=clock.monotonic_s())
    clock.advance(store.SURE_S)
    tenure.permit()
    clock.advance(0.01)
    with pytest.raises(LeaseUnsure):
        tenure.permit()
    tenure.renew(asked_at_s=clock.monotonic_s())
    tenure.permit()
    assert store.SURE_S < store.LEASE_S


async def test_a_transaction_that_stalls_holds_nobody_up(postgres_url: str) -> None:
    """PostgreSQL ends the transaction of an owner that stalls in one; who waits takes over, and the owner learns it when it wakes."""
    async with (
        open_database(postgres_url, clock=SystemClock()) as one,
        open_database(postgres_url, clock=SystemClock()) as other,
    ):
        await prepare(one)
        lease = await take(one, "a/1")
        owner = one.owned(tenure_of(lease))
        stalls, wakes = anyio.Event(), anyio.Event()

        async def stall(connection: AsyncConnection) -> None:
            await insert_job("stalled")(connection)
            stalls.set()
            await wakes.wait()
            await insert_job("woken")(connection)

        async def stalled() -> None:
            with pytest.raises((StorageFailed, LeaseLost)):
                await owner.write(stall)

        async with anyio.create_task_group() as group:
            group.start_soon(stalled)
            await stalls.wait()
            began_s = anyio.current_time()
            while (await state(other)).holder != "b/1":
                work = partial(store.take, backend=MAIN, seen=await state(other), holder="b/1")
                try:
                    await other.write(work)
                except StoreBusy:
                    continue
                assert anyio.current_time() - began_s < 3 * store.STALLED_S
            wakes.set()
        assert await rows.rows(other, "SELECT id FROM job") == []
