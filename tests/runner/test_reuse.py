"""The machine between two jobs: one decision, made once, whoever is first and whatever answer is lost."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from dstackd import launch_document, protocol
from dstackd.launch_document import JobDocument
from dstackd.protocol import InboxEvent
from dstackd.runner.errors import AwsError, Unreachable
from dstackd.runner.pace import Deadline
from dstackd.runner.reuse import Decision, Decisions, Place, wait_for_job
from dstackd.runner.s3 import Bucket
from tests.runner.conftest import Project, a_job, kinds, wait_until

INSTANCE = "i-0123456789abcdef0"
KEY = protocol.reuse_key(INSTANCE, 1)
WATCH_S = 0.05


class LosesAnswers:
    """The write is done, and the caller does not learn of it: it asks again, as `AwsApi` does by itself."""

    def __init__(self, inner: Bucket) -> None:
        self._inner = inner

    def put(self, key: str, body: bytes, *, patience_s: float, only_if_new: bool = False) -> None:
        for _ in range(2):
            self._inner.put(key, body, patience_s=patience_s, only_if_new=only_if_new)

    def get(self, key: str, *, patience_s: float) -> bytes | None:
        return self._inner.get(key, patience_s=patience_s)


class Silent:
    """Nothing answers."""

    def put(self, key: str, body: bytes, *, patience_s: float, only_if_new: bool = False) -> None:  # noqa: ARG002
        raise Unreachable("no route")

    def get(self, key: str, *, patience_s: float) -> bytes | None:  # noqa: ARG002
        raise Unreachable("no route")


def a_decision(bucket: Decisions) -> Decision:
    """The first about the machine."""
    return Decision(bucket, instance_id=INSTANCE, number=1, say=print)


def waiting(
    decision: Decision, *, seconds: float, leaves: threading.Event | None = None
) -> Place | None:
    """What the machine gets."""
    return wait_for_job(
        decision, deadline=Deadline(seconds), watch_s=WATCH_S, leaves=leaves or threading.Event()
    )


def test_a_claim_is_found_while_it_waits(project: Project) -> None:
    """The daemon writes its claim, and the machine has its job at one of the next looks."""
    with ThreadPoolExecutor(1) as machine:
        got = machine.submit(waiting, a_decision(project.machines_bucket()), seconds=20)
        project.put(KEY, protocol.reuse_claim("launch-7", index=0))
        assert got.result(timeout=10) == Place("launch-7", 0)


def test_a_machine_that_nobody_needs_says_so(project: Project) -> None:
    """When its time is over it leaves, and the daemon reads that."""
    began_s = time.monotonic()
    assert waiting(a_decision(project.machines_bucket()), seconds=0.3) is None
    assert time.monotonic() - began_s >= 0.3
    assert protocol.read_reuse_claim(project.get(KEY)) is None
    assert project.get(KEY) == protocol.REUSE_LEAVE


def test_a_claim_that_was_first_is_taken_at_the_last_moment(project: Project) -> None:
    """The machine wants to leave and is refused: it takes the job."""
    project.put(KEY, protocol.reuse_claim("launch-7", index=3))
    assert a_decision(project.machines_bucket()).leave() == Place("launch-7", 3)
    assert protocol.read_reuse_claim(project.get(KEY)) == ("launch-7", 3)


def test_a_leave_whose_answer_was_lost_is_a_leave(project: Project) -> None:
    """The repeated write is refused by its own object: nobody has given the machine a job."""
    assert a_decision(LosesAnswers(project.machines_bucket())).leave() is None


def test_notice_ends_the_waiting(project: Project) -> None:
    """Whatever is left of its time, the machine leaves at once."""
    leaves = threading.Event()
    leaves.set()
    assert waiting(a_decision(project.machines_bucket()), seconds=3600, leaves=leaves) is None
    assert project.get(KEY) == protocol.REUSE_LEAVE


def test_a_machine_that_cannot_learn_the_decision_runs_nothing() -> None:
    """Without the bucket it cannot know whether it was given a job: it ends, and the daemon sees it gone."""
    assert waiting(a_decision(Silent()), seconds=0.2) is None


def test_what_makes_no_sense_is_no_job(project: Project) -> None:
    """Anybody may write into a bucket."""
    project.put(KEY, b"[1]")
    assert waiting(a_decision(project.machines_bucket()), seconds=0.2) is None


def test_only_one_of_many_writers_decides(project: Project) -> None:
    """Ten daemons and ten machines at once: all of them read the same decision afterwards."""

    def claim(number: int) -> None:
        body = protocol.reuse_claim(f"launch-{number}", index=0)
        try:
            project.machines_bucket().put(KEY, body, patience_s=10, only_if_new=True)
        except AwsError as error:
            assert error.status == 412  # noqa: PT017 - most of them are refused

    with ThreadPoolExecutor(8) as crowd:
        claims = [crowd.submit(claim, number) for number in range(10)]
        leaves = [crowd.submit(a_decision(project.machines_bucket()).leave) for _ in range(10)]
        for each in claims:
            each.result()
        results = {each.result() for each in leaves}
    decided = protocol.read_reuse_claim(project.get(KEY))
    assert results == {None if decided is None else Place(*decided)}


@pytest.mark.parametrize(
    ("content", "hears"),
    [
        (protocol.stop_word("why", job_id="job-1", attempt=2), True),
        (protocol.stop_word("why", job_id="job-1", attempt=1), False),
        (protocol.stop_word("why", job_id="job-0", attempt=2), False),
        (b'{"stop":{"reason":"why"}}', True),
        (b"{}", False),
        (b"[]", False),
        (b'{"stop":null}', False),
    ],
)
def test_a_stop_is_for_the_attempt_that_it_names(content: bytes, hears: bool) -> None:
    """The machine may run another one by the time when a word about the one before comes."""
    assert protocol.hears_stop(content, job_id="job-1", attempt=2) is hears


def hand_over(project: Project, job: JobDocument, *, instance_id: str, number: int = 1) -> None:
    """As the daemon gives an idle machine its next job."""
    launch_id = f"reuse-{job.job_id}"
    project.put_document(launch_id, job)
    claim = protocol.reuse_claim(launch_id, index=0)
    project.put(protocol.reuse_key(instance_id, number), claim)


def done_of(project: Project, instance_id: str, job: JobDocument) -> InboxEvent:
    """Wait for the machine's last word about a job."""

    def found() -> list[InboxEvent]:
        return [
            event
            for event in project.inbox(instance_id)
            if (event.kind, event.job_id) == (protocol.DONE, job.job_id)
        ]

    wait_until(found, seen=lambda: project.story(instance_id))
    return found()[0]


def test_a_machine_lives_two_jobs(project: Project) -> None:
    """Each is reported, logged and sealed as its own; of the first nothing is left for the second; then the machine goes."""
    first = a_job(
        "echo first",
        "echo secret > left-behind; echo secret > ../left-behind 2>/dev/null || true",
        "sleep 1000 & echo result > result.txt",
        artifacts=("result.txt",),
        env={"TOKEN": "of the first"},
        reuse_s=60.0,
    )
    second = a_job('echo "token ${TOKEN-none}"; ls -A; ls -A ..', artifacts=("*.txt",), reuse_s=1.0)
    (machine,) = project.launch(first)
    idle = done_of(project, machine, first)
    assert idle.fields[4:] == (protocol.IDLE, "1", "60")
    hand_over(project, second, instance_id=machine)
    last = done_of(project, machine, second)
    assert last.fields[4:] == (protocol.IDLE, "2", "1")
    project.wait_until_gone(machine)
    events = project.inbox(machine)
    life = ["booted", "started", "exited", "sealed", "done"]
    assert kinds(events) == life * 2
    assert [event.seq for event in events] == list(range(1, 11))
    assert {event.job_id for event in events[:5]} == {first.job_id}
    assert {event.job_id for event in events[5:]} == {second.job_id}
    assert [line.text for line in project.log(first)] == ["first"]
    seen = [line.text for line in project.log(second)]
    assert seen[0] == "token none"
    assert not {"left-behind", "result.txt"} & set(seen)
    assert [each.path for each in project.manifest(first).files] == ["result.txt"]
    assert project.manifest(second).files == ()
    assert project.get(protocol.reuse_key(machine, 2)) == protocol.REUSE_LEAVE


def test_a_word_for_the_job_before_does_not_stop_the_next(project: Project) -> None:
    """The object is still in the bucket when the second job runs; its own word stops it, and the machine goes."""
    first = a_job("true", reuse_s=60.0)
    second = a_job("echo begun; sleep 1000", reuse_s=60.0)
    (machine,) = project.launch(first)
    done_of(project, machine, first)
    word = protocol.stop_word("late", job_id=first.job_id, attempt=first.attempt)
    project.put(protocol.control_key(machine), word)
    hand_over(project, second, instance_id=machine)
    wait_until(lambda: project.log(second), seen=lambda: project.story(machine))
    word = protocol.stop_word("now", job_id=second.job_id, attempt=second.attempt)
    project.put(protocol.control_key(machine), word)
    done = done_of(project, machine, second)
    assert done.fields[4:] == ()
    (exited,) = [
        e for e in project.inbox(machine) if (e.kind, e.job_id) == ("exited", second.job_id)
    ]
    assert exited.fields[1] == "stopped"
    project.wait_until_gone(machine)


@pytest.mark.parametrize("word", [protocol.NOTICE, protocol.REBALANCE])
def test_a_notice_while_idle_ends_the_machine(word: str, project: Project) -> None:
    """Also where EC2 only expects to reclaim it: it says so, decides that it leaves, and takes no job any more."""
    first = a_job("true", reuse_s=3600.0)
    (machine,) = project.launch(first, spot=True)
    done_of(project, machine, first)
    if word == protocol.NOTICE:
        project.cloud.control.reclaim(machine)
    else:
        project.cloud.control.rebalance(machine)
    project.wait_until_gone(machine)
    assert project.get(protocol.reuse_key(machine, 1)) == protocol.REUSE_LEAVE
    assert word in kinds(project.inbox(machine))


def test_a_job_that_failed_to_start_ends_the_machine(project: Project) -> None:
    """The second job's input is not there: the failure is that job's, and the machine does not wait any more."""
    first = a_job("true", reuse_s=60.0)
    second = a_job("true", reuse_s=60.0, inputs=(launch_document.InputDocument(sha256="0" * 64),))
    (machine,) = project.launch(first)
    done_of(project, machine, first)
    hand_over(project, second, instance_id=machine)
    failed = project.wait_for(machine, protocol.FAILED)
    assert failed.job_id == second.job_id
    project.wait_until_gone(machine)
