"""A machine without systemd: the script itself watches the runner."""

from __future__ import annotations

import os
import signal

import pytest

from dstackd.bootstrap.zipapp import user_data
from tests.bootstrap.launch import store_launch
from tests.runner import conftest
from tests.runner.conftest import Project, a_job, kinds
from tests.runner.test_failures import runner_pid


def test_a_lifetime_ends_the_job_and_seals(project: Project) -> None:
    """At its lifetime the job is stopped, its artifacts are kept, and the machine goes."""
    job = a_job("echo kept > out", "sleep 600", artifacts=("out",))
    tags = store_launch(project, job, lifetime_s=3)
    [instance_id] = project._run_instances(tags, count=1, spot=False)
    project.wait_until_gone(instance_id)
    told = kinds(project.inbox(instance_id))
    assert told == ["booted", "started", "exited", "sealed", "done"]
    assert project.manifest(job).size_bytes == 5


def test_a_hung_runner_is_ended_at_its_lifetime(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A runner that stands still is killed and reported; the lifetime is the longest that it can last."""
    text = user_data()
    assert text.count("stop_s=600 ") == 1
    monkeypatch.setattr(conftest, "user_data", lambda: text.replace("stop_s=600 ", "stop_s=1 "))
    tags = store_launch(project, a_job("sleep 600"), lifetime_s=3)
    [instance_id] = project._run_instances(tags, count=1, spot=False)
    project.wait_for(instance_id, "started")
    os.kill(runner_pid(project, instance_id), signal.SIGSTOP)
    project.wait_until_gone(instance_id)
    last = project.inbox(instance_id)[-1]
    assert (last.kind, last.fields[0]) == ("failed", "internal")
