"""Installations to which much happens, and what can be seen of them from outside."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from typing_extensions import override

from dstackd.local.cloud import LocalCloud
from tests.end_to_end.hostility import small_disk
from tests.end_to_end.installation import DEADLINE_S, Installation, a_cloud
from tests.store.postgres import Postgres

HERE = Path(__file__).parent
DISK = "64m"


class StormSite(Installation):
    """State below `state`; `ran` and `twice` are what the jobs themselves saw."""

    def __init__(self, folder: Path, cloud: LocalCloud, *, database_url: str = "") -> None:
        """`database_url` empty: SQLite, below `state`."""
        super().__init__(folder, cloud)
        self.state = folder / "state"
        url = database_url or f"sqlite:///{self.state}/queue.db"
        text = self.config.read_text().replace(self.store.url, url)
        self.config.write_text(
            text.replace(f'directory = "{folder}"', f'directory = "{self.state}"')
        )
        self.ran = folder / "ran"
        self.ran.mkdir()
        self.twice = folder / "twice"

    def rows(self, statement: str) -> list[dict[str, Any]]:
        """What a query shows, by column."""
        raise NotImplementedError

    def lines(self, job_id: str, attempt: int) -> list[dict[str, Any]]:
        """The attempt's log file, each line as it is written."""
        path = self.state / "logs" / job_id / f"{attempt}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def what_goes_on(self) -> str:
        """What is not over yet, for whoever has to find out why; empty: everything is."""
        jobs = self.rows(
            "SELECT id, phase, reason, message, attempt FROM job WHERE finished_at_ms IS NULL"
        )
        attempts = self.rows(
            "SELECT job_id, number, outcome, log_verdict, log_lines_sent, log_lines_seen FROM attempt"
            " WHERE ended_at_ms IS NULL OR (log_lines_sent IS NOT NULL AND log_verdict <> 'complete')"
        )
        machines = self.rows("SELECT instance_id, state FROM machine WHERE gone_at_ms IS NULL")
        live = self.live_machines()
        found = [jobs, attempts, machines, live]
        return f"{found}; {self.log()[-3000:]}" if any(found) else ""


class DeadlySite(StormSite):
    """On SQLite, with a daemon whose wall clock is in our hands."""

    def __init__(self, folder: Path, cloud: LocalCloud) -> None:
        super().__init__(folder, cloud)
        self._clock = folder / "clock"
        self.set_clock(off_s=0.0)

    @property
    def database(self) -> Path:
        """The queue."""
        return self.state / "queue.db"

    def set_clock(self, *, off_s: float) -> None:
        """The daemon's wall clock is wrong by this much from now on, also in the midst of its life."""
        wrong = struct.pack("<q", int(off_s * 1e9))
        if not self._clock.exists():
            self._clock.write_bytes(wrong)
        with self._clock.open("r+b", buffering=0) as file:
            file.write(wrong)

    @override
    def environment(self) -> dict[str, str]:
        """The daemon's wall clock is ours."""
        own = super().environment()
        path = os.pathsep.join([str(HERE / "wrong_clock"), own["PYTHONPATH"]])
        return {**own, "PYTHONPATH": path, "WRONG_CLOCK": str(self._clock)}

    @override
    def rows(self, statement: str) -> list[dict[str, Any]]:
        with contextlib.closing(sqlite3.connect(self.database, timeout=10)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(statement)]


class PostgresSite(StormSite):
    """On a PostgreSQL that may be gone at any moment."""

    def __init__(self, folder: Path, cloud: LocalCloud, *, server: Postgres) -> None:
        self._server = server
        self._url = server.new_database()
        super().__init__(folder, cloud, database_url=self._url)

    @override
    def rows(self, statement: str) -> list[dict[str, Any]]:
        whole = f"SELECT coalesce(json_agg(found), '[]') FROM ({statement}) AS found"
        return list(json.loads(self.psql(whole)))

    def psql(self, statement: str) -> str:
        """As any application; again and again while the server is away."""
        deadline_s = time.monotonic() + DEADLINE_S
        while True:
            try:
                return self._server.psql(self._url, statement)
            except subprocess.CalledProcessError:
                if time.monotonic() > deadline_s:
                    raise
            time.sleep(0.1)


@contextmanager
def deadly_site() -> Iterator[DeadlySite]:
    """A fresh one, on a small disk if that can be had (root); all its processes end with the block."""
    with a_cloud() as (folder, cloud), ExitStack() as stack:
        site = DeadlySite(folder, cloud)
        if os.getuid() == 0:
            stack.enter_context(small_disk(site.state, size=DISK))
        yield stack.enter_context(site)


@contextmanager
def postgres_site(server: Postgres) -> Iterator[PostgresSite]:
    """A fresh one, in a new database of the server."""
    with a_cloud() as (folder, cloud), PostgresSite(folder, cloud, server=server) as site:
        yield site
