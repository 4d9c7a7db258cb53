"""Jobs of several kinds, each with what must be true of it at the end, whoever died meanwhile. Law: a seed makes the same jobs."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

ELEMENTS = 3
STEPS = 8
LONG_LINES = 2000
RETRY = {"on": ["no-capacity", "interruption"], "max_attempts": 20}

ONCE = (
    "(set -C; : > {ran}/$DSTACKD_JOB_ID.$DSTACKD_ATTEMPT) 2>/dev/null"
    " || echo $DSTACKD_JOB_ID.$DSTACKD_ATTEMPT >> {twice}"
)
"""The first command of every job: it notices when somebody else is, or was, the same attempt."""


@dataclass(frozen=True)
class StormJob:
    """A job, and what it comes to. `lines`: what an attempt that ended by itself has printed after its first line."""

    id: str
    kind: str
    spec: dict[str, Any]
    lines: tuple[str, ...] = ()
    exit_code: int = 0
    files: dict[str, str] = field(default_factory=dict)
    """sha256 of each artifact by its path."""
    is_cancelled: bool = False
    elements: int = 0

    def printed(self, job_id: str, attempt: int, index: int | None) -> list[str]:
        """Every line of an attempt (of the array's element `index`) that ran from its begin to its end."""
        element = [] if index is None else [f"index {index}"]
        return [f"{job_id} {attempt}", *element, *self.lines]


def storm_jobs(seed: int, *, count: int, folder: Path) -> list[StormJob]:
    """`count` jobs, all kinds equally often; `folder`: the installation's."""
    order = random.Random(seed)
    kinds = [KINDS[number % len(KINDS)] for number in range(count)]
    order.shuffle(kinds)
    made = []
    for number, make in enumerate(kinds):
        job = make(f"storm-{number}", order, folder)
        once = ONCE.format(ran=folder / "ran", twice=folder / "twice")
        first = [once, "echo $DSTACKD_JOB_ID $DSTACKD_ATTEMPT"]
        spec = {"retry": RETRY, **job.spec, "commands": [*first, *job.spec["commands"]]}
        made.append(replace(job, spec=spec))
    return made


def _counting(order: random.Random) -> tuple[str, tuple[str, ...]]:
    lines = order.randint(10, 60)
    command = f"for i in $(seq {lines}); do echo line $i; sleep 0.2; done"
    return command, tuple(f"line {number + 1}" for number in range(lines))


def _plain(job_id: str, order: random.Random, _folder: Path) -> StormJob:
    command, lines = _counting(order)
    return StormJob(job_id, "plain", {"commands": [command]}, lines)


def _exiting(job_id: str, order: random.Random, _folder: Path) -> StormJob:
    command, lines = _counting(order)
    code = order.randint(1, 120)
    return StormJob(job_id, "exit", {"commands": [command, f"exit {code}"]}, lines, exit_code=code)


def _artifacts(job_id: str, order: random.Random, _folder: Path) -> StormJob:
    parts = order.randint(2, 6)
    numbers = [order.randint(1, 20_000) for _ in range(parts)]
    commands = ["mkdir out"]
    files = {}
    for part, last in enumerate(numbers):
        commands += [f"seq {last} > out/{part}", f"echo part {part}", "sleep 2"]
        text = "".join(f"{number + 1}\n" for number in range(last))
        files[f"out/{part}"] = hashlib.sha256(text.encode()).hexdigest()
    spec = {"commands": commands, "artifacts": [{"path": "out", "every": "1s"}]}
    return StormJob(
        job_id, "artifacts", spec, tuple(f"part {part}" for part in range(parts)), files=files
    )


def _inputs(job_id: str, order: random.Random, folder: Path) -> StormJob:
    source = folder / "inputs" / job_id
    source.mkdir()
    words = tuple(f"{order.getrandbits(64):016x}" for _ in range(order.randint(1, 50)))
    (source / "words").write_text("".join(f"{word}\n" for word in words))
    spec = {"commands": ["cat data/words", "sleep 3"], "inputs": [f"{source}:data"]}
    return StormJob(job_id, "inputs", spec, words)


def _array(job_id: str, order: random.Random, _folder: Path) -> StormJob:
    command, lines = _counting(order)
    commands = ["echo index $DSTACKD_ARRAY_INDEX", command]
    spec = {"commands": commands, "array": ELEMENTS}
    return StormJob(job_id, "array", spec, lines, elements=ELEMENTS)


def _resuming(job_id: str, _order: random.Random, _folder: Path) -> StormJob:
    """What it prints depends on where it began: `aftermath` knows."""
    commands = [
        "n=$(cat progress 2>/dev/null || echo 0)",
        "echo from $n",
        f"while [ $n -lt {STEPS} ]; do n=$((n+1)); sleep 1; echo $n > new; mv new progress; echo step $n; done",
    ]
    spec = {
        "commands": commands,
        "artifacts": [{"path": "progress", "every": "1s"}],
        "resume": True,
        "spot_policy": "spot",
    }
    digest = hashlib.sha256(f"{STEPS}\n".encode()).hexdigest()
    return StormJob(job_id, "resume", spec, files={"progress": digest})


def _reusing(job_id: str, order: random.Random, _folder: Path) -> StormJob:
    command, lines = _counting(order)
    return StormJob(job_id, "reuse", {"commands": [command], "reuse": "15s"}, lines)


def _long(job_id: str, _order: random.Random, _folder: Path) -> StormJob:
    lines = tuple(str(number + 1) for number in range(LONG_LINES))
    return StormJob(job_id, "long log", {"commands": [f"seq {LONG_LINES}"]}, lines)


def _cancelled(job_id: str, _order: random.Random, _folder: Path) -> StormJob:
    spec = {"commands": ["sleep 600 & wait"], "stop_grace": "2s"}
    return StormJob(job_id, "cancel", spec, is_cancelled=True)


KINDS: tuple[Callable[[str, random.Random, Path], StormJob], ...] = (
    *(_plain, _exiting, _artifacts, _inputs, _array, _resuming, _reusing, _long, _cancelled),
)


def as_text(job: StormJob) -> str:
    """The spec as a submitter writes it."""
    return json.dumps(job.spec)
