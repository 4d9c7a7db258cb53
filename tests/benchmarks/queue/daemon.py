"""A real daemon on a fake AWS: what it costs when there is nothing to do, and how it starts on ten thousand live jobs."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass

from tests.benchmarks.launch.cloud import FakeCloud
from tests.benchmarks.launch.many import plant
from tests.benchmarks.launch.site import Site, a_site
from tests.benchmarks.queue.history import FINISHED, fill_sqlite

SETTLED_S = 15.0
IDLE_S = 60.0
LIVE = 10_000
STARTED_S = 120.0


@dataclass(frozen=True, slots=True)
class Idle:
    """Of one idle minute."""

    cpu_percent: float
    commits: int
    calls_a_minute: float


def idle(*, with_history: bool) -> Idle:
    """The daemon at its defaults."""
    with a_site() as site:
        if with_history:
            fill_sqlite(site.folder / "queue.db", finished=FINISHED, future=0)
        time.sleep(SETTLED_S)
        site.cloud.fresh()
        began_s, cpu_s = time.monotonic(), site.cpu_s()
        commits = _commits(site, until_s=began_s + IDLE_S)
        spent_s = time.monotonic() - began_s
        return Idle(
            cpu_percent=(site.cpu_s() - cpu_s) / spent_s * 100,
            commits=commits,
            calls_a_minute=len(site.cloud.calls()) / spent_s * 60,
        )


def _commits(site: Site, *, until_s: float) -> int:
    """How often somebody else's commit was seen, looking five times a second."""
    seen = 0
    with closing(sqlite3.connect(site.folder / "queue.db", isolation_level=None)) as plain:
        (before,) = plain.execute("PRAGMA data_version").fetchone()
        while time.monotonic() < until_s:
            time.sleep(0.2)
            (now,) = plain.execute("PRAGMA data_version").fetchone()
            seen += now != before
            before = now
    return seen


def start_up() -> tuple[float, int]:
    """Seconds from the start of the process to the end of its first pass over the machines; RunInstances calls until then."""
    with FakeCloud() as cloud, Site(cloud) as site:
        plant(site, LIVE)
        cloud.fresh()
        began_s = time.monotonic()
        site.start()
        site.wait(
            lambda: site.passes("machines") >= 1,
            "the first pass over the machines",
            within_s=STARTED_S,
        )
        return time.monotonic() - began_s, len(cloud.calls("ec2:RunInstances"))
