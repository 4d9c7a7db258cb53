"""The queue on PostgreSQL, whose server is restarted while jobs run: the daemon goes on, and every promise holds."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator

import pytest

from tests.end_to_end.deaths import aftermath
from tests.end_to_end.deaths.jobs import StormJob, as_text, storm_jobs
from tests.end_to_end.deaths.site import PostgresSite, postgres_site
from tests.end_to_end.installation import wait_until
from tests.store.postgres import Postgres, postgres_or_skip

JOBS = 18
RESTARTS = ("fast", "immediate", "fast", "immediate")
DOWN_S_MAX = 2.0
END_S = 200.0


@pytest.fixture
def server() -> Iterator[Postgres]:
    """Of this test alone."""
    with postgres_or_skip() as server:
        yield server


@pytest.mark.timeout(120)
def test_a_daemon_that_starts_before_its_database(server: Postgres) -> None:
    """It waits and says so, can be ended meanwhile, and serves as soon as the database does."""
    with postgres_site(server) as site:
        server.stop(mode="fast")
        site.daemon = site.spawn_daemon()
        wait_until(lambda: site.log().count("start_waits") >= 2, what=site.log)
        assert site.end_daemon(signal.SIGTERM) == 0
        site.daemon = site.spawn_daemon()
        wait_until(lambda: site.log().count("start_waits") >= 4, what=site.log)
        server.start()
        wait_until(site.is_ready, what=site.log)


def insert(site: PostgresSite, job: StormJob) -> None:
    """As any application does, with an id of its own: an insert whose answer was lost is repeated."""
    text = as_text(job).replace("'", "''")
    site.psql(
        f"INSERT INTO job (id, spec) VALUES ('{job.id}', '{text}') ON CONFLICT (id) DO NOTHING"
    )


@pytest.mark.timeout(300)
def test_the_server_is_restarted_while_jobs_run(server: Postgres) -> None:
    """Twice in an orderly way, twice as a crash, with jobs in every phase: the same daemon goes on, nothing is lost or doubled."""
    seed = random.SystemRandom().randrange(1, 10**6)
    order = random.Random(seed)
    with postgres_site(server) as site:
        site.start_daemon()
        jobs = storm_jobs(seed, count=JOBS, folder=site.folder)
        for number, job in enumerate(jobs):
            insert(site, job)
            if number % 4 == 3:
                server.restart(mode=RESTARTS[number // 4], down_s=order.uniform(0, DOWN_S_MAX))
            time.sleep(order.uniform(0, 1))
        for job in jobs:
            if job.is_cancelled:
                site.psql(f"UPDATE job SET cancel_requested = 1 WHERE id = '{job.id}'")
        wait_until(lambda: site.what_goes_on() == "", what=site.what_goes_on, within_s=END_S)

        assert aftermath.broken_promises(aftermath.read(site, jobs)) == [], f"seed {seed}"
        assert site.daemon is not None
        assert site.daemon.poll() is None
        assert "loop_failed" in site.log()
