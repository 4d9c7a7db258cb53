"""One simulated instance and the runner on it. Law: speaks to the daemon as the real runner does, in the same order."""

from __future__ import annotations

from collections import Counter
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


AttemptKey = tuple[str, int]
"""Job id, number of the attempt."""


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
        self.unheeded = 0
        """How many of the next requests to terminate it EC2 answers and forgets; until then it does not end itself either."""
        self.job: JobDocument | None = None
        self.written: Counter[AttemptKey] = Counter()
        """Lines that each attempt's commands wrote."""
        self.began: set[AttemptKey] = set()
        """Attempts whose commands began here."""
        self.ends: dict[AttemptKey, tuple[int, str]] = {}
        """How each attempt's commands ended: exit code, cause."""
        self.said_done: set[AttemptKey] = set()
        self._around = around
        self._script = Script()
        self._heartbeat_s = launch_document.HEARTBEAT_S
        self._reports = 0
        self._lines = 0
        self._bytes = 0
        self._running = False
        self._hangs = False
        self._stop_cause = ""
        self._decision = 0
        """Number of the last decision about the idle machine."""
        self._idle = False
        around.timeline.after(around.faults.pending_s, self._come_up)
        around.timeline.after(around.faults.boot_s, self._boot)

    @property
    def alive(self) -> bool:
        """Neither gone nor going."""
        return self.state in {InstanceState.PENDING, InstanceState.RUNNING}

    @property
    def commands_run(self) -> bool:
        """Whether a job's commands run on it now."""
        return self._running

    @property
    def idle(self) -> bool:
        """Whether it waits for another job."""
        return self._idle

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
        if not self.alive or (reason == BY_ITSELF and (self._script.lingers or self.unheeded)):
            return
        if reason == BY_REQUEST and self.unheeded:
            self.unheeded -= 1
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
            self._leave(self._decision)

    def hang(self) -> None:
        """From now on it says nothing and does nothing, and does not come up; EC2 shows it running."""
        self._hangs = True
        self.runner_up = self._running = False

    def break_down(self) -> None:
        """The runner dies: what is around it says so, and ends the machine."""
        if self.runner_up and self.alive:
            self._fail("internal", "the runner died")

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
        if not self._hangs and self._begin(self.request.launch_id, self.index):
            self._beat()
            self._listen()

    def _begin(self, launch_id: str, index: int) -> bool:
        """Live the job of this launch with this index; whether the runner came so far as to know it."""
        try:
            content = self._around.bucket.load(protocol.launch_key(launch_id))
            document = launch_document.decode(content or b"nothing is there")
            job = launch_document.job_at(document, index)
        except DocumentError as error:
            self._fail("document", str(error))
            return False
        self._script = script_of(job.env, job.attempt)
        if self._script.never_boots:
            return False
        self.job, self.runner_up = job, True
        self._lines = self._bytes = 0
        self._stop_cause = "interrupted" if self.reclaimed else ""
        self._heartbeat_s = document.heartbeat_s
        self._report(protocol.BOOTED, RUNNER_VERSION)
        self._prepare(job)
        return True

    def _prepare(self, job: JobDocument) -> None:
        if self._script.fails_at:
            final = (protocol.FINAL,) if self._script.fails_final else ()
            self._fail(self._script.fails_at, "as the script says", *final)
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
        self.began.add((job.job_id, job.attempt))
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
        if script.rebalance_after_s is not None:
            after(script.rebalance_after_s, lambda: self._report(protocol.REBALANCE, "now"))
        if script.silence_after_s is not None:
            after(script.silence_after_s, lambda: self._stop("silence"))

    def _write_line(self) -> None:
        if not self._running or self.job is None:
            return
        self._lines += 1
        self.written[self.job.job_id, self.job.attempt] += 1
        text = f"line {self._lines}"
        self._bytes += len(text)
        message = protocol.encode_log_line(LogLine(self._lines, "stdout", text))
        self._around.logs.write(
            protocol.log_stream(self.job.job_id, self.job.attempt), message, at_ms=self._clock_ms()
        )

    def _clock_ms(self) -> int:
        """What its clock shows: off by a share of the most that is its own."""
        share = int(self.instance_id[2:8], 16) / 0x7FFFFF - 1
        off_ms = int(self._around.faults.machine_skew_s * 1000 * share)
        return self._around.timeline.now_ms + off_ms

    def _stop(self, cause: str) -> None:
        if self._script.deaf and cause != "timed_out":
            return
        self._stop_cause = self._stop_cause or cause
        self._around.timeline.after(1.0, lambda: self._exit(BY_SIGTERM, cause))

    def _exit(self, code: int, cause: str) -> None:
        if not self._running:
            return
        self._running = False
        if self.job is not None:
            self.ends[self.job.job_id, self.job.attempt] = (code, cause)
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
        self.said_done.add((self.job.job_id, self.job.attempt))
        counts = (str(self._lines), str(self._bytes), "0", "0")
        if self.job.reuse_s is None or self._stop_cause or self.reclaimed:
            self._report(protocol.DONE, *counts)
            self.go_down(BY_ITSELF)
        else:
            self._wait_for_job(counts, int(self.job.reuse_s))

    def _wait_for_job(self, counts: tuple[str, ...], seconds: int) -> None:
        self._decision += 1
        self._idle = True
        number = self._decision
        key = protocol.reuse_key(self.instance_id, number)
        self._around.bucket.on_put[key] = lambda: self._look(number)
        self._report(protocol.DONE, *counts, protocol.IDLE, str(number), str(seconds))
        self._around.timeline.after(seconds, lambda: self._leave(number))

    def _look(self, number: int) -> None:
        """Somebody has decided: it is seen at the next look."""
        take_s = self._around.faults.take_s
        self._around.timeline.after(take_s, lambda: self._take(number))

    def _take(self, number: int) -> None:
        if not (self._idle and self.runner_up and number == self._decision):
            return
        content = self._around.bucket.load(protocol.reuse_key(self.instance_id, number))
        claim = None if content is None else protocol.read_reuse_claim(content)
        if claim is not None:
            self._idle = False
            self._begin(*claim)

    def _leave(self, number: int) -> None:
        """The machine's own decision, if nobody was faster."""
        if not (self._idle and self.runner_up and number == self._decision):
            return
        key = protocol.reuse_key(self.instance_id, number)
        if self._around.bucket.load(key) is not None:
            self._take(number)
            return
        self._around.bucket.store(key, protocol.REUSE_LEAVE)
        self.go_down(BY_ITSELF)

    def _fail(self, stage: str, message: str, *final: str) -> None:
        self._report(protocol.FAILED, stage, message, *final)
        self.runner_up = self._running = False
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
        if not self.runner_up or content is None or self.job is None:
            return
        if protocol.hears_stop(content, job_id=self.job.job_id, attempt=self.job.attempt):
            self._stop("stopped")

    def _report(self, kind: str, *fields: str) -> None:
        self._reports += 1
        job_id, attempt = (self.job.job_id, self.job.attempt) if self.job else ("-", 0)
        event = InboxEvent(self.instance_id, self._reports, kind, job_id, attempt, fields)
        self._around.bucket.store(protocol.encode_inbox_key(event), b"")
