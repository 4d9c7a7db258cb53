"""What cannot work is said, and the machine is gone."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from dstackd import launch_document, protocol
from dstackd.launch_document import InputDocument
from dstackd.runner import power
from tests.runner.conftest import REGION, Project, a_job, kinds, wait_until


def runner_pid(project: Project, instance_id: str) -> int:
    """The runner's process, found below the machine's own process group."""
    group = project.cloud.control.machine(instance_id)["group"]
    for entry in Path("/proc").iterdir():
        try:
            stat = (entry / "stat").read_text().rpartition(")")[2].split()
            command = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        named = any(word.endswith(b"runner.pyz") for word in command)
        # Not the program that watches its time.
        if int(stat[2]) == group and named and not command[0].endswith(b"timeout"):
            return int(entry.name)
    raise LookupError(project.story(instance_id))


@pytest.mark.parametrize(
    ("changes", "stage", "told"),
    [
        ({"working_dir": "../.."}, "start", "is not a path below"),
        ({"env": {"A=B": "1"}}, "start", "cannot be an environment variable"),
        ({"inputs": (InputDocument("0" * 64),)}, "inputs", "is not in the bucket"),
    ],
)
def test_a_job_that_cannot_start_is_reported(
    project: Project, changes: dict[str, Any], stage: str, told: str
) -> None:
    """One `failed` with the stage, what was wrong and that no other machine could mend it, then the end."""
    job = a_job("true", **changes)
    [instance_id] = project.launch(job)
    project.wait_until_gone(instance_id)
    [booted, failed] = project.inbox(instance_id)
    assert (booted.kind, failed.kind, failed.job_id) == ("booted", "failed", job.job_id)
    assert (failed.fields[0], *failed.fields[2:]) == (stage, "final")
    assert told in failed.fields[1]


def test_an_input_that_is_not_what_it_should_be_is_refused(project: Project) -> None:
    """The digest decides, and nothing is unpacked."""
    digest = "1" * 64
    project.put(protocol.input_key(digest), b"something else")
    [instance_id] = project.launch(a_job("true", inputs=(InputDocument(digest, target="in"),)))
    project.wait_until_gone(instance_id)
    failed = project.inbox(instance_id)[-1]
    assert (failed.fields[0], failed.fields[2:]) == ("inputs", ())
    assert "sha256 is" in failed.fields[1]
    assert not any((project.home(instance_id) / "dstackd" / "job").iterdir())


@pytest.mark.parametrize("content", [None, b"not the runner"])
def test_a_runner_that_is_not_there_or_not_it_is_never_run(
    project: Project, content: bytes | None
) -> None:
    """The script reports it at once; waiting would not help."""
    digest = protocol.sha256_hex(project.bucket.encode())
    if content is not None:
        project.put(protocol.runner_key(digest), content)
    [instance_id] = project.launch(a_job("true"), runner_sha256=digest)
    project.wait_until_gone(instance_id)
    [failed] = project.inbox(instance_id)
    assert (failed.kind, failed.job_id, failed.fields[0]) == ("failed", "-", "bootstrap")
    assert ("NoSuchKey" if content is None else "is not") in failed.fields[1]


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (b'{"version": 99}', "version 99"),
        (b"nonsense", "not JSON"),
        (
            launch_document.encode(
                launch_document.LaunchDocument(launch_id="x", bucket="b", region=REGION, jobs=())
            ),
            "no job with index 0",
        ),
    ],
)
def test_a_document_that_cannot_be_used_is_reported(
    project: Project, document: bytes, told: str
) -> None:
    """Without a job: `-` and 0."""
    [instance_id] = project.launch(a_job("true"), document=document)
    project.wait_until_gone(instance_id)
    [failed] = project.inbox(instance_id)
    assert (failed.kind, failed.job_id, failed.attempt) == ("failed", "-", 0)
    assert failed.fields[0] == "document"
    assert told in failed.fields[1]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for the process in /proc")
def test_a_runner_that_is_killed_takes_the_machine_along(project: Project) -> None:
    """The script around it reports and powers off."""
    [instance_id] = project.launch(a_job("sleep 60"))
    project.wait_for(instance_id, "started")
    os.kill(runner_pid(project, instance_id), signal.SIGKILL)
    project.wait_until_gone(instance_id)
    failed = project.inbox(instance_id)[-1]
    assert (failed.kind, failed.fields[0]) == ("failed", "internal")
    assert failed.fields[1] == "the runner was killed (137)"


def test_a_terminated_machine_stops_its_job_and_seals(project: Project) -> None:
    """When the machine itself goes down, the runner uses what time there is."""
    project.cloud.control.faults(terminate_grace_s=10.0)
    try:
        job = a_job(
            "trap 'echo x > out; exit 1' TERM; echo up", "sleep 60 & wait", artifacts=("o*",)
        )
        [instance_id] = project.launch(job)
        wait_until(lambda: project.log(job), seen=lambda: project.story(instance_id))
        project.client("ec2").terminate_instances(InstanceIds=[instance_id])
        project.wait_until_gone(instance_id)
    finally:
        project.cloud.control.faults(terminate_grace_s=1.0)
    assert kinds(project.inbox(instance_id))[-2:] == ["sealed", "done"]
    assert [file.path for file in project.manifest(job).files] == ["out"]


def test_the_real_shutdown_is_only_for_real_machines(tmp_path: Path) -> None:
    """With a metadata endpoint of one's own, only a stand-in may be called."""
    stand_in = tmp_path / "shutdown"
    stand_in.write_text("#!/bin/sh\n")
    stand_in.chmod(0o755)
    local = {power.LOCAL_VARIABLE: "http://127.0.0.1:1"}
    assert power.shutdown_command({**local, "PATH": "/usr/sbin:/sbin"}) is None
    assert power.shutdown_command({**local, "PATH": f"{tmp_path}:/sbin"}) == str(stand_in)
    assert power.shutdown_command({"PATH": str(tmp_path)}) == str(stand_in)
    assert power.shutdown_command({"PATH": str(tmp_path / "empty")}) == power.FALLBACK
