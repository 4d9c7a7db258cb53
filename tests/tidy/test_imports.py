"""Two parts of the daemon may import a closed list only; import-linter knows no such contract."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.tidy.source_tree import PACKAGE, parsed, python_files, shown


def imported(path: Path) -> Iterator[str]:
    """The modules that a file imports, at its top or within a function."""
    for node in ast.walk(parsed(path)):
        match node:
            case ast.Import():
                yield from (alias.name for alias in node.names)
            case ast.ImportFrom(module=str(module), names=names):
                yield from (f"{module}.{alias.name}" for alias in names)
            case _:
                pass


def strangers(folder: Path, *, allowed: tuple[str, ...]) -> str:
    """Imports below the folder that are neither the standard library nor allowed, one a line."""
    return "\n".join(
        f"{shown(path)}: {module}"
        for path in python_files(folder)
        for module in imported(path)
        if module.split(".")[0] not in sys.stdlib_module_names
        and not any(module == name or module.startswith(f"{name}.") for name in allowed)
    )


def test_the_core_imports_the_standard_library_only() -> None:
    """Decisions can be read, and run, without anything that is installed."""
    ours = ("dstackd.core", "dstackd.spec", "dstackd.protocol", "dstackd.errors")
    assert strangers(PACKAGE / "core", allowed=ours) == ""


def test_the_runner_imports_the_standard_library_only() -> None:
    """A machine needs nothing but the Python of its image."""
    told = ("dstackd.protocol", "dstackd.launch_document", "dstackd.artifact_manifest")
    assert strangers(PACKAGE / "runner", allowed=("dstackd.runner", *told)) == ""
    for name in told:
        path = PACKAGE / f"{name.removeprefix('dstackd.')}.py"
        assert strangers(path, allowed=("dstackd.protocol",)) == ""
