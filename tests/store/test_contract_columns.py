"""unique_key, run_at, schedules and the views: the same on both databases, by plain SQL."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.store.postgres import Postgres

SPEC = '{"commands": ["true"]}'
KEYED = f"INSERT INTO job (spec, project, unique_key) VALUES ('{SPEC}', '%s', 'k') ON CONFLICT DO NOTHING"
ACCEPT = "UPDATE job SET phase = 'queued', version = 1, next_visit_at_ms = 99"
SCHEDULE = f"INSERT INTO schedule (name, cron, spec) VALUES ('n', '30 2 * * *', '{SPEC}')"
VIEWS = ("contract", "job_costs", "job_events", "job_status")

# The same moment, 2027-01-31T06:00:00.250Z, as either database reads it.
MOMENT_MS = 1_801_375_200_250
SPELLINGS = (
    "2027-01-31 06:00:00.250+00:00",
    "2027-01-31T06:00:00.250Z",
    "2027-01-31T07:00:00.250+01:00",
    "2027-01-30 22:15:00.250-07:45",
)

Sql = Callable[[str], list[str]]


def plain(path: Path) -> Iterator[Sql]:
    """Statements of an application on SQLite; rows with | between the columns."""
    with closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as connection:

        def sql(statement: str) -> list[str]:
            found = connection.execute(statement)
            return ["|".join("" if v is None else str(v) for v in row) for row in found]

        yield sql


@pytest.fixture(params=["sqlite", "postgresql"])
def sql(request: pytest.FixtureRequest) -> Iterator[Sql]:
    """An application on each."""
    if request.param == "sqlite":
        yield from plain(request.getfixturevalue("path"))
    else:
        postgres: Postgres = request.getfixturevalue("postgres")
        url: str = request.getfixturevalue("postgres_url")
        in_utc = "SET TIME ZONE 'UTC';"
        yield lambda statement: postgres.psql(url, f"{in_utc} {statement}").splitlines()


def test_a_key_is_one_jobs_in_its_project(sql: Sql) -> None:
    """The second INSERT does nothing, and leaves no event; another project has keys of its own; NULL is nobody's."""
    for project in ("a", "a", "b"):
        sql(KEYED % project)
    for _ in range(2):
        sql(f"INSERT INTO job (spec) VALUES ('{SPEC}')")
    assert sql("SELECT count(*) FROM job WHERE unique_key = 'k'") == ["2"]
    assert sql("SELECT count(*) FROM job") == ["4"]
    assert sql("SELECT count(*) FROM event") == ["4"]


def test_a_key_stays_taken_when_its_job_is_over(sql: Sql) -> None:
    """For as long as the row is there."""
    sql(KEYED % "a")
    sql("UPDATE job SET phase = 'rejected', finished_at_ms = 1")
    sql(KEYED % "a")
    assert sql("SELECT count(*) FROM job") == ["1"]
    sql("DELETE FROM job")
    sql(KEYED % "a")
    assert sql("SELECT phase FROM job") == ["submitted"]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_time_is_a_moment(spelling: str, sql: Sql) -> None:
    """However it is written, to the millisecond."""
    sql(f"INSERT INTO job (spec, run_at) VALUES ('{SPEC}', '{spelling}')")
    assert sql("SELECT run_at_ms FROM job") == [str(MOMENT_MS)]
    assert sql("SELECT run_at FROM job_status") == ["2027-01-31T06:00:00.250Z"]


def test_a_date_is_its_first_moment_in_utc(sql: Sql) -> None:
    """And no time is none."""
    sql(f"INSERT INTO job (spec, run_at) VALUES ('{SPEC}', '2027-01-31'), ('{SPEC}', NULL)")
    assert sql("SELECT coalesce(run_at_ms, -1) FROM job ORDER BY seq") == ["1801353600000", "-1"]


@pytest.mark.parametrize("wrong", ["infinity", "10000-01-01 00:00:00+00"])
def test_postgresql_has_times_that_are_none(
    wrong: str, postgres: Postgres, postgres_url: str
) -> None:
    """They are refused by the rule, not by an overflow."""
    statement = f"INSERT INTO job (spec, run_at) VALUES ('{SPEC}', '{wrong}')"
    with pytest.raises(Exception, match="returned non-zero") as caught:
        postgres.psql(postgres_url, statement)
    assert "run_at: a time such as" in caught.value.stderr  # type: ignore[attr-defined]


@settings(deadline=None, max_examples=50)
@given(st.datetimes().filter(lambda each: each.year >= 1970))
def test_every_moment_is_kept_to_the_millisecond(moment: object) -> None:
    """SQLite reckons in days: rounding gives back the millisecond that was written."""
    written = f"{moment:%Y-%m-%d %H:%M:%S}.123"
    with closing(sqlite3.connect(":memory:")) as connection:
        (ms,) = connection.execute(
            "SELECT CAST(round((julianday(?) - 2440587.5) * 86400000) AS INTEGER)", [written]
        ).fetchone()
    assert ms % 1000 == 123


def test_another_time_holds_a_queued_job_and_is_looked_at_now(sql: Sql) -> None:
    """A save that was under way is stale, and an UPDATE that changes nothing does nothing."""
    sql(f"INSERT INTO job (spec) VALUES ('{SPEC}')")
    sql(ACCEPT)
    sql("UPDATE job SET run_at = NULL, priority = 5")
    assert sql("SELECT held, next_visit_at_ms, version FROM job") == ["0|99|1"]
    sql("UPDATE job SET run_at = '2027-01-31'")
    assert sql("SELECT held, next_visit_at_ms, version FROM job") == ["1|0|2"]


def test_a_schedule_that_is_edited_is_read_anew(sql: Sql) -> None:
    """Whatever the daemon had written down of it; its own writes are no edit."""
    sql(SCHEDULE)
    assert sql("SELECT timezone, overlap, catch_up, enabled, version FROM schedule") == [
        "UTC|skip|last|1|0"
    ]
    sql("UPDATE schedule SET next_run_at_ms = 5, message = 'm', last_run_at_ms = 4")
    sql("UPDATE schedule SET cron = cron")
    assert sql("SELECT next_run_at_ms, message, version FROM schedule") == ["5|m|0"]
    sql("UPDATE schedule SET cron = '0 3 * * *'")
    assert sql("SELECT next_run_at_ms, message, last_run_at_ms, version FROM schedule") == ["||4|1"]


def test_the_status_of_a_job_needs_no_knowledge_of_phases(sql: Sql) -> None:
    """Waiting, running, over: with times as text and as numbers, and what the last attempt ran on."""
    sql(f"INSERT INTO job (id, spec, submitted_at_ms) VALUES ('a', '{SPEC}', 1700000000001)")
    shown = "SELECT state, finished, submitted_at, started_at, market, exit_code FROM job_status"
    assert sql(shown) == ["waiting|0|2023-11-14T22:13:20.001Z|||"]
    sql(BACKEND)
    sql(LAUNCH)
    sql(ATTEMPT)
    sql("UPDATE job SET phase = 'booting', attempt = 1")
    assert sql(shown) == ["starting|0|2023-11-14T22:13:20.001Z||spot|"]
    sql("UPDATE attempt SET started_at_ms = 1700000060000")
    sql("UPDATE job SET phase = 'running'")
    assert sql(shown) == ["running|0|2023-11-14T22:13:20.001Z|2023-11-14T22:14:20.000Z|spot|"]
    sql("UPDATE job SET phase = 'failed', exit_code = 3, finished_at_ms = 1700000061999")
    assert sql("SELECT state, finished, finished_at, exit_code FROM job_status") == [
        "failed|1|2023-11-14T22:14:21.999Z|3"
    ]
    assert sql("SELECT job_id, attempt, project, market, launched_at FROM job_costs") == [
        "a|1|main|spot|2023-11-14T22:13:20.002Z"
    ]
    assert sql("SELECT job_id, at, kind FROM job_events") == [
        "a|2023-11-14T22:13:20.001Z|submitted"
    ]


BACKEND = "INSERT INTO backend (name, region, bucket, created_at_ms) VALUES ('b', 'r', 'u', 1)"
LAUNCH = (
    "INSERT INTO launch (id, backend, client_token, request, document, offering, price_usd_h, count, created_at_ms)"
    " VALUES ('l', 'b', 't', '{}', '{}', 'o', 1, 1, 1)"
)
ATTEMPT = (
    "INSERT INTO attempt (job_id, number, launch_id, launch_index, instance_type, zone, market, price_usd_h, launched_at_ms)"
    " VALUES ('a', 1, 'l', 0, 'm5.large', 'z', 'spot', 0.1, 1700000000002)"
)


def test_the_views_have_the_same_columns_and_the_page_names_them_all(
    path: Path, postgres: Postgres, migrated: str
) -> None:
    """In the same order on both databases; migrations/CONTRACT.md leaves none out."""
    page = (Path(__file__).parents[2] / "migrations" / "CONTRACT.md").read_text(encoding="utf-8")
    for view in VIEWS:
        with closing(sqlite3.connect(path)) as connection:
            found = [each[1] for each in connection.execute(f"PRAGMA table_info({view})")]
        asked = (
            "SELECT column_name FROM information_schema.columns"
            f" WHERE table_name = '{view}' ORDER BY ordinal_position"
        )
        assert found == postgres.psql(migrated, asked).splitlines()
        assert [each for each in found if not named(each, page)] == []


def named(column: str, page: str) -> bool:
    """A column in milliseconds goes with the text of the same moment."""
    return f"`{column}`" in page or f"`{column.removesuffix('_ms')}`" in page
