"""Whole lives of machines on the local cloud: real user-data, real zipapp, real processes."""

from __future__ import annotations

import json

from dstackd import protocol
from dstackd.launch_document import InputDocument
from tests.runner.conftest import Project, a_job, kinds, wait_until


def test_a_job_lives_from_document_to_shutdown(project: Project) -> None:
    """Inputs in, commands run, logs and artifacts out, everything reported, the machine gone."""
    digest = project.put_input({"words.txt": b"one two three\n"})
    job = a_job(
        "echo hello",
        "echo $GREETING to $DSTACKD_JOB_ID/$DSTACKD_ATTEMPT >&2",
        "mkdir -p out/deep",
        "wc -w < texts/words.txt > out/deep/count",
        env={"GREETING": "welcome"},
        inputs=(InputDocument(digest, target="texts"),),
        artifacts=("out", "nothing/*.txt"),
    )
    [instance_id] = project.launch(job)
    project.wait_until_gone(instance_id)

    events = project.inbox(instance_id)
    assert kinds(events) == ["booted", "started", "exited", "sealed", "done"], project.story(
        instance_id
    )
    assert {(event.job_id, event.attempt) for event in events} == {(job.job_id, 1)}
    assert events[2].fields == ("0", "exit", "")
    verdict, files, size_bytes, message = events[3].fields
    assert (verdict, files) == ("complete", "1")
    assert message == "nothing at nothing/*.txt"
    texts = {line.source: line.text for line in project.log(job)}
    assert texts == {"stdout": "hello", "stderr": f"welcome to {job.job_id}/1"}
    assert events[4].fields == ("2", str(sum(len(text) for text in texts.values())), "0", "0")
    [file] = project.manifest(job).files
    content = project.get(protocol.artifact_key(job.job_id, 1, file.path))
    assert (file.path, content.split()) == ("out/deep/count", [b"3"])
    assert (file.size, str(file.size)) == (len(content), size_bytes)
    assert file.sha256 == protocol.sha256_hex(content)
    assert project.keys(protocol.HEARTBEAT_PREFIX) == [protocol.heartbeat_key(instance_id)]


def test_a_batch_finds_its_jobs_by_launch_index(project: Project) -> None:
    """Each machine of one launch runs its own job, and a failing command gives its code."""
    jobs = [a_job(f"exit {index}", index=index, array_index=index) for index in range(3)]
    for index, instance_id in enumerate(project.launch(*jobs)):
        event = project.wait_for(instance_id, "exited")
        assert (event.job_id, event.fields) == (jobs[index].job_id, (str(index), "exit", ""))


def test_the_daemon_can_stop_a_job(project: Project) -> None:
    """The control object ends the commands with SIGTERM, and the cause is told."""
    job = a_job("trap 'echo stopping; exit 7' TERM", "echo up", "sleep 60 & wait")
    [instance_id] = project.launch(job)
    project.wait_for(instance_id, "started")
    project.put(
        protocol.control_key(instance_id), json.dumps({"stop": {"reason": "cancelled"}}).encode()
    )
    project.wait_until_gone(instance_id)
    events = project.inbox(instance_id)
    assert events[2].fields == ("7", "stopped", ""), project.story(instance_id)
    assert [line.text for line in project.log(job)] == ["up", "stopping"]


def test_a_spot_notice_seals_a_partial_set_that_the_next_attempt_gets(project: Project) -> None:
    """A reclaimed job saves its checkpoint in the notice, and the next attempt starts from it."""
    commands = (
        "cat checkpoint 2>/dev/null || true",
        "trap 'echo half > checkpoint; exit 1' TERM",
        "[ -e checkpoint ] || { echo working; sleep 60 & wait; }",
    )
    first = a_job(*commands, artifacts=("checkpoint",))
    [instance_id] = project.launch(first, spot=True)
    project.wait_for(instance_id, "started")
    project.cloud.control.reclaim(instance_id, notice_s=20.0)
    project.wait_until_gone(instance_id)
    events = [event for event in project.inbox(instance_id) if event.kind != "rebalance"]
    assert kinds(events) == ["booted", "started", "notice", "exited", "sealed", "done"]
    assert events[2].fields[0] == "terminate"
    assert events[3].fields == ("1", "interrupted", "")
    assert events[4].fields[0] == "partial"

    second = a_job(
        *commands, job_id=first.job_id, attempt=2, artifacts=("checkpoint",), resume_from=(1,)
    )
    [instance_id] = project.launch(second)
    project.wait_until_gone(instance_id)
    written = [line.text for line in project.log(second) if line.source != "dstackd"]
    assert written == ["half"]
    assert project.manifest(second).verdict == "complete"


def test_a_job_that_resumes_goes_on_after_it_has_saved(project: Project) -> None:
    """It saves at the stop signal and exits with 0, as programs do: that is an interruption, and the next attempt ends it."""
    commands = (
        "trap 'echo half > checkpoint; exit 0' TERM",
        "[ -e checkpoint ] || { echo working; sleep 60 & wait; }",
        "cat checkpoint",
    )
    first = a_job(*commands, artifacts=("checkpoint",), resume=True)
    [instance_id] = project.launch(first, spot=True)
    wait_until(lambda: project.log(first), seen=lambda: project.story(instance_id))
    project.cloud.control.reclaim(instance_id, notice_s=20.0)
    project.wait_until_gone(instance_id)
    events = {event.kind: event.fields for event in project.inbox(instance_id)}
    assert events["exited"] == ("0", "interrupted", ""), project.story(instance_id)
    assert events["sealed"][0] == "partial"

    second = a_job(
        *commands,
        job_id=first.job_id,
        attempt=2,
        artifacts=("checkpoint",),
        resume=True,
        resume_from=(1,),
    )
    [instance_id] = project.launch(second)
    project.wait_until_gone(instance_id)
    events = {event.kind: event.fields for event in project.inbox(instance_id)}
    assert events["exited"] == ("0", "exit", "")
    assert [line.text for line in project.log(second) if line.source != "dstackd"] == ["half"]


def test_artifacts_go_up_while_the_job_has_its_grace(project: Project) -> None:
    """What is there at the notice is in the bucket before the commands have ended, and the rest with the seal."""
    job = a_job(
        "echo weights > model",
        "trap 'while [ ! -e go ]; do sleep 0.05; done; echo last > checkpoint; exit 1' TERM",
        "echo up; sleep 60 & wait",
        artifacts=("model", "checkpoint"),
    )
    [instance_id] = project.launch(job, spot=True)
    project.wait_for(instance_id, "started")
    project.cloud.control.reclaim(instance_id, notice_s=60.0)
    wait_until(lambda: project.partial_paths(job), seen=lambda: project.story(instance_id))
    assert project.partial_paths(job) == ["model"]
    (project.home(instance_id) / "dstackd" / "job" / "go").touch()
    project.wait_until_gone(instance_id)
    assert [file.path for file in project.manifest(job).files] == ["checkpoint", "model"]
    assert project.manifest(job).verdict == "partial"
