"""Submitted rows become queued jobs, or are rejected with a reason."""

from __future__ import annotations

import json

import pytest

from tests.builders import spec_json
from tests.controllers.installation import Installation

BAD_ROWS = {
    "unknown field": '{"commands": ["true"], "comands": []}',
    "no commands": "{}",
    "not a mapping": "[1, 2]",
    "a number": "7",
    "encoded twice": '"{}"',
    "a key twice": '{"commands": ["a"], "commands": ["b"]}',
    "a lone surrogate": '{"commands": ["\\ud800"]}',
    "input not there": '{"commands": ["a"], "inputs": [{"source": "/nowhere/x", "target": "x"}]}',
    "a huge array": '{"commands": ["a"], "array": 1000000}',
    "deep": '{"commands": ' + "[" * 500 + "]" * 500 + "}",
}


async def test_a_bad_row_does_not_stop_the_others(world: Installation) -> None:
    """Every bad row ends as rejected, with a message that names a field; the good ones around them are accepted."""
    world.insert(spec_json(), job_id="first")
    for index, spec in enumerate(BAD_ROWS.values()):
        world.insert(spec, job_id=f"bad-{index}")
    world.insert(spec_json(), job_id="last")
    await world.daemon.intake.step()
    for index, name in enumerate(BAD_ROWS):
        job = world.job(f"bad-{index}")
        assert (job["phase"], job["reason"]) == ("rejected", "bad_spec"), name
        assert job["message"], name
        assert job["finished_at_ms"] is not None
    assert world.job("first")["phase"] == world.job("last")["phase"] == "queued"


async def test_a_row_that_the_database_refuses_stops_no_other(world: Installation) -> None:
    """Whatever its reason: the others of its transaction are accepted, and it is rejected with the database's words."""
    world.sql(
        "CREATE TRIGGER refuses BEFORE UPDATE ON job WHEN NEW.id = 'bad' AND NEW.phase = 'queued'"
        " BEGIN SELECT RAISE(ABORT, 'not this one'); END"
    )
    for name in ("first", "bad", "last"):
        world.insert(spec_json(), job_id=name)
    await world.daemon.intake.step()
    assert [world.job(name)["phase"] for name in ("first", "last")] == ["queued"] * 2
    assert world.job("bad")["phase"] == "rejected"
    assert "not this one" in world.job("bad")["message"]


async def test_text_that_is_no_text_does_not_stop_the_others(world: Installation) -> None:
    """SQLite stores bytes that are not UTF-8 as text, if an application insists: only that row suffers."""
    world.sql("INSERT INTO job (id, spec) VALUES ('bad', CAST(X'7b22ff223a317d' AS TEXT))")
    world.insert(spec_json(), job_id="good")
    await world.daemon.intake.step()
    assert world.job("good")["phase"] == "queued"
    phase = world.sql("SELECT phase FROM job WHERE id = 'bad'")[0]["phase"]
    assert phase == "rejected"


@pytest.mark.parametrize("taken", [True, False])
async def test_an_array_whose_elements_cannot_be_named_is_rejected(
    taken: bool, world: Installation
) -> None:
    """The id is too long to number, or a job of that name is there already: this row is refused, no other waits."""
    array_id = "wide" if taken else "w" * 64
    if taken:
        world.insert(spec_json(), job_id="wide-1")
    world.insert(spec_json(array=3), job_id=array_id)
    world.insert(spec_json(), job_id="good")
    await world.daemon.intake.step()
    assert world.job("good")["phase"] == "queued"
    assert world.job(array_id)["phase"] == "rejected"
    assert world.job(array_id)["message"]


async def test_an_array_becomes_its_elements(world: Installation) -> None:
    """A job each, numbered, with the array's name, project and priority; they are accepted in the same pass."""
    world.insert(spec_json(array=3, name="sweep"))
    world.sql("UPDATE job SET project = 'p', priority = 7")
    await world.daemon.intake.step()
    assert world.job()["phase"] == "running"
    rows = world.sql("SELECT * FROM job WHERE array_parent = 'job-1' ORDER BY array_index")
    assert [row["id"] for row in rows] == ["job-1-0", "job-1-1", "job-1-2"]
    assert [row["name"] for row in rows] == ["sweep[0]", "sweep[1]", "sweep[2]"]
    assert {(row["project"], row["priority"], row["phase"]) for row in rows} == {("p", 7, "queued")}
    assert json.loads(rows[0]["spec"])["array"] is None


async def test_a_cancelled_array_cancels_its_elements(world: Installation) -> None:
    """None of them runs on, and the array ends when the last of them has."""
    world.insert(spec_json(array=3))
    await world.rounds(2)
    world.cancel()
    await world.until_over()
    phases = world.sql("SELECT phase FROM job")
    assert {row["phase"] for row in phases} == {"cancelled"}


async def test_more_rows_than_one_pass_takes_are_all_taken(world: Installation) -> None:
    """One step empties the queue of submissions."""
    for index in range(405):
        world.insert(spec_json(), job_id=f"job-{index}")
    await world.daemon.intake.step()
    assert world.sql("SELECT DISTINCT phase FROM job") == [{"phase": "queued"}]


@pytest.mark.parametrize("deleted", [1, 2])
async def test_an_array_outlives_no_deleted_elements(deleted: int, world: Installation) -> None:
    """An operator deletes some of its jobs, or all: it ends with the others, or as cancelled."""
    world.insert(spec_json(array=2))
    await world.rounds(1)
    for index in range(deleted):
        world.sql("DELETE FROM attempt WHERE job_id = ?", f"job-1-{index}")
        world.sql("DELETE FROM job WHERE id = ?", f"job-1-{index}")
    await world.until_over()
    assert world.job()["phase"] == ("succeeded" if deleted == 1 else "cancelled")
    assert world.job()["message"]
