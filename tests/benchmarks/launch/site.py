"""A daemon on a fake AWS. Law: the program as it is installed, its own process, its own database; jobs come by plain SQL."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from tests.benchmarks.launch.cloud import FakeCloud
from tests.benchmarks.launch.environment import cpu_s, environment, free_port, wait_until
from tests.benchmarks.launch.plan import BUCKET, REGION

READY_S = 60.0
TERMINAL = ("succeeded", "failed", "cancelled", "rejected")

_CONFIG = """
[database]
url = "sqlite:///{folder}/queue.db"
[state]
directory = "{folder}"
[http]
listen = "127.0.0.1:{port}"
{more}
[[backends]]
region = "{region}"
bucket = "{bucket}"
endpoint_url = "{endpoint_url}"
access_key_id = "AKIAOFTHEDAEMON"
secret_access_key = "of no meaning"
"""

QUICK = """
[loops]
machines_s = 1
inbox_s = 0.5
logs_s = 2
idle_sweep_s = 2
"""
"""Sweeps for runs that look at the outcome and not at the number of calls."""


class Site:
    """One folder with a configuration, a database and the daemon that runs on them; a context manager."""

    def __init__(self, cloud: FakeCloud, *, more: str = "") -> None:
        """`more`: further tables of the configuration; without them everything is at its default."""
        self.cloud = cloud
        self.folder = Path(tempfile.mkdtemp(prefix="dstackd-bench-"))
        self.config = self.folder / "dstackd.toml"
        self._port = free_port()
        self._daemon: subprocess.Popen[bytes] | None = None
        self.config.write_text(
            _CONFIG.format(
                folder=self.folder,
                port=self._port,
                region=REGION,
                bucket=BUCKET,
                endpoint_url=cloud.endpoint_url,
                more=more,
            )
        )

    @property
    def pid(self) -> int:
        """Of the daemon."""
        assert self._daemon is not None
        return self._daemon.pid

    def start(self) -> None:
        """Start `dstackd run` and wait until it is ready."""
        with (self.folder / "daemon.log").open("ab") as log:
            self._daemon = subprocess.Popen(
                [sys.executable, "-m", "dstackd", "run", "--config", str(self.config)],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=environment(),
            )
        self.wait(self._is_ready, "the daemon to be ready", within_s=READY_S)

    def kill(self) -> None:
        """End the daemon as a power failure would."""
        assert self._daemon is not None
        self._daemon.send_signal(signal.SIGKILL)
        self._daemon.wait()

    def cpu_s(self) -> float:
        """Seconds of processor time that this daemon has used."""
        return cpu_s(self.pid)

    def _is_ready(self) -> bool:
        assert self._daemon is not None
        if self._daemon.poll() is not None:
            message = f"the daemon ended by itself: {self.log()[-3000:]}"
            raise RuntimeError(message)
        try:
            return self._get("/readyz")[0] == http.client.OK
        except OSError:
            return False

    def passes(self, loop: str) -> int:
        """How many passes of the loop have ended."""
        name = f'dstackd_loop_passes_total{{loop="{loop}"}} '
        _, shown = self._get("/metrics")
        return int(float((shown.partition(name)[2].split() or ["0"])[0]))

    def _get(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    @contextlib.contextmanager
    def database(self) -> Iterator[sqlite3.Connection]:
        """A connection as any application would have it, in autocommit."""
        path = self.folder / "queue.db"
        with contextlib.closing(
            sqlite3.connect(path, timeout=30, isolation_level=None)
        ) as connection:
            yield connection

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """One statement."""
        with self.database() as connection:
            return connection.execute(statement, values).fetchall()

    def insert(self, specs: Sequence[object]) -> float:
        """Insert the jobs in one transaction; returns the moment before it (monotonic seconds)."""
        rows = [(json.dumps(spec),) for spec in specs]
        with self.database() as connection:
            began_s = time.monotonic()
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT INTO job (spec) VALUES (?)", rows)
            connection.execute("COMMIT")
        return began_s

    def phases(self) -> Counter[str]:
        """How many jobs are in each phase."""
        return Counter(dict(self.sql("SELECT phase, count(*) FROM job GROUP BY phase")))

    def wait_for(self, count: int, phases: Sequence[str], *, within_s: float) -> None:
        """Wait until at least `count` jobs are in one of the phases."""
        self.wait(
            lambda: sum(self.phases()[phase] for phase in phases) >= count,
            f"{count} jobs in {phases}",
            within_s=within_s,
        )

    def wait_for_end(self, *, within_s: float) -> None:
        """Wait until every job is in a terminal phase."""
        self.wait(
            lambda: not set(self.phases()) - set(TERMINAL), "every job's end", within_s=within_s
        )

    def wait_for_call(self, name: str) -> None:
        """Wait until such a call has been answered well."""
        self.wait(
            lambda: any(call.answered_s and not call.code for call in self.cloud.calls(name)),
            f"an answer to {name}",
            within_s=READY_S,
        )

    def wait(self, condition: Any, what: str, *, within_s: float) -> None:  # noqa: ANN401 - any callable
        """Wait for anything; a failure shows the jobs and the end of the daemon's log."""
        wait_until(
            condition,
            what=lambda: f"{what}; jobs: {self._shown()}; log: {self.log()[-3000:]}",
            within_s=within_s,
            poll_s=0.1,
        )

    def _shown(self) -> object:
        try:
            return self.sql(
                "SELECT phase, reason, message, count(*) FROM job GROUP BY 1, 2, 3 LIMIT 9"
            )
        except sqlite3.OperationalError as error:
            return str(error)

    def log(self) -> str:
        """What the daemons have printed."""
        path = self.folder / "daemon.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._daemon is not None and self._daemon.poll() is None:
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def a_site(*, more: str = "", **plan: object) -> Iterator[Site]:
    """A fresh cloud with a fresh installation, its daemon ready; both end with the block."""
    with FakeCloud(**plan) as cloud, Site(cloud, more=more) as site:
        site.start()
        yield site
