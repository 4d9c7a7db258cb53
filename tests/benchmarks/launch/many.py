"""Ten thousand running machines, without launching them. Law: rows and instances are planted; the pass over them is the daemon's own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tests.benchmarks.launch.cloud import FakeCloud
from tests.benchmarks.launch.environment import ROOT, environment
from tests.benchmarks.launch.lives import job
from tests.benchmarks.launch.plan import BUCKET, REGION, ZONES
from tests.benchmarks.launch.site import Site

OWNER = "0123456789abcdef"
A_LAUNCH = 100
OFTEN = "[loops]\nmachines_s = 0.1\nheartbeats_s = 0.1\n"
"""So that a pass by hand sweeps and lists heartbeats each time."""


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass of a loop took."""

    cpu_s: float
    """All threads of the process."""
    stall_ms: float
    """Longest time that the event loop did not come round."""
    step_ms: float
    """Longest step by the loop thread's own processor time: the stall on a machine with nothing else to do."""
    calls: int


@dataclass(frozen=True, slots=True)
class ManyMachines:
    """One pass of the machines loop and one look at the inbox, each the second of its kind."""

    machines: Pass
    inbox: Pass
    resident_mb: float


def measure_pass(machines: int) -> ManyMachines:
    """In a process of its own, so that its memory is the daemon's alone."""
    with FakeCloud(throttled=False) as cloud, Site(cloud, more=OFTEN) as site:
        plant(site, machines)
        done = subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.launch.one_pass", str(site.config)],
            env=environment(),
            cwd=ROOT,
            check=True,
            stdout=subprocess.PIPE,
        )
        seen = json.loads(done.stdout)
        return ManyMachines(
            Pass(**seen["machines"]), Pass(**seen["inbox"]), resident_mb=seen["resident_mb"]
        )


def plant(site: Site, machines: int) -> None:
    """Jobs that run, for a daemon that was not started yet."""
    subprocess.run(
        [sys.executable, "-m", "dstackd", "migrate", "--config", str(site.config)],
        env=environment(),
        check=True,
        stdout=subprocess.DEVNULL,
    )
    site.cloud.plant(machines, {"dstack_bucket": BUCKET, "dstackd:owner": OWNER})
    now_ms = int(time.time() * 1000)
    spec = json.dumps(job())
    with site.database() as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(
            "INSERT INTO backend (name, region, bucket, endpoint_url, owner, created_at_ms)"
            " VALUES ('aws', ?, ?, ?, ?, ?)",
            (REGION, BUCKET, site.cloud.endpoint_url, OWNER, now_ms),
        )
        connection.executemany(
            "INSERT INTO job (id, spec) VALUES (?, ?)",
            ((f"job-{number}", spec) for number in range(machines)),
        )
        connection.execute(
            "UPDATE job SET phase = 'running', reason = 'started', backend = 'aws', attempt = 1, version = 5,"
            " message = 'commands started', next_visit_at_ms = 4102444800000"
        )
        for table, columns, rows in _rows(machines, now_ms):
            places = ", ".join("?" * (columns.count(",") + 1))
            connection.executemany(f"INSERT INTO {table} ({columns}) VALUES ({places})", rows)
        connection.execute("UPDATE attempt SET backend = 'aws'")
        connection.execute("COMMIT")


def _rows(machines: int, now_ms: int) -> Iterator[tuple[str, str, Iterator[tuple[object, ...]]]]:
    """(table, columns, rows) for launches, machines and attempts."""
    what = ("c5.large", ZONES[0], "on-demand", 0.1)
    yield (
        "launch",
        (
            "id, backend, client_token, request, document, offering, price_usd_h, count, state,"
            " created_at_ms, answered_at_ms"
        ),
        (
            (name, "aws", name, "{}", "{}", "c5.large", 0.1, A_LAUNCH, "answered", now_ms, now_ms)
            for number in range(0, machines, A_LAUNCH)
            for name in [f"launch-{number // A_LAUNCH:04d}"]
        ),
    )
    numbered = [
        (number, f"i-{number:017x}", f"launch-{number // A_LAUNCH:04d}", number % A_LAUNCH)
        for number in range(machines)
    ]
    yield (
        "machine",
        (
            "instance_id, backend, launch_id, launch_index, instance_type, zone, market, price_usd_h,"
            " state, launched_at_ms"
        ),
        (
            (instance, "aws", launch, index, *what, "running", now_ms)
            for _, instance, launch, index in numbered
        ),
    )
    yield (
        "attempt",
        (
            "job_id, number, launch_id, launch_index, instance_id, instance_type, zone, market,"
            " price_usd_h, launched_at_ms, booted_at_ms, started_at_ms"
        ),
        (
            (f"job-{number}", 1, launch, index, instance, *what, now_ms, now_ms, now_ms)
            for number, instance, launch, index in numbered
        ),
    )
