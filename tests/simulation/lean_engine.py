"""SQLAlchemy's statements on SQLite's own driver. Law: SQLAlchemy compiles, once each; the texts, the order of the statements, the
transactions and the errors are those of its own engine, and `test_lean_engine.py` holds them against each other.

Its engine costs ten times what SQLite takes for these statements, and was half of a seed's time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self, cast

from sqlalchemy import create_engine
from sqlalchemy.engine import Dialect, IteratorResult
from sqlalchemy.engine.result import SimpleResultMetaData
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.sql.compiler import SQLCompiler

from dstackd.ports import Clock
from dstackd.store.engine import _LENIENT, _PRAGMAS, Database, async_url

STATEMENTS_KEPT = 1000


@cache
def _dialect() -> Dialect:
    """As it is once it has seen this SQLite."""
    engine = create_engine("sqlite://")
    with engine.connect():
        pass
    engine.dispose()
    return engine.dialect


class LeanResult(IteratorResult[Any]):
    """Rows, or how many rows a statement has changed."""

    def __init__(self, metadata: SimpleResultMetaData, cursor: sqlite3.Cursor) -> None:
        super().__init__(metadata, iter(cursor.fetchall()))
        self.rowcount = cursor.rowcount


_NO_COLUMNS = SimpleResultMetaData(())


@dataclass(slots=True)
class _Prepared:
    """What of a compiled statement does not change from one execution to the next."""

    compiled: SQLCompiler
    columns: SimpleResultMetaData
    processors: Mapping[str, Any]
    expands: bool

    def in_order(self, parameters: dict[str, Any]) -> tuple[str, tuple[Any, ...]]:
        """The SQL with its lists expanded, and the values in their places."""
        text, processors = self.compiled.string, self.processors
        places: Sequence[str] = self.compiled.positiontup or ()
        if self.expands:
            state = self.compiled._process_parameters_for_postcompile(parameters)
            text, places = state.statement, state.positiontup or ()
            processors = {**processors, **state.processors}
        for name in processors.keys() & parameters.keys():
            parameters[name] = processors[name](parameters[name])
        return text, tuple([parameters[name] for name in places])


class LeanConnection:
    """What the store asks of an AsyncConnection."""

    def __init__(self, raw: sqlite3.Connection) -> None:
        self.raw = raw
        self.dialect = _dialect()
        self._compiled: dict[Any, SQLCompiler] = {}
        self._prepared: dict[SQLCompiler, _Prepared] = {}

    async def execute(self, statement: Any, parameters: Any = None) -> LeanResult:  # noqa: ANN401 - as SQLAlchemy's
        many = parameters if isinstance(parameters, Sequence) else [parameters or {}]
        compiled, extracted, collected, _ = statement._compile_w_cache(
            self.dialect,
            compiled_cache=self._compiled,
            column_keys=sorted(many[0]),
            for_executemany=len(many) > 1,
        )
        prepared = self._prepared.get(compiled) or self._prepare(compiled)
        texts = [
            prepared.in_order(
                compiled.construct_params(
                    each,
                    escape_names=False,
                    extracted_parameters=extracted,
                    _group_number=number,
                    _collected_params=collected,
                )
            )
            for number, each in enumerate(many)
        ]
        if len(texts) == 1:
            cursor = self.run(*texts[0])
        else:
            cursor = self.run(texts[0][0], [values for _, values in texts])
        return LeanResult(prepared.columns, cursor)

    async def exec_driver_sql(self, text: str, parameters: Any = ()) -> LeanResult:  # noqa: ANN401 - as SQLAlchemy's
        cursor = self.run(text, parameters or ())
        names = [column[0] for column in cursor.description or ()]
        return LeanResult(SimpleResultMetaData(names), cursor)

    def run(self, text: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Execute; a list of values: once for each."""
        try:
            if isinstance(values, list):
                return self.raw.executemany(text, values)
            return self.raw.execute(text, values)
        except sqlite3.Error as error:
            raise self._wrapped(text, values, error) from error

    def commit(self) -> None:
        """End the transaction."""
        try:
            self.raw.commit()
        except sqlite3.Error as error:
            self.raw.rollback()
            raise self._wrapped("COMMIT", (), error) from error

    def _wrapped(self, text: str, values: Sequence[Any], error: sqlite3.Error) -> BaseException:
        return DBAPIError.instance(
            text, cast("Any", values), error, sqlite3.Error, dialect=self.dialect
        )

    def _prepare(self, compiled: SQLCompiler) -> _Prepared:
        assert not compiled.insert_prefetch
        assert not compiled.update_prefetch
        columns = _NO_COLUMNS
        if compiled._result_columns:
            processors = [
                column.type._cached_result_processor(self.dialect, None)
                for column in compiled._result_columns
            ]
            columns = SimpleResultMetaData(
                [column.keyname for column in compiled._result_columns],
                _processors=processors if any(processors) else None,
            )
        expands = bool(compiled.literal_execute_params or compiled.post_compile_params)
        prepared = _Prepared(compiled, columns, dict(compiled._bind_processors), expands)
        return self._prepared.setdefault(compiled, prepared)


class _Transaction:
    """One at a time: the store sees to that."""

    def __init__(self, connection: LeanConnection, begin: str, *, keeps: bool) -> None:
        self._connection = connection
        self._begin = begin
        self._keeps = keeps

    async def __aenter__(self) -> LeanConnection:
        self._connection.run(self._begin)
        return self._connection

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._keeps and kind is None:
            self._connection.commit()
        else:
            self._connection.raw.rollback()


class LeanEngine:
    """What a Database asks of an AsyncEngine; `kind` is that of its transactions: IMMEDIATE or DEFERRED."""

    def __init__(self, path: Path, kind: str) -> None:
        self.raw = sqlite3.connect(
            path, timeout=0, isolation_level=None, cached_statements=STATEMENTS_KEPT
        )
        self.raw.text_factory = _LENIENT
        for pragma in (*_PRAGMAS, "PRAGMA synchronous = OFF"):  # nobody pulls a plug
            self.raw.execute(pragma)
        self._connection = LeanConnection(self.raw)
        self._begin = f"BEGIN {kind}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.raw.close()

    def begin(self) -> _Transaction:
        """Kept at the end."""
        return _Transaction(self._connection, self._begin, keeps=True)

    def connect(self) -> _Transaction:
        """Rolled back at the end."""
        return _Transaction(self._connection, self._begin, keeps=False)


def lean_database(path: Path, writer: LeanEngine, reader: LeanEngine, *, clock: Clock) -> Database:
    """The queue database on these connections, which stay."""
    return Database(
        cast("AsyncEngine", writer),
        cast("AsyncEngine", reader),
        url=async_url(f"sqlite:///{path}"),
        clock=clock,
    )
