"""The store's databases, as the user of an application meets them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.store.conftest import migrated, path, postgres, postgres_url, template
from tests.store.postgres import Postgres

__all__ = ["migrated", "path", "postgres", "postgres_url", "template"]

APPLICATION_USER = "application"
_APPLICATION = f"""
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{APPLICATION_USER}') THEN
        CREATE ROLE {APPLICATION_USER} LOGIN;
        GRANT dstackd_submitter TO {APPLICATION_USER};
    END IF;
END $$;
CREATE TABLE report (id INTEGER PRIMARY KEY);
GRANT ALL ON report TO {APPLICATION_USER};
"""


@dataclass(frozen=True, slots=True)
class Application:
    """How an application finds a queue, and how a test looks at it."""

    environment: dict[str, str]
    postgres: Postgres | None = None
    url: str = ""

    def rows(self, statement: str) -> list[str]:
        """What a SELECT finds, columns with | between them, as an administrator."""
        if self.postgres is not None:
            return self.postgres.psql(self.url, statement).splitlines()
        with closing(sqlite3.connect(self.environment["QUEUE"])) as connection:
            return ["|".join(map(str, row)) for row in connection.execute(statement)]


@pytest.fixture
def on_sqlite(path: Path) -> Application:
    """A queue beside a table of the application's own."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE report (id INTEGER PRIMARY KEY)")
    return Application({"QUEUE": str(path)})


@pytest.fixture
def on_postgres(postgres: Postgres, postgres_url: str) -> Application:
    """The same, for a user that has the role dstackd_submitter and no other."""
    postgres.psql(postgres_url, _APPLICATION)
    name = postgres_url.partition("@/")[2].partition("?")[0]
    host = postgres_url.partition("host=")[2]
    where = {"PGHOST": host, "PGDATABASE": name, "PGUSER": APPLICATION_USER}
    return Application(where, postgres, postgres_url)
