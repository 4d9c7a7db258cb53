"""What must neither begin nor end too early, and what it costs. Law: as `invariants`, which looks here at each of its looks."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from dstackd import protocol
from dstackd.simulated.clock import START_MS
from dstackd.simulated.faults import script_of
from dstackd.simulated.machine import BY_REQUEST, AttemptKey, SimulatedMachine
from tests.simulation.world import LIMITS, World

LOOK_S = 2.0
HEARD_S = 200.0
"""So long a daemon may take to end a job that was cancelled while it waited: it may be in a pass that waits for AWS."""
LEAP_S = 200.0
"""By how much the wall clock jumps forward at most."""
CLOCK_FAULTS = frozenset({"wrong_clock", "leaping_clock"})
_ANSWERED = (
    "SELECT id, reuses, reuse_number FROM launch WHERE state = 'answered' AND reuses IS NOT NULL"
)
_MAY_WAIT = """SELECT 1 FROM attempt
    JOIN machine ON machine.instance_id = attempt.instance_id
    JOIN event AS heard ON heard.job_id = attempt.job_id AND heard.attempt = attempt.number
        AND heard.kind = 'machine_done'
    WHERE attempt.job_id = ? AND attempt.number = ?
    AND attempt.rebalance_at_ms IS NULL AND attempt.notice_at_ms IS NULL
    AND NOT EXISTS (SELECT 1 FROM event AS judged WHERE judged.job_id = attempt.job_id
        AND judged.attempt = attempt.number AND judged.phase_to = 'terminating' AND judged.id < heard.id)
    AND NOT EXISTS (SELECT 1 FROM launch WHERE launch.reuses = machine.instance_id
        AND launch.reuse_number = machine.idle_number AND launch.state = 'answered')"""
"""The machine's word was heard before anybody had decided that it goes, was given notice of nothing, and is nobody else's by now."""
_SUMS = """SELECT job.id, job.cost_usd AS said_usd, sum(attempt.cost_usd) AS summed_usd
    FROM job JOIN attempt ON attempt.job_id = job.id GROUP BY job.id, job.cost_usd"""
_HOLDERS = """SELECT job.id, job.cancel_requested FROM attempt JOIN job ON job.id = attempt.job_id
    WHERE attempt.launch_id = ? AND attempt.launch_index = ? AND attempt.failed_stage = ''"""
_WAITING = frozenset({"submitted", "queued"})
_UNWANTED = frozenset({"launching", "booting", "running", "sealing", "terminating"})


class Expectations:
    """Remembers who waited, who was young and who was idle at the last look."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._unheard_s: defaultdict[str, float] = defaultdict(float)
        """For how long the same daemon could have ended a job that waits and is cancelled."""
        self._coming: set[str] = set()
        """Machines that were on their way up."""
        self._idle_since_s: dict[str, tuple[AttemptKey, float]] = {}
        self._claimed: set[str] = set()
        """Claims that were found to be there."""

    def look(self, machines: list[SimulatedMachine], jobs: dict[str, dict[str, Any]]) -> None:
        """All checks, once."""
        self._nobody_is_served_who_does_not_want_it(jobs)
        for machine in machines:
            self._it_may_come_up(machine)
            self._it_may_wait(machine)
        self._claims_are_made()
        self._sums_are_right()

    def _nobody_is_served_who_does_not_want_it(self, jobs: dict[str, dict[str, Any]]) -> None:
        """What is cancelled while it waits is never launched, and ends soon."""
        for job_id in self._world.never_wanted:
            row = jobs.get(job_id)
            phase = row["phase"] if row is not None else ""
            if phase in _UNWANTED:
                self._world.blame(f"{job_id} was cancelled while it waited and is {phase}")
            if phase not in _WAITING or not self._world.daemon_up:
                self._unheard_s[job_id] = 0.0
            elif not self._is_leaving(job_id):
                self._unheard_s[job_id] += LOOK_S
            if self._unheard_s[job_id] > HEARD_S:
                self._world.blame(f"{job_id} waits and does not hear that it is cancelled")

    def _is_leaving(self, job_id: str) -> bool:
        statement = "SELECT 1 FROM attempt WHERE job_id = ? AND ended_at_ms IS NULL"
        return bool(self._world.look_up(statement, job_id))

    def _it_may_come_up(self, machine: SimulatedMachine) -> None:
        """A machine that somebody waits for is not terminated before its time to boot is over."""
        instance_id = machine.instance_id
        if machine.alive:
            (self._coming.discard if machine.job is not None else self._coming.add)(instance_id)
            return
        if instance_id not in self._coming:
            return
        self._coming.discard(instance_id)
        if machine.state_reason != BY_REQUEST or instance_id in self._world.by_hand:
            return
        leap_s = LEAP_S if CLOCK_FAULTS & self._world.struck.keys() else 10.0
        age_s = self._world.clock.monotonic_s() - (machine.launched_at_ms - START_MS) / 1000
        holders = self._world.look_up(_HOLDERS, machine.request.launch_id, machine.index)
        if (
            age_s < LIMITS.boot_timeout_s - leap_s
            and holders
            and not holders[0]["cancel_requested"]
        ):
            self._world.blame(
                f"{instance_id} was terminated while {holders[0]['id']} waited for it"
            )

    def _it_may_wait(self, machine: SimulatedMachine) -> None:
        """A machine that waits for another job is not terminated before its time is over."""
        now_s, job = self._world.clock.monotonic_s(), machine.job
        if machine.alive and machine.runner_up and machine.idle and job is not None:
            key = (job.job_id, job.attempt)
            known, _ = self._idle_since_s.get(machine.instance_id, (None, 0.0))
            if known != key:
                self._idle_since_s[machine.instance_id] = key, now_s
            return
        waited = self._idle_since_s.pop(machine.instance_id, None)
        if waited is None or job is None or machine.alive or machine.state_reason != BY_REQUEST:
            return
        key, since_s = waited
        leap_s = LEAP_S if CLOCK_FAULTS & self._world.struck.keys() else LOOK_S
        is_early = now_s + leap_s < since_s + int(job.reuse_s or 0)
        is_warned = script_of(job.env, job.attempt).rebalance_after_s is not None
        is_excused = machine.instance_id in self._world.by_hand or machine.reclaimed or is_warned
        if is_early and not is_excused and self._world.look_up(_MAY_WAIT, *key):
            self._world.blame(f"{machine.instance_id} was terminated while it waited after {key}")

    def _claims_are_made(self) -> None:
        """Who is said to have an idle machine has its claim in the bucket."""
        for row in self._world.look_up(_ANSWERED):
            if row["id"] in self._claimed:
                continue
            self._claimed.add(row["id"])
            content = self._world.cloud.bucket.load(
                protocol.reuse_key(row["reuses"], row["reuse_number"])
            )
            if content is None or protocol.read_reuse_claim(content) != (row["id"], 0):
                self._world.blame(f"{row['id']} has no claim on {row['reuses']}")

    def _sums_are_right(self) -> None:
        """A job costs what its attempts cost, at any time."""
        for row in self._world.look_up(_SUMS):
            if abs(row["said_usd"] - row["summed_usd"]) > 1e-6:
                self._world.blame(
                    f"{row['id']} cost {row['said_usd']}, its attempts {row['summed_usd']}"
                )
