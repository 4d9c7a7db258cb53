"""The queue: how fast jobs go in and through, on both databases, beside other queues in the same run; and what a long history, a hostile
producer, an idle hour and a start cost.

`PARTS="sqlite history" make bench BENCH=queue` runs some parts: sqlite, postgresql, history, hostile, idle, start. All of them take
about ten minutes. The peers come from `requirements/bench.txt` into an environment of their own. COUNT jobs (10,000) go through each queue.
What a foreign INSERT takes until it is claimed is `bench_wake`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.figure import Figure
from tests.benchmarks.queue import daemon, history, hostile
from tests.benchmarks.queue.environment import peer
from tests.benchmarks.queue.ours import our_rates
from tests.store.postgres import running_postgres

COUNT = int(os.environ.get("COUNT", "10000"))
ON_SQLITE = ("huey", "persist-queue")
ON_POSTGRES = ("procrastinate", "pgqueuer")
WITHOUT_CLAIMS = "persist-queue, committed by the hundred"
"""A log with one reader, whose place is in that reader's memory: no job is claimed or marked, so it is no bar."""
WORK_PER_S = 10_000
BESIDE_SQLITE, BESIDE_POSTGRES = 2.0, 1.0


def measure() -> Iterator[Figure]:
    """Every part, or those that PARTS names."""
    chosen = os.environ.get("PARTS", "").split() or list(PARTS)
    for name in chosen:
        yield from PARTS[name]()


def measure_sqlite() -> Iterator[Figure]:
    """Jobs a second, `synchronous=FULL` everywhere."""
    with tempfile.TemporaryDirectory() as folder:
        peers = {name: peer(name, _new(folder), COUNT) for name in (*ON_SQLITE, WITHOUT_CLAIMS)}
        ours = our_rates(f"sqlite:///{_new(folder)}/queue.db", COUNT)
    yield from _beside(peers, ours, "SQLite", times=BESIDE_SQLITE)


def measure_postgresql() -> Iterator[Figure]:
    """Jobs a second on one server, `fsync=on`."""
    with running_postgres(durable=True) as server:
        peers = {name: peer(name, server.new_database(), COUNT) for name in ON_POSTGRES}
        ours = our_rates(server.new_database(), COUNT)
    yield from _beside(peers, ours, "PostgreSQL", times=BESIDE_POSTGRES)


def _new(folder: str) -> str:
    return tempfile.mkdtemp(dir=folder)


def _beside(
    peers: dict[str, tuple[float, float]], ours: tuple[float, float], engine: str, *, times: float
) -> Iterator[Figure]:
    for index, what in enumerate(("enqueue, 100 at a time", "claim and finish, 100 at a time")):
        for name, rates in peers.items():
            yield Figure(
                figure=f"{engine}, {what}: {name}", value=round(rates[index]), unit="jobs/s"
            )
        best = max(rates[index] for name, rates in peers.items() if name != WITHOUT_CLAIMS)
        bar = times * best
        yield Figure(
            figure=f"{engine}, {what}, beside {times:g} times the best peer with claims",
            value=round(ours[index]),
            unit="jobs/s",
            baseline=round(best),
            at_least=round(bar),
        )
    yield Figure(
        figure=f"{engine}, claim and finish, events included",
        value=round(ours[1]),
        unit="jobs/s",
        at_least=WORK_PER_S,
    )


def measure_history() -> Iterator[Figure]:
    """A claim (and finish) of a hundred."""
    with tempfile.TemporaryDirectory() as folder:
        urls = [f"sqlite:///{folder}/{name}.db" for name in ("empty", "full")]
        yield _claim("SQLite", *history.claims_ms(*urls))
    with running_postgres(durable=True) as server:
        yield _claim("PostgreSQL", *history.claims_ms(server.new_database(), server.new_database()))


def _claim(engine: str, empty_ms: float, full_ms: float) -> Figure:
    past, future = f"{history.FINISHED:,} finished", f"{history.FUTURE:,} future"
    return Figure(
        figure=f"{engine}, claim and finish of 100 beside {past} and {future} jobs, over an empty queue",
        value=round(full_ms, 2),
        unit="ms",
        baseline=round(empty_ms, 2),
        at_most=round(1.3 * empty_ms, 2),
    )


def measure_hostile() -> Iterator[Figure]:
    """Half a minute of a producer that never pauses."""
    with tempfile.TemporaryDirectory() as folder:
        yield from _claims("SQLite", *hostile.claims_ms(f"sqlite:///{Path(folder)}/queue.db"))
    with running_postgres(durable=True) as server:
        yield from _claims("PostgreSQL", *hostile.claims_ms(server.new_database()))


def _claims(engine: str, times_ms: list[float], jobs: int) -> Iterator[Figure]:
    what = f"{engine}, claims beside a producer in a tight loop ({jobs:,} jobs in {hostile.SECONDS:.0f} s)"
    yield Figure(
        figure=f"{what}, p99",
        value=round(times_ms[int(len(times_ms) * 0.99)], 1),
        unit="ms",
        at_most=100,
    )
    yield Figure(figure=f"{what}, longest", value=round(times_ms[-1], 1), unit="ms")


def measure_idle() -> Iterator[Figure]:
    """A minute in which nothing happens, without and with a million finished jobs."""
    empty, full = daemon.idle(with_history=False), daemon.idle(with_history=True)
    for name, seen in (("an empty database", empty), (f"{history.FINISHED:,} finished jobs", full)):
        cpu, commits = round(seen.cpu_percent, 3), seen.commits
        yield Figure(figure=f"idle daemon, {name}: CPU", value=cpu, unit="%", at_most=0.3)
        yield Figure(
            figure=f"idle daemon, {name}: commits", value=commits, unit="commits/min", at_most=0
        )
    yield Figure(
        figure="idle daemon, AWS calls with the history, over those without",
        value=round(full.calls_a_minute, 1),
        unit="calls/min",
        baseline=round(empty.calls_a_minute, 1),
        at_most=round(empty.calls_a_minute + 1, 1),
    )


def measure_start() -> Iterator[Figure]:
    """From the start of the process."""
    seconds, launches = daemon.start_up()
    what = f"start with {daemon.LIVE:,} live jobs"
    yield Figure(figure=f"{what}, to the first pass", value=round(seconds, 2), unit="s", at_most=5)
    yield Figure(figure=f"{what}, launches", value=launches, unit="calls", at_most=0)


PARTS = {
    "sqlite": measure_sqlite,
    "postgresql": measure_postgresql,
    "history": measure_history,
    "hostile": measure_hostile,
    "idle": measure_idle,
    "start": measure_start,
}
