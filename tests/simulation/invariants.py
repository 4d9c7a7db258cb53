"""The promises, as checks on the world. Law: looks only; each says in words what is broken, and for whom.

`watch` looks all the time while the world moves; `judge` looks once, when everything has come to rest.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from typing import Any

import anyio

from dstackd import protocol
from dstackd.core.instance import InstanceState
from dstackd.simulated.faults import Script
from dstackd.simulated.machine import BY_REQUEST, AttemptKey, SimulatedMachine
from tests.simulation import lines, needs
from tests.simulation.expectations import CLOCK_FAULTS, Expectations
from tests.simulation.jobs import Wish
from tests.simulation.world import World

LOOK_S = 2.0
SEEN_GONE_S = 400.0
"""From a machine's end to the sweep that shows it: AWS may be out of reach for a while, and the loop pauses for 90 s then."""
WRONG_CLOCK_S = 400.0
"""What a time may be off by where clocks are wrong: they jump by 200 s, and more than once."""
COUNTED_S = 0.01
"""What seconds may be off by that were counted in money."""
IDLE_BOUND_S = 600.0
"""A machine without a live attempt lives at most so long while a daemon is there to end it."""
CANCEL_BOUND_S = 300.0
"""So long after a cancel nothing of the job begins while a daemon is there: a launch that is under way, an outage, a boot."""
TERMINAL = frozenset({"succeeded", "failed", "cancelled", "rejected"})
_JOBS = "SELECT id, phase, exit_code, cancel_requested FROM job ORDER BY seq"
_NEEDED = "SELECT instance_id FROM attempt WHERE ended_at_ms IS NULL"
_ASKED_FOR = "SELECT id FROM launch WHERE state = 'intended'"
_COSTS = frozenset({InstanceState.PENDING, InstanceState.RUNNING})


Rows = dict[str, dict[str, Any]]
"""By job id."""


def is_a_stranger(world: World, machine: SimulatedMachine) -> bool:
    """Whether it was never ours."""
    return not world.is_ours(machine) and machine.instance_id not in world.hidden


class Watcher:
    """Remembers what it has seen, so that it can say what has changed."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._expectations = Expectations(world)
        self._terminal: dict[str, tuple[object, object]] = {}
        self._idle_s: Counter[str] = Counter()
        self._cancelled_s: defaultdict[str, float] = defaultdict(float)
        """For how long daemons have known that a job is cancelled."""
        self._began: set[AttemptKey] = set()
        self._busy: dict[str, AttemptKey] = {}
        """Machines that had a job and had not said their last word at the last look, and whose."""

    async def watch(self) -> None:
        """Look every LOOK_S, for ever."""
        while True:
            self.look()
            await anyio.sleep(LOOK_S)

    def look(self) -> None:
        """All checks, once."""
        jobs = {row["id"]: row for row in self._world.look_up(_JOBS)}
        machines = [each for each in self._world.cloud.machines if self._world.is_ours(each)]
        self._terminal_phases_stay(jobs)
        self._a_job_is_over_when_its_machines_are(machines, jobs)
        self._one_machine_an_attempt(machines)
        self._one_running_attempt_a_job(machines)
        self._nothing_idles(machines)
        self._bounds_hold(machines)
        self._cancels_are_heard(machines, jobs)
        self._strangers_live()
        self._no_healthy_machine_is_terminated(machines, jobs)
        self._expectations.look(machines, jobs)
        needs.look(self._world, jobs)

    def _terminal_phases_stay(self, jobs: Rows) -> None:
        for job_id, row in jobs.items():
            if row["phase"] in TERMINAL:
                now = (row["phase"], row["exit_code"])
                before = self._terminal.setdefault(job_id, now)
                if before != now:
                    self._world.blame(f"{job_id} was {before} and is {now}")

    def _a_job_is_over_when_its_machines_are(
        self, machines: list[SimulatedMachine], jobs: Rows
    ) -> None:
        for machine in machines:
            job = jobs.get(machine.job.job_id) if machine.job is not None else None
            if machine.job is None or job is None or machine.terminated_at_ms is not None:
                continue
            key = (machine.job.job_id, machine.job.attempt)
            if machine.job.reuse_s is not None and key in machine.said_done:
                continue  # it has released the job
            if job["phase"] in TERMINAL and machine.instance_id not in self._world.hidden:
                self._world.blame(
                    f"{job['id']} is {job['phase']} before {machine.instance_id} is gone"
                )

    def _one_machine_an_attempt(self, machines: list[SimulatedMachine]) -> None:
        alive = Counter(
            (machine.job.job_id, machine.job.attempt)
            for machine in machines
            if machine.state in _COSTS and machine.job is not None
        )
        for attempt, count in alive.items():
            if count > 1:
                self._world.blame(f"attempt {attempt} has {count} live machines")

    def _one_running_attempt_a_job(self, machines: list[SimulatedMachine]) -> None:
        running: dict[str, list[int]] = defaultdict(list)
        for machine in machines:
            if machine.commands_run and machine.job is not None:
                running[machine.job.job_id].append(machine.job.attempt)
        for job_id, attempts in running.items():
            if len(attempts) > 1 and job_id not in self._world.excused:
                self._world.blame(f"{job_id} runs as attempts {attempts} at once")

    def _nothing_idles(self, machines: list[SimulatedMachine]) -> None:
        needed = {row["instance_id"] for row in self._world.look_up(_NEEDED)}
        asked_for = {row["id"] for row in self._world.look_up(_ASKED_FOR)}
        for machine in machines:
            instance_id = machine.instance_id
            is_expected = instance_id in needed or machine.request.launch_id in asked_for
            if machine.state not in _COSTS or is_expected or machine.idle:
                self._idle_s.pop(instance_id, None)
            elif self._world.daemon_up and instance_id not in self._world.hidden:
                self._idle_s[instance_id] += int(LOOK_S)
                if self._idle_s[instance_id] > IDLE_BOUND_S:
                    self._world.blame(f"{instance_id} costs money for nobody")

    def _bounds_hold(self, machines: list[SimulatedMachine]) -> None:
        most = self._world.bounds.max_machines
        alive = sum(machine.state in _COSTS for machine in machines)
        # What an operator has made us forget takes no room in our eyes.
        if most and alive > most + len(self._world.excused):
            self._world.blame(f"{alive} machines live, and no more than {most} may")

    def _cancels_are_heard(self, machines: list[SimulatedMachine], jobs: Rows) -> None:
        """What is cancelled does not begin any more, and ends."""
        if self._world.daemon_up:
            for job_id, row in jobs.items():
                if row["cancel_requested"] and row["phase"] not in TERMINAL:
                    self._cancelled_s[job_id] += LOOK_S
        for machine in machines:
            for job_id, attempt in machine.began - self._began:
                if self._cancelled_s[job_id] > CANCEL_BOUND_S:
                    self._world.blame(f"attempt {attempt} of {job_id} began after the cancel")
            self._began |= machine.began

    def _strangers_live(self) -> None:
        for machine in self._world.cloud.machines:
            if is_a_stranger(self._world, machine) and machine.state_reason == BY_REQUEST:
                self._world.blame(f"{machine.instance_id} is somebody else's and was terminated")

    def _no_healthy_machine_is_terminated(
        self, machines: list[SimulatedMachine], jobs: Rows
    ) -> None:
        """Neither while the commands run nor before the machine has said its last word."""
        for machine in machines:
            key = (machine.job.job_id, machine.job.attempt) if machine.job is not None else None
            if key is not None and machine.runner_up and key not in machine.said_done:
                self._busy[machine.instance_id] = key
                continue
            before = self._busy.pop(machine.instance_id, None)
            if before is None or machine.state_reason != BY_REQUEST or before in machine.said_done:
                continue
            job = jobs.get(before[0])
            if job is None or job["cancel_requested"] or machine.reclaimed:
                continue
            if machine.instance_id not in self._world.by_hand:
                self._world.blame(f"{machine.instance_id} was terminated under {before}")


async def judge(world: World, wishes: list[Wish]) -> None:
    """When all is over."""
    _every_job_is_over(world, wishes)
    _ends_are_true(world, wishes)
    _no_work_is_lost(world)
    _retries_are_counted(world)
    _what_ran_counts(world)
    _nothing_is_left(world)
    await lines.look(world)
    _money_adds_up(world)


def _every_job_is_over(world: World, wishes: list[Wish]) -> None:
    rows = {row["id"]: row for row in world.sql("SELECT * FROM job")}
    for wish in wishes:
        row = rows.get(wish.job_id)
        if row is None:
            if wish.job_id not in world.excused:
                world.blame(f"{wish.job_id} was committed and is not in the table")
        elif row["phase"] not in TERMINAL or not (row["message"] and row["reason"]):
            world.blame(f"{wish.job_id} ends as {row['phase']}: {row['message']!r}")
        elif needs.is_excused(world, wish.fields):
            continue
        elif wish.broken != (row["phase"] == "rejected") and row["phase"] != "cancelled":
            world.blame(f"{wish.job_id} is {row['phase']}: {row['message']}")


def _ends_of(world: World) -> dict[AttemptKey, tuple[int, str]]:
    return {key: end for machine in world.cloud.machines for key, end in machine.ends.items()}


def _ends_are_true(world: World, wishes: list[Wish]) -> None:
    """A row's exit code is that of the attempt it names, which is what the machine's commands did."""
    ends = _ends_of(world)
    for row in world.sql("SELECT * FROM job WHERE finished_at_ms IS NOT NULL AND attempt > 0"):
        end = ends.get((row["id"], row["attempt"]))
        if row["phase"] == "succeeded" and end != (0, "exit"):
            world.blame(f"{row['id']} succeeded; its commands ended with {end}")
        if row["exit_code"] is not None and (end is None or end[0] != row["exit_code"]):
            world.blame(f"{row['id']} has exit code {row['exit_code']}; its commands had {end}")
        if row["exit_code"] is None and row["reason"] == "exited":
            world.blame(f"{row['id']} exited and has no exit code")
    for row in world.sql("SELECT * FROM attempt WHERE seal_verdict IN ('complete', 'partial')"):
        key = protocol.manifest_key(row["job_id"], row["number"])
        if world.cloud.bucket.load(key) is None:
            world.blame(f"{key} is said to be sealed and is not there")
    known = {wish.job_id: wish for wish in wishes}
    for (job_id, attempt), (code, cause) in ends.items():
        wish = known.get(job_id)
        if wish is not None and cause == "exit" and code != script_of(wish, attempt).exit_code:
            world.blame(f"{job_id}/{attempt} was not run as it was written")


def _no_work_is_lost(world: World) -> None:
    """What ended well, and said so, is the job's end."""
    statement = "SELECT id, phase, attempt FROM job WHERE NOT cancel_requested"
    phases = {row["id"]: row for row in world.sql(statement)}
    for machine in world.cloud.machines:
        for key in machine.said_done:
            row = phases.get(key[0])
            if row is None or key[0] in world.excused or not world.is_ours(machine):
                continue
            if machine.ends[key] == (0, "exit") and row["attempt"] != key[1]:
                world.blame(f"attempt {key} ended well and is not the last one")
            if machine.ends[key] == (0, "exit") and row["phase"] != "succeeded":
                world.blame(f"attempt {key} ended well and its job is {row['phase']}")


def _retries_are_counted(world: World) -> None:
    ran = Counter(
        job_id for job_id, _ in {key for each in world.cloud.machines for key in each.began}
    )
    for row in world.sql("SELECT id, spec FROM job WHERE phase <> 'rejected'"):
        retry = json.loads(row["spec"]).get("retry") or {}
        most = retry.get("max_attempts", 5) if isinstance(retry, dict) else 5
        if ran[row["id"]] > most and row["id"] not in world.excused:
            world.blame(f"{row['id']} ran {ran[row['id']]} times of {most}")


def _what_ran_counts(world: World) -> None:
    """An attempt whose commands began has not failed to boot: a machine says first that they began, then that it failed."""
    for row in world.sql("SELECT * FROM attempt WHERE outcome = 'boot_failed'"):
        if row["started_at_ms"] is not None:
            world.blame(f"attempt {row['number']} of {row['job_id']} ran and failed to boot")


def _nothing_is_left(world: World) -> None:
    for machine in world.cloud.machines:
        if world.is_ours(machine) and machine.state is not InstanceState.TERMINATED:
            world.blame(f"{machine.instance_id} is still {machine.state}")
    for row in world.sql("SELECT * FROM attempt WHERE ended_at_ms IS NULL OR outcome IS NULL"):
        world.blame(f"attempt {row['number']} of {row['job_id']} never ended")
    for row in world.sql("SELECT instance_id FROM machine WHERE gone_at_ms IS NULL"):
        world.blame(f"{row['instance_id']} is gone and its row does not say so")
    for row in world.sql("SELECT id FROM launch WHERE state = 'intended'"):
        world.blame(f"launch {row['id']} is still open")


def _money_adds_up(world: World) -> None:
    """A job costs what its attempts cost, the attempts what their machines cost, and no job more than its budget."""
    spent = {row["id"]: row["cost_usd"] for row in world.sql("SELECT id, cost_usd FROM job")}
    summed: Counter[str] = Counter()
    by_machine: Counter[str] = Counter()
    prices: dict[str, float] = {}
    for row in world.sql("SELECT job_id, instance_id, cost_usd, price_usd_h FROM attempt"):
        summed[row["job_id"]] += row["cost_usd"]
        by_machine[row["instance_id"]] += row["cost_usd"]
        prices[row["instance_id"]] = row["price_usd_h"]
    for job_id, cost_usd in summed.items():
        if abs(spent[job_id] - cost_usd) > 1e-6:
            world.blame(f"{job_id} cost {spent[job_id]}, its attempts {cost_usd}")
    for machine in world.cloud.machines:
        price = prices.get(machine.instance_id)
        if price is not None and machine.instance_id not in world.hidden:
            counted_s = by_machine[machine.instance_id] / price * 3600
            _time_is_paid(world, machine, counted_s=counted_s)
    for row in world.sql("SELECT id, spec, cost_usd FROM job"):
        budget = json.loads(row["spec"]).get("budget") if row["spec"].startswith("{") else None
        if isinstance(budget, int | float) and row["cost_usd"] > budget:
            world.blame(f"{row['id']} cost {row['cost_usd']} of {budget}")


def _time_is_paid(world: World, machine: SimulatedMachine, *, counted_s: float) -> None:
    """A machine is paid from its launch until it is seen gone, to the millisecond; by wrong clocks, as wrong as they are."""
    (row,) = world.sql("SELECT * FROM machine WHERE instance_id = ?", machine.instance_id)
    known_s = max(60.0, (row["gone_at_ms"] - row["launched_at_ms"]) / 1000)
    gone_ms = machine.terminated_at_ms or machine.launched_at_ms
    late_s = (row["gone_at_ms"] - gone_ms) / 1000
    wrong_s = WRONG_CLOCK_S if CLOCK_FAULTS & world.struck.keys() else 0.0
    early_s = abs(row["launched_at_ms"] - machine.launched_at_ms) / 1000
    if abs(counted_s - known_s) > COUNTED_S + wrong_s or early_s > wrong_s:
        world.blame(
            f"{machine.instance_id} was there for {known_s:.3f} s, was launched {early_s:.3f} s "
            f"before or behind that, and costs {counted_s:.3f} s"
        )
    if not -wrong_s <= late_s <= SEEN_GONE_S + wrong_s + world.down_s:
        world.blame(f"{machine.instance_id} is seen gone {late_s:.0f} s after it went")


def script_of(wish: Wish, attempt: int) -> Script:
    """What the attempt was told to do."""
    return wish.scripts[min(attempt, len(wish.scripts)) - 1]
