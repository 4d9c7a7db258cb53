"""Seeds in several processes, or in this one. Law: each process has a stage of its own; results come in the order asked for."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import Self

from tests.controllers.crash_points import PATHS
from tests.simulation.crashes import Enumerated, enumerate_path
from tests.simulation.seed import Report, run_seed
from tests.simulation.stage import Stage
from tests.simulation.teeth import Bite, bite

KEPT = Path(__file__).with_name("kept_seeds.txt")
"""Seeds that once broke a promise: they are run first, and always."""
_stages: list[Stage] = []


class Pool:
    """For as long as the block runs."""

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._stack = ExitStack()
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        if self._processes == 1:
            self._stack.callback(_stages.clear)
            _stages.append(self._stack.enter_context(Stage()))
        else:
            executor = ProcessPoolExecutor(
                self._processes, mp_context=get_context("spawn"), initializer=_prepare
            )
            self._stack.callback(executor.shutdown, cancel_futures=True)
            self._executor = executor
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def run(self, seeds: Sequence[int], *, without: tuple[str, ...] = ()) -> Iterator[Report]:
        """Each seed's report."""
        each = map if self._executor is None else self._executor.map
        return iter(each(_run_one, seeds, [without] * len(seeds)))

    def bite(self, bugs: Iterable[tuple[str, Sequence[int]]]) -> Iterator[Bite]:
        """What becomes of each planted bug, given with its seeds."""
        each = map if self._executor is None else self._executor.map
        return iter(each(_bite_one, *zip(*bugs, strict=True)))

    def die(self, paths: Sequence[str]) -> Iterator[Enumerated]:
        """What comes of each path, with a death at each of its points."""
        each = map if self._executor is None else self._executor.map
        return iter(each(_die_on, paths))


def _prepare() -> None:
    _stages.append(Stage())
    _stages[0].__enter__()
    gc.collect()
    gc.freeze()  # what is imported stays: no collection need look at it again


def _run_one(seed: int, without: tuple[str, ...]) -> Report:
    return run_seed(seed, stage=_stages[0], without=without)


def _bite_one(bug: str, seeds: Sequence[int]) -> Bite:
    return bite(bug, seeds, stage=_stages[0])


def _die_on(path: str) -> Enumerated:
    return enumerate_path(path, PATHS[path], stage=_stages[0])


def kept_seeds() -> list[int]:
    """In the order of the file; `#` begins a comment."""
    lines = KEPT.read_text(encoding="utf-8").splitlines()
    return [int(line.split("#")[0]) for line in lines if line.split("#")[0].strip()]
