"""Files and functions stay small enough to be read in one go."""

from __future__ import annotations

from tests.tidy.source_tree import functions, python_files, shown

LINES_PER_FILE_MAX = 400
LINES_PER_FUNCTION_MAX = 70


def test_files_are_small() -> None:
    """No Python file is longer than 400 lines."""
    lengths = {shown(path): len(path.read_text().splitlines()) for path in python_files()}
    assert {path: n for path, n in lengths.items() if n > LINES_PER_FILE_MAX} == {}


def test_functions_are_small() -> None:
    """No function is longer than 70 lines, its docstring included."""
    too_long = {
        f"{shown(path)}:{node.lineno} {node.name}": lines
        for path in python_files()
        for node in functions(path)
        if (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > LINES_PER_FUNCTION_MAX
    }
    assert too_long == {}
