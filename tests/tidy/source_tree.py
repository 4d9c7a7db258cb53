"""What the tidy tests look at. Law: reads the files of this project and imports none of them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "daemon" / "dstackd"

_FOLDERS = ("daemon", "migrations", "tests", "config", "requirements", "systemd", ".ci")
_LEFT_BY_TOOLS = {"__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis"}


@cache
def text_files() -> tuple[Path, ...]:
    """Every text file of the project, without those that tools leave behind."""
    at_the_top = [path for path in ROOT.iterdir() if path.is_file()]
    below = [path for folder in _FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()]
    return tuple(
        sorted(
            path
            for path in (*at_the_top, *below)
            if not _LEFT_BY_TOOLS & set(path.parts) and _is_text(path)
        )
    )


def python_files(*folders: Path) -> tuple[Path, ...]:
    """The Python files below the folders, or all of them."""
    return tuple(
        path
        for path in text_files()
        if path.suffix == ".py" and (not folders or any(path.is_relative_to(f) for f in folders))
    )


@cache
def parsed(path: Path) -> ast.Module:
    """The syntax tree of a Python file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method of a Python file, nested ones too."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def shown(path: Path) -> str:
    """The path as a reader of a failure wants it."""
    return path.relative_to(ROOT).as_posix()


def _is_text(path: Path) -> bool:
    try:
        path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return False
    return True
