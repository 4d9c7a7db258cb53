"""Noticing what other processes commit to PostgreSQL. Law: a hint only, as `watch.CommitWatch` is; the table is looked at now and then whatever is heard.

Triggers of the schema notify CHANNEL once a statement. The listener has a connection of its own, and believes in it only while it hears
itself: behind a pooler that lends sessions for one transaction (pgbouncer's transaction mode) LISTEN succeeds and nothing ever comes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Final, Self

import anyio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from dstackd.errors import OperatingError
from dstackd.ports import Clock
from dstackd.store.engine import Database
from dstackd.store.postgres import CONNECTION_ERRORS, PostgresServer
from dstackd.store.watch import PROBE

CHANNEL: Final = "dstackd_job"
LOOK_S = 5.0
"""Between two looks while everything is heard; the connection is asked for a sign of life then."""
LOOK_DEAF_S = 0.5
ECHO_S = 2.0
"""How long our own word may take to come back."""
ANSWER_S = 5.0
RETRY_MIN_S = 1.0
RETRY_MAX_S = 60.0

_TROUBLE: tuple[type[Exception], ...] = (OperatingError, *CONNECTION_ERRORS)
_PROBE = text(PROBE)
_SAY = text("SELECT pg_notify(:channel, :word)")


class NotificationWatch:
    """Waits for commits to the queue and says what they have left to do."""

    def __init__(self, database: Database, server: PostgresServer, *, clock: Clock) -> None:
        self._database = database
        self._server = server
        self._clock = clock
        self._connection: Any = None
        self._heard: set[str] = set()
        self._bell = anyio.Event()
        self._retry_s = RETRY_MIN_S
        self._listen_at_s = 0.0
        self._is_missing = False
        """A look has found a submission that nobody had told of."""
        self.problem = ""
        """Why new jobs are looked for instead of listened for; empty: they are not."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._hang_up()

    async def changes(self) -> AsyncGenerator[tuple[bool, bool], None]:
        """(submissions wait, jobs want a look) after each batch of commits, and after each look; forever."""
        while True:
            if self._clock.monotonic_s() >= self._listen_at_s:
                await self._listen()
            yield await self._look()
            while self._connection is not None:
                if await self._wait():
                    yield True, False  # most likely, and whoever waits for it waits no longer
                    yield await self._look()
                elif await self._is_alive():
                    yield await self._look()
            await anyio.sleep(LOOK_DEAF_S)

    async def _wait(self) -> bool:
        """Whether something is heard before LOOK_S has passed and before the connection ends."""
        with anyio.move_on_after(LOOK_S):
            await self._bell.wait()
        return self._take()

    def _take(self) -> bool:
        self._bell = anyio.Event()
        heard, self._heard = self._heard, set()
        return bool(heard)

    async def _look(self) -> tuple[bool, bool]:
        async def work(connection: AsyncConnection) -> tuple[bool, bool]:
            submitted, due = (await connection.execute(_PROBE)).one()
            return bool(submitted), bool(due)

        try:
            found = await self._database.read(work)
        except OperatingError:  # the loops will notice for themselves
            return False, False
        self._is_missing = found[0] and not self._heard
        return found

    # -------------------------------------------------------------------------- the connection

    async def _listen(self) -> None:
        """Have a connection that hears us, or a problem and a time for the next try."""
        self._take()
        try:
            self._connection = await self._server.connect()
            await self._connection.add_listener(CHANNEL, self._note)
            self._connection.add_termination_listener(self._ring)
            hears = await self._hears_itself()
        except _TROUBLE as error:
            self._give_up(f"the connection that listens cannot be had ({error})")
        else:
            if hears:
                self.problem, self._retry_s = "", RETRY_MIN_S
            else:
                where = "behind this pooler" if self._server.is_pooled else "here"
                self._retry_s = RETRY_MAX_S  # a pooler does not change its ways
                self._give_up(f"LISTEN does not work {where}")

    async def _is_alive(self) -> bool:
        """Whether the connection answers, and tells all; otherwise it is closed."""
        try:
            await self._connection.execute("SELECT 1", timeout=ANSWER_S)
            if not self._is_missing or await self._hears_itself():
                return True
            problem = "notifications do not arrive any more"
        except _TROUBLE as error:
            problem = f"the connection that listens is lost ({error})"
        self._give_up(problem)
        return False

    async def _hears_itself(self) -> bool:
        """Whether a word that goes out on another connection comes back. It is heard like any other, and does no harm."""
        word = f"echo-{self._clock.new_id()}"

        async def say(connection: AsyncConnection) -> None:
            await connection.execute(_SAY, {"channel": CHANNEL, "word": word})

        await self._database.write(say)
        with anyio.move_on_after(ECHO_S):
            while word not in self._heard:
                await self._bell.wait()
                self._bell = anyio.Event()
            self._heard.discard(word)
            self._bell = anyio.Event()  # it may have come before it was waited for
            if self._heard:
                self._bell.set()
            return True
        return False

    def _give_up(self, problem: str) -> None:
        self._hang_up()
        self.problem = f"{problem}; new jobs are looked for every {LOOK_DEAF_S:g} s"
        self._listen_at_s = self._clock.monotonic_s() + self._retry_s * (0.5 + self._clock.jitter())
        self._retry_s = min(self._retry_s * 2, RETRY_MAX_S)

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    def _note(self, _connection: object, _pid: int, _channel: str, word: str) -> None:
        self._heard.add(word)
        self._bell.set()

    def _ring(self, _connection: object) -> None:
        self._bell.set()
