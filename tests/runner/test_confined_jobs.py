"""Whole lives of jobs that run as a user of their own: a machine that is root's, a job that is nobody's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dstackd import protocol
from dstackd.launch_document import PERMISSIONS_MACHINE, InputDocument, JobDocument
from dstackd.local.cloud import LocalCloud, start_local_cloud
from tests.runner.conftest import Project, a_job, make_profile

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a job as another user")


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """Its folders may be entered by everybody: jobs of another user work in them."""
    folder = tmp_path_factory.mktemp("confined")
    for path in (folder, *folder.parents[:2]):
        path.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DSTACKD_LOCAL_JOB_USER", "nobody")
        with start_local_cloud(folder / "cloud") as running:
            make_profile(running)
            yield running


def lived(project: Project, job: JobDocument) -> tuple[tuple[str, ...], list[str]]:
    """The fields of `exited`, and the lines of the log."""
    [instance_id] = project.launch(job)
    exited = project.wait_for(instance_id, protocol.EXITED)
    project.wait_until_gone(instance_id)
    return exited.fields, [line.text for line in project.log(job)]


def test_a_job_is_somebody_else_and_has_its_folder(project: Project) -> None:
    """It owns its inputs and its home and may write there, but not in the runner's folder; it sees no
    variable of AWS, and its artifacts arrive.
    """
    digest = project.put_input({"in/data.txt": b"given\n"})
    job = a_job(
        "id -un",
        "echo more >> in/data.txt",
        'echo "$USER" > "$HOME/mine" && stat -c %U "$HOME"',
        "mkdir out && cp in/data.txt out/",
        'test -w "$DSTACKD_JOB_DIR/.." || test -w "$DSTACKD_JOB_DIR/../runner.pyz" || echo kept',
        "env | grep -c AWS_ || true",
        "grep NoNewPrivs /proc/self/status",
        inputs=(InputDocument(sha256=digest),),
        artifacts=("out/",),
        working_dir=".",
    )
    fields, lines = lived(project, job)
    assert (fields, lines) == (
        *(("0", "exit", ""), ["nobody", "nobody", "kept", "0", "NoNewPrivs:\t1"]),
    )
    assert project.get(protocol.artifact_key(job.job_id, 1, "out/data.txt")) == b"given\nmore\n"


def test_a_job_that_may_have_the_machine_is_root(project: Project) -> None:
    """`permissions: machine` is the machine's own user, and no right is taken from it."""
    job = a_job("id -u", "grep NoNewPrivs /proc/self/status", permissions=PERMISSIONS_MACHINE)
    assert lived(project, job) == (("0", "exit", ""), ["0", "NoNewPrivs:\t0"])


def test_a_daemon_of_the_job_is_gone_with_it(project: Project, tmp_path: Path) -> None:
    """Before the machine ends, and whatever it did to get away."""
    marker = f"31{os.getpid()}"
    job = a_job(f"setsid -f sleep {marker} < /dev/null > /dev/null 2>&1", "echo done")
    assert lived(project, job)[0] == ("0", "exit", "")
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
    assert not [line for line in lines if line == b"sleep\0" + marker.encode() + b"\0"]


def test_the_signal_is_told(project: Project) -> None:
    """Code, cause and the signal's name arrive as three fields."""
    assert lived(project, a_job("kill -KILL $$"))[0] == ("137", "exit", "SIGKILL")


def test_a_working_folder_is_the_jobs_own(project: Project) -> None:
    """Also the parts of it that were made for the job."""
    fields, lines = lived(project, a_job("pwd", "stat -c %U . ..", working_dir="a/b"))
    assert (fields, lines[1:]) == (("0", "exit", ""), ["nobody", "nobody"])
    assert lines[0].endswith("/job/a/b")
