"""The lean engine is SQLAlchemy's own in all but its cost."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from sqlalchemy import Row, bindparam, insert, select
from sqlalchemy.exc import IntegrityError, OperationalError
from typing_extensions import override

from dstackd.store.tables import BACKEND, JOB
from tests.controllers.inline_engine import InlineEngine, inline_engine
from tests.simulation.lean_engine import LeanEngine
from tests.simulation.pool import Pool

Engine = InlineEngine | LeanEngine

CREATE = "CREATE TABLE backend (name TEXT PRIMARY KEY, region TEXT, bucket TEXT)"


@pytest.fixture(params=["lean", "SQLAlchemy"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """A writer on a database with one table."""
    with ExitStack() as stack:
        path = tmp_path / "queue.db"
        stack.enter_context(sqlite3.connect(path)).execute(CREATE)
        if request.param == "lean":
            yield stack.enter_context(LeanEngine(path, "IMMEDIATE"))
        else:
            engine = inline_engine(path, "IMMEDIATE")
            stack.callback(engine.sync_engine.dispose)
            yield engine


async def test_statements_and_results(engine: Engine) -> None:
    """One row or many, lists in a condition, single values, a number of rows: as SQLAlchemy has them."""
    async with engine.begin() as connection:
        rows = [{"name": name, "region": "r", "bucket": None} for name in ("a", "b", "c")]
        await connection.execute(insert(BACKEND), rows)
        named = select(BACKEND.c.name, BACKEND.c.region.label("where")).order_by(BACKEND.c.name)
        found = list(await connection.execute(named.where(BACKEND.c.name.in_(["a", "c"]))))
        assert [(row.name, row.where, dict(row._mapping)) for row in found] == [
            (name, "r", {"name": name, "where": "r"}) for name in ("a", "c")
        ]
        assert all(isinstance(row, Row) for row in found)
        some = named.where(BACKEND.c.name.in_(bindparam("names", expanding=True)))
        for names in (["b"], [], ["a", "b"]):
            result = await connection.execute(some, {"names": names})
            assert list(result.scalars()) == names
        one = named.where(BACKEND.c.name == "b")
        assert (await connection.execute(one)).one() == ("b", "r")
        assert (await connection.execute(one.where(BACKEND.c.region == "x"))).first() is None
        changed = await connection.execute(BACKEND.update().values(bucket="x"))
        assert changed.rowcount == 3
        gone = await connection.execute(BACKEND.delete().where(BACKEND.c.name == "z"))
        assert gone.rowcount == 0
        text = await connection.exec_driver_sql("SELECT count(*) AS n FROM backend")
        assert text.one().n == 3


async def test_transactions(engine: Engine) -> None:
    """What ends well is kept, what does not is not, and a reader keeps nothing."""
    row = {"name": "a", "region": "r", "bucket": "b"}
    async with engine.begin() as connection:
        await connection.execute(insert(BACKEND), row)
    with suppress(ZeroDivisionError):
        async with engine.begin() as connection:
            await connection.execute(insert(BACKEND), row | {"name": "b"})
            raise ZeroDivisionError
    async with engine.connect() as connection:
        await connection.execute(insert(BACKEND), row | {"name": "c"})
    async with engine.connect() as connection:
        assert list((await connection.execute(select(BACKEND.c.name))).scalars()) == ["a"]


async def test_errors(engine: Engine, tmp_path: Path) -> None:
    """They are SQLAlchemy's, with SQLite's own inside, and the connection is good afterwards."""
    row = {"name": "a", "region": "r", "bucket": "b"}
    async with engine.begin() as connection:
        await connection.execute(insert(BACKEND), row)
    with pytest.raises(IntegrityError):
        async with engine.begin() as connection:
            await connection.execute(insert(BACKEND), [row, row])
    with pytest.raises(OperationalError, match="no such table"):
        async with engine.begin() as connection:
            await connection.execute(select(JOB.c.id))
    other = sqlite3.connect(tmp_path / "queue.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(OperationalError) as locked:
        async with engine.begin():
            pass
    assert str(locked.value.orig) == "database is locked"
    other.close()
    async with engine.begin() as connection:
        assert (await connection.execute(select(BACKEND.c.name))).scalar_one() == "a"


def test_a_world_is_the_same_on_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """Byte for byte the same trace."""

    class Slow(LeanEngine):
        """SQLAlchemy's engine in the same place."""

        def __init__(self, path: Path, kind: str) -> None:
            super().__init__(path, kind)
            self._slow = inline_engine(path, kind)
            with self._slow.sync_engine.connect() as connection:
                driver = connection.connection.driver_connection
            assert isinstance(driver, sqlite3.Connection)
            self.raw = driver
            self.begin = self._slow.begin  # type: ignore[method-assign, assignment]
            self.connect = self._slow.connect  # type: ignore[method-assign, assignment]

        @override
        def __exit__(self, *_: object) -> None:
            self._slow.sync_engine.dispose()

    def digest() -> str:
        with Pool(1) as pool:
            (report,) = pool.run([11])
        return report.digest

    lean = digest()
    monkeypatch.setattr("tests.simulation.stage.LeanEngine", Slow)
    assert digest() == lean
