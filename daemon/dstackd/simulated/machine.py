"""One simulated instance and the runner on it. Law: speaks to the daemon as the real runner does, in the same order."""

from __future__ import annotations

import json
from dataclasses import dataclass

from dstackd import artifact_manifest, launch_document, protocol
from dstackd.artifact_manifest import Manifest, ManifestFile
from dstackd.core.instance import Instance, InstanceState, Market
from dstackd.core.launching import LaunchRequest
from dstackd.launch_document import DocumentError, JobDocument
from dstackd.protocol import InboxEvent, LogLine
from dstackd.simulated.faults import Faults, Script, script_of
from dstackd.simulated.storage import SimulatedBucket, SimulatedLogs
from dstackd.simulated.timeline import Timeline

RUNNER_VERSION = "simulated"
BY_SIGTERM = 143
BY_ITSELF = "Client.InstanceInitiatedShutdown"
BY_REQUEST = "Client.UserInitiatedShutdown"
BY_RECLAIM = "Server.SpotInstanceTermination"
BY_HOST = "Server.InternalError"
"""EC2's StateReason codes (EC2 API reference, StateReason)."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a machine lives in."""

    timeline: Timeline
    faults: Faults
    bucket: SimulatedBucket
    logs: SimulatedLogs


class SimulatedMachine:
    """Boots, runs its script, reports, and goes away."""

    def __init__(
        self,
        request: LaunchRequest,
        *,
        instance_id: str,
        index: int,
        spot_request_id: str,
        around: Surroundings,
    ) -> None:
        self.request = request
        self.instance_id = instance_id
        self.index = index
        self.spot_request_id = spot_request_id
        self.state = InstanceState.PENDING
        self.state_reason = ""
        self.launched_at_ms = around.timeline.now_ms
        self.terminated_at_ms: int | None = None
        self.runner_up = False
        self.reclaimed = False
        self.job: JobDocument | None = None
        self._around = around
        self._script = Script()
        self._heartbeat_s = launch_document.HEARTBEAT_S
        self._reports = 0
        self._lines = 0
        self._bytes = 0
        self._running = False
        self._stop_cause = ""
        around.timeline.after(around.faults.pending_s, self._come_up)
        around.timeline.after(around.faults.boot_s, self._boot)

    @property
    def alive(self) -> bool:
        """Neither gone nor going."""
        return self.state in {InstanceState.PENDING, InstanceState.RUNNING}

    def described(self) -> Instance:
        """As DescribeInstances shows it."""
        return Instance(
            instance_id=self.instance_id,
            state=self.state,
            launch_id=dict(self.request.tags).get(protocol.TAG_LAUNCH, ""),
            launch_index=self.index,
            instance_type=self.request.instance_type,
            zone=self.request.zone,
            market=self.request.market,
            launched_at_ms=self.launched_at_ms,
            spot_request_id=self.spot_request_id,
            private_ip=f"10.0.0.{self.index % 250 + 4}",
            state_reason=self.state_reason,
        )

    def go_down(self, reason: str) -> None:
        """Shutting down from now on; terminated a while later."""
        if not self.alive:
            return
        self.runner_up = self._running = False
        self.state, self.state_reason = InstanceState.SHUTTING_DOWN, reason
        self._around.timeline.after(self._around.faults.shutdown_s, self._end)

    def reclaim(self) -> None:
        """EC2 gives notice and takes the machine back later. Only for spot machines."""
        if not self.alive or self.request.market is not Market.SPOT:
            return
        notice_s = self._around.faults.notice_s
        self.reclaimed = True
        self._around.timeline.after(notice_s, lambda: self.go_down(BY_RECLAIM))
        if self.runner_up:
            at_ms = self._around.timeline.now_ms + int(notice_s * 1000)
            self._report(protocol.NOTICE, "terminate", str(at_ms))
            self._stop("interrupted")

    def hang(self) -> None:
        """From now on it says nothing and does nothing; EC2 shows it running."""
        self.runner_up = self._running = False

    def _come_up(self) -> None:
        if self.state is InstanceState.PENDING:
            self.state = InstanceState.RUNNING

    def _end(self) -> None:
        self.state = InstanceState.TERMINATED
        self.terminated_at_ms = self._around.timeline.now_ms

    def _boot(self) -> None:
        if not self.alive:
            return
        self.state = InstanceState.RUNNING
        try:
            content = self._around.bucket.load(protocol.launch_key(self.request.launch_id))
            document = launch_document.decode(content or b"nothing is there")
            job = launch_document.job_at(document, self.index)
        except DocumentError as error:
            self._fail("document", str(error))
            return
        self._script = script_of(job.env, job.attempt)
        if self._script.never_boots:
            return
        self.job, self.runner_up = job, True
        self._heartbeat_s = document.heartbeat_s
        self._report(protocol.BOOTED, RUNNER_VERSION)
        self._beat()
        self._listen()
        if self._script.fails_at:
            self._fail(self._script.fails_at, "as the script says")
        else:
            self._around.timeline.after(self._around.faults.start_s, lambda: self._start(job))

    def _start(self, job: JobDocument) -> None:
        if not self.runner_up:
            return
        self._running = True
        if self._stop_cause:  # the order came before the start
            self._exit(BY_SIGTERM, self._stop_cause)
            return
        self._report(protocol.STARTED)
        script, after = self._script, self._around.timeline.after
        for n in range(1, script.lines + 1):
            after(script.run_s * n / (script.lines + 1), self._write_line)
        after(script.run_s, lambda: self._exit(script.exit_code, "exit"))
        if job.max_duration_s is not None and job.max_duration_s < script.run_s:
            after(job.max_duration_s, lambda: self._stop("timed_out"))
        if script.hangs_after_s is not None:
            after(script.hangs_after_s, self.hang)
        if script.dies_after_s is not None:
            after(script.dies_after_s, lambda: self.go_down(BY_HOST))
        if script.reclaim_after_s is not None:
            after(script.reclaim_after_s, self.reclaim)

    def _write_line(self) -> None:
        if not self._running or self.job is None:
            return
        self._lines += 1
        text = f"line {self._lines}"
        self._bytes += len(text)
        message = protocol.encode_log_line(LogLine(self._lines, "stdout", text))
        self._around.logs.write(protocol.log_stream(self.job.job_id, self.job.attempt), message)

    def _stop(self, cause: str) -> None:
        if self._script.deaf and cause != "timed_out":
            return
        self._stop_cause = self._stop_cause or cause
        self._around.timeline.after(1.0, lambda: self._exit(BY_SIGTERM, cause))

    def _exit(self, code: int, cause: str) -> None:
        if not self._running:
            return
        self._running = False
        self._report(protocol.EXITED, str(code), cause)
        self._around.timeline.after(self._script.seal_s, lambda: self._seal(cause))

    def _seal(self, cause: str) -> None:
        if not self.runner_up or self.job is None:
            return
        verdict = (
            artifact_manifest.PARTIAL if cause == "interrupted" else artifact_manifest.COMPLETE
        )
        digest = protocol.sha256_hex(b"")
        files = tuple(ManifestFile(f"{n}", 0, digest, 0o644) for n in range(self._script.files))
        manifest = Manifest(self.job.job_id, self.job.attempt, verdict, files)
        key = protocol.manifest_key(self.job.job_id, self.job.attempt)
        self._around.bucket.store(key, artifact_manifest.encode(manifest))
        self._report(protocol.SEALED, verdict, str(len(files)), "0", "")
        self._report(protocol.DONE, str(self._lines), str(self._bytes))
        self.go_down(BY_ITSELF)

    def _fail(self, stage: str, message: str) -> None:
        self._report(protocol.FAILED, stage, message)
        self.go_down(BY_ITSELF)

    def _beat(self) -> None:
        if self.runner_up:
            self._around.bucket.store(protocol.heartbeat_key(self.instance_id), b"")
            self._around.timeline.after(self._heartbeat_s, self._beat)

    def _listen(self) -> None:
        key = protocol.control_key(self.instance_id)
        self._around.bucket.on_put[key] = self._hear
        if self._around.bucket.load(key) is not None:
            self._hear()

    def _hear(self) -> None:
        content = self._around.bucket.load(protocol.control_key(self.instance_id))
        if self.runner_up and content is not None and "stop" in json.loads(content):
            self._stop("stopped")

    def _report(self, kind: str, *fields: str) -> None:
        self._reports += 1
        job_id, attempt = (self.job.job_id, self.job.attempt) if self.job else ("-", 0)
        event = InboxEvent(self.instance_id, self._reports, kind, job_id, attempt, fields)
        self._around.bucket.store(protocol.encode_inbox_key(event), b"")
