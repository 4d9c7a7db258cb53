"""The gate before EC2: no call leaves before AWS would take it. Law: delays calls, never refuses or changes one.

A call needs the tokens of its operation (`lane.py`) and room among the calls under way. Tokens are
taken when it leaves and not before: taken early, they would let a burst through later.
The clock and `sleep` come from outside, so that time can be played.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

import anyio

from dstackd.aws.lane import RATE_CODES, Lane, Turn, Urgency
from dstackd.aws.recorder import CallRecorder
from dstackd.core.ec2_limits import Ec2Limits
from dstackd.ports import Clock

Sleep: TypeAlias = Callable[[float], Awaitable[Any]]
"""Waits for that many seconds of the clock's monotonic time."""

SLEEP_MIN_S = 0.001
"""What rounding leaves of a wait is not worth a turn of the loop each."""
SLEEP_MAX_S = 5.0
"""Tokens that come back make a wait shorter; this is how late it is noticed."""
_turn_of_call: ContextVar[Turn | None] = ContextVar("turn_of_call", default=None)


def machines_of(operation: str, parameters: dict[str, Any]) -> int:
    """How many machines a call asks for or names, as AWS's resource buckets count."""
    if operation == "RunInstances":
        return int(parameters["MaxCount"])
    return len(parameters["InstanceIds"]) if operation == "TerminateInstances" else 0


class Pacing:
    """The calls to EC2 of one account and region, all clients together."""

    def __init__(
        self,
        limits: Ec2Limits,
        *,
        clock: Clock,
        recorder: CallRecorder,
        sleep: Sleep = anyio.sleep,
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._recorder = recorder
        self._sleep = sleep
        self._lanes: dict[str, Lane] = {}
        self._turns = 0
        self._calls = 0
        self._launches = 0
        self._launches_max = max(1, limits.calls_concurrent_max // 2)

    @asynccontextmanager
    async def turn(self, operation: str, *, machines: int) -> AsyncIterator[None]:
        """Wait for a turn and hold its room. For how long, the recorder says; there is no other bound."""
        self._turns += 1
        turn = Turn(self._lane(operation), machines, self._turns)
        turn.lane.turns.append(turn)
        await self._admit(turn)
        before = _turn_of_call.set(turn)
        try:
            yield
        finally:
            _turn_of_call.reset(before)
            self._leave(turn)

    async def repeat(self) -> None:
        """Wait until the call of the current turn may be sent once more, ahead of those that are new."""
        turn = _turn_of_call.get()
        if turn is not None:
            again = Turn(turn.lane, turn.machines, turn.number, is_repeat=True)
            turn.lane.turns.appendleft(again)
            await self._admit(again)

    def refused(self, operation: str, code: str, message: str, *, sent_s: float) -> None:
        """AWS answered a call that was sent at `sent_s` with an error; what is no throttle is nothing here."""
        if code in RATE_CODES:
            turn = _turn_of_call.get()
            machines = 0 if turn is None else turn.machines
            now_s = self._clock.monotonic_s()
            lane = self._lane(operation)
            lane.throttled(message, machines=machines, now_s=now_s, sent_s=sent_s)
            self._let_go()

    def _lane(self, operation: str) -> Lane:
        if operation not in self._lanes:
            now_s = self._clock.monotonic_s()
            self._lanes[operation] = Lane(operation, limits=self._limits, now_s=now_s)
        return self._lanes[operation]

    async def _admit(self, turn: Turn) -> None:
        try:
            with self._recorder.pacing(f"ec2:{turn.lane.operation}"):
                await self._wait(turn)
        except BaseException:
            self._give_up(turn)
            raise

    async def _wait(self, turn: Turn) -> None:
        self._let_go()
        while not turn.granted:
            delay_s = self._delay_s(turn)
            if delay_s > 0:
                await self._wait_asleep(turn, delay_s)
                self._let_go()
            else:
                turn.woken = anyio.Event()
                await turn.woken.wait()

    async def _wait_asleep(self, turn: Turn, delay_s: float) -> None:
        turn.asleep = True
        try:
            await self._sleep(min(max(delay_s, SLEEP_MIN_S), SLEEP_MAX_S))
        finally:
            turn.asleep = False

    def _delay_s(self, turn: Turn) -> float:
        """Until the tokens are there; 0 for one that waits for something else."""
        if not turn.lane.is_first(turn):
            return 0.0
        now_s = self._clock.monotonic_s()
        return turn.lane.ready_s(turn, now_s=now_s) - now_s

    def _give_up(self, turn: Turn) -> None:
        """The call was cancelled before it was sent."""
        if not turn.granted:
            turn.lane.turns.remove(turn)
            self._let_go()
            return
        turn.lane.give_back(turn, now_s=self._clock.monotonic_s())
        self._leave(turn)

    def _leave(self, turn: Turn) -> None:
        if not turn.is_repeat:
            self._calls -= 1
            self._launches -= turn.lane.urgency is Urgency.LAUNCH
        self._let_go()

    def _let_go(self) -> None:
        """Grant every turn that can go now, the most urgent first; the others look how long they have."""
        while (turn := self._next()) is not None:
            turn.lane.turns.remove(turn)
            turn.lane.take(turn, now_s=self._clock.monotonic_s())
            turn.granted = True
            turn.woken.set()
            if not turn.is_repeat:
                self._calls += 1
                self._launches += turn.lane.urgency is Urgency.LAUNCH
        for lane in self._lanes.values():
            if lane.turns:
                lane.turns[0].woken.set()

    def _next(self) -> Turn | None:
        now_s = self._clock.monotonic_s()
        firsts = (lane.turns[0] for lane in self._lanes.values() if lane.turns)
        free = (
            turn
            for turn in firsts
            if not turn.asleep
            and self._has_room(turn)
            and turn.lane.ready_s(turn, now_s=now_s) <= now_s
        )
        return min(free, key=lambda turn: (turn.lane.urgency, turn.number), default=None)

    def _has_room(self, turn: Turn) -> bool:
        if turn.is_repeat:
            return True
        if turn.lane.urgency is Urgency.LAUNCH and self._launches >= self._launches_max:
            return False
        return self._calls < self._limits.calls_concurrent_max
