"""The six jobs of the demo. Law: specs as any application would write them, and nothing that looks at a cloud."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from dstackd.demo.texts import COUNTING

Spec = Mapping[str, Any]

LINES: Final = "lines"
WORDS: Final = "words"
FAILS: Final = "fails"
RESUMES: Final = "resumes"
SQUARES: Final = "squares"
BROKEN: Final = "broken"

LINE_COUNT: Final = 100
EXIT_CODE: Final = 3
STEPS: Final = 20
HALF: Final = STEPS // 2
ARRAY: Final = 8
BROKEN_FIELD: Final = "resources.cpu"

_ON_DEMAND: Final = {"spot_policy": "on-demand"}

# The second half of the first attempt is slow, so that the reclaim, which follows the log, finds
# the job at work however slow the computer below is.
_COUNT_UP: Final = (
    "step=0 pause=0.3",
    "if [ -f checkpoint ]; then",
    "  step=$(cat checkpoint)",
    '  echo "going on from the checkpoint at step $step"',
    "fi",
    f'while [ "$step" -lt {STEPS} ]; do',
    "  step=$((step + 1))",
    "  echo $step > checkpoint.new",
    "  mv checkpoint.new checkpoint",
    f'  echo "step $step of {STEPS}"',
    f'  [ "$DSTACKD_ATTEMPT" -eq 1 ] && [ "$step" -ge {HALF} ] && pause=1.5',
    "  sleep $pause",
    "done",
)


def job_specs(texts: Path) -> dict[str, Spec]:
    """The specs by name, in the order of their insertion. `texts` is a folder of this host."""
    specs: dict[str, Spec] = {
        LINES: {
            "commands": [
                f'for n in $(seq {LINE_COUNT}); do echo "line $n of {LINE_COUNT}"; sleep 0.04; done'
            ],
            **_ON_DEMAND,
        },
        WORDS: {
            "commands": list(COUNTING),
            "inputs": [f"{texts}:texts"],
            "artifacts": ["out"],
            **_ON_DEMAND,
        },
        FAILS: {
            "commands": [f'echo "ending with exit code {EXIT_CODE}"', f"exit {EXIT_CODE}"],
            **_ON_DEMAND,
        },
        RESUMES: {
            "commands": list(_COUNT_UP),
            "artifacts": ["checkpoint"],
            "resume": True,
            "spot_policy": "spot",
            "stop_grace": "2s",
        },
        SQUARES: {
            "commands": [
                "n=$DSTACKD_ARRAY_INDEX",
                'echo "$n * $n = $((n * n))"',
            ],
            "array": ARRAY,
            # A shape of its own: jobs of equal shape would share its launch.
            "resources": {"cpu": 4, "memory": "8GB..16GB"},
        },
        BROKEN: {"commands": ["true"], "resources": {"cpu": "plenty"}},
    }
    return {name: {"name": name, **spec} for name, spec in specs.items()}


def expected_lines() -> list[str]:
    """The whole output of the job `lines`."""
    return [f"line {n} of {LINE_COUNT}" for n in range(1, LINE_COUNT + 1)]


def expected_square(index: int) -> list[str]:
    """The whole output of one element of `squares`."""
    return [f"{index} * {index} = {index * index}"]


def step_of(line: str) -> int | None:
    """The step that a line of `resumes` tells of."""
    return _number(line, before="step ", after=f" of {STEPS}")


def checkpoint_of(line: str) -> int | None:
    """The step from which a line of `resumes` says that the job goes on."""
    return _number(line, before="going on from the checkpoint at step ", after="")


def _number(line: str, *, before: str, after: str) -> int | None:
    if not line.startswith(before) or not line.endswith(after):
        return None
    middle = line[len(before) : len(line) - len(after)]
    return int(middle) if middle.isdecimal() else None
