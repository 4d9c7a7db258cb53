"""What reaches a machine from outside: notices, recommendations, the daemon's word, and silence."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstackd import protocol
from dstackd.launch_document import LaunchDocument
from dstackd.local.imds import MetadataServer
from dstackd.runner import stopping
from dstackd.runner.aws import AwsApi
from dstackd.runner.control import SEALING_SHARE, Watch
from dstackd.runner.errors import Unreachable
from dstackd.runner.inbox import Reporter
from dstackd.runner.journal import Journal
from dstackd.runner.logs import LogStream
from dstackd.runner.notice import NOTICE_S, read_notice
from dstackd.runner.s3 import Bucket
from dstackd.runner.stopping import StopOrder, StopSwitch
from tests.runner.conftest import Project, a_job, kinds, wait_until
from tests.runner.loopback import Canned, ScriptedServer, credentials, metadata, scripted

INSTANCE_ID = "i-0123456789abcdef0"
DOCUMENT = LaunchDocument(
    launch_id="launch",
    bucket="a-bucket",
    region="us-east-1",
    jobs=(),
    watch_s=0.05,
    heartbeat_s=0.05,
)
NO_WORD = Canned(200, b"{}")
WATCHES = {"spot", "rebalance", "control", "silence", "heartbeat", "journal", "inbox"}
"""The threads of a watch and of its reporter."""
REFUSED = Canned(403, b"<Error><Code>Refused</Code></Error>")


@dataclass
class Post:
    """A watch in the test's own process, with what it watches."""

    watch: Watch
    switch: StopSwitch
    metadata: MetadataServer
    s3: ScriptedServer

    def reported(self) -> list[str]:
        """Kinds of the events in the inbox, in order."""
        events = [
            protocol.decode_inbox_key(each.target.removeprefix("/a-bucket/").replace("%21", "!"))
            for each in self.s3.asked
            if "/inbox/" in each.target
        ]
        return [event.kind for event in events if event is not None]

    def beats(self) -> int:
        """Heartbeats so far."""
        return sum(protocol.HEARTBEAT_PREFIX in each.target for each in self.s3.asked)

    def has_asked(self, count: int) -> bool:
        """Whether more than so many requests have reached S3."""
        return len(self.s3.asked) > count

    def wait_for_order(self) -> StopOrder:
        """Until somebody wants the job to stop."""
        wait_until(lambda: self.switch.current() is not None)
        order = self.switch.current()
        assert order is not None
        return order


@contextmanager
def a_post(
    *,
    on_warning: Callable[[], None] = lambda: None,
    is_well: Callable[[], bool] = lambda: True,
    document: LaunchDocument = DOCUMENT,
    always: Canned = NO_WORD,
    stop_grace_s: float = 30.0,
) -> Iterator[Post]:
    """A started watch; S3 answers each GET and PUT with `always`."""
    server, imds = metadata()
    with scripted() as s3:
        s3.always = always
        known = credentials()
        bucket = Bucket("a-bucket", region="us-east-1", credentials=known, endpoint_url=s3.url)
        journal, switch = Journal(), StopSwitch()
        reporter = Reporter(bucket, instance_id=INSTANCE_ID, journal=journal)
        reporter.start()
        logs = AwsApi("logs", url=s3.url, region="us-east-1", credentials=known)
        watch = Watch(
            instance_id=INSTANCE_ID,
            stop_grace_s=stop_grace_s,
            imds=imds,
            bucket=bucket,
            switch=switch,
            reporter=reporter,
            journal=journal,
            journal_stream=LogStream(logs, group="runners", stream=INSTANCE_ID),
            on_warning=on_warning,
            is_well=is_well,
        )
        watch.start(document)
        try:
            yield Post(watch, switch, server, s3)
        finally:
            watch.stop()
            reporter.close(patience_s=0.1)
            wait_until(lambda: not WATCHES & {each.name for each in threading.enumerate()})
            for connected in (bucket, imds, logs):
                connected.close()


@pytest.mark.parametrize(("grace_s", "expected_s"), [(30.0, 30.0), (600.0, 60.0)])
def test_a_notice_stops_the_job_within_half_of_what_is_left(
    grace_s: float, expected_s: float
) -> None:
    """The rest is for logs and artifacts, and whoever seals knows when the machine goes."""
    with a_post(stop_grace_s=grace_s) as post:
        before = time.monotonic()
        post.metadata.update({"reclaim_at": time.time() + NOTICE_S})
        order = post.wait_for_order()
        assert order.cause == stopping.INTERRUPTED
        assert order.grace_s == pytest.approx(expected_s, abs=2.0)
        assert order.deadline_s == pytest.approx(before + NOTICE_S, abs=3.0)
        wait_until(lambda: post.reported() == [protocol.NOTICE], seen=post.reported)


def test_a_notice_that_is_taken_back_is_still_one() -> None:
    """The job has its signal already: it is told once, and its end is an interruption."""
    with a_post() as post:
        post.metadata.update({"reclaim_at": time.time() + NOTICE_S})
        post.wait_for_order()
        post.metadata.update({"reclaim_at": None})
        beats = post.beats()
        wait_until(lambda: post.beats() > beats + 3)
        assert post.reported() == [protocol.NOTICE]
        assert post.wait_for_order().cause == stopping.INTERRUPTED


@given(
    st.floats(-1e6, 1e6),
    st.sampled_from(["terminate", "stop", "hibernate"]),
    st.integers(1_700_000_000, 1_900_000_000),
)
def test_no_clock_takes_the_jobs_time(skew_s: float, action: str, at: int) -> None:
    """However wrong the machine's clock is, the job has between nothing and the whole notice, and never nothing by
    mistake; stop and hibernate end the machine as terminate does.
    """
    written = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
    notice = read_notice(
        json.dumps({"action": action, "time": written}), now=at - NOTICE_S + skew_s
    )
    assert 0 < notice.left_s <= NOTICE_S
    assert (notice.action, notice.at) == (action, written)
    if skew_s <= 0:
        assert notice.left_s == pytest.approx(NOTICE_S)
    elif skew_s < NOTICE_S:
        assert notice.left_s == pytest.approx(NOTICE_S - skew_s)


def test_a_recommendation_is_reported_and_the_job_goes_on() -> None:
    """Whoever keeps artifacts up to date is called once, in a thread of its own."""
    called: list[str] = []
    with a_post(on_warning=lambda: called.append(threading.current_thread().name)) as post:
        post.metadata.update({"rebalance_at": time.time()})
        wait_until(lambda: called and post.reported())
        beats = post.beats()
        wait_until(lambda: post.beats() > beats + 3)
        assert (called, post.reported()) == (["on rebalance"], [protocol.REBALANCE])
        assert post.switch.current() is None


def test_an_upload_that_fails_on_a_recommendation_fails_nothing() -> None:
    """The watches go on."""

    def fail() -> None:
        raise Unreachable("the bucket")

    with a_post(on_warning=fail) as post:
        post.metadata.update({"rebalance_at": time.time()})
        wait_until(lambda: post.reported() == [protocol.REBALANCE])
        post.metadata.update({"reclaim_at": time.time() + NOTICE_S})
        assert post.wait_for_order().cause == stopping.INTERRUPTED


def test_a_bucket_out_of_reach_for_long_ends_the_job() -> None:
    """No call was answered: nobody could stop the job, so the machine does."""
    document = replace(DOCUMENT, silence_timeout_s=0.6)
    with a_post(document=document, always=REFUSED) as post:
        begun = time.monotonic()
        order = post.wait_for_order()
        assert (order.cause, order.grace_s) == (stopping.SILENCE, 30.0)
        assert time.monotonic() - begun >= 0.5
        assert len(post.s3.asked) > 2


def is_past(at_s: float) -> bool:
    """Whether a monotonic time is over."""
    return time.monotonic() > at_s


def test_a_bucket_that_answers_is_no_silence() -> None:
    """No word is an answer; an outage shorter than the bound is none either."""
    document = replace(DOCUMENT, silence_timeout_s=0.8)
    with a_post(document=document) as post:
        for _ in range(3):
            post.s3.always = REFUSED
            wait_until(partial(is_past, time.monotonic() + 0.4))
            post.s3.always = NO_WORD
            wait_until(partial(post.has_asked, len(post.s3.asked) + 4))
        assert post.switch.current() is None


def test_a_runner_that_is_not_well_gives_no_sign_of_life() -> None:
    """Its heartbeat thread lives, but the job is not looked after: the daemon learns it by the silence."""
    well = threading.Event()
    well.set()
    with a_post(is_well=well.is_set) as post:
        wait_until(lambda: post.beats() > 2)
        well.clear()
        wait_until(lambda: "/control/" in post.s3.asked[-1].target)
        beats, asked = post.beats(), len(post.s3.asked)
        wait_until(lambda: len(post.s3.asked) > asked + 6)
        assert post.beats() <= beats + 1


orders = st.lists(
    st.tuples(
        st.sampled_from([stopping.STOPPED, stopping.INTERRUPTED, stopping.SILENCE]),
        st.floats(0, 600),
        st.none() | st.floats(0, 1000),
    ),
    min_size=1,
)


@given(orders)
def test_the_first_cause_stays_and_later_orders_only_hurry(
    given_orders: list[tuple[str, float, float | None]],
) -> None:
    """A notice that comes during a stop shortens its grace and tells when the machine goes."""
    switch = StopSwitch()
    for cause, grace_s, deadline_s in given_orders:
        switch.order(cause, grace_s=grace_s, deadline_s=deadline_s)
    order = switch.current()
    assert order is not None
    assert order.cause == given_orders[0][0]
    assert order.grace_s == min(grace_s for _, grace_s, _ in given_orders)
    known = [deadline_s for _, _, deadline_s in given_orders if deadline_s is not None]
    assert order.deadline_s == (min(known) if known else None)


def test_the_share_leaves_time_for_both() -> None:
    """Job and sealing both have a part of the notice."""
    assert 0 < SEALING_SHARE < 1


def test_a_machine_without_its_bucket_stops_its_job(project: Project) -> None:
    """S3 refuses everything: the job gets its signal; when S3 answers again in time, its end is told and sealed."""
    job = a_job(
        "trap 'echo stopping > state; exit 3' TERM", "sleep 60 & wait", artifacts=("state",)
    )
    control = project.cloud.control
    [instance_id] = project.launch(job, silence_timeout_s=1.5)
    project.wait_for(instance_id, "started")
    operations = ("s3:GetObject", "s3:PutObject")
    try:
        for operation in operations:
            control.fail(operation, code="SlowDown", status=503, times=10**6)
        state = project.home(instance_id) / "dstackd" / "job" / "state"
        wait_until(state.exists, seen=lambda: project.story(instance_id))
    finally:
        for operation in operations:
            control.fail(operation, times=0)
    project.wait_until_gone(instance_id)
    events = project.inbox(instance_id)
    told = ["booted", "started", "exited", "sealed", "done"]
    assert kinds(events) == told, project.story(instance_id)
    assert events[2].fields[:2] == ("3", "silence")
    assert [file.path for file in project.manifest(job).files] == ["state"]
