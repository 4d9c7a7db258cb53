"""The table as other applications meet it: plain SQL, from other processes, with nothing of ours installed."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.store.postgres import Postgres

SPEC = '{"commands": ["true"]}'
LONG_SPEC = '{"commands": ["' + "x" * 262_144 + '"]}'

INSERT = f"INSERT INTO job (spec) VALUES ('{SPEC}')"
ACCEPT = "UPDATE job SET phase = 'queued', version = 1"
LAUNCH = "UPDATE job SET phase = 'launching', version = 2"
KEYED = f"INSERT INTO job (spec, unique_key) VALUES ('{SPEC}', 'k')"
SCHEDULE = f"INSERT INTO schedule (name, cron, spec) VALUES ('n', '30 2 * * *', '{SPEC}')"
FINISH = "UPDATE job SET phase = 'failed', finished_at_ms = 1, version = 2"

REFUSED = {
    "a spec that is not JSON": ("INSERT INTO job (spec) VALUES ('{')", "JSON"),
    "a spec that is too long": (f"INSERT INTO job (spec) VALUES ('{LONG_SPEC}')", "262144"),
    "no spec": ("INSERT INTO job (project) VALUES ('a')", "spec"),
    "an id with a capital": (f"INSERT INTO job (id, spec) VALUES ('A', '{SPEC}')", "id: 1 to 64"),
    "an id that leaves a folder": (
        f"INSERT INTO job (id, spec) VALUES ('../a', '{SPEC}')",
        "id: 1 to 64",
    ),
    "an empty id": (f"INSERT INTO job (id, spec) VALUES ('', '{SPEC}')", "id: 1 to 64"),
    "an empty project": (f"INSERT INTO job (spec, project) VALUES ('{SPEC}', '')", "project"),
    "a priority out of range": (
        f"INSERT INTO job (spec, priority) VALUES ('{SPEC}', 1001)",
        "priority",
    ),
    "a cancel of 2": (f"INSERT INTO job (spec, cancel_requested) VALUES ('{SPEC}', 2)", "cancel"),
    "a job that is queued already": (
        f"INSERT INTO job (spec, phase) VALUES ('{SPEC}', 'queued')",
        "a new job starts in phase submitted",
    ),
    "a job with a version": (
        f"INSERT INTO job (spec, version) VALUES ('{SPEC}', 1)",
        "a new job starts in phase submitted",
    ),
    "a job that has run before": (
        f"INSERT INTO job (spec, ran_attempts) VALUES ('{SPEC}', 1)",
        "all that the daemon writes",
    ),
    "a job whose inputs somebody else has packed": (
        f"INSERT INTO job (spec, inputs_digest) VALUES ('{SPEC}', '[1]')",
        "all that the daemon writes",
    ),
    "a parent without an index": (
        f"{INSERT}; INSERT INTO job (spec, array_parent) SELECT '{SPEC}', id FROM job",
        "array_parent and array_index",
    ),
    "a phase that is none": (f"{INSERT}; UPDATE job SET phase = 'done'", "phase"),
    "an end without its time": (f"{INSERT}; UPDATE job SET phase = 'failed'", "finished_at_ms"),
    "another spec after the acceptance": (
        f"{INSERT}; {ACCEPT}; UPDATE job SET spec = '{{}}'",
        "spec, id, project and unique_key cannot change once the job is accepted",
    ),
    "another id after the acceptance": (
        f"{INSERT}; {ACCEPT}; UPDATE job SET id = 'other'",
        "spec, id, project and unique_key cannot change once the job is accepted",
    ),
    "a job that rises again": (
        f"{INSERT}; {ACCEPT}; {FINISH}; UPDATE job SET phase = 'queued', finished_at_ms = NULL",
        "a terminal phase never changes",
    ),
    "another project after the acceptance": (
        f"{INSERT}; {ACCEPT}; UPDATE job SET project = 'other'",
        "spec, id, project and unique_key cannot change once the job is accepted",
    ),
    "another priority after the launch": (
        f"{INSERT}; {LAUNCH}; UPDATE job SET priority = 5",
        "priority and run_at can change only while the job waits",
    ),
    "another time after the launch": (
        f"{INSERT}; {LAUNCH}; UPDATE job SET run_at = '2027-01-31'",
        "priority and run_at can change only while the job waits",
    ),
    "a cancel that is taken back": (
        f"{INSERT}; UPDATE job SET cancel_requested = 1; UPDATE job SET cancel_requested = 0",
        "a cancel cannot be taken back",
    ),
    "a job that has cost something": (
        f"INSERT INTO job (spec, cost_usd) VALUES ('{SPEC}', 1)",
        "all that the daemon writes",
    ),
    "a job that is held": (
        f"INSERT INTO job (spec, held) VALUES ('{SPEC}', 1)",
        "all that the daemon writes",
    ),
    "an empty key": (f"INSERT INTO job (spec, unique_key) VALUES ('{SPEC}', '')", "unique_key: 1"),
    "a long key": (
        f"INSERT INTO job (spec, unique_key) VALUES ('{SPEC}', '{'x' * 201}')",
        "unique_key: 1",
    ),
    "a key twice": (
        f"{KEYED}; {KEYED}",
        "UNIQUE constraint failed: job.project, job.unique_key|job_unique_key",
    ),
    "a time before there were times": (
        f"INSERT INTO job (spec, run_at) VALUES ('{SPEC}', '1969-12-31 23:59:59+00:00')",
        "run_at: a time such as",
    ),
    "a schedule without a spec": (
        "INSERT INTO schedule (name, cron) VALUES ('n', '* * * * *')",
        "spec",
    ),
    "a schedule whose spec is not JSON": (
        "INSERT INTO schedule (name, cron, spec) VALUES ('n', '* * * * *', '{')",
        "JSON",
    ),
    "a schedule whose name leaves a folder": (
        "INSERT INTO schedule (name, cron, spec) VALUES ('../n', '* * * * *', '{}')",
        "name: 1 to 64",
    ),
    "a schedule that has run": (
        "INSERT INTO schedule (name, cron, spec, last_run_at_ms) VALUES ('n', 'c', '{}', 1)",
        "a new schedule has not run yet",
    ),
    "a schedule that catches up differently": (
        "INSERT INTO schedule (name, cron, spec, catch_up) VALUES ('n', 'c', '{}', 'all')",
        "catch_up: last or none",
    ),
    "a schedule with another name": (
        f"{SCHEDULE}; UPDATE schedule SET name = 'm'",
        "the name of a schedule never changes",
    ),
    "another past": (f"{INSERT}; UPDATE event SET message = 'x'", "append-only"),
    "a launch that is answered without a time": (
        (
            "INSERT INTO backend (name, region, bucket, created_at_ms) VALUES ('b', 'r', 'u', 1);"
            "INSERT INTO launch (id, backend, client_token, request, document, offering,"
            " price_usd_h, count, state, created_at_ms)"
            " VALUES ('l', 'b', 't', '{}', '{}', 'o', 1, 1, 'answered', 1)"
        ),
        "launch|answered_at_ms",
    ),
}

# PostgreSQL's columns have types; SQLite takes anything that is not checked, such as text that was encoded by mistake.
UNTYPED = {
    "a spec of bytes": (
        "INSERT INTO job (spec) VALUES (CAST('{}' AS BLOB))",
        "spec must be valid JSON",
    ),
    "an id of bytes": ("INSERT INTO job (id, spec) VALUES (X'6162', '{}')", "id: 1 to 64"),
    "a project of bytes": ("INSERT INTO job (spec, project) VALUES ('{}', X'ff')", "project"),
    "a key of bytes": ("INSERT INTO job (spec, unique_key) VALUES ('{}', X'6b')", "unique_key: 1"),
    "a time that is now": ("INSERT INTO job (spec, run_at) VALUES ('{}', 'now')", "run_at: a time"),
    "a time of day": ("INSERT INTO job (spec, run_at) VALUES ('{}', '06:00')", "run_at: a time"),
    "a number for a time": (
        "INSERT INTO job (spec, run_at) VALUES ('{}', 1801440000)",
        "run_at: a",
    ),
    "a time of bytes": (
        "INSERT INTO job (spec, run_at) VALUES ('{}', CAST('2027-01-31' AS BLOB))",
        "run_at: a time",
    ),
    "a day that no month has": (
        "INSERT INTO job (spec, run_at) VALUES ('{}', '2027-02-30')",
        "run_at: a time",
    ),
    "a time with a zone's name": (
        "INSERT INTO job (spec, run_at) VALUES ('{}', '2027-01-31 06:00:00 CET')",
        "run_at: a time",
    ),
    "a time that is moved to nonsense": (
        f"{INSERT}; UPDATE job SET run_at = 'tomorrow'",
        "run_at: a time",
    ),
    "a priority of text": ("INSERT INTO job (spec, priority) VALUES ('{}', 'high')", "priority"),
    "a date": (
        "INSERT INTO job (spec, submitted_at_ms) VALUES ('{}', '2027-01-01')",
        "submitted_at_ms: milliseconds",
    ),
}

BARE_INSERT = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=10)
with connection:
    connection.execute("INSERT INTO job (spec) VALUES (?)", (sys.argv[2],))
"""


@pytest.fixture
def plain(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection as any application opens it."""
    with closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as connection:
        yield connection


def test_one_column_is_enough(path: Path, plain: sqlite3.Connection) -> None:
    """Another process, Python's own sqlite3, one column: a job with an id, and its first event."""
    command = [sys.executable, "-I", "-c", BARE_INSERT, str(path), SPEC]
    subprocess.run(command, check=True, timeout=30)
    (job_id, phase, project, priority, version, visit) = plain.execute(
        "SELECT id, phase, project, priority, version, next_visit_at_ms FROM job"
    ).fetchone()
    assert (len(job_id), phase, project, priority, version, visit) == (
        16,
        "submitted",
        "main",
        0,
        0,
        0,
    )
    assert plain.execute("SELECT job_id, kind FROM event").fetchall() == [(job_id, "submitted")]


def test_one_column_is_enough_on_postgresql(postgres: Postgres, postgres_url: str) -> None:
    """The same statement, the same defaults, the same event."""
    job_id = postgres.psql(postgres_url, f"{INSERT} RETURNING id").splitlines()[0]
    assert len(job_id) == 16
    row = "SELECT phase, project, priority, version, next_visit_at_ms FROM job"
    assert postgres.psql(postgres_url, row) == "submitted|main|0|0|0"
    assert postgres.psql(postgres_url, "SELECT job_id, kind FROM event") == f"{job_id}|submitted"


def test_the_defaults_of_time_are_now(plain: sqlite3.Connection) -> None:
    """Milliseconds, never ahead of the reader's clock: a job that was inserted is due."""
    plain.execute(INSERT)
    now = "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"
    (age_ms,) = plain.execute(f"SELECT {now} - submitted_at_ms FROM job").fetchone()
    assert 0 <= age_ms < 60_000


@pytest.mark.parametrize("case", [*REFUSED, *UNTYPED])
def test_what_makes_no_sense_is_refused(case: str, plain: sqlite3.Connection) -> None:
    """The statement fails, and the message says which rule it broke."""
    script, message = (REFUSED | UNTYPED)[case]
    *before, last = script.split(";")
    for statement in before:
        plain.execute(statement)
    with pytest.raises(sqlite3.IntegrityError, match=message):
        plain.execute(last)


@pytest.mark.parametrize("case", REFUSED)
def test_postgresql_refuses_the_same(case: str, postgres: Postgres, migrated: str) -> None:
    """The rules and their names are those of SQLite; every transaction fails, so all share one database."""
    script, message = REFUSED[case]
    with pytest.raises(subprocess.CalledProcessError) as caught:
        postgres.psql(migrated, f"BEGIN; {script}; COMMIT")
    assert re.search(message, caught.value.stderr, re.IGNORECASE)


CANCEL = "UPDATE job SET cancel_requested = 1"
CANCELLED = "SELECT next_visit_at_ms, version FROM job"
CANCEL_EVENTS = "SELECT count(*) FROM event WHERE kind = 'cancel_requested'"


def test_a_cancel_wakes_and_is_noted_once(plain: sqlite3.Connection) -> None:
    """The job is due, a save that was under way becomes stale, and the history has one event however often one cancels."""
    plain.execute(INSERT)
    plain.execute(f"{ACCEPT}, next_visit_at_ms = 99")
    for _ in range(2):
        plain.execute(CANCEL)
    assert plain.execute(CANCELLED).fetchone() == (0, 2)
    assert plain.execute(CANCEL_EVENTS).fetchone() == (1,)


def test_a_cancel_wakes_on_postgresql(postgres: Postgres, postgres_url: str) -> None:
    """As on SQLite."""
    script = f"{INSERT}; {ACCEPT}, next_visit_at_ms = 99; {CANCEL}; {CANCEL}"
    postgres.psql(postgres_url, script)
    assert postgres.psql(postgres_url, CANCELLED) == "0|2"
    assert postgres.psql(postgres_url, CANCEL_EVENTS) == "1"


def test_the_spec_may_be_corrected_until_it_is_accepted(plain: sqlite3.Connection) -> None:
    """Before anybody has looked at it, a submitter may change its mind."""
    plain.execute(INSERT)
    plain.execute("UPDATE job SET spec = '{}', priority = 5")
    assert plain.execute("SELECT spec, priority FROM job").fetchone() == ("{}", 5)
