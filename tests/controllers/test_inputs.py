"""Inputs are in the bucket before anything is launched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dstackd import protocol
from dstackd.controllers import inputs
from dstackd.core.lifecycle import INPUT_DAYS, INPUT_RENEWED_DAYS
from dstackd.packing import Packed, pack
from dstackd.simulated.faults import Script
from tests.builders import spec_json
from tests.controllers.installation import Installation

DAY_S = 86_400.0


def with_input(*folders: Path, script: Script | None = None) -> str:
    """A spec that wants folders."""
    wanted = [{"source": str(folder), "target": folder.name} for folder in folders]
    return spec_json(script or (), inputs=wanted)


def a_folder(world: Installation, name: str = "code") -> Path:
    """A folder that jobs may take, with a file in it."""
    folder = world.inputs_root / name
    folder.mkdir(parents=True)
    (folder / "main.py").write_text(f"print('{name}')")
    return folder


def keys(world: Installation) -> tuple[str, ...]:
    """The inputs in the bucket."""
    return world.cloud.bucket.keys(protocol.INPUT_PREFIX)


@pytest.fixture
def packs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the sources that are packed from now on."""
    seen: list[str] = []

    def counted(source: Path, *, at: str, tar_path: Path) -> Packed:
        seen.append(source.name)
        return pack(source, at=at, tar_path=tar_path)

    monkeypatch.setattr(inputs, "pack", counted)
    return seen


async def test_an_input_is_uploaded_once_and_reaches_the_document(world: Installation) -> None:
    """Two jobs with the same folder share one object; each machine's document names it."""
    folder = a_folder(world)
    for job_id in ("job-1", "job-2"):
        world.insert(with_input(folder), job_id=job_id)
    await world.until_phase("booting")
    (key,) = keys(world)
    digest = json.loads(world.job()["inputs_digest"])[0]
    assert key == protocol.input_key(digest)
    (document,) = (
        world.cloud.bucket.load(key) or b"" for key in world.cloud.bucket.keys("dstackd/launches/")
    )
    assert document.count(digest.encode()) == 2


async def test_a_source_is_read_once_for_all_jobs_of_a_pass(
    world: Installation, packs: list[str]
) -> None:
    """Five hundred jobs with one folder, some with another one as well: each is packed and looked up once, saved together."""
    code, more = a_folder(world), a_folder(world, "more")
    for number in range(500):
        folders = (code, more) if number % 5 == 0 else (code,)
        world.insert(with_input(*folders), job_id=f"job-{number}")
    for _ in range(3):
        await world.daemon.intake.step()
    world.cloud.calls.clear()
    await world.daemon.inputs.step()
    assert sorted(packs) == ["code", "more"]
    assert world.cloud.calls == {"HeadObject": 2, "PutObject": 2}
    staged = {row["inputs_digest"].count('"') // 2 for row in world.sql("SELECT * FROM job")}
    assert staged == {1, 2}
    assert list((world.directory / "spool").iterdir()) == []


async def test_what_is_written_between_two_jobs_is_seen(world: Installation) -> None:
    """The second job was submitted after the change, so it gets it, also where the first one was staged just before."""
    folder = a_folder(world)
    for job_id in ("old", "new"):
        world.insert(with_input(folder, script=Script(run_s=10**5)), job_id=job_id)
        await world.daemon.intake.step()
        await world.daemon.inputs.step()
        (folder / "main.py").write_text("changed")
    assert world.job("old")["inputs_digest"] != world.job("new")["inputs_digest"]
    assert len(keys(world)) == 2


async def test_nothing_is_launched_before_the_inputs_are_there(world: Installation) -> None:
    """While the bucket does not answer, the job waits and says for what."""
    world.insert(with_input(a_folder(world)))
    world.cloud.faults.lose_call["HeadObject"] = 2
    await world.rounds(2)
    assert world.job()["reason"] == "staging_inputs"
    assert world.cloud.machines == ()
    await world.until_over()
    assert world.job()["phase"] == "succeeded"


async def test_an_input_that_goes_missing_fails_its_job_only(world: Installation) -> None:
    """Accepted and then deleted: the message names the path; the other job runs."""
    for name in ("gone", "there"):
        world.insert(with_input(a_folder(world, name)), job_id=name)
    await world.daemon.intake.step()
    (world.inputs_root / "gone" / "main.py").unlink()
    (world.inputs_root / "gone").rmdir()
    await world.until_over("gone", "there")
    job = world.job("gone")
    assert (job["phase"], job["reason"]) == ("failed", "input_unreadable")
    assert str(world.inputs_root / "gone") in job["message"]
    assert world.job("there")["phase"] == "succeeded"


async def test_one_that_cannot_be_stored_keeps_no_other_waiting(world: Installation) -> None:
    """S3 refuses the first object: its job waits, the others are staged in the same pass, and the error is told."""
    for name in ("a", "b", "c"):
        world.insert(with_input(a_folder(world, name)), job_id=name)
    await world.daemon.intake.step()
    world.cloud.faults.lose_call["PutObject"] = 1
    errors = await world.daemon.one_round()
    assert len(errors) == 1
    assert len(keys(world)) == 2
    await world.until_over("a", "b", "c")


async def test_a_job_that_only_reads_from_s3_has_nothing_to_stage(world: Installation) -> None:
    """The digests are those of the local inputs, in their order; the addresses are none of the control host's business."""
    one, two = a_folder(world, "one"), a_folder(world, "two")
    s3 = {"source": "s3://other-bucket/prefix", "target": "data"}
    only = spec_json(inputs=[s3])
    both = spec_json(
        inputs=[{"source": str(one), "target": "1"}, s3, {"source": str(two), "target": "2"}]
    )
    for job_id, spec in (("only", only), ("both", both)):
        world.insert(spec, job_id=job_id)
    await world.until_over("only", "both")
    assert {world.job(each)["phase"] for each in ("only", "both")} == {"succeeded"}
    assert world.job("only")["inputs_digest"] == "[]"
    assert len(json.loads(world.job("both")["inputs_digest"])) == 2


def age_of(world: Installation, key: str) -> float:
    """Days since the object was written."""
    modified_at_ms = world.cloud.bucket.modified_at_ms(key)
    return (world.clock.now_ms() - modified_at_ms) / 1000 / DAY_S


async def test_what_is_needed_does_not_expire(world: Installation) -> None:
    """A job runs for months and might be launched again: its input is renewed in time, and no longer when the job is over."""
    world.insert(with_input(a_folder(world), script=Script(run_s=70 * DAY_S)))
    await world.until_phase("running")
    (key,) = keys(world)
    oldest = 0.0
    while world.job()["phase"] == "running":
        world.clock.advance(DAY_S / 4)
        await world.daemon.inputs.step()
        oldest = max(oldest, age_of(world, key))
        if world.clock.monotonic_s() > 65 * DAY_S:
            break
    assert INPUT_RENEWED_DAYS - 1 < oldest < INPUT_RENEWED_DAYS + 1 < INPUT_DAYS
    world.cancel()
    await world.until_over()
    copies = world.cloud.calls["CopyObject"]
    world.clock.advance(INPUT_DAYS * DAY_S)
    await world.daemon.inputs.step()
    assert world.cloud.calls["CopyObject"] == copies


async def test_an_old_object_is_young_again_when_it_is_used_again(world: Installation) -> None:
    """A folder that was uploaded weeks ago is not sent again, and does not expire under the new job."""
    folder = a_folder(world)
    world.insert(with_input(folder), job_id="first")
    await world.until_over("first")
    (key,) = keys(world)
    world.clock.advance((INPUT_RENEWED_DAYS + 1) * DAY_S)
    world.insert(with_input(folder, script=Script(run_s=10**6)), job_id="second")
    await world.daemon.intake.step()
    await world.daemon.inputs.step()
    assert keys(world) == (key,)
    assert age_of(world, key) < 1


async def test_what_is_gone_is_uploaded_again(world: Installation) -> None:
    """Somebody emptied the bucket while the job waited for a machine: it says so, and gets its input back first."""
    world.insert(with_input(a_folder(world)))
    await world.daemon.intake.step()
    await world.daemon.inputs.step()
    (key,) = keys(world)
    await world.cloud.bucket.delete([key])
    world.clock.advance(inputs.RENEWALS_EVERY_S)
    await world.daemon.inputs.step()
    assert keys(world) == (key,)
    messages = [row["message"] for row in world.sql("SELECT message FROM event ORDER BY id")]
    assert "its inputs are gone from the bucket; uploading them again" in messages
    await world.until_over()
    assert world.job()["phase"] == "succeeded"


async def test_a_dead_daemon_leaves_no_tar(world: Installation) -> None:
    """What lay in the spool when the daemon died is gone after the next start, and nothing else there is."""
    spool = world.directory / "spool"
    (spool / "dstackd-input-abc").mkdir(parents=True)
    (spool / "dstackd-input-abc" / "input.tar").write_bytes(b"x")
    (spool / "other").mkdir()
    world.restart()
    await world.daemon.inputs.step()
    assert [each.name for each in spool.iterdir()] == ["other"]
