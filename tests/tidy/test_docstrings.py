"""A module states its law, and a test states its promise."""

from __future__ import annotations

import ast

from tests.tidy.source_tree import ROOT, functions, parsed, python_files, shown


def test_modules_have_docstrings() -> None:
    """Every module says what it is for and what it may not do."""
    without = [shown(path) for path in python_files() if ast.get_docstring(parsed(path)) is None]
    assert without == [], "\n".join(["", *without])


def test_tests_have_docstrings() -> None:
    """Every test says in a sentence what it promises."""
    without = [
        f"{shown(path)}:{node.lineno} {node.name}"
        for path in python_files(ROOT / "tests")
        if path.name.startswith("test_")
        for node in functions(path)
        if node.name.startswith("test_") and ast.get_docstring(node) is None
    ]
    assert without == [], "\n".join(["", *without])
