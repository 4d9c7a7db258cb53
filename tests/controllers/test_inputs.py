"""Inputs are in the bucket before anything is launched."""

from __future__ import annotations

import json
from pathlib import Path

from dstackd import protocol
from tests.builders import spec_json
from tests.controllers.installation import Installation


def with_input(folder: Path) -> str:
    """A spec that wants a folder."""
    return spec_json(inputs=[{"source": str(folder), "target": "in"}])


async def test_an_input_is_uploaded_once_and_reaches_the_document(world: Installation) -> None:
    """Two jobs with the same folder share one object; each machine's document names it."""
    folder = world.inputs_root / "code"
    folder.mkdir(parents=True)
    (folder / "main.py").write_text("print()")
    for job_id in ("job-1", "job-2"):
        world.insert(with_input(folder), job_id=job_id)
    await world.until_phase("booting")
    (key,) = world.cloud.bucket.keys(protocol.PREFIX + "inputs/")
    digest = json.loads(world.job()["inputs_digest"])[0]
    assert key == protocol.input_key(digest)
    (document,) = (
        world.cloud.bucket.load(key) or b"" for key in world.cloud.bucket.keys("dstackd/launches/")
    )
    assert document.count(digest.encode()) == 2


async def test_nothing_is_launched_before_the_inputs_are_there(world: Installation) -> None:
    """While the bucket does not answer, the job waits and says for what."""
    folder = world.inputs_root / "code"
    folder.mkdir(parents=True)
    world.insert(with_input(folder))
    world.cloud.faults.lose_call["HeadObject"] = 2
    await world.rounds(2)
    assert world.job()["reason"] == "staging_inputs"
    assert world.cloud.machines == ()
    await world.until_over()
    assert world.job()["phase"] == "succeeded"


async def test_an_input_that_goes_missing_fails_its_job_only(world: Installation) -> None:
    """Accepted and then deleted: the message names the path; the other job runs."""
    for name in ("gone", "there"):
        (world.inputs_root / name).mkdir(parents=True)
        world.insert(with_input(world.inputs_root / name), job_id=name)
    await world.daemon.intake.step()
    (world.inputs_root / "gone").rmdir()
    await world.until_over("gone", "there")
    job = world.job("gone")
    assert (job["phase"], job["reason"]) == ("failed", "input_unreadable")
    assert str(world.inputs_root / "gone") in job["message"]
    assert world.job("there")["phase"] == "succeeded"
