"""The jobs from insertion to their ends. Law: one thread that looks, shows, and does what the demo promised to do to them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from dstackd.demo.daemon_process import DaemonProcess
from dstackd.demo.errors import DemoError
from dstackd.demo.evidence import Happened
from dstackd.demo.following import FollowedLine, Follower
from dstackd.demo.jobs import HALF, LINES, RESUMES, step_of
from dstackd.demo.places import Places
from dstackd.demo.queue_view import JobView, QueueView
from dstackd.demo.screen import Screen, Watch
from dstackd.demo.story import tell
from dstackd.local.control import ControlClient, ControlError

DEADLINE_S: Final = 180.0
"""Of the whole demo; it takes less than a quarter of that."""
NOTICE_S: Final = 4.0
"""EC2 gives two minutes; nobody wants to watch them."""
_LOOK_S: Final = 0.2
_FOLLOWED: Final = (LINES, RESUMES)


@dataclass(frozen=True, slots=True)
class KillMoment:
    """When to kill the daemon: so long after the insertion, or so far in the jobs' history of about a hundred events."""

    after_s: float | None = None
    after_events: int | None = None

    @property
    def wanted(self) -> bool:
        return self.after_s is not None or self.after_events is not None

    def is_due(self, *, seconds: float, events: int) -> bool:
        """Whether one of the two has come."""
        by_time = self.after_s is not None and seconds >= self.after_s
        return by_time or (self.after_events is not None and events >= self.after_events)


class Play:
    """One run of the jobs."""

    def __init__(
        self,
        places: Places,
        *,
        ids: Mapping[str, str],
        queue: QueueView,
        daemon: DaemonProcess,
        control: ControlClient,
        screen: Screen,
        watch: Watch,
        kill: KillMoment,
    ) -> None:
        """`ids`: the jobs' ids by name, of rows that were inserted just now."""
        self._queue = queue
        self._daemon = daemon
        self._control = control
        self._screen = screen
        self._watch = watch
        self._began_s = watch.seconds()
        self._kill = kill
        self._followers = {
            name: Follower(places.socket, job=name, job_id=ids[name]) for name in _FOLLOWED
        }
        self._followed: Counter[str] = Counter()
        self._last_event = 0
        self._events = 0
        self._half_way = False
        self._reclaimed = False
        self._killed = False

    def run(self) -> Happened:
        """Until every job has ended. Raises DemoError when the daemon ends, or time is up."""
        try:
            while not self._look():
                time.sleep(_LOOK_S)
        finally:
            for follower in self._followers.values():
                follower.stop()
        return Happened(
            followed=dict(self._followed),
            reclaimed=self._reclaimed,
            kill_wanted=self._kill.wanted,
            killed_while_running=self._killed,
        )

    def _look(self) -> bool:
        """Once around; whether everything is over."""
        self._daemon.check()
        # Asked before the last lines are taken: none of them can come behind it.
        all_followed = all(follower.ended.is_set() for follower in self._followers.values())
        jobs = self._queue.jobs()
        self._tell_events()
        for follower in self._followers.values():
            self._take_lines(follower.take())
        self._screen.jobs(jobs)
        self._reclaim_if_due(jobs)
        over = all(job.is_over for job in jobs)
        if not over:
            self._kill_if_due()
        self._check_time(jobs)
        return over and all_followed

    def _tell_events(self) -> None:
        events = self._queue.events(after=self._last_event)
        if events:
            self._last_event = events[-1].id
            self._events += len(events)
            self._screen.tell(tell(events, name=self._queue.name))

    def _take_lines(self, lines: list[FollowedLine]) -> None:
        self._screen.log(lines)
        for line in lines:
            self._followed[line.job] += 1
            step = step_of(line.text) if line.job == RESUMES else None
            self._half_way = self._half_way or (step is not None and step >= HALF)

    def _reclaim_if_due(self, jobs: list[JobView]) -> None:
        if self._reclaimed or not self._half_way:
            return
        job = next(job for job in jobs if job.name == RESUMES)
        attempt = job.last
        if attempt is None or attempt.instance_id is None:
            return
        try:
            self._control.reclaim(attempt.instance_id, notice_s=NOTICE_S)
        except ControlError as error:
            raise DemoError(f"{attempt.instance_id} cannot be reclaimed: {error}") from None
        self._reclaimed = True
        self._screen.say(
            f"half-way: EC2 takes {attempt.instance_id} back in {NOTICE_S:.0f} s"
            f" (the spot machine of {RESUMES})"
        )

    def _kill_if_due(self) -> None:
        seconds = self._watch.seconds() - self._began_s
        if self._killed or not self._kill.is_due(seconds=seconds, events=self._events):
            return
        self._killed = True
        self._daemon.kill()
        self._screen.say("the daemon is killed (SIGKILL) and started again")
        self._daemon.start()

    def _check_time(self, jobs: list[JobView]) -> None:
        if self._watch.seconds() < DEADLINE_S:
            return
        missing = [f"{job.name} is {job.phase}: {job.message}" for job in jobs if not job.is_over]
        missing += [
            f"the end of the log of {name} has not come"
            for name, follower in self._followers.items()
            if not follower.ended.is_set()
        ]
        raise DemoError("\n  ".join([f"not over after {DEADLINE_S:.0f} s:", *missing]))
