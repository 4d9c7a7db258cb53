"""`dstackd logs`: the real server's streams, and streams that break."""

from __future__ import annotations

from dstackd.log_files import StoredLine
from tests.cli.double import Reply, as_lines, described, playing
from tests.cli.program import ask, at, dstackd
from tests.http.world import World, running


async def job_with_lines(world: World, *lines: StoredLine, sent: int | None) -> str:
    """A job that has ended, with one attempt whose machine says that it wrote `sent` lines."""
    job_id = await world.insert_job()
    world.log_files.append(job_id, 1, lines)
    await world.insert_attempt(job_id, 1, started_at_ms=1)
    await world.end_attempt(job_id, 1, lines_sent=sent)
    await world.finish_job(job_id, "failed", 3)
    return job_id


async def test_the_jobs_two_streams_stay_two() -> None:
    """Standard output and standard error of the job go where they went, byte for byte."""
    lines = [
        StoredLine(1, at_ms=1_700_000_000_123, source="stdout", log="\x1b[31mred\x1b[0m é"),
        StoredLine(2, at_ms=1_700_000_000_124, source="stderr", log="oops"),
    ]
    async with running() as world:
        job_id = await job_with_lines(world, *lines, sent=2)
        plain = await ask(world, "logs", job_id)
        stamped = await ask(world, "logs", "--timestamps", job_id)
    assert (plain.code, plain.out, plain.err) == (0, "\x1b[31mred\x1b[0m é\n", "oops\n")
    assert stamped.out == "2023-11-14T22:13:20.123Z \x1b[31mred\x1b[0m é\n"
    assert stamped.err == "2023-11-14T22:13:20.124Z oops\n"


async def test_missing_lines_are_counted() -> None:
    """A hole is said where it is, and the verdict at the end; neither is on standard output."""
    lines = [
        StoredLine(1, source="stdout", log="a"),
        StoredLine(2, missing=3),
        StoredLine(5, source="stdout", log="b"),
    ]
    async with running() as world:
        some = await ask(world, "logs", await job_with_lines(world, *lines, sent=6))
        unknown = await ask(world, "logs", await job_with_lines(world, *lines[:1], sent=None))
    assert some.out == "a\nb\n"
    assert some.err == (
        "--- 3 lines missing ---\n--- log of attempt 1: incomplete (4 missing) ---\n"
    )
    assert unknown.err == "--- log of attempt 1: unconfirmed (1 line arrived) ---\n"


async def test_words_of_ours_are_no_output() -> None:
    """What the machine says about the log, such as that the quota is used up, is not on standard output."""
    lines = [
        StoredLine(1, source="stdout", log="a"),
        StoredLine(2, source="dstackd", log="the quota is used up"),
    ]
    async with running() as world:
        shown = await ask(world, "logs", await job_with_lines(world, *lines, sent=2))
    assert (shown.out, shown.err) == ("a\n", "--- the quota is used up ---\n")


async def test_attempts_follow_each_other() -> None:
    """All attempts in order, with a mark between them; --attempt picks one."""
    async with running() as world:
        job_id = await world.insert_job()
        for number in (1, 2):
            world.log(job_id, number, 1, number)
            await world.insert_attempt(job_id, number, started_at_ms=1)
            await world.end_attempt(job_id, number, lines_sent=number)
        await world.finish_job(job_id)
        everything = await ask(world, "logs", job_id)
        second = await ask(world, "logs", "--attempt", "2", job_id)
        third = await ask(world, "logs", "--attempt", "3", job_id)
        wrong = await ask(world, "logs", "--attempt", "last", job_id)
    assert everything.out == "line 1\nline 1\nline 2\n"
    assert everything.err == "--- attempt 2 ---\n"
    assert (second.out, second.err) == ("line 1\nline 2\n", "")
    assert (third.code, third.out) == (2, "")
    assert wrong.code == 2


async def test_tail_begins_near_the_end() -> None:
    """--tail N shows the last N lines, and -f goes on behind them without a repeat."""
    async with running() as world:
        job_id = await world.insert_job()
        world.log(job_id, 1, 1, 9)
        await world.insert_attempt(job_id, 1, started_at_ms=1)
        await world.end_attempt(job_id, 1, lines_sent=9)
        await world.finish_job(job_id)
        outputs = [
            (await ask(world, "logs", *arguments, job_id)).out
            for arguments in (("--tail", "2"), ("-f", "--tail", "2"), ("-f", "--tail", "0"))
        ]
    assert outputs == ["line 8\nline 9\n", "line 8\nline 9\n", ""]


async def test_follow_ends_with_the_job() -> None:
    """-f says how the job ended; with --exit-code it exits as the job did, without it with 0."""
    async with running() as world:
        job_id = await job_with_lines(world, StoredLine(1, source="stdout", log="a"), sent=1)
        plain = await ask(world, "logs", "-f", job_id)
        coded = await ask(world, "logs", "-f", "--exit-code", job_id)
        wrong = await ask(world, "logs", "--exit-code", job_id)
    assert (plain.code, coded.code, wrong.code) == (0, 3, 2)
    verdict = "--- log of attempt 1: complete ---\n"
    assert plain.err == f"{verdict}{job_id} failed (exit code 3): exited\n"


def line(n: int) -> dict[str, object]:
    """A line of a stream."""
    return {"attempt": 1, "n": n, "at_ms": 0, "source": "stdout", "log": f"line {n}"}


END = {"phase": "succeeded", "reason": "exited", "message": "", "exit_code": 0, "verdicts": {}}


def test_a_stream_that_breaks_is_taken_up_again() -> None:
    """After a restart of the daemon no line comes twice and none is left out."""
    hole = {"attempt": 1, "n": 3, "missing": 2}
    streams = iter(
        [
            as_lines(line(1), line(2), hole, cut=True),
            Reply(b"", status=503),
            as_lines(line(5), cut=True),
            as_lines(line(6), {"end": {**END, "lines": 4, "missing": 2}}),
        ]
    )

    def answer(path: str, _query: dict[str, str]) -> Reply:
        return next(streams) if path.endswith("/logs") else described()

    with playing(answer) as double:
        done = dstackd("logs", "-f", "abc", variables=at(double.socket))
    behind = [query.get("after") for path, query in double.asked if path.endswith("/logs")]
    assert (done.code, done.out) == (0, "line 1\nline 2\nline 5\nline 6\n")
    assert behind == [None, "1:4", "1:4", "1:5"]


def test_a_part_is_never_taken_for_the_whole() -> None:
    """Without -f a stream that breaks off is an error, and what came is shown."""
    with playing(
        lambda path, _query: as_lines(line(1), cut=True) if path.endswith("/logs") else described()
    ) as double:
        cut = dstackd("logs", "abc", variables=at(double.socket))
    assert (cut.code, cut.out) == (69, "line 1\n")


def test_a_stream_without_an_end_is_an_error() -> None:
    """A stream that stops politely, but without its last word, is not complete either."""
    with playing(
        lambda path, _query: as_lines(line(1)) if path.endswith("/logs") else described()
    ) as double:
        done = dstackd("logs", "abc", variables=at(double.socket))
    assert (done.code, done.out) == (69, "line 1\n")
    assert "the stream broke off" in done.err


async def test_an_array_points_to_its_elements() -> None:
    """It writes nothing itself: who asks is told where the lines are."""
    async with running() as world:
        await world.insert_job(id="grid")
        for index in range(2):
            await world.insert_job(id=f"grid-{index}", array_parent="grid", array_index=index)
        await world.finish_job("grid", "failed", 3)
        shown = await ask(world, "logs", "grid")
    assert (shown.code, shown.out) == (0, "")
    assert "grid-0 to grid-1" in shown.err
