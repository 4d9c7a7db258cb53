"""Jobs that need other jobs: they begin after these and never before, and end when these can never end as they have to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event

from dstackd.simulated.faults import Script
from tests.builders import spec_json
from tests.controllers.installation import Installation

SHORT = Script(run_s=5.0)
ENDLESS = Script(run_s=30_000.0)
FAILS = Script(run_s=5.0, exit_code=1)


def insert(world: Installation, job_id: str, *needs: object, script: Script = SHORT) -> None:
    """A submitter's row that needs other jobs."""
    world.insert(spec_json(script, depends_on=list(needs)), job_id=job_id)


def insert_together(world: Installation, specs: dict[str, str]) -> None:
    """Rows of one transaction."""
    world.sql("BEGIN IMMEDIATE")
    for job_id, spec in specs.items():
        world.insert(spec, job_id=job_id)
    world.sql("COMMIT")


def state(world: Installation, job_id: str) -> tuple[str, str]:
    """Phase and reason."""
    row = world.job(job_id)
    return row["phase"], row["reason"]


def started_ms(world: Installation, job_id: str) -> int:
    """When the job's first attempt began."""
    return int(world.attempts(job_id)[0]["started_at_ms"])


async def test_a_dependent_begins_after_the_end(world: Installation) -> None:
    """It waits in the queue, saying for whom, and is launched once that job has succeeded."""
    insert(world, "a")
    insert(world, "b", "a")
    await world.until_phase("running", "a")
    assert state(world, "b") == ("queued", "dependency")
    assert world.job("b")["message"] == "needs a to succeed first"
    await world.until_over("a", "b")
    assert state(world, "b")[0] == "succeeded"
    assert started_ms(world, "b") >= world.job("a")["finished_at_ms"]


async def test_a_dependent_is_due_with_the_end(world: Installation) -> None:
    """The end of a job makes those that need it due in the same commit, and only those."""
    insert(world, "a")
    insert(world, "c", script=ENDLESS)
    insert(world, "b", "a")
    insert(world, "d", "c")
    await world.until_phase("running", "a")

    def is_over() -> bool:
        over = world.job("a")["finished_at_ms"] is not None
        assert (world.job("b")["next_visit_at_ms"] == 0) or not over or not world.job("b")["held"]
        return over

    await world.until(is_over)
    await world.rounds(1)
    assert state(world, "b")[1] != "dependency"
    assert state(world, "d") == ("queued", "dependency")


async def test_what_has_ended_already_holds_nobody(world: Installation) -> None:
    """A need that is met when the job comes costs it no more than a pass."""
    insert(world, "a")
    await world.until_over("a")
    insert(world, "b", "a")
    await world.rounds(1)
    assert state(world, "b")[0] in {"launching", "booting"}


@pytest.mark.parametrize(
    ("upstream", "word"),
    [("failed", "failed"), ("cancelled", "was cancelled"), ("rejected", "was rejected")],
)
async def test_a_dependent_of_a_job_without_success_is_cancelled(
    world: Installation, upstream: str, word: str
) -> None:
    """It ends as cancelled, naming the job, and so do those that need it, down to the last."""
    script = {"failed": FAILS, "cancelled": ENDLESS, "rejected": SHORT}[upstream]
    spec = '{"commands": 7}' if upstream == "rejected" else spec_json(script)
    insert_together(
        world,
        {
            "d": spec_json(SHORT, depends_on=["c"]),
            "c": spec_json(SHORT, depends_on=["b"]),
            "b": spec_json(SHORT, depends_on=["a"]),
            "a": spec,
        },
    )
    if upstream == "cancelled":
        await world.until_phase("running", "a")
        world.cancel("a")
    await world.until_over("a", "b", "c", "d")
    assert world.job("a")["phase"] == upstream
    for job_id, needed, how in (
        ("b", "a", word),
        ("c", "b", "was cancelled"),
        ("d", "c", "was cancelled"),
    ):
        assert state(world, job_id) == ("cancelled", "dependency_failed")
        assert world.job(job_id)["message"] == f"needs {needed} to succeed, and that {how}"
    assert world.sql("SELECT * FROM job_dependency") == []


async def test_any_end_is_enough_where_it_is_asked_for(world: Installation) -> None:
    """`on: any` is met by a failure, and by a job that a need has cancelled."""
    insert(world, "a", script=FAILS)
    insert(world, "b", "a")
    insert(world, "c", {"id": "b", "on": "any"}, {"id": "a", "on": "any"})
    await world.rounds(1)
    assert world.job("c")["message"] == "needs b and a to end first"
    await world.until_over("a", "b", "c")
    assert [state(world, job_id)[0] for job_id in "abc"] == ["failed", "cancelled", "succeeded"]


async def test_the_last_of_many_needs_releases(world: Installation) -> None:
    """Whoever needs several jobs waits for the last of them; the ends before cost no events."""
    insert(world, "a")
    insert(world, "b", script=Script(run_s=100.0))
    insert(world, "c", "a", "b")
    await world.until_over("a", "b", "c")
    assert started_ms(world, "c") >= max(world.job(each)["finished_at_ms"] for each in "ab")
    kinds = world.sql(
        "SELECT reason FROM event WHERE job_id = 'c' AND kind IN ('phase', 'waiting')"
    )
    assert [row["reason"] for row in kinds][:2] == ["dependency", "accepted"]


async def test_a_job_that_is_not_there_is_named(world: Installation) -> None:
    """An unknown id rejects the row, naming the field and what to do; the row of the same transaction is known."""
    insert(world, "b", "nobody", "b")
    insert_together(world, {"d": spec_json(depends_on=["c"]), "c": spec_json(ENDLESS)})
    await world.rounds(1)
    assert state(world, "b") == ("rejected", "bad_spec")
    assert world.job("b")["message"].splitlines() == [
        "depends_on[0]: there is no job nobody; insert that one before, or in the same transaction",
        "depends_on[1]: names the job itself; remove it",
    ]
    assert state(world, "d") == ("queued", "dependency")


async def test_a_circle_is_rejected(world: Installation) -> None:
    """Jobs that need each other are rejected with the circle; who needs one of them from outside is cancelled."""
    insert_together(
        world,
        {
            "a": spec_json(depends_on=["b"]),
            "b": spec_json(depends_on=["c"]),
            "c": spec_json(depends_on=["a"]),
            "d": spec_json(depends_on=["a"]),
            "e": spec_json(),
        },
    )
    await world.rounds(2)
    phases = {each: state(world, each)[0] for each in "abcd"}
    assert phases == dict.fromkeys("abc", "rejected") | {"d": "cancelled"}
    assert state(world, "e")[0] in {"launching", "booting"}
    circle = "the jobs a, b and c need each other in a circle"
    assert (
        world.job("a")["message"]
        == f"depends_on: {circle}; break the circle, and insert them again"
    )
    assert "needs a to succeed, and that was rejected" in world.job("d")["message"]


async def test_a_circle_is_found_across_passes(world: Installation) -> None:
    """A circle of more rows than a pass takes in is broken where it closes, and nobody waits for ever."""
    count = 450
    ids = [f"j-{number}" for number in range(count)]
    insert_together(
        world,
        {each: spec_json(depends_on=[ids[(at + 1) % count]]) for at, each in enumerate(ids)},
    )
    await world.rounds(3)
    phases = world.sql("SELECT phase, count(*) AS n FROM job GROUP BY phase ORDER BY phase")
    counts = {row["phase"]: row["n"] for row in phases}
    assert counts.keys() == {"cancelled", "rejected"}
    assert "need each other in a circle" in world.job(ids[-1])["message"]


async def test_a_waiting_job_is_cancelled(world: Installation) -> None:
    """A cancel reaches a job that waits for another one at once."""
    insert(world, "a", script=ENDLESS)
    insert(world, "b", "a")
    await world.until_phase("running", "a")
    world.cancel("b")
    await world.rounds(1)
    assert state(world, "b") == ("cancelled", "cancel_requested")


async def test_a_deleted_job_is_no_success(world: Installation) -> None:
    """Whoever needs the success of a job that somebody has deleted is cancelled; any end was good enough for the other."""
    insert(world, "a")
    world.cloud.faults.capacity["*|*|*"] = 0
    insert(world, "b", "a")
    insert(world, "c", {"id": "a", "on": "any"})
    await world.rounds(1)
    world.sql("DELETE FROM job WHERE id = 'a'")
    await world.rounds(2)
    assert state(world, "b") == ("cancelled", "dependency_failed")
    assert world.job("b")["message"] == "needs a to succeed, and that is not there any more"
    assert state(world, "c")[1] == "no_capacity"


async def test_run_at_and_needs_hold_both(world: Installation) -> None:
    """A job with both waits for both, whichever comes first."""
    for job_id, run_s in (("a", 5.0), ("b", 400.0)):
        insert(world, job_id, script=Script(run_s=run_s))
        at_ms = world.clock.now_ms() + 200_000
        world.sql(
            "INSERT INTO job (id, spec, run_at) VALUES (?, ?, strftime('%Y-%m-%dT%H:%M:%SZ', ? / 1000, 'unixepoch'))",
            *(f"after-{job_id}", spec_json(SHORT, depends_on=[job_id]), at_ms),
        )
    await world.until_over("a")
    await world.rounds(1)
    assert state(world, "after-a") == ("queued", "scheduled")
    assert state(world, "after-b") == ("queued", "dependency")
    await world.until_over("after-a", "after-b", rounds_max=400)
    for job_id in "ab":
        row = world.job(f"after-{job_id}")
        begun_ms = started_ms(world, f"after-{job_id}")
        assert row["phase"] == "succeeded"
        assert begun_ms >= max(row["run_at_ms"], world.job(job_id)["finished_at_ms"])


async def test_an_array_is_needed_as_a_whole(world: Installation) -> None:
    """Whoever needs an array waits for all its jobs; an array that needs others waits as one row and then becomes its jobs."""
    world.insert(spec_json([SHORT], array=2), job_id="a")
    world.insert(spec_json(SHORT, array=3, depends_on=["a"]), job_id="b")
    await world.until_phase("running", "a-1")
    assert state(world, "b") == ("queued", "dependency")
    assert world.sql("SELECT id FROM job WHERE array_parent = 'b'") == []
    await world.until_over("a", "b")
    elements = world.sql("SELECT * FROM job WHERE array_parent = 'b'")
    assert [row["phase"] for row in elements] == ["succeeded"] * 3
    assert all(json.loads(row["spec"])["depends_on"] is None for row in elements)
    begun = [started_ms(world, row["id"]) for row in elements]
    assert min(begun) >= max(world.job(each)["finished_at_ms"] for each in ("a-0", "a-1"))


async def test_an_array_whose_ids_are_taken_meanwhile_fails(world: Installation) -> None:
    """Somebody may take an element's id while the array waits: it ends with a reason, and nothing breaks."""
    insert(world, "a")
    world.insert(spec_json(SHORT, array=2, depends_on=["a"]), job_id="b")
    await world.rounds(1)
    insert(world, "b-1", script=SHORT)
    await world.until_over("a", "b")
    assert state(world, "b") == ("failed", "bad_spec")
    assert "there is a job b-1 already" in world.job("b")["message"]


@contextmanager
def writes(world: Installation) -> Iterator[list[str]]:
    """The statements that go to the writer."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:  # noqa: ANN401 - as SQLAlchemy gives it
        seen.append(statement)

    engine = world.database._writer.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    yield seen
    event.remove(engine, "before_cursor_execute", note)


def lay(world: Installation, edges: Sequence[tuple[str, str]]) -> None:
    """Jobs that wait, as intake would have written them down; 10,000 rows through a spec each would be most of the test."""
    spec = spec_json()
    world.sql("BEGIN IMMEDIATE")
    for job_id, needed in edges:
        world.sql("INSERT INTO job (id, spec) VALUES (?, ?)", job_id, spec)
        world.sql("INSERT INTO job_dependency (job_id, on_job_id) VALUES (?, ?)", job_id, needed)
    world.sql(
        "UPDATE job SET phase = 'queued', reason = 'dependency', held = 1, next_visit_at_ms = ? WHERE id <> 'a'",
        9_007_199_254_740_991,
    )
    world.sql("COMMIT")


@pytest.mark.parametrize("shape", ["fan", "chain"])
async def test_thousands_that_need_a_failed_job_end_in_a_few_passes(
    world: Installation, shape: str
) -> None:
    """A wide fan and a deep chain end in statements of hundreds, not in one after the other."""
    count = 2_000
    insert(world, "a", script=FAILS)
    ids = ["a", *(f"d-{number}" for number in range(count))]
    lay(world, [(each, "a" if shape == "fan" else ids[at]) for at, each in enumerate(ids[1:])])
    await world.until_phase("failed", "a")
    with writes(world) as statements:
        await world.daemon.holding.step()
    rows = world.sql("SELECT phase, count(*) AS n FROM job GROUP BY phase ORDER BY phase")
    assert [(row["phase"], row["n"]) for row in rows] == [("cancelled", count), ("failed", 1)]
    assert len(statements) < 150


async def test_the_end_of_a_job_wakes_thousands_in_a_few_statements(world: Installation) -> None:
    """Hundreds a statement, however many wait for it."""
    insert(world, "a", script=SHORT)
    lay(world, [(f"d-{number}", "a") for number in range(2_000)])
    await world.until_phase("terminating", "a")
    world.clock.advance(60.0)
    with writes(world) as statements:
        for _ in range(10):
            await world.daemon.machines.step()
    assert world.job("a")["phase"] == "succeeded"
    assert world.sql("SELECT count(*) AS n FROM job WHERE next_visit_at_ms = 0")[0]["n"] == 2_000
    assert len(statements) < 60
