"""While a machine is cleaned for another job it is watched, and whatever happens then its last word is said."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typing_extensions import override

from dstackd import protocol
from dstackd.launch_document import ContainerDocument, InputDocument
from dstackd.local.imds import MetadataServer
from dstackd.runner.attempt import AttemptLife
from dstackd.runner.aws import AwsApi
from dstackd.runner.cleaning import Cleaner
from dstackd.runner.confine import confine
from dstackd.runner.errors import StageFailed
from dstackd.runner.identity import Identity
from dstackd.runner.inbox import Reporter
from dstackd.runner.journal import Journal
from dstackd.runner.logs import LogStream
from dstackd.runner.machine import Machine
from dstackd.runner.notice import NOTICE_S
from dstackd.runner.power import LOCAL_VARIABLE
from dstackd.runner.reuse import Idle
from dstackd.runner.s3 import Bucket
from dstackd.runner.secrets import Secrets
from dstackd.runner.stopping import INTERRUPTED, StopSwitch
from dstackd.runner.watchdog import Watchdog
from tests.runner.conftest import Project, a_job, wait_until
from tests.runner.loopback import Canned, ScriptedServer, credentials, metadata, scripted
from tests.runner.test_control import DOCUMENT, INSTANCE_ID, NO_WORD, WATCHES
from tests.runner.test_reuse import done_of

OFFER = (protocol.IDLE, "7", "60")


class ACleaner(Cleaner):
    """Does what the test says while the machine is cleaned."""

    meanwhile: Callable[[], object]

    @override
    def clean(
        self,
        *,
        had_container: bool,
        leaves: Callable[[], bool] = bool,
        patience_s: float = 10.0,
    ) -> bool:
        self.meanwhile()
        return super().clean(had_container=had_container, leaves=leaves, patience_s=patience_s)


class Post:
    """A machine in the test's own process, between two jobs."""

    def __init__(self, machine: Machine, s3: ScriptedServer, imds: MetadataServer) -> None:
        self.machine = machine
        self.s3 = s3
        self.imds = imds

    def offer(self, meanwhile: Callable[[], object]) -> tuple[str, ...]:
        """What `done` gets when this happens while the machine is cleaned."""
        environ = {LOCAL_VARIABLE: "http://127.0.0.1:1"}
        cleaner = ACleaner(self.machine.base_dir, environ=environ, say=self.machine.journal.say)
        cleaner.meanwhile = meanwhile
        job = a_job(reuse_s=60.0)
        idle = Idle(self.machine, DOCUMENT, job, cleaner=cleaner, number=7)
        try:
            return idle.offer()
        finally:
            idle.end()

    def beats(self) -> int:
        return sum(protocol.HEARTBEAT_PREFIX in each.target for each in self.s3.asked)

    def see_beats(self) -> None:
        """Until some more heartbeats were given."""
        beats = self.beats()
        wait_until(lambda: self.beats() > beats + 2)


@contextmanager
def a_machine(folder: Path, *, always: Canned = NO_WORD) -> Iterator[Post]:
    server, imds = metadata()
    known = credentials()
    with scripted() as s3:
        s3.always = always
        bucket = Bucket("a-bucket", region="us-east-1", credentials=known, endpoint_url=s3.url)
        logs = AwsApi("logs", url=s3.url, region="us-east-1", credentials=known)
        journal = Journal()
        reporter = Reporter(bucket, instance_id=INSTANCE_ID, journal=journal)
        reporter.start()
        machine = Machine(
            identity=Identity(INSTANCE_ID, "us-east-1", "a-bucket", "launch", 0),
            imds=imds,
            credentials=known,
            bucket=bucket,
            logs=logs,
            secrets=logs,
            journal=journal,
            journal_stream=LogStream(logs, group="runners", stream=INSTANCE_ID),
            reporter=reporter,
            switch=StopSwitch(),
            watchdog=Watchdog({}, end=pytest.fail),
            base_dir=str(folder),
            environ={LOCAL_VARIABLE: "http://127.0.0.1:1", "PATH": f"{folder}:/usr/bin:/bin"},
        )
        try:
            yield Post(machine, s3, server)
        finally:
            reporter.close(patience_s=0.1)
            wait_until(lambda: not WATCHES & {each.name for each in threading.enumerate()})
            machine.close()


def test_a_clean_machine_is_offered_and_was_watched(tmp_path: Path) -> None:
    """It gives its heartbeat while it is cleaned, however long that takes."""
    with a_machine(tmp_path) as post:
        assert post.offer(post.see_beats) == OFFER


@pytest.mark.parametrize("error", [RecursionError, MemoryError, OSError, ValueError])
def test_what_goes_wrong_is_no_other_job(
    tmp_path: Path, error: type[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    """It is said, and the job's last word comes without an offer."""

    def fail() -> None:
        raise error("too deep")

    with a_machine(tmp_path) as post:
        assert post.offer(fail) == ()
    assert (
        f"cleaning: given up, no other job: {error.__name__}('too deep')" in capsys.readouterr().out
    )


def test_a_notice_meanwhile_is_the_machines(tmp_path: Path) -> None:
    """A spot notice, a recommendation, a SIGTERM: it is told, and there is no offer."""
    with a_machine(tmp_path) as post:
        machine = post.machine

        def reclaim() -> None:
            post.imds.update({"reclaim_at": time.time() + NOTICE_S})
            wait_until(lambda: machine.switch.current() is not None)

        assert post.offer(reclaim) == ()
        wait_until(lambda: any("notice" in each.target for each in post.s3.asked))


def test_a_stop_of_the_machine_meanwhile_is_no_offer(tmp_path: Path) -> None:
    """As SIGTERM orders it."""
    with a_machine(tmp_path) as post:
        switch = post.machine.switch
        assert post.offer(lambda: switch.order(INTERRUPTED, grace_s=1.0)) == ()


def test_a_word_for_the_job_that_ended_is_not_heard(tmp_path: Path) -> None:
    """The machine is offered, and the next job not stopped."""
    word = protocol.stop_word("late", job_id="job-0", attempt=1)
    with a_machine(tmp_path, always=Canned(200, word)) as post:
        assert post.offer(post.see_beats) == OFFER
        assert post.machine.switch.current() is None


def test_a_job_that_nests_folders_is_no_failure(project: Project) -> None:
    """A thousand and a half, one in the other: its last word comes, with the offer."""
    program = "import os\\nfor _ in range(1500): os.mkdir('folder'); os.chdir('folder')"
    job = a_job(f'python3 -c "$(printf "{program}")"', reuse_s=1.0)
    (machine,) = project.launch(job)
    done = done_of(project, machine, job)
    assert done.fields[4:] == (protocol.IDLE, "1", "1"), project.story(machine)
    project.wait_until_gone(machine)


class WithoutInputs(AttemptLife):
    """Its inputs fail once the image is being pulled."""

    @override
    def _restore(self, say: Callable[[str], None]) -> int | None:
        pulls = Path(self._machine.base_dir) / "podman.pulls"
        wait_until(pulls.exists)
        raise StageFailed("inputs", "not in the bucket")


def test_nobody_waits_for_the_image_of_a_job_without_inputs(tmp_path: Path) -> None:
    """The input is not there: the pull that would take an hour is ended."""
    engine = tmp_path / "podman"
    engine.write_text('#!/bin/sh\ncase "$*" in *pull*) touch "$0.pulls"; exec sleep 3600 ;; esac\n')
    engine.chmod(0o755)
    job = a_job(
        container=ContainerDocument(image="registry.invalid/a/b:1"),
        inputs=(InputDocument("0" * 64),),
    )
    missing = Canned(404, b"<Error><Code>NoSuchKey</Code></Error>")
    with a_machine(tmp_path, always=missing) as post:
        machine = post.machine
        confined = confine(
            job, base_dir=str(tmp_path), environ=machine.environ, journal=machine.journal
        )
        began_s = time.monotonic()
        with pytest.raises(StageFailed, match="not in the bucket"):
            WithoutInputs(machine, DOCUMENT, job)._prepare(confined, Secrets({}), say=print)
        assert time.monotonic() - began_s < 30
