"""Every block of code in migrations/CONTRACT.md runs as it stands there, and does what it says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from dstackd.spec.parse import parse_spec_json
from tests.contract.conftest import Application
from tests.contract.snippets import CONTRACT, Snippet, of, snippets
from tests.store.postgres import Postgres
from tests.tools import missing

TIMEOUT_S = 60

# What a page leaves to the application: its engine, its settings, its call.
CALLED = {
    "sqlalchemy": """
import os
from sqlalchemy import create_engine
url = "sqlite:///" + os.environ["QUEUE"] if "QUEUE" in os.environ else "postgresql+psycopg://"
with Session(create_engine(url)) as session:
    order_report(session, 7)
""",
    "django": "\norder_report(7)\n",
}
DJANGO_SETTINGS = """
import os
from django.conf import settings
SQLITE = {
    "ENGINE": "django.db.backends.sqlite3",
    "NAME": os.environ.get("QUEUE"),
    "OPTIONS": {"timeout": 10, "transaction_mode": "IMMEDIATE"},
}
POSTGRESQL = {"ENGINE": "django.db.backends.postgresql", "NAME": os.environ.get("PGDATABASE")}
settings.configure(DATABASES={"default": SQLITE if "QUEUE" in os.environ else POSTGRESQL})
__import__("django").setup()
"""
JOBS = {"python sqlite3": 100, "python asyncpg": 100}
"""How many jobs a block makes; any other makes one."""
REPORTS = {"python psycopg", "python sqlalchemy", "python django", "ruby sqlite3", "ruby pg"}
"""The blocks that write a row of the application's own in the same transaction."""


def the(language: str, *kinds: str) -> pytest.MarkDecorator:
    """A case for each block."""
    found = of(language, *kinds)
    assert found, f"no {language} {kinds} in CONTRACT.md"
    return pytest.mark.parametrize("snippet", found, ids=[each.name for each in found])


def run(words: list[str], application: Application, *, script: str) -> str:
    """A program with the block on its standard input; its output."""
    if (program := shutil.which(words[0])) is None:
        missing(f"{words[0]} is not installed")
    done = subprocess.run(
        [program, *words[1:]],
        check=False,
        capture_output=True,
        text=True,
        input=script,
        env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8"} | application.environment,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def check(snippet: Snippet, application: Application) -> None:
    """The jobs are there, and the daemon would accept each."""
    kind = f"{snippet.language} {snippet.kind}"
    specs = application.rows("SELECT spec FROM job")
    assert len(specs) == JOBS.get(kind, 1)
    for spec in specs:
        parse_spec_json(spec)
    submitted = application.rows("SELECT count(*) FROM job_events WHERE kind = 'submitted'")
    assert submitted == [str(len(specs))]
    if kind in REPORTS:
        assert application.rows("SELECT id FROM report") == ["7"]


def python(snippet: Snippet, application: Application) -> None:
    """A block of Python, with what it leaves to its application."""
    before = DJANGO_SETTINGS if snippet.kind == "django" else ""
    script = before + snippet.code + CALLED.get(snippet.kind, "")
    run([sys.executable, "-W", "error", "-"], application, script=script)
    check(snippet, application)


def test_every_block_is_run() -> None:
    """A block that no test below takes is not printed."""
    taken = [
        *of("sql", "", "sqlite", "postgresql", "postgresql administrator"),
        *of("sh", "sqlite3", "psql"),
        *of("python", "sqlite3", "psycopg", "asyncpg", "sqlalchemy", "django"),
        *of("ruby", "sqlite3", "pg"),
    ]
    assert sorted(map(repr, taken)) == sorted(map(repr, snippets()))


@the("sql", "", "sqlite")
def test_sql_on_sqlite(snippet: Snippet, on_sqlite: Application) -> None:
    """Every statement is one of SQLite's, and every spec is accepted."""
    run(
        [sys.executable, "-c", RUN_SQLITE, on_sqlite.environment["QUEUE"]],
        on_sqlite,
        script=snippet.code,
    )
    accepted(on_sqlite)


@the("sql", "", "postgresql")
def test_sql_on_postgresql(snippet: Snippet, postgres: Postgres, on_postgres: Application) -> None:
    """Every statement is one of PostgreSQL's, and the role may do it."""
    psql(postgres, on_postgres, snippet.code)
    accepted(on_postgres)


@the("sql", "postgresql administrator")
def test_what_an_administrator_does(
    snippet: Snippet, postgres: Postgres, on_postgres: Application
) -> None:
    """The new user may insert a job and not end one."""
    postgres.psql(on_postgres.url, snippet.code)
    as_user = on_postgres.environment | {"PGUSER": "my_app"}
    new = Application(as_user, postgres, on_postgres.url)
    try:
        psql(postgres, new, 'INSERT INTO job (spec) VALUES (\'{"commands": ["true"]}\')')
        with pytest.raises(AssertionError, match="permission denied"):
            psql(postgres, new, "UPDATE job SET phase = 'cancelled'")
    finally:
        postgres.psql(on_postgres.url, "DROP ROLE my_app")


RUN_SQLITE = """
import sqlite3, sys
sqlite3.connect(sys.argv[1], isolation_level=None).executescript(sys.stdin.read())
"""


def psql(postgres: Postgres, application: Application, script: str) -> str:
    """As the application's user."""
    program = str(postgres.binaries / "psql")
    return run([program, "-v", "ON_ERROR_STOP=1", "-qAt"], application, script=script)


def accepted(application: Application) -> None:
    """No spec of the page would be rejected."""
    for spec in application.rows("SELECT spec FROM job UNION ALL SELECT spec FROM schedule"):
        parse_spec_json(spec)


@the("sh", "sqlite3")
def test_the_shell_on_sqlite(snippet: Snippet, on_sqlite: Application) -> None:
    """It inserts, once however often it runs, and shows the job."""
    if shutil.which("sqlite3") is None:
        missing("sqlite3 is not installed")
    for _ in range(2):
        assert "|waiting|" in run(["sh", "-eu"], on_sqlite, script=snippet.code)
    check(snippet, on_sqlite)


@the("sh", "psql")
def test_the_shell_on_postgresql(
    snippet: Snippet, postgres: Postgres, on_postgres: Application
) -> None:
    """The same."""
    path = f"{postgres.binaries}{os.pathsep}{os.environ['PATH']}"
    with_psql = Application(on_postgres.environment | {"PATH": path}, postgres, on_postgres.url)
    for _ in range(2):
        assert "waiting" in run(["sh", "-eu"], with_psql, script=snippet.code)
    check(snippet, on_postgres)


@the("python", "sqlite3", "sqlalchemy", "django")
def test_python_on_sqlite(snippet: Snippet, on_sqlite: Application) -> None:
    """The job is there with the application's own row."""
    python(snippet, on_sqlite)


@the("python", "psycopg", "asyncpg", "sqlalchemy", "django")
def test_python_on_postgresql(snippet: Snippet, on_postgres: Application) -> None:
    """The same."""
    python(snippet, on_postgres)


@the("ruby", "sqlite3")
def test_ruby_on_sqlite(snippet: Snippet, on_sqlite: Application) -> None:
    """The same."""
    ruby(snippet, on_sqlite)


@the("ruby", "pg")
def test_ruby_on_postgresql(snippet: Snippet, on_postgres: Application) -> None:
    """The same."""
    ruby(snippet, on_postgres)


def ruby(snippet: Snippet, application: Application) -> None:
    """A block of Ruby, where its library is."""
    words = ["-r", snippet.kind, "-e", ""]
    if (program := shutil.which("ruby")) is None:
        missing("ruby is not installed")
    elif subprocess.run([program, *words], check=False, capture_output=True).returncode:
        missing(f"the library {snippet.kind} of ruby is not installed")
    run(["ruby", "-w", "-"], application, script=snippet.code)
    check(snippet, application)


def test_the_contract_of_the_page_is_that_of_the_database(on_sqlite: Application) -> None:
    """The version that the page names."""
    (version,) = on_sqlite.rows("SELECT version FROM contract")
    assert f"Contract version {version}." in CONTRACT.read_text(encoding="utf-8")
