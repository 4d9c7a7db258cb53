"""Benchmarks are run seldom; they must not rot in between."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.bench_artifacts import discarding_s3
from tests.tidy.source_tree import PACKAGE, ROOT, python_files

_BENCHMARKS = ROOT / "tests" / "benchmarks"
_MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in python_files(_BENCHMARKS)
]


@pytest.mark.parametrize("name", _MODULES)
def test_every_module_can_be_imported(name: str) -> None:
    """What it takes from the product and the other tests is still there."""
    assert importlib.import_module(name).__doc__


def test_a_folder_is_sealed(tmp_path: Path) -> None:
    """The program that `bench_artifacts` measures does its work, on one small file."""
    (tmp_path / "file").write_bytes(b"x" * 1000)
    with discarding_s3() as url:
        sealed = subprocess.run(
            [sys.executable, str(_BENCHMARKS / "artifacts" / "seal_folder.py"), url, str(tmp_path)],
            env={"PYTHONPATH": str(PACKAGE.parent)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert sealed.returncode == 0, sealed.stderr
