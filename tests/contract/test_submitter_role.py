"""The role dstackd_submitter may do what the contract says, and nothing else."""

from __future__ import annotations

import subprocess

import pytest

from dstackd.clock import SystemClock
from dstackd.store.engine import open_database
from dstackd.store.migrate import migrations_directory, upgrade
from tests.contract.conftest import Application
from tests.store.postgres import Postgres

SPEC = '{"commands": ["true"]}'
INSERT = f"INSERT INTO job (id, spec) VALUES ('a', '{SPEC}')"
AS_SUBMITTER = "SET ROLE dstackd_submitter"

GRANTS = (
    (migrations_directory() / "sql" / "0001_queue.postgresql.sql")
    .read_text(encoding="utf-8")
    .rpartition("\n--;\n")[2]
)

MAY = {
    "insert a job": INSERT,
    "insert a job with all that is theirs": (
        "INSERT INTO job (id, spec, project, priority, unique_key, run_at)"
        f" VALUES ('a', '{SPEC}', 'p', 1, 'k', now()) ON CONFLICT DO NOTHING RETURNING id, phase"
    ),
    "cancel": f"{INSERT}; UPDATE job SET cancel_requested = 1 WHERE id = 'a'",
    "change the order": f"{INSERT}; UPDATE job SET priority = 5, run_at = now() WHERE id = 'a'",
    "look at everything": (
        "SELECT * FROM job_status; SELECT * FROM job_events; SELECT * FROM job_costs;"
        "SELECT * FROM contract; SELECT * FROM job; SELECT * FROM schedule; SELECT * FROM job_dependency"
    ),
    "keep schedules": (
        f"INSERT INTO schedule (name, cron, spec) VALUES ('n', '* * * * *', '{SPEC}');"
        "UPDATE schedule SET enabled = 0; DELETE FROM schedule"
    ),
}
MAY_NOT = {
    "choose the phase": f"INSERT INTO job (spec, phase) VALUES ('{SPEC}', 'submitted')",
    "be somebody's element": (
        f"{INSERT}; INSERT INTO job (spec, array_parent, array_index) VALUES ('{SPEC}', 'a', 0)"
    ),
    "backdate": f"INSERT INTO job (spec, submitted_at_ms) VALUES ('{SPEC}', 1)",
    "change the spec": f"{INSERT}; UPDATE job SET spec = '{{}}'",
    "end a job": f"{INSERT}; UPDATE job SET phase = 'cancelled', finished_at_ms = 1",
    "wake a job": f"{INSERT}; UPDATE job SET next_visit_at_ms = 0",
    "delete a job": "DELETE FROM job",
    "empty the table": "TRUNCATE job",
    "write history": "INSERT INTO event (at_ms, kind) VALUES (1, 'phase')",
    "read the launch documents": "SELECT document FROM launch",
    "read the machines": "SELECT * FROM machine",
    "make a dependency": "INSERT INTO job_dependency (job_id, on_job_id) VALUES ('a', 'b')",
    "say when a schedule has run": "UPDATE schedule SET last_run_at_ms = 1",
    "change a view's columns": "UPDATE job_events SET message = 'x'",
    "switch the triggers off": "ALTER TABLE job DISABLE TRIGGER ALL",
}


@pytest.mark.parametrize("case", MAY)
def test_a_submitter_may(case: str, postgres: Postgres, migrated: str) -> None:
    """With no other right, in a transaction that is rolled back."""
    postgres.psql(migrated, f"BEGIN; {AS_SUBMITTER}; {MAY[case]}; ROLLBACK")


@pytest.mark.parametrize("case", MAY_NOT)
def test_a_submitter_may_not(case: str, postgres: Postgres, migrated: str) -> None:
    """PostgreSQL says no, whatever the triggers would."""
    with pytest.raises(subprocess.CalledProcessError) as caught:
        postgres.psql(migrated, f"BEGIN; {AS_SUBMITTER}; {MAY_NOT[case]}")
    assert "permission denied" in caught.value.stderr or "must be owner" in caught.value.stderr


def test_the_history_is_written_for_a_submitter(postgres: Postgres, postgres_url: str) -> None:
    """By functions that have the right, in their own schema: a table of the submitter's that is called the same gets nothing."""
    mine = "CREATE TEMPORARY TABLE event (at_ms BIGINT, job_id TEXT, kind TEXT, phase_to TEXT)"
    cancel = "UPDATE job SET cancel_requested = 1"
    postgres.psql(postgres_url, f"{AS_SUBMITTER}; {mine}; {INSERT}; {cancel}")
    kinds = "SELECT kind FROM event ORDER BY id"
    assert postgres.psql(postgres_url, kinds) == "submitted\ncancel_requested"


def test_one_notification_a_transaction(postgres: Postgres, on_postgres: Application) -> None:
    """However many rows and statements; an INSERT of rows that are there already is one too, a save of the daemon's is none."""
    many = f"INSERT INTO job (spec) SELECT '{SPEC}' FROM generate_series(1, 100)"
    heard = postgres.psql(
        on_postgres.url,
        f"LISTEN dstackd_job; BEGIN; {many}; {many}; UPDATE job SET cancel_requested = 1; COMMIT;",
    )
    assert heard.count('Asynchronous notification "dstackd_job" received') == 1
    save = "UPDATE job SET phase = 'queued', version = version + 1, next_visit_at_ms = 1"
    assert postgres.psql(on_postgres.url, f"LISTEN dstackd_job; {save}") == ""


@pytest.mark.usefixtures("migrated")  # so that the role is there
async def test_a_migration_that_may_not_create_the_role_goes_on(postgres: Postgres) -> None:
    """The role is there or is not: the schema comes up, for a user that may create tables and no roles."""
    url = postgres.new_database()
    name = url.partition("@/")[2].partition("?")[0]
    postgres.psql(url, f"CREATE ROLE tenant LOGIN; GRANT ALL ON DATABASE {name} TO tenant")
    postgres.psql(url, "GRANT ALL ON SCHEMA public TO tenant")
    try:
        as_tenant = url.replace("postgres@", "tenant@")
        # Without the role, as on a server that this is the first database of.
        postgres.psql(url, "ALTER ROLE dstackd_submitter RENAME TO dstackd_submitter_away")
        try:
            async with open_database(as_tenant, clock=SystemClock()) as database:
                assert (await upgrade(database)).current is None
        finally:
            postgres.psql(url, "ALTER ROLE dstackd_submitter_away RENAME TO dstackd_submitter")
        postgres.psql(url, f"SET ROLE tenant; {INSERT}")
        assert postgres.psql(url, "SELECT state FROM job_status") == "waiting"
        for _ in range(2):  # what the page asks an administrator to do then
            postgres.psql(url, GRANTS)
        postgres.psql(url, f"{AS_SUBMITTER}; UPDATE job SET cancel_requested = 1 WHERE id = 'a'")
    finally:
        postgres.psql(url, "DROP OWNED BY tenant CASCADE; DROP ROLE tenant")
