"""The promises, as checks on the world. Law: looks only; each says in words what is broken, and for whom.

`watch` looks all the time while the world moves; `judge` looks once, when everything has come to rest.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict

import anyio

from dstackd import protocol
from dstackd.core.instance import InstanceState
from dstackd.simulated.faults import Script
from dstackd.simulated.machine import BY_REQUEST, SimulatedMachine
from tests.simulation.jobs import Wish
from tests.simulation.world import World

LOOK_S = 2.0
IDLE_BOUND_S = 600.0
"""A machine without a live attempt lives at most so long while a daemon is there to end it."""
TERMINAL = frozenset({"succeeded", "failed", "cancelled", "rejected"})
_JOBS = "SELECT id, phase, exit_code, cancel_requested FROM job"
_COSTS = frozenset({InstanceState.PENDING, InstanceState.RUNNING})


def is_ours(world: World, machine: SimulatedMachine) -> bool:
    """Whether it carries both of this installation's tags."""
    tags = dict(machine.request.tags)
    wanted = (world.cloud.bucket_name, world.owner)
    return (tags.get(protocol.TAG_BUCKET), tags.get(protocol.TAG_OWNER)) == wanted


class Watcher:
    """Remembers what it has seen, so that it can say what has changed."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._terminal: dict[str, tuple[str, int | None]] = {}
        self._idle_s: Counter[str] = Counter()
        self._healthy: dict[str, str] = {}
        """Machines whose commands ran at the last look, and whose."""

    async def watch(self) -> None:
        """Look every LOOK_S, for ever."""
        while True:
            self.look()
            await anyio.sleep(LOOK_S)

    def look(self) -> None:
        """All checks, once."""
        jobs = {row["id"]: row for row in self._world.sql(_JOBS)}
        machines = [each for each in self._world.cloud.machines if is_ours(self._world, each)]
        self._terminal_phases_stay(jobs)
        self._one_machine_an_attempt(machines)
        self._one_running_attempt_a_job(machines)
        self._nothing_idles(machines, jobs)
        self._strangers_live()
        self._no_healthy_machine_is_terminated(machines, jobs)

    def _terminal_phases_stay(self, jobs: dict[str, dict[str, object]]) -> None:
        for job_id, row in jobs.items():
            if row["phase"] in TERMINAL:
                now = (str(row["phase"]), row["exit_code"])
                before = self._terminal.setdefault(job_id, now)  # type: ignore[arg-type]
                if before != now:
                    self._world.blame(f"{job_id} was {before} and is {now}")

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
            if len(attempts) > 1:
                self._world.blame(f"{job_id} runs as attempts {attempts} at once")

    def _nothing_idles(
        self, machines: list[SimulatedMachine], jobs: dict[str, dict[str, object]]
    ) -> None:
        needed = {
            row["instance_id"]
            for row in self._world.sql("SELECT instance_id FROM attempt WHERE ended_at_ms IS NULL")
        }
        for machine in machines:
            if machine.state not in _COSTS or machine.instance_id in needed:
                self._idle_s.pop(machine.instance_id, None)
            elif self._world.daemon_up:
                self._idle_s[machine.instance_id] += int(LOOK_S)
                if self._idle_s[machine.instance_id] > IDLE_BOUND_S:
                    self._world.blame(f"{machine.instance_id} costs money for nobody")

    def _strangers_live(self) -> None:
        for machine in self._world.cloud.machines:
            if not is_ours(self._world, machine) and machine.state_reason == BY_REQUEST:
                self._world.blame(f"{machine.instance_id} is somebody else's and was terminated")

    def _no_healthy_machine_is_terminated(
        self, machines: list[SimulatedMachine], jobs: dict[str, dict[str, object]]
    ) -> None:
        for machine in machines:
            if machine.commands_run and machine.job is not None:
                self._healthy[machine.instance_id] = machine.job.job_id
                continue
            job_id = self._healthy.pop(machine.instance_id, None)
            if job_id is None or machine.state_reason != BY_REQUEST:
                continue
            job = jobs.get(job_id, {})
            attempt = machine.job.attempt if machine.job is not None else 0
            cut_off = (job_id, attempt) not in machine.ends
            excused = machine.instance_id in self._world.by_hand or job.get("cancel_requested", 1)
            if cut_off and not excused and not machine.reclaimed:
                self._world.blame(f"{machine.instance_id} was terminated while {job_id} ran on it")


def judge(world: World, wishes: list[Wish]) -> None:
    """When all is over."""
    _every_job_is_over(world, wishes)
    _ends_are_true(world, wishes)
    _nothing_is_left(world)
    _lines_are_true(world)
    _money_adds_up(world)


def _every_job_is_over(world: World, wishes: list[Wish]) -> None:
    rows = {row["id"]: row for row in world.sql("SELECT * FROM job")}
    for wish in wishes:
        row = rows.get(wish.job_id)
        if row is None:
            world.blame(f"{wish.job_id} was committed and is not in the table")
        elif row["phase"] not in TERMINAL or not (row["message"] and row["reason"]):
            world.blame(f"{wish.job_id} ends as {row['phase']}: {row['message']!r}")
        elif wish.broken != (row["phase"] == "rejected") and row["phase"] != "cancelled":
            world.blame(f"{wish.job_id} is {row['phase']}: {row['message']}")


def _ends_are_true(world: World, wishes: list[Wish]) -> None:
    """A row's exit code is that of the attempt it names, which is what the machine's commands did."""
    ends = {key: end for machine in world.cloud.machines for key, end in machine.ends.items()}
    for row in world.sql("SELECT * FROM job WHERE finished_at_ms IS NOT NULL AND attempt > 0"):
        end = ends.get((row["id"], row["attempt"]))
        if row["phase"] == "succeeded" and end != (0, "exit"):
            world.blame(f"{row['id']} succeeded; its commands ended with {end}")
        if row["exit_code"] is not None and (end is None or end[0] != row["exit_code"]):
            world.blame(f"{row['id']} has exit code {row['exit_code']}; its commands had {end}")
    for row in world.sql("SELECT * FROM attempt WHERE seal_verdict IN ('complete', 'partial')"):
        key = protocol.manifest_key(row["job_id"], row["number"])
        if world.cloud.bucket.load(key) is None:
            world.blame(f"{key} is said to be sealed and is not there")
    known = {wish.job_id: wish for wish in wishes}
    for (job_id, attempt), (code, cause) in ends.items():
        wish = known.get(job_id)
        if wish is not None and cause == "exit" and code != script_of(wish, attempt).exit_code:
            world.blame(f"{job_id}/{attempt} was not run as it was written")


def _nothing_is_left(world: World) -> None:
    for machine in world.cloud.machines:
        if is_ours(world, machine) and machine.state is not InstanceState.TERMINATED:
            world.blame(f"{machine.instance_id} is still {machine.state}")
    for row in world.sql("SELECT * FROM attempt WHERE ended_at_ms IS NULL OR outcome IS NULL"):
        world.blame(f"attempt {row['number']} of {row['job_id']} never ended")
    for row in world.sql("SELECT instance_id FROM machine WHERE gone_at_ms IS NULL"):
        world.blame(f"{row['instance_id']} is gone and its row does not say so")
    for row in world.sql("SELECT id FROM launch WHERE state = 'intended'"):
        world.blame(f"launch {row['id']} is still open")


def _lines_are_true(world: World) -> None:
    """What the file holds is what the commands wrote, in order and once; and the verdict says what is missing."""
    for machine in world.cloud.machines:
        for job_id, attempt in machine.ends:
            written = machine.written[job_id, attempt]
            stored = [line for line in world.files.read(job_id, attempt)[0] if not line.missing]
            numbers = [line.n for line in stored]
            if numbers != sorted(set(numbers)) or any(n > written for n in numbers):
                world.blame(f"the log of {job_id}/{attempt} holds lines {numbers} of {written}")
            if any(line.log != f"line {line.n}" for line in stored):
                world.blame(f"the log of {job_id}/{attempt} holds another text")
            complete = len(numbers) == written
            loses = world.cloud.faults.lost_share > 0
            if (job_id, attempt) in machine.said_done and not (complete or loses):
                world.blame(f"the log of {job_id}/{attempt} has {len(numbers)} of {written} lines")


def _money_adds_up(world: World) -> None:
    spent = {row["id"]: row["cost_usd"] for row in world.sql("SELECT id, cost_usd FROM job")}
    summed: Counter[str] = Counter()
    for row in world.sql("SELECT job_id, cost_usd FROM attempt"):
        summed[row["job_id"]] += row["cost_usd"]
    for job_id, cost_usd in summed.items():
        if abs(spent[job_id] - cost_usd) > 1e-6:
            world.blame(f"{job_id} cost {spent[job_id]}, its attempts {cost_usd}")
    for row in world.sql("SELECT id, spec, cost_usd FROM job"):
        budget = json.loads(row["spec"]).get("budget") if row["spec"].startswith("{") else None
        if isinstance(budget, int | float) and row["cost_usd"] > budget:
            world.blame(f"{row['id']} cost {row['cost_usd']} of {budget}")


def script_of(wish: Wish, attempt: int) -> Script:
    """What the attempt was told to do."""
    return wish.scripts[min(attempt, len(wish.scripts)) - 1]
