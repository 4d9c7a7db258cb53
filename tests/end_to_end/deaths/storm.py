"""Deaths and other misfortunes, in an order that a seed gives. Law: it does things to a site and counts them; it judges nothing."""

from __future__ import annotations

import heapq
import http.client
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from dstackd.local.control import ControlError
from tests.end_to_end.deaths.jobs import StormJob, as_text
from tests.end_to_end.deaths.site import DeadlySite
from tests.end_to_end.hostility import fill

HERE = Path(__file__).parent
CLOCK_OFF_S = 120.0
"""In either direction, so that a jump is up to twice as far."""
END_S = 240.0
"""From the last death to the last job's end. A clock that was ahead makes no wait longer: the daemon takes the time from AWS."""
EARLY_DEATHS = 0.3
"""How many of them die while they start."""
DEATHS_BEHIND_EFFECTS = 0.5
"""How many of the others die within a twentieth of a second of what they do."""
EFFECTS = (
    *("ec2:RunInstances", "ec2:TerminateInstances", "ec2:CreateTags"),
    *("s3:PutObject", "s3:DeleteObjects", "s3:DeleteObject"),
)
NO_EFFECT_S = 4.0
LIFE_S = 2.0
"""How long the rest of them work, on average."""


@dataclass
class Done:
    """What has been done to the installation."""

    kills: int = 0
    kills_before_ready: int = 0
    kills_behind_effects: int = 0
    answers_lost: int = 0
    own_deaths: list[tuple[int, str]] = field(default_factory=list)
    """Daemons that ended by themselves: exit status, and the last lines of their log."""
    players: list[str] = field(default_factory=list)
    reclaims: list[str] = field(default_factory=list)
    hostile_s: float = 0.0
    disks_full: int = 0
    clock_jumps: int = 0
    inserted: int = 0
    seconds: float = 0.0

    @property
    def disturbed(self) -> set[str]:
        """Instances that something befell."""
        return {*self.players, *self.reclaims}


class Storm:
    """One run. `kills` is how often the daemon dies."""

    def __init__(
        self,
        site: DeadlySite,
        jobs: Sequence[StormJob],
        *,
        seed: int,
        kills: int,
        has_small_disk: bool,
    ) -> None:
        self.done = Done()
        self._site = site
        self._jobs = jobs
        self._order = random.Random(seed)
        self._seed = seed
        self._kills = kills
        self._has_small_disk = has_small_disk
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._life = 0
        self._born_s = 0.0
        self._awaited = ""
        self._effects = 0
        self._ready_s = 2.0
        self._hostile: subprocess.Popen[bytes] | None = None
        self._hostile_since_s = 0.0
        self._submitter: subprocess.Popen[str] | None = None

    def run(self) -> Done:
        """Everything, until the last job is over; TimeoutError when that does not come."""
        began_s = time.monotonic()
        site = self._site
        site.start_daemon()
        self._ready_s = time.monotonic() - began_s
        script = [sys.executable, "-I", str(HERE / "submitter.py"), str(site.database)]
        self._submitter = subprocess.Popen(
            script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        plan = self._misfortunes()
        try:
            self._born()
            while self.done.kills < self._kills or self._agenda:
                self._look_at_daemon()
                self._do_what_is_due(plan)
                time.sleep(0.05)
            self._end()
        finally:
            self._stop_hostile()
            self._submitter.kill()
            self._submitter.communicate()
        self.done.seconds = time.monotonic() - began_s
        return self.done

    def _misfortunes(self) -> dict[int, list[Callable[[], None]]]:
        """What is done after which death."""
        plan: dict[int, list[Callable[[], None]]] = {}
        last = max(int(self._kills * 0.85), 1)

        def at(number: int, action: Callable[[], None]) -> None:
            plan.setdefault(number, []).append(action)

        for number, job in enumerate(self._jobs):
            at(number * last // len(self._jobs), lambda job=job: self._submit(job))  # type: ignore[misc]
        for _ in range(max(self._kills // 20, 2)):
            at(self._order.randint(2, last), self._kill_player)
            at(self._order.randint(2, last), self._reclaim)
            at(self._order.randint(0, last), self._jump)
            at(self._order.randint(0, last), self._lose_answer)
        for _ in range(max(self._kills // 20, 1)):
            at(self._order.randint(1, last), self._start_hostile)
        if self._has_small_disk:
            for _ in range(max(self._kills // 40, 1)):
                at(self._order.randint(1, last), self._fill_disk)
        return plan

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (time.monotonic() + seconds, next(self._numbers), action))

    def _do_what_is_due(self, plan: dict[int, list[Callable[[], None]]]) -> None:
        for action in plan.pop(self.done.kills, ()):
            self._later(self._order.uniform(0, 2), action)
        while self._agenda and self._agenda[0][0] <= time.monotonic():
            heapq.heappop(self._agenda)[2]()

    def _born(self) -> None:
        """A daemon lives from now on: some die while they start, some right behind an effect, the others at any time."""
        self._life += 1
        self._born_s = time.monotonic()
        self._awaited = ""
        if self.done.kills >= self._kills:
            return
        if self._order.random() < EARLY_DEATHS:
            self._die_in(self._order.uniform(0.05, 1.0) * self._ready_s)
        else:
            self._awaited = "ready"

    def _watch_life(self) -> None:
        """What the end of this life waits for."""
        if self._awaited == "ready" and self._is_ready():
            self._ready_s = time.monotonic() - self._born_s
            if self._order.random() < DEATHS_BEHIND_EFFECTS:
                self._awaited, self._effects = "effect", self._count_effects()
                self._die_in(NO_EFFECT_S)
            else:
                self._awaited = ""
                self._die_in(self._order.expovariate(1 / LIFE_S))
        elif self._awaited == "effect" and self._count_effects() != self._effects:
            self._awaited = ""
            self.done.kills_behind_effects += 1
            self._kill(self._life)

    def _count_effects(self) -> int:
        """Calls of the daemon that changed something in the cloud."""
        counts = self._site.cloud.control.counts()["client"]
        return sum(counts.get(operation, 0) for operation in EFFECTS)

    def _die_in(self, seconds: float) -> None:
        life = self._life
        self._later(seconds, lambda: self._kill(life))

    def _kill(self, life: int) -> None:
        if life != self._life:  # it has died by itself meanwhile
            return
        daemon = self._site.daemon
        assert daemon is not None
        if daemon.poll() is not None:
            return
        self.done.kills_before_ready += not self._is_ready()
        daemon.send_signal(signal.SIGKILL)
        daemon.wait()
        self.done.kills += 1
        self._life += 1
        self._later(self._order.choice((0.0, 0.0, self._order.uniform(0, 3))), self._start)

    def _is_ready(self) -> bool:
        return self._site.get("/readyz")[0] == http.client.OK

    def _start(self) -> None:
        self._site.daemon = self._site.spawn_daemon()
        self._born()

    def _look_at_daemon(self) -> None:
        """One that ended by itself is started again, as a supervisor would."""
        daemon = self._site.daemon
        if daemon is None or daemon.returncode == -signal.SIGKILL:
            return
        if daemon.poll() is None:
            self._watch_life()
            return
        self.done.own_deaths.append((daemon.returncode, self._site.log()[-2500:]))
        self._site.daemon = None
        self._life += 1
        self._later(0.5, self._start)

    def _submit(self, job: StormJob) -> None:
        self._tell({"id": job.id, "spec": as_text(job)})
        self.done.inserted += 1
        if job.is_cancelled:
            self._later(self._order.uniform(0.5, 8), lambda: self._tell({"id": job.id}))

    def _tell(self, order: dict[str, str]) -> None:
        assert self._submitter is not None
        assert self._submitter.stdin is not None
        self._submitter.stdin.write(json.dumps(order) + "\n")
        self._submitter.stdin.flush()

    def _kill_player(self) -> None:
        views = [view for view in self._site.cloud.control.machines() if view["state"] == "running"]
        if not views:
            self._later(0.5, self._kill_player)
            return
        view = self._order.choice(views)
        self.done.players.append(view["instance_id"])
        with suppress(ProcessLookupError):
            assert view["pid"] is not None
            os.kill(view["pid"], signal.SIGKILL)

    def _reclaim(self) -> None:
        control = self._site.cloud.control
        views = [
            view
            for view in control.machines()
            if view["state"] == "running" and view["market"] == "spot"
        ]
        if not views:
            self._later(0.5, self._reclaim)
            return
        view = self._order.choice(views)
        self.done.reclaims.append(view["instance_id"])
        with suppress(ControlError):  # gone since we looked
            control.reclaim(view["instance_id"], notice_s=self._order.uniform(1, 6))

    def _start_hostile(self) -> None:
        if self._hostile is not None:
            return
        script = [sys.executable, "-I", str(HERE / "hostile_writer.py")]
        self._hostile = subprocess.Popen([*script, str(self._site.database), str(self._seed)])
        self._hostile_since_s = time.monotonic()
        self._later(self._order.uniform(4, 10), self._stop_hostile)

    def _stop_hostile(self) -> None:
        if self._hostile is not None:
            self._hostile.kill()
            self._hostile.wait()
            self._hostile = None
            self.done.hostile_s += time.monotonic() - self._hostile_since_s

    def _fill_disk(self) -> None:
        filler = self._site.state / "filler"
        if not filler.exists():
            fill(filler)
            self.done.disks_full += 1
            self._later(self._order.uniform(2, 6), filler.unlink)

    def _lose_answer(self) -> None:
        """The next machines are launched, and nobody hears of it."""
        self._site.cloud.control.fail("ec2:RunInstances", status=0, executed=True)
        self.done.answers_lost += 1

    def _jump(self) -> None:
        self._site.set_clock(off_s=self._order.uniform(-CLOCK_OFF_S, CLOCK_OFF_S))
        self.done.clock_jumps += 1

    def _end(self) -> None:
        """The last daemon is left alone, with a right clock."""
        self._stop_hostile()
        self._site.set_clock(off_s=0.0)
        deadline_s = time.monotonic() + END_S
        while (rest := self._rest()) != "":
            if time.monotonic() > deadline_s:
                raise TimeoutError(rest)
            self._look_at_daemon()
            self._do_what_is_due({})
            time.sleep(0.2)

    def _rest(self) -> str:
        """What is not over yet."""
        (count,) = self._site.rows("SELECT count(*) AS n FROM job WHERE array_parent IS NULL")
        arrived = count["n"]
        if arrived < len(self._jobs):
            return f"{arrived} of {len(self._jobs)} jobs inserted"
        return self._site.what_goes_on()
