"""What is fuzzed. Law: a module a target, with `SAMPLES` (good inputs to start from) and `run(content)`, which raises only when a
promise does not hold. Fast, and without state: atheris calls it some thousand times a second.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

FOLDER = Path(__file__).parent
CORPUS = FOLDER.parent / "corpus"
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__"))


def run_of(name: str) -> Callable[[bytes], None]:
    """The target."""
    run: Callable[[bytes], None] = importlib.import_module(f"{__name__}.{name}").run
    return run


def samples_of(name: str) -> tuple[bytes, ...]:
    """What it starts from."""
    samples: tuple[bytes, ...] = importlib.import_module(f"{__name__}.{name}").SAMPLES
    return samples


def kept_of(name: str) -> tuple[Path, ...]:
    """Inputs that have found something once, each a file of `corpus/NAME/`."""
    return tuple(sorted((CORPUS / name).glob("*")))
