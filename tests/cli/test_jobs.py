"""`dstackd ps`, `describe`, `stop`, `wait`, `healthcheck` against the real server."""

from __future__ import annotations

import json
from functools import partial

import anyio

from tests.cli.double import Reply, described, playing
from tests.cli.program import Finished, ask, at, dstackd, interrupt, start
from tests.http.world import World, running

EVIL = "\x1b[2J\x1b]0;owned\x07\u202ered\nsecond line"


async def failed_job(world: World) -> str:
    """A job that exited with 3 in its second attempt, with an eventful history."""
    job_id = await world.insert_job({"commands": ["exit 3"]}, project="p")
    await world.insert_attempt(
        *(job_id, 1),
        outcome="interrupted",
        ended_at_ms=9,
        log_lines_sent=5,
        log_lines_lost=2,
        log_verdict="incomplete (7 missing)",
    )
    await world.insert_attempt(
        *(job_id, 2),
        instance_id="i-2",
        outcome="exited",
        exit_code=3,
        exit_cause="exit",
        ended_at_ms=9,
        log_lines_sent=5,
        log_lines_seen=5,
        log_verdict="complete",
        seal_verdict="partial",
        seal_message="out: too large",
        artifact_files=2,
        artifact_bytes=1500,
    )
    await world.sql("UPDATE job SET cost_usd = 0.25, message = 'exit code 3' WHERE id = ?", job_id)
    await world.finish_job(job_id, "failed", 3)
    return job_id


async def test_ps_shows_what_is_not_over() -> None:
    """Without -a only jobs that wait or run; the table has all of its columns."""
    async with running() as world:
        waiting = await world.insert_job()
        ended = await failed_job(world)
        short, everything = await ask(world, "ps"), await ask(world, "ps", "-a")
        newest = await ask(world, "ps", "-a", "-n", "1")
    assert short.out.split("\n")[0].split() == [
        *("ID", "NAME", "PHASE", "ATTEMPT", "MARKET", "TYPE", "AGE", "EXIT", "REASON")
    ]
    assert waiting in short.out
    assert ended not in short.out
    assert f"{ended}  -     failed           2  spot    m5.large" in everything.out
    assert everything.out.rstrip().count("\n") == 2
    assert ended in newest.out
    assert waiting not in newest.out


async def test_ps_says_when_there_is_nothing() -> None:
    """An empty queue prints nothing to standard output, and says so on standard error."""
    async with running() as world:
        done = await ask(world, "ps")
    assert (done.code, done.out) == (0, "")
    assert "dstackd ps -a" in done.err


async def test_ps_reads_as_many_pages_as_it_takes() -> None:
    """-n may be larger than a page of the API."""
    async with running() as world:
        await world.sql(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 510) "
            "INSERT INTO job (spec) SELECT '{}' FROM n"
        )
        done = await ask(world, "ps", "--json", "-n", "505")
    seqs = [row["seq"] for row in json.loads(done.out)]
    assert seqs == list(range(510, 5, -1))


async def test_describe_tells_the_whole_story() -> None:
    """Attempts with their log and artifact verdicts, the history, the cost."""
    async with running() as world:
        job_id = await failed_job(world)
        done = await ask(world, "describe", job_id[:6])
        as_json = await ask(world, "describe", "--json", job_id)
    for part in (
        f"Job          {job_id}",
        "Reason       exited: exit code 3",
        "Cost         $0.2500",
        "Attempt 1: interrupted",
        "0 lines, incomplete (7 missing); the machine's disk did not take 2",
        "Attempt 2: exited, exit code 3 (exit)",
        "5 lines, complete",
        "partial, 2 files, 1.5 kB: out: too large",
        "+0.0s        -  submitted  submitted",
    ):
        assert part in done.out
    assert json.loads(as_json.out)["job"]["id"] == job_id


async def test_rows_cannot_rewrite_the_terminal() -> None:
    """Control characters in a name, a message or a spec are shown as escapes, on one line."""
    async with running() as world:
        job_id = await world.insert_job(EVIL)
        await world.sql("UPDATE job SET name = ?, message = ? WHERE id = ?", EVIL, EVIL, job_id)
        outputs = [
            (await ask(world, *arguments)).out
            for arguments in (("ps",), ("describe", job_id), ("ps", "--json"))
        ]
    for out in outputs:
        assert all(line.isprintable() for line in out.split("\n"))
        assert "\\x1b[2J" in out or "\\u001b[2J" in out


async def test_stop_asks_and_says_so() -> None:
    """A stop reaches the row; one that cannot be carried out does not keep the others back."""
    async with running() as world:
        first, second = await world.insert_job(), await world.insert_job()
        await world.finish_job(second)
        done = await ask(world, "stop", "nosuch", first, second)
        [[asked]] = await world.sql("SELECT cancel_requested FROM job WHERE id = ?", first)
    assert (done.code, done.out, asked) == (2, "", 1)
    assert "nosuch: no job has an id that begins with" in done.err
    assert f"{first} is being stopped" in done.err
    assert f"{second} has already ended: succeeded" in done.err


async def test_an_ambiguous_id_is_refused() -> None:
    """Two jobs whose ids begin alike are never confused."""
    async with running() as world:
        for job_id in ("same-1", "same-2"):
            await world.insert_job(id=job_id)
        done = await ask(world, "describe", "same")
    assert done.code == 1
    assert "same-1 and same-2" in done.err


async def test_wait_gives_the_first_code_that_is_not_0() -> None:
    """Of several jobs, in the order given; each has its line."""
    async with running() as world:
        good, failed = await world.insert_job(), await failed_job(world)
        await world.finish_job(good)
        cancelled = await world.insert_job()
        await world.finish_job(cancelled, "cancelled", 143)
        done = await ask(world, "wait", good, failed, cancelled)
        other = await ask(world, "wait", cancelled, failed)
    lines = [f"{good} succeeded 0", f"{failed} failed 3", f"{cancelled} cancelled 143"]
    assert (done.code, done.out.splitlines(), other.code) == (3, lines, 103)


async def test_wait_gives_up_in_time() -> None:
    """--timeout ends with 101 and says which job is not over."""
    async with running() as world:
        job_id = await world.insert_job()
        done = await ask(world, "wait", "--timeout", "0.3", job_id)
        wrong = await ask(world, "wait", "--timeout", "soon", job_id)
    assert (done.code, done.out) == (101, "")
    assert job_id in done.err
    assert wrong.code == 2


async def test_leaving_a_wait_does_not_stop_the_job() -> None:
    """Ctrl-C exits with 130, leaves the row alone, and says how to stop the job."""
    async with running() as world:
        job_id = await world.insert_job()
        assert world.listening.socket_path is not None
        process = start("logs", "-f", job_id, variables=at(world.listening.socket_path))
        world.log(job_id, 1, 1, 1)
        await world.insert_attempt(job_id, 1)
        assert process.stdout is not None
        first = await anyio.to_thread.run_sync(process.stdout.readline)
        done: Finished = await anyio.to_thread.run_sync(partial(interrupt, process))
        [[asked]] = await world.sql("SELECT cancel_requested FROM job WHERE id = ?", job_id)
    assert (first, done.code, asked) == ("line 1\n", 130, 0)
    assert f"dstackd stop {job_id}" in done.err


async def test_healthcheck_asks_the_daemon() -> None:
    """0 while the daemon lives, 69 when it is wedged."""
    async with running() as world:
        good = await ask(world, "healthcheck")
        world.vitals.add_loop("machines", interval_s=1, now_s=world.clock.monotonic_s())
        world.clock.ahead_s = 1000
        wedged = await ask(world, "healthcheck")
    assert (good.code, good.out, wedged.code) == (0, "", 69)


def test_a_wait_outlasts_a_daemon_that_is_restarted() -> None:
    """Once the daemon has answered, answers that fail for a while do not end the wait."""
    failures = iter([False, True, True, False])

    def answer(_path: str, _query: dict[str, str]) -> Reply:
        return Reply(b"", status=502) if next(failures, False) else described()

    with playing(answer) as double:
        done = dstackd("wait", "abc", variables=at(double.socket))
    assert (done.code, done.out) == (0, "abc succeeded 0\n")
    assert "waiting for it to come back" in done.err
