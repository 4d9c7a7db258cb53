"""The store's databases: an SQLite file, and a database of a real PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.store.conftest import migrated, path, postgres, postgres_url, template

__all__ = ["migrated", "path", "postgres", "postgres_url", "template"]


@pytest.fixture
def url(kind: str, request: pytest.FixtureRequest) -> str:
    """A migrated database for a kind of connection, whose name begins with its dialect."""
    if kind.startswith("sqlite"):
        file: Path = request.getfixturevalue("path")
        return f"sqlite:///{file}"
    of_server: str = request.getfixturevalue("postgres_url")
    return of_server
