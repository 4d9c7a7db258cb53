"""One attempt at one job on this machine, in order. Law: each step reports before the next begins; a
step that cannot be done raises StageFailed, and what the log holds by then is sent all the same;
nothing here waits without a bound but the job itself. What few jobs need is imported where it is needed:
a zipapp is compiled anew at each start.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from dstackd import artifact_manifest, protocol
from dstackd.launch_document import JobDocument, LaunchDocument
from dstackd.runner import VERSION
from dstackd.runner.artifact_rounds import ArtifactRounds
from dstackd.runner.cgroup import job_memory_max_bytes
from dstackd.runner.confine import Confinement, confine
from dstackd.runner.control import Watch
from dstackd.runner.enclosure import Enclosure
from dstackd.runner.errors import StageFailed
from dstackd.runner.inbox import fitting
from dstackd.runner.job import Outcome, RunningJob, job_environment
from dstackd.runner.job_log import JobLog
from dstackd.runner.machine import Machine
from dstackd.runner.paths import UnsafePath, below
from dstackd.runner.sealing import Sealed, seal
from dstackd.runner.secrets import Secrets, read_secrets
from dstackd.runner.shipper import Shipper, start_log
from dstackd.runner.stopping import EXIT, INTERRUPTED, StopOrder

LOG_PATIENCE_S = 120.0
LAST_WORDS_S = 3.0
"""Of a spot notice: what the last reports need."""
STOPPED_BEFORE_START = 143
"""As if SIGTERM had ended the commands."""


@dataclass(frozen=True)
class Lived:
    """How it went: the fields of `done`, and whether the commands ended by themselves."""

    done_fields: tuple[str, ...]
    undisturbed: bool


class AttemptLife:
    """From `booted` to `sealed`; `live` once. `done` is the caller's: it says what the machine does next."""

    def __init__(self, machine: Machine, document: LaunchDocument, job: JobDocument) -> None:
        self._machine = machine
        self._document = document
        self._job = job
        self._rounds = ArtifactRounds(
            job, job_dir=machine.job_dir, bucket=machine.bucket, journal=machine.journal
        )
        self._running: RunningJob | None = None
        self._shipper: Shipper | None = None

    def live(self) -> Lived:
        """Raises StageFailed."""
        machine, job = self._machine, self._job
        machine.reporter.know_job(job.job_id, job.attempt)
        machine.reporter.report(protocol.BOOTED, VERSION)
        watch = self._watch()
        try:
            secrets = read_secrets(
                job,
                bucket=machine.identity.bucket,
                region=machine.identity.region,
                api=machine.secrets,
            )
            log, shipper = self._start_log(secrets)
            self._shipper = shipper
            return self._live_with(log, shipper, secrets)
        finally:
            watch.stop()

    def _live_with(self, log: JobLog, shipper: Shipper, secrets: Secrets) -> Lived:
        try:
            outcome, sealed = self._run(log, secrets)
        except BaseException:
            log.close()
            shipper.finish(patience_s=self._left_s(LOG_PATIENCE_S))
            raise
        self._machine.reporter.report(
            protocol.SEALED,
            sealed.verdict,
            str(sealed.files),
            str(sealed.size_bytes),
            fitting(sealed.message),
        )
        if not shipper.finish(patience_s=self._left_s(LOG_PATIENCE_S)):
            self._machine.journal.say(f"logs: sent {shipper.sent_lines} of {log.lines} lines")
        return Lived(log.done_fields(), outcome.cause == EXIT and self._order() is None)

    def _run(self, log: JobLog, secrets: Secrets) -> tuple[Outcome, Sealed]:
        confined = confine(
            self._job,
            base_dir=self._machine.base_dir,
            environ=self._machine.environ,
            journal=self._machine.journal,
        )
        enclosure, previous = self._prepare(confined, secrets, say=self._say_to(log))
        if self._order() is not None:
            return self._skip(log)
        running = self._start(confined, enclosure, secrets, previous, log)
        self._rounds.start()
        self._machine.reporter.report(protocol.STARTED)
        outcome = running.wait()
        self._report_exit(outcome)
        # From here the shipper empties the spool beside the upload.
        running.drain()
        self._rounds.stop()
        return outcome, self._seal(outcome)

    def _prepare(
        self, confined: Confinement, secrets: Secrets, *, say: Callable[[str], None]
    ) -> tuple[Enclosure, int | None]:
        """What the commands run in, and the attempt whose artifacts they find. An image comes beside the inputs."""
        os.makedirs(self._machine.job_dir, exist_ok=True)
        gave_up = threading.Event()
        with ThreadPoolExecutor(1) as beside:
            enclosure = beside.submit(self._enclosure, confined, secrets, say, gave_up)
            try:
                previous = self._restore(say)
            except BaseException:
                gave_up.set()  # nobody waits for the image any more
                raise
            return enclosure.result(), previous

    def _restore(self, say: Callable[[str], None]) -> int | None:
        """Bring what the job's folder begins with; the attempt whose artifacts are in it."""
        machine, job = self._machine, self._job
        if not (job.inputs or job.s3_inputs or job.resume_from):
            return None
        from dstackd.runner.inputs import (  # noqa: PLC0415 - few jobs
            restore_attempt,
            restore_inputs,
        )

        restore_inputs(
            job,
            job_dir=machine.job_dir,
            scratch_dir=machine.base_dir,
            bucket=machine.bucket,
            say=say,
        )
        return restore_attempt(
            job,
            job_dir=machine.job_dir,
            bucket=machine.bucket,
            say=say,
            ledger=self._rounds.ledger,
        )

    def _enclosure(
        self,
        confined: Confinement,
        secrets: Secrets,
        say: Callable[[str], None],
        gave_up: threading.Event,
    ) -> Enclosure:
        machine = self._machine
        if self._job.container is None:
            return confined.enclosure()
        from dstackd.runner.container import Container  # noqa: PLC0415 - few jobs

        container = Container(
            self._job,
            base_dir=machine.base_dir,
            job_dir=machine.job_dir,
            secrets=secrets,
            environ=machine.environ,
            credentials=machine.credentials,
            say=say,
            memory_max_bytes=job_memory_max_bytes(),
        )
        container.prepare(stopped=lambda: gave_up.is_set() or self._order() is not None)
        return container

    def _start(
        self,
        confined: Confinement,
        enclosure: Enclosure,
        secrets: Secrets,
        previous: int | None,
        log: JobLog,
    ) -> RunningJob:
        machine, job = self._machine, self._job
        try:
            working_dir = below(machine.job_dir, job.working_dir or ".")
            os.makedirs(working_dir, exist_ok=True)
            if job.container is None:
                confined.own(machine.job_dir)
            environment = job_environment(
                job,
                job_dir=machine.job_dir,
                account=confined.account,
                previous_attempt=previous,
                environ=machine.environ,
            )
            self._running = RunningJob(
                job,
                enclosure=enclosure,
                script_path=os.path.join(machine.base_dir, "commands.sh"),
                working_dir=working_dir,
                environment=secrets.resolve(environment),
                log=log,
                switch=machine.switch,
                say=machine.journal.say,
            )
        except (OSError, ValueError, UnsafePath) as error:
            # A name or a path that is none is one on no machine; what the system refuses may be this one's trouble.
            final = isinstance(error, ValueError)
            raise StageFailed("start", str(error), final=final) from error
        return self._running

    def _skip(self, log: JobLog) -> tuple[Outcome, Sealed]:
        """The stop came before the start. What was restored is not sealed again: it may be half of what
        the earlier attempt has.
        """
        order = self._order()
        outcome = Outcome(STOPPED_BEFORE_START, order.cause if order else INTERRUPTED, "SIGTERM")
        self._report_exit(outcome)
        log.close()
        message = "stopped before the commands began"
        return outcome, Sealed(artifact_manifest.FAILED, 0, 0, message)

    def _seal(self, outcome: Outcome) -> Sealed:
        order = self._order()
        known = order is not None and order.deadline_s is not None
        return seal(
            self._job,
            job_dir=self._machine.job_dir,
            bucket=self._machine.bucket,
            interrupted=outcome.cause == INTERRUPTED,
            journal=self._machine.journal,
            ledger=self._rounds.ledger,
            deadline_s=self._left_s(float("inf")) if known else None,
        )

    def _report_exit(self, outcome: Outcome) -> None:
        fields = (str(outcome.code), outcome.cause, outcome.signal_name)
        self._machine.reporter.report(protocol.EXITED, *fields)

    def _order(self) -> StopOrder | None:
        return self._machine.switch.current()

    def _left_s(self, usual_s: float) -> float:
        """As long as usual, or as EC2 leaves the machine here."""
        order = self._order()
        if order is None or order.deadline_s is None:
            return usual_s
        return max(1.0, min(usual_s, order.deadline_s - time.monotonic() - LAST_WORDS_S))

    def _say_to(self, log: JobLog) -> Callable[[str], None]:
        def say(text: str) -> None:
            self._machine.journal.say(text)
            log.say(text)

        return say

    def _start_log(self, secrets: Secrets) -> tuple[JobLog, Shipper]:
        machine, job = self._machine, self._job
        return start_log(
            os.path.join(machine.base_dir, "spool"),
            logs=machine.logs,
            group=protocol.job_log_group(machine.identity.bucket),
            stream=protocol.log_stream(job.job_id, job.attempt),
            flush_s=self._document.log_flush_s,
            mask=secrets.masker.mask,
            quota_bytes=job.log_quota_bytes,
            journal=machine.journal,
        )

    def _is_well(self) -> bool:
        """Whether every thread lives that the job, its log and its reports need."""
        needed = (self._machine.reporter, self._shipper, self._running)
        return all(each is None or each.is_well for each in needed)

    def _watch(self) -> Watch:
        machine = self._machine
        watch = Watch(
            instance_id=machine.identity.instance_id,
            stop_grace_s=self._job.stop_grace_s,
            imds=machine.imds,
            bucket=machine.bucket,
            switch=machine.switch,
            reporter=machine.reporter,
            journal=machine.journal,
            journal_stream=machine.journal_stream,
            on_warning=self._rounds.hurry,
            is_well=self._is_well,
            watchdog=machine.watchdog,
            job_id=self._job.job_id,
            attempt=self._job.attempt,
        )
        watch.start(self._document)
        return watch
