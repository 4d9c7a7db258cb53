"""The machine between its jobs. Law: a machine that nobody gave another job has said so itself before it
goes, and one that was given a job runs it: who writes the decision first has decided.

`protocol.reuse_key` holds the decision; both sides write it only if it is not there (If-None-Match, S3
user guide, "Conditional writes"). A machine that cannot find out what was decided runs nothing more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from dstackd import protocol
from dstackd.launch_document import JobDocument, LaunchDocument
from dstackd.runner.cleaning import CLEANING_S, Cleaner
from dstackd.runner.control import Watch
from dstackd.runner.errors import AwsError, RunnerError
from dstackd.runner.machine import Machine
from dstackd.runner.pace import Deadline, spread_s
from dstackd.runner.watchdog import SLACK_S

LOOK_PATIENCE_S = 2.0
LEAVE_PATIENCE_S = 60.0
"""The daemon leaves a machine alone for as long, and more, after its time."""
_TAKEN = 412


@dataclass(frozen=True)
class Place:
    """Where a machine finds its job: in the document of this launch, under this index."""

    launch_id: str
    index: int


class Decisions(Protocol):
    """The bucket, as far as a decision needs it (`s3.Bucket`)."""

    def put(
        self, key: str, body: bytes, *, patience_s: float, only_if_new: bool = False
    ) -> None: ...

    def get(self, key: str, *, patience_s: float) -> bytes | None: ...


class Decision:
    """One decision about an idle machine, as the machine sees it."""

    def __init__(
        self, bucket: Decisions, *, instance_id: str, number: int, say: Callable[[str], None]
    ) -> None:
        self._bucket = bucket
        self._key = protocol.reuse_key(instance_id, number)
        self._say = say

    def look(self) -> Place | None:
        """The job that the machine was given by now. An answer that does not come is none."""
        return self._read(patience_s=LOOK_PATIENCE_S)

    def leave(self) -> Place | None:
        """Decide that the machine leaves; the job, if it was given one before."""
        try:
            self._bucket.put(
                self._key,
                protocol.REUSE_LEAVE,
                patience_s=LEAVE_PATIENCE_S,
                only_if_new=True,
            )
        except AwsError as error:
            # By the daemon, or by this call when its first answer was lost.
            if error.status == _TAKEN:
                return self._read(patience_s=LEAVE_PATIENCE_S)
            self._say(f"reuse: {error}")
        except RunnerError as error:
            self._say(f"reuse: {error}")
        return None

    def _read(self, *, patience_s: float) -> Place | None:
        try:
            return _place(self._bucket.get(self._key, patience_s=patience_s))
        except RunnerError as error:
            self._say(f"reuse: {error}")
            return None


def _place(content: bytes | None) -> Place | None:
    claim = None if content is None else protocol.read_reuse_claim(content)
    return None if claim is None else Place(*claim)


def wait_for_job(
    decision: Decision,
    *,
    deadline: Deadline,
    watch_s: float,
    leaves: threading.Event,
    moved: Callable[[], bool] = lambda: False,
) -> Place | None:
    """Look every `watch_s` or so until a job is there, the time is over, or the machine has to go (`leaves`
    is set, or `moved` says so); None: the machine has left.
    """
    while not leaves.is_set() and not moved() and deadline.left_s() > 0:
        place = decision.look()
        if place is not None:
            return place
        # Not all machines of a launch at the same instants.
        leaves.wait(min(spread_s(watch_s), deadline.left_s()))
    return decision.leave()


class Idling:
    """What a machine does between its jobs; made before the first one."""

    def __init__(self, machine: Machine) -> None:
        self._cleaner = Cleaner(machine.base_dir, environ=machine.environ, say=machine.journal.say)
        self._number = 0

    @contextmanager
    def after(self, machine: Machine, document: LaunchDocument, job: JobDocument) -> Iterator[Idle]:
        """The time after this job; `machine` has the switch that means the machine and not the job any more."""
        self._number += 1
        idle = Idle(machine, document, job, cleaner=self._cleaner, number=self._number)
        try:
            yield idle
        finally:
            idle.end()


class Idle:
    """The time after one job. From `offer` to `end` the machine is watched: heartbeat, spot notice,
    rebalance, silence. A word of the daemon's about the job that ended is not heard.
    """

    def __init__(
        self,
        machine: Machine,
        document: LaunchDocument,
        job: JobDocument,
        *,
        cleaner: Cleaner,
        number: int,
    ) -> None:
        self._machine = machine
        self._document = document
        self._job = job
        self._cleaner = cleaner
        self._number = number
        self._deadline = Deadline(0.0)
        self._warned = threading.Event()
        self._watch = _idle_watch(machine, on_warning=self._warned.set)

    def offer(self) -> tuple[str, ...]:
        """The fields that `done` gets when the machine waits for another job; none when it does not: nobody
        has asked for it, it has to go, or it could not be cleaned. Nothing of the job's threads may be left.
        """
        if self._job.reuse_s is None:
            return ()
        try:
            is_clean = self._is_clean()
        except Exception as error:  # noqa: BLE001 - the job's last word is still to be said
            self._machine.journal.say(f"cleaning: given up, no other job: {error!r}")
            return ()
        if not is_clean or self._leaves():
            return ()
        self._deadline = Deadline(self._job.reuse_s)
        return (protocol.IDLE, str(self._number), str(int(self._job.reuse_s)))

    def wait(self) -> Place | None:
        """Until the machine has another job, or (None) has left."""
        return wait_for_job(
            Decision(
                self._machine.bucket,
                instance_id=self._machine.identity.instance_id,
                number=self._number,
                say=self._machine.journal.say,
            ),
            deadline=self._deadline,
            watch_s=self._document.watch_s,
            leaves=self._warned,
            moved=self._leaves,
        )

    def end(self) -> None:
        """Nobody watches any more."""
        self._watch.stop()

    def _is_clean(self) -> bool:
        self._watch.start(self._document)
        with self._machine.watchdog.within("cleaning", CLEANING_S + SLACK_S):
            return self._cleaner.clean(
                had_container=self._job.container is not None, leaves=self._leaves
            )

    def _leaves(self) -> bool:
        return self._warned.is_set() or self._machine.switch.current() is not None


def _idle_watch(machine: Machine, *, on_warning: Callable[[], None]) -> Watch:
    return Watch(
        instance_id=machine.identity.instance_id,
        stop_grace_s=0.0,
        imds=machine.imds,
        bucket=machine.bucket,
        switch=machine.switch,
        reporter=machine.reporter,
        journal=machine.journal,
        journal_stream=machine.journal_stream,
        on_warning=on_warning,
        is_well=lambda: machine.reporter.is_well,
        watchdog=machine.watchdog,
        job_id="-",
    )
