"""One machine's life, in order. Law: each step reports before the next begins; a step that cannot be
done raises StageFailed; nothing here waits without a bound but the job itself.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from dstackd import artifact_manifest, launch_document, protocol
from dstackd.launch_document import DocumentError, JobDocument, LaunchDocument
from dstackd.runner import VERSION
from dstackd.runner.aws import AwsApi
from dstackd.runner.batches import Batcher
from dstackd.runner.control import Watch
from dstackd.runner.errors import RunnerError, StageFailed
from dstackd.runner.identity import Identity
from dstackd.runner.imds import Imds
from dstackd.runner.inbox import Reporter, fitting
from dstackd.runner.inputs import restore_attempt, restore_inputs
from dstackd.runner.job import Outcome, RunningJob, job_environment
from dstackd.runner.job_log import JobLog
from dstackd.runner.journal import Journal
from dstackd.runner.logs import LogStream
from dstackd.runner.paths import UnsafePath, below
from dstackd.runner.s3 import Bucket
from dstackd.runner.sealing import Sealed, seal
from dstackd.runner.shipper import Shipper
from dstackd.runner.spool import Spool
from dstackd.runner.stopping import INTERRUPTED, StopSwitch

DOCUMENT_PATIENCE_S = 120.0
LOG_PATIENCE_S = 120.0
STOPPED_BEFORE_START = 143
"""As if SIGTERM had ended the commands."""


@dataclass(frozen=True)
class Machine:
    """What every step needs."""

    identity: Identity
    imds: Imds
    bucket: Bucket
    logs: AwsApi
    journal: Journal
    journal_stream: LogStream
    reporter: Reporter
    switch: StopSwitch
    base_dir: str
    environ: Mapping[str, str]

    @property
    def job_dir(self) -> str:
        """The job's folder; DSTACKD_JOB_DIR for the job."""
        return os.path.join(self.base_dir, "job")


def live(machine: Machine) -> None:
    """From the document to `done`. Raises StageFailed."""
    document, job = _read_document(machine)
    machine.reporter.know_job(job.job_id, job.attempt)
    machine.reporter.report(protocol.BOOTED, VERSION)
    watch = _watch(machine, document, job)
    os.makedirs(machine.job_dir, exist_ok=True)
    restore_inputs(
        job, job_dir=machine.job_dir, scratch_dir=machine.base_dir, bucket=machine.bucket
    )
    restore_attempt(job, job_dir=machine.job_dir, bucket=machine.bucket, journal=machine.journal)
    log = JobLog(Spool(os.path.join(machine.base_dir, "spool")))
    shipper = _shipper(machine, document, job, log)
    stopped = machine.switch.current() is not None
    sealed = _skip(machine, log) if stopped else _run(machine, job, log)
    machine.reporter.report(
        protocol.SEALED,
        sealed.verdict,
        str(sealed.files),
        str(sealed.size_bytes),
        fitting(sealed.message),
    )
    if not shipper.finish(patience_s=LOG_PATIENCE_S):
        machine.journal.say(f"logs: sent {shipper.sent_lines} of {log.lines} lines")
    machine.reporter.report(protocol.DONE, str(log.lines), str(log.size_bytes))
    watch.stop()


def _read_document(machine: Machine) -> tuple[LaunchDocument, JobDocument]:
    key = protocol.launch_key(machine.identity.launch_id)
    try:
        content = machine.bucket.get(key, patience_s=DOCUMENT_PATIENCE_S)
        if content is None:
            raise StageFailed("document", f"{key} is not in the bucket")
        document = launch_document.decode(content)
        return document, launch_document.job_at(document, machine.identity.launch_index)
    except (RunnerError, DocumentError) as error:
        if isinstance(error, StageFailed):
            raise
        raise StageFailed("document", str(error)) from error


def _watch(machine: Machine, document: LaunchDocument, job: JobDocument) -> Watch:
    watch = Watch(
        instance_id=machine.identity.instance_id,
        stop_grace_s=job.stop_grace_s,
        imds=machine.imds,
        bucket=machine.bucket,
        switch=machine.switch,
        reporter=machine.reporter,
        journal=machine.journal,
        journal_stream=machine.journal_stream,
    )
    watch.start(document)
    return watch


def _shipper(machine: Machine, document: LaunchDocument, job: JobDocument, log: JobLog) -> Shipper:
    stream = LogStream(
        machine.logs,
        group=protocol.job_log_group(machine.identity.bucket),
        stream=protocol.log_stream(job.job_id, job.attempt),
    )
    shipper = Shipper(
        log,
        Batcher(log.next_record),
        stream,
        flush_s=document.log_flush_s,
        journal=machine.journal,
    )
    shipper.start()
    return shipper


def _run(machine: Machine, job: JobDocument, log: JobLog) -> Sealed:
    running = _start(machine, job, log)
    machine.reporter.report(protocol.STARTED)
    outcome = running.wait()
    machine.reporter.report(protocol.EXITED, str(outcome.code), outcome.cause)
    # From here the shipper empties the spool beside the upload.
    running.drain()
    return seal(
        job,
        job_dir=machine.job_dir,
        bucket=machine.bucket,
        interrupted=outcome.cause == INTERRUPTED,
        journal=machine.journal,
    )


def _start(machine: Machine, job: JobDocument, log: JobLog) -> RunningJob:
    try:
        working_dir = below(machine.job_dir, job.working_dir or ".")
        os.makedirs(working_dir, exist_ok=True)
        return RunningJob(
            job,
            script_path=os.path.join(machine.base_dir, "commands.sh"),
            working_dir=working_dir,
            environment=job_environment(job, job_dir=machine.job_dir, environ=machine.environ),
            log=log,
            switch=machine.switch,
        )
    except (OSError, ValueError, UnsafePath) as error:
        raise StageFailed("start", str(error)) from error


def _skip(machine: Machine, log: JobLog) -> Sealed:
    """The stop came before the start. What was restored is not sealed again: it may be half of what
    the earlier attempt has.
    """
    order = machine.switch.current()
    outcome = Outcome(STOPPED_BEFORE_START, order.cause if order else INTERRUPTED)
    machine.reporter.report(protocol.EXITED, str(outcome.code), outcome.cause)
    log.close()
    return Sealed(artifact_manifest.FAILED, 0, 0, "stopped before the commands began")
