"""The web server with real parts around it: SQLite file, log files, sockets. Only the bucket is in memory."""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from aiohttp import ClientSession, TCPConnector, UnixConnector
from typing_extensions import override

from dstackd.clock import SystemClock
from dstackd.core.lifecycle import Rule
from dstackd.core.log_verdict import log_verdict
from dstackd.core.plan_view import PlanView
from dstackd.errors import CloudError, NotFound, PreconditionFailed
from dstackd.http.context import HttpContext, Insight, Reaping
from dstackd.http.server import Listening, serve
from dstackd.log_files import LogFiles, StoredLine
from dstackd.ports import ObjectFacts, ObjectHead
from dstackd.spec.model import JobSpec
from dstackd.store import migrate
from dstackd.store.engine import Database, open_database
from dstackd.vitals import ApiCalls, Vitals

HEAD = "0001"
Planner = Callable[[JobSpec], Awaitable[PlanView]]


@dataclass(frozen=True, slots=True)
class Backend:
    """What a daemon with a backend gives its web server beside the planner."""

    reaper: Reaping
    insight: Insight


BackendOf = Callable[[Database, Vitals], Backend]


class SkippingClock(SystemClock):
    """The machine's clock, which a test can put forward."""

    ahead_s = 0.0

    @override
    def monotonic_s(self) -> float:
        return super().monotonic_s() + self.ahead_s


@dataclass
class MemoryBucket:
    """A bucket of a few bytes; `error` is raised by every read; `gets` counts the objects read."""

    objects: dict[str, bytes] = field(default_factory=dict)
    error: CloudError | None = None
    gets: int = 0
    checksums: dict[str, str] = field(default_factory=dict)
    """What S3 has compared the whole object with, in hexadecimal."""
    metadata: dict[str, dict[str, str]] = field(default_factory=dict)

    async def facts(self, key: str) -> ObjectFacts:
        body = await self.get(key)
        self.gets -= 1
        checksum, metadata = self.checksums.get(key, ""), self.metadata.get(key, {})
        return ObjectFacts(len(body), 0, checksum, metadata)

    async def renew(self, key: str) -> None:
        await self.get(key)

    async def ensure_rules(self, _ours: Sequence[Rule]) -> bool:
        return False

    async def get(self, key: str) -> bytes:
        self.gets += 1
        if self.error is not None:
            raise self.error
        if key not in self.objects:
            raise NotFound("NoSuchKey", key)
        return self.objects[key]

    async def read(self, key: str) -> AsyncIterator[bytes]:
        body = await self.get(key)
        for start in range(0, len(body), 3):
            yield body[start : start + 3]

    async def put(self, key: str, body: bytes, *, only_if_new: bool = False) -> None:
        if only_if_new and key in self.objects:
            raise PreconditionFailed("PreconditionFailed", key)
        self.objects[key] = body

    async def put_file(self, key: str, path: Path) -> None:
        self.objects[key] = await anyio.Path(path).read_bytes()

    async def exists(self, key: str) -> bool:
        return key in self.objects

    async def list(self, prefix: str) -> tuple[ObjectHead, ...]:
        keys = sorted(key for key in self.objects if key.startswith(prefix))
        return tuple(ObjectHead(key, len(self.objects[key]), 0) for key in keys)

    async def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.objects.pop(key, None)


@dataclass
class World:
    """What a test may touch."""

    context: HttpContext
    path: Path
    """The SQLite file."""
    vitals: Vitals
    log_files: LogFiles
    bucket: MemoryBucket
    clock: SkippingClock
    calls: list[ApiCalls]
    listening: Listening
    api: ClientSession
    """On the Unix socket."""
    web: ClientSession
    """On TCP."""
    stop: Callable[[], None]
    """Cancel the server, as the daemon's end does."""

    async def sql(self, statement: str, *values: object) -> list[Any]:
        """Plain SQL from outside, committed."""
        return await anyio.to_thread.run_sync(partial(run_sql, self.path, statement, *values))

    async def insert_job(self, spec: object = None, **columns: object) -> str:
        """A row as another application inserts it; returns its id."""
        columns = {"spec": json.dumps(spec or {"commands": ["true"]}), **columns}
        names, places = ", ".join(columns), ", ".join("?" * len(columns))
        statement = f"INSERT INTO job ({names}) VALUES ({places}) RETURNING id"
        return str((await self.sql(statement, *columns.values()))[0][0])

    async def insert_attempt(self, job_id: str, number: int, **columns: object) -> None:
        """An attempt, and the job's column that names it."""
        values = {
            "job_id": job_id,
            "number": number,
            "launch_id": "l",
            "launch_index": 0,
            "instance_type": "m5.large",
            "zone": "z1",
            "market": "spot",
            "price_usd_h": 0.1,
            **columns,
        }
        names, places = ", ".join(values), ", ".join("?" * len(values))
        await self.sql(
            f"INSERT INTO attempt ({names}) VALUES ({places})",
            *values.values(),
        )
        await self.sql("UPDATE job SET attempt = ? WHERE id = ?", number, job_id)

    async def end_attempt(self, job_id: str, number: int, *, lines_sent: int | None) -> None:
        """The attempt's machine is gone; so many lines as are stored have arrived."""
        stored = self.log_files.end(job_id, number)
        seen = stored.last_n - stored.missing
        verdict = log_verdict(sent=lines_sent, seen=seen, over_quota=0, lost=0)
        await self.sql(
            "UPDATE attempt SET ended_at_ms = 9, log_lines_sent = ?, log_lines_seen = ?, log_verdict = ?"
            " WHERE job_id = ? AND number = ?",
            *(lines_sent, seen, verdict, job_id, number),
        )

    async def finish_job(self, job_id: str, phase: str = "succeeded", exit_code: int = 0) -> None:
        """The job reaches a terminal phase."""
        await self.sql(
            "UPDATE job SET phase = ?, reason = 'exited', finished_at_ms = 9, exit_code = ? WHERE id = ?",
            *(phase, exit_code, job_id),
        )

    def log(self, job_id: str, attempt: int, first: int, last: int) -> None:
        """Lines `first` to `last` arrive."""
        lines = [
            StoredLine(n, at_ms=n, source="stdout", log=f"line {n}") for n in range(first, last + 1)
        ]
        self.log_files.append(job_id, attempt, lines)


def run_sql(path: Path, statement: str, *values: object) -> list[Any]:
    """One statement over a connection of its own."""
    connection = sqlite3.connect(path, timeout=10)
    try:
        with connection:
            return connection.execute(statement, values).fetchall()
    finally:
        connection.close()


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder whose name leaves room for a socket's."""
    with tempfile.TemporaryDirectory(prefix="dstackd-") as folder:
        yield Path(folder)


@asynccontextmanager
async def running(
    *, bucket: bool = True, plan: Planner | None = None, backend: BackendOf | None = None
) -> AsyncIterator[World]:
    """A healthy daemon's server, until the block ends."""
    clock = SkippingClock()
    with short_folder() as folder:
        path = folder / "queue.db"
        async with open_database(f"sqlite:///{path}", clock=clock) as database:
            await migrate.upgrade(database)
            vitals = Vitals(schema_current=HEAD, schema_head=HEAD, first_pass_done=True)
            calls: list[ApiCalls] = []
            memory = MemoryBucket()
            behind = None if backend is None else backend(database, vitals)
            context = HttpContext(
                database=database,
                vitals=vitals,
                api_calls=lambda: calls,
                log_files=LogFiles(folder / "logs"),
                bucket=memory if bucket else None,
                clock=clock,
                version="1.2.3",
                plan=plan,
                reaper=None if behind is None else behind.reaper,
                insight=None if behind is None else behind.insight,
            )
            start = partial(
                serve,
                context,
                listen="127.0.0.1:0",
                socket_path=folder / "api.sock",
                host_names=["dstackd.test"],
            )
            async with anyio.create_task_group() as group:
                listening = await group.start(start)
                async with _clients(listening) as (api, web):
                    yield World(
                        *(context, path, vitals, context.log_files, memory, clock, calls),
                        *(listening, api, web, group.cancel_scope.cancel),
                    )
                group.cancel_scope.cancel()


@asynccontextmanager
async def _clients(listening: Listening) -> AsyncIterator[tuple[ClientSession, ClientSession]]:
    assert listening.tcp is not None
    assert listening.socket_path is not None
    host, port = listening.tcp
    unix = UnixConnector(path=str(listening.socket_path), limit=0)
    async with (
        ClientSession("http://dstackd", connector=unix) as api,
        ClientSession(f"http://{host}:{port}", connector=TCPConnector(limit=0)) as web,
    ):
        yield api, web


async def get(session: ClientSession, path: str, /, **query: object) -> tuple[int, Any]:
    """(status, JSON) of a GET."""
    params = {name: str(value) for name, value in query.items()}
    async with session.get(path, params=params) as response:
        return response.status, await response.json(content_type=None)


async def post(session: ClientSession, path: str, body: object = None) -> tuple[int, Any]:
    """(status, JSON) of a POST with a JSON body."""
    async with session.post(path, json=body) as response:
        return response.status, await response.json(content_type=None)
