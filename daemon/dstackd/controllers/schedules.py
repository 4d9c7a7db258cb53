"""Inserts the jobs of the schedules at their times. Law: a time's job is inserted once, whatever crashes and however many daemons there
are; a bad schedule is told so in its row, and stops no other.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import structlog

from dstackd.core.schedule import Turn, decide_turn, unique_key
from dstackd.cron import Calendar, read_calendar
from dstackd.errors import StaleRow
from dstackd.ports import Clock
from dstackd.spec.errors import FieldError, SpecError
from dstackd.spec.model import JobSpec
from dstackd.spec.parse import parse_spec_json
from dstackd.store import schedules as store
from dstackd.store.engine import Connection, Database
from dstackd.store.schedules import Schedule
from dstackd.wake import Wakes

log = structlog.get_logger(__name__)

PASS_MAX = 100
"""Schedules of one look."""

Admission = Callable[[JobSpec], None]
"""Raises SpecError for what this installation does not allow."""


class Schedules:
    """Sleeps until the next time."""

    name = "schedules"
    pass_max_s = 60.0

    def __init__(
        self, database: Database, *, admit: Admission, clock: Clock, wakes: Wakes, interval_s: float
    ) -> None:
        self._database = database
        self._admit = admit
        self._clock = clock
        self._wakes = wakes
        self.interval_s = interval_s
        self._is_first = True
        """Also the bad ones are judged: another version, or another list of time zones, may see them otherwise."""

    async def step(self) -> float:
        """See to every schedule that is due or new; then sleep until the next is due."""
        while await self._look():
            pass
        self._is_first = False
        next_ms = await self._database.read(store.next_run_ms)
        if next_ms is None:
            return self.interval_s
        return min(self.interval_s, max(next_ms - self._clock.now_ms(), 1) / 1000)

    async def _look(self) -> bool:
        """Whether there may be more of them."""
        now_ms = self._clock.now_ms()
        due = await self._database.read(
            partial(store.due_schedules, now_ms=now_ms, bad_ones=self._is_first, count_max=PASS_MAX)
        )
        for schedule in due:
            try:
                calendar = self._judge(schedule, now_ms)
            except SpecError as error:
                await self._refuse(schedule, error)
            else:
                await self._see_to(schedule, calendar, now_ms)
        return len(due) == PASS_MAX and not self._is_first

    def _judge(self, schedule: Schedule, now_ms: int) -> Calendar:
        """Raises SpecError with all that is wrong with the row. Its spec is judged once: an input that is missing today rejects
        today's job, and no later one.
        """
        errors: list[FieldError] = []
        try:
            if schedule.next_run_at_ms is None:
                self._admit(parse_spec_json(schedule.spec))
        except SpecError as error:
            errors += [
                FieldError(_inside(each.field), each.problem, each.fix) for each in error.errors
            ]
        try:
            calendar = read_calendar(schedule.cron, schedule.timezone)
        except SpecError as error:
            raise SpecError([*error.errors, *errors]) from None
        if calendar.next_after(now_ms) is None:
            problem = "has no such day in the next fifty years"
            errors.append(
                FieldError("cron", problem, "change day and month, or delete the schedule")
            )
        if errors:
            raise SpecError(errors)
        return calendar

    async def _refuse(self, schedule: Schedule, error: SpecError) -> None:
        if schedule.next_run_at_ms is None and schedule.message == str(error):
            return
        work = partial(store.move_on, schedule=schedule, next_run_at_ms=None, message=str(error))
        if await self._database.write(work):
            log.warning("schedule_refused", schedule=schedule.name, problem=str(error))

    async def _see_to(self, schedule: Schedule, calendar: Calendar, now_ms: int) -> None:
        planned_ms, last_ms = _due(schedule, calendar, now_ms)
        next_ms = calendar.next_after(now_ms)

        async def work(connection: Connection) -> tuple[Turn, str | None] | None:
            if planned_ms is None or last_ms is None:  # new, and its first time is to come
                await store.move_on(connection, schedule, next_run_at_ms=next_ms, message="")
                return None
            last_job_id, running = schedule.last_job_id, None
            if schedule.overlap == "skip" and last_job_id is not None:
                running = last_job_id if await store.is_open(connection, last_job_id) else None
            turn = decide_turn(
                planned_ms=planned_ms,
                last_ms=last_ms,
                now_ms=now_ms,
                catches_up=schedule.catch_up == "last",
                running=running,
            )
            moved = partial(
                store.move_on, connection, schedule, next_run_at_ms=next_ms, message=turn.message
            )
            if turn.run_ms is None:
                return (turn, None) if await moved() else None
            key = unique_key(schedule.name, turn.run_ms)
            job_id = await store.insert_scheduled(connection, schedule, key=key)
            if not await moved(last_run_at_ms=turn.run_ms, last_job_id=job_id):
                raise StaleRow(f"schedule {schedule.name} has moved on")
            return turn, job_id

        try:
            done = await self._database.write(work)
        except StaleRow:  # an edit, or another daemon: the next look sees it
            return
        self._tell(schedule, done)

    def _tell(self, schedule: Schedule, done: tuple[Turn, str | None] | None) -> None:
        if done is None:
            return
        turn, job_id = done
        if job_id is None:
            log.warning("schedule_left_out", schedule=schedule.name, why=turn.message)
            return
        log.info("schedule_ran", schedule=schedule.name, job_id=job_id, note=turn.message)
        self._wakes.intake.ring()


def _due(schedule: Schedule, calendar: Calendar, now_ms: int) -> tuple[int | None, int | None]:
    """The first time that was due, and the last that has come; None: none has."""
    planned_ms = schedule.next_run_at_ms
    if planned_ms is None and schedule.last_run_at_ms is None and schedule.version == 0:
        # A new one: what was due since its insert, while nobody looked.
        planned_ms = calendar.next_after(schedule.created_at_ms)
    if planned_ms is None or planned_ms > now_ms:
        return None, None
    return planned_ms, max(calendar.last_until(now_ms) or planned_ms, planned_ms)


def _inside(field: str) -> str:
    return "spec" if field == "spec" else f"spec.{field}"
