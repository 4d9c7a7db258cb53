"""Names in the daemon say what a thing is; words that say nothing are not used.

The words are looked for where the project gives a name, not where it uses the name of another one.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.tidy.source_tree import PACKAGE, parsed, python_files, shown

BANNED = frozenset(
    {"data", "handler", "handlers", "helper", "helpers", "info", "manager", "managers"}
    | {"service", "services", "task", "tasks", "util", "utils", "worker", "workers"}
)
# What AWS calls EC2, S3 and the like; so the word may be used where AWS is spoken to or played.
SERVICES = frozenset({"service", "services"})
# Names that others gave, and that a reader knows by just these words.
GIVEN = (
    "user_data",  # EC2
    "service_name",  # AWS
    "task_group",  # anyio
    "task_status",  # anyio
    "data_version",  # SQLite
    "build_info",  # Prometheus
)


# The one name that is such a word alone: a type of metric, as Prometheus calls it.
ALONE = frozenset({"daemon/dstackd/http/metric_table.py: INFO"})


def names_given(path: Path) -> Iterator[str]:
    """Modules, classes, functions, parameters, variables and attributes that a file names."""
    yield path.stem
    for node in ast.walk(parsed(path)):
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node.name
            case ast.arg():
                yield node.arg
            case ast.Name(ctx=ast.Store()):
                yield node.id
            case ast.Attribute(ctx=ast.Store()):
                yield node.attr
            case _:
                pass


def words(name: str) -> set[str]:
    """The words of a snake_case, CamelCase or UPPER_CASE name, in lower case."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    for phrase in GIVEN:
        snake = re.sub(rf"(^|_){phrase}(?=_|$)", "", snake)
    return set(snake.split("_"))


def speaks_of_aws(path: Path) -> bool:
    """Whether a file is on one of the two sides of the AWS APIs."""
    return any(
        path.is_relative_to(PACKAGE / name) for name in ("aws", "local", "runner", "vitals.py")
    )


def test_words_are_found() -> None:
    """The check reads names of all three kinds, and lets those through that others gave."""
    assert words("JobManager") & BANNED == {"manager"}
    assert words("USER_DATA_LIMIT_BYTES") & BANNED == set()
    assert words("metadata_data") & BANNED == {"data"}


def test_no_banned_word_in_a_name() -> None:
    """No name in the daemon contains a word that could stand for anything."""
    found = sorted(
        {
            f"{shown(path)}: {name}"
            for path in python_files(PACKAGE)
            for name in names_given(path)
            if words(name) & (BANNED - SERVICES if speaks_of_aws(path) else BANNED)
        }
    )
    assert set(found) <= ALONE, "\n".join(["", *found])
