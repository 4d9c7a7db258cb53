"""Other queues, each at its own best at one durability: `python -I peers.py NAME PLACE COUNT` prints enqueued and finished jobs a second.

Law: a program of its own, in an environment of its own (`requirements/bench.txt`); the peers are imported where they
are used, so that this file can be read without them. Every enqueue and every end is on the disk when the clock stops.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any

BATCH = 100
Rates = tuple[float, float]


def _rate(count: int, work: Callable[[], None]) -> float:
    began_s = time.perf_counter()
    work()
    return count / (time.perf_counter() - began_s)


async def _rate_of(count: int, work: Awaitable[None]) -> float:
    began_s = time.perf_counter()
    await work
    return count / (time.perf_counter() - began_s)


def huey(place: str, count: int) -> Rates:
    """It has no call for many jobs. A job is gone from the table when it is begun: whatever fails then is lost."""
    queue = import_module("huey").SqliteHuey(filename=f"{place}/huey.db", fsync=True, results=False)

    @queue.task()  # type: ignore[untyped-decorator]
    def nothing(_number: int) -> None:
        pass

    def enqueue() -> None:
        for number in range(count):
            nothing(number)

    def finish() -> None:
        while (task := queue.dequeue()) is not None:
            queue.execute(task)

    return _rate(count, enqueue), _rate(count, finish)


def persist_queue(place: str, count: int) -> Rates:
    """The kind with acknowledgements, which commits each call."""
    queue = import_module("persistqueue").SQLiteAckQueue(f"{place}/ack")

    def enqueue() -> None:
        for number in range(count):
            queue.put({"number": number})

    def finish() -> None:
        for _ in range(count):
            queue.ack(queue.get())

    return _rate(count, enqueue), _rate(count, finish)


def persist_queue_batched(place: str, count: int) -> Rates:
    """The kind without acknowledgements, committed once for a hundred calls."""
    queue = import_module("persistqueue").FIFOSQLiteQueue(f"{place}/fifo", auto_commit=False)

    def in_batches(call: Callable[[int], object]) -> None:
        for number in range(count):
            call(number)
            if (number + 1) % BATCH == 0:
                queue.task_done()

    def enqueue() -> None:
        in_batches(lambda number: queue.put({"number": number}))

    def finish() -> None:
        in_batches(lambda _number: queue.get())

    return _rate(count, enqueue), _rate(count, finish)


def procrastinate(place: str, count: int) -> Rates:
    """Ten at a time in one worker: it asks the server for one job a call."""

    async def run() -> Rates:
        package = import_module("procrastinate")
        async with package.App(
            connector=package.PsycopgConnector(conninfo=place)
        ).open_async() as app:
            await app.schema_manager.apply_schema_async()

            @app.task(name="nothing")  # type: ignore[untyped-decorator]
            async def nothing(number: int) -> None:
                pass

            async def enqueue() -> None:
                for start in range(0, count, BATCH):
                    await nothing.batch_defer_async(
                        *({"number": start + number} for number in range(BATCH))
                    )

            enqueued = await _rate_of(count, enqueue())
            work = app.run_worker_async(
                wait=False, concurrency=10, listen_notify=False, install_signal_handlers=False
            )
            return enqueued, await _rate_of(count, work)

    return asyncio.run(run())


def pgqueuer(place: str, count: int) -> Rates:
    """A hundred at a time: its log and its claims are batched."""

    async def run() -> Rates:
        package = import_module("pgqueuer")
        queries = import_module("pgqueuer.queries")
        connection = await import_module("asyncpg").connect(place)
        driver = import_module("pgqueuer.db").AsyncpgDriver(connection)
        await queries.Queries(driver).install()
        app = package.PgQueuer(driver)

        @app.entrypoint("nothing")  # type: ignore[untyped-decorator]
        async def nothing(_job: object) -> None:
            pass

        async def enqueue() -> None:
            for start in range(0, count, BATCH):
                payloads = [b'{"number": %d}' % (start + number) for number in range(BATCH)]
                await queries.Queries(driver).enqueue(["nothing"] * BATCH, payloads, [0] * BATCH)

        enqueued = await _rate_of(count, enqueue())
        drain = import_module("pgqueuer.types").QueueExecutionMode.drain
        finished = await _rate_of(count, app.run(batch_size=BATCH, mode=drain))
        await connection.close()
        return enqueued, finished

    return asyncio.run(run())


PEERS: dict[str, Callable[[str, int], Rates]] = {
    "huey": huey,
    "persist-queue": persist_queue,
    "persist-queue, committed by the hundred": persist_queue_batched,
    "procrastinate": procrastinate,
    "pgqueuer": pgqueuer,
}


def main(arguments: list[str]) -> Any:  # noqa: ANN401 - an exit code
    """Run one peer."""
    name, place, count = arguments
    print(json.dumps(PEERS[name](place, int(count))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
