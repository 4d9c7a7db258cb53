"""Jobs put into the queue by applications in Python, through connections that block."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from dstackd import client
from dstackd.client import NewJob
from dstackd.spec.errors import SpecError
from tests.client.places import KINDS

SPEC = {"commands": ["echo 100% ?"], "name": "nightly"}
AT = datetime(2027, 3, 1, 12, 30, tzinfo=timezone(timedelta(hours=2)))


@pytest.mark.parametrize("kind", KINDS)
def test_jobs_belong_to_the_transaction(kind: str, url: str) -> None:
    """A job is there for others once the caller commits, with all that the caller said, and not before."""
    with KINDS[kind](url) as (connection, commit), KINDS[kind](url) as (other, _):
        job = client.enqueue(
            connection, SPEC, project="science", priority=7, unique_key="k", run_at=AT
        )
        with pytest.raises(client.UnknownJob, match=job.job_id):
            client.status(other, job.job_id)
        commit()
        other.rollback()

        seen = client.status(other, job.job_id)

    assert job.is_new
    assert (seen.project, seen.state, seen.finished) == ("science", "waiting", False)
    assert seen.run_at == AT
    assert abs(seen.submitted_at - datetime.now(UTC)) < timedelta(minutes=1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_unique_key_is_one_job(kind: str, url: str) -> None:
    """The second insert of a key, or of an id, is answered with the first one's job; another project's is another's."""
    with KINDS[kind](url) as (connection, _):
        first = client.enqueue(connection, SPEC, unique_key="report-2027-01")
        again = client.enqueue(connection, SPEC, unique_key="report-2027-01")
        elsewhere = client.enqueue(connection, SPEC, unique_key="report-2027-01", project="other")
        named = [client.enqueue(connection, SPEC, job_id="mine") for _ in range(2)]

    assert again == (first.job_id, False)
    assert elsewhere.is_new
    assert named == [("mine", True), ("mine", False)]


@pytest.mark.parametrize("kind", KINDS)
def test_many_jobs(kind: str, url: str) -> None:
    """Hundreds go in, in their order, with what is there already among them."""
    with KINDS[kind](url) as (connection, _):
        jobs = [NewJob(SPEC, unique_key=f"part-{n % 205}") for n in range(210)]
        answers = client.enqueue_many(connection, jobs)

    assert [answer.is_new for answer in answers] == [True] * 205 + [False] * 5
    assert [answer.job_id for answer in answers[205:]] == [answer.job_id for answer in answers[:5]]


@pytest.mark.parametrize("kind", KINDS)
def test_waiting_sees_the_end(kind: str, url: str, request: pytest.FixtureRequest) -> None:
    """A wait begun before the job's end sees it; a wait within a transaction is refused, for it never could."""
    with KINDS[kind](url) as (connection, commit), KINDS[kind](url) as (daemon, daemon_commits):
        job_id = client.enqueue(connection, SPEC).job_id
        with pytest.raises(RuntimeError, match="commit first"):
            client.wait(connection, job_id)
        commit()
        with pytest.raises(TimeoutError, match=f"{job_id} is not over after 0.1 s: submitted"):
            client.wait(connection, job_id, timeout_s=0.1)
        assert client.cancel(daemon, job_id)
        daemon_commits()
        ended: list[client.JobStatus] = []
        waits = threading.Thread(target=_wait_elsewhere, args=(kind, url, job_id, ended))
        waits.start()
        _end(url, request)
        waits.join(30)
        with pytest.raises(client.UnknownJob):
            client.cancel(daemon, "nobody")

    assert [status.phase for status in ended] == ["cancelled"]
    assert not ended[0].succeeded


def _wait_elsewhere(kind: str, url: str, job_id: str, ended: list[client.JobStatus]) -> None:
    with KINDS[kind](url) as (connection, commit):
        commit()
        ended.append(client.wait(connection, job_id, timeout_s=30))


def _end(url: str, request: pytest.FixtureRequest) -> None:
    """As the daemon would."""
    statement = "UPDATE job SET phase = 'cancelled', finished_at_ms = 1800000000000 WHERE cancel_requested = 1"
    if url.startswith("sqlite"):
        with sqlite3.connect(url.removeprefix("sqlite:///"), timeout=10) as connection:
            connection.execute(statement)
    else:
        request.getfixturevalue("postgres").psql(url, statement)


def test_a_bad_spec_never_reaches_the_table(path: Path) -> None:
    """All specs are read before the first INSERT; what is wrong is named field by field."""
    with sqlite3.connect(path) as connection:
        jobs = [NewJob(SPEC), NewJob({"commands": ["true"], "priorty": 3})]
        with pytest.raises(SpecError, match="priorty"):
            client.enqueue_many(connection, jobs)
        with pytest.raises(SpecError, match="JSON"):
            client.enqueue(connection, "{commands: true}")
        with pytest.raises(ValueError, match="no time zone"):
            client.enqueue(connection, SPEC, run_at=datetime(2027, 1, 1))  # noqa: DTZ001 - the mistake
        assert connection.execute("SELECT count(*) FROM job").fetchone() == (0,)
        assert not connection.in_transaction


def test_a_finished_job_cannot_be_cancelled(path: Path) -> None:
    """A cancel that comes too late says so, and changes nothing."""
    with sqlite3.connect(path) as connection:
        job_id = client.enqueue(connection, json.dumps(SPEC)).job_id
        connection.execute(
            "UPDATE job SET phase = 'failed', finished_at_ms = 1 WHERE id = ?", (job_id,)
        )

        assert not client.cancel(connection, job_id)
        assert connection.execute("SELECT cancel_requested FROM job").fetchone() == (0,)


def test_what_is_no_connection_is_named() -> None:
    """A pool, an engine or a path is refused in words, before anything is asked of it."""
    for wrong in ("sqlite:///queue.db", object(), None):
        with pytest.raises(TypeError, match=r"no connection that the client knows|no connection"):
            client.enqueue(wrong, SPEC)


def test_the_client_is_light() -> None:
    """It brings neither the daemon's packages nor a driver into an application."""
    script = (
        "import sys, dstackd.client.aio, dstackd.client\n"
        "print([name for name in sys.modules if name.partition('.')[0] in {'sqlalchemy', 'sqlmodel', 'pydantic', "
        "'anyio', 'aiohttp', 'aiobotocore', 'structlog', 'sqlite3', 'asyncpg', 'yaml'}])"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert ran.stdout.strip() == "[]"
