"""How an attempt's end is put into words."""

from __future__ import annotations

import pytest

from dstackd.core.decide import decide
from dstackd.core.ending import ending_text
from dstackd.core.instance import Observation, Seen
from dstackd.core.limits import Limits
from dstackd.core.phase import Phase
from tests.builders import NOW_MS, a_job, an_attempt


@pytest.mark.parametrize(
    ("code", "cause", "signalled", "text"),
    [
        (0, "exit", "", "exit code 0"),
        (3, "exit", "", "exit code 3"),
        (137, "exit", "SIGKILL", "exit code 137 (SIGKILL)"),
        (
            *(137, "oom", "SIGKILL"),
            "exit code 137 (SIGKILL): out of memory; give resources.memory more",
        ),
        (1, "oom", "", "exit code 1: out of memory; give resources.memory more"),
        (143, "timed_out", "SIGTERM", "exit code 143 (SIGTERM): stopped after max_duration"),
        (1, "a newer cause", "", "exit code 1: a newer cause"),
    ],
)
def test_an_end_says_code_signal_and_cause(
    code: int, cause: str, signalled: str, text: str
) -> None:
    """What a person needs to know is in one line, which is also the event's."""
    attempt = an_attempt(
        exited_at_ms=NOW_MS, exit_code=code, exit_cause=cause, exit_signal=signalled
    )
    assert ending_text(attempt) == text
    decision = decide(
        a_job(phase=Phase.RUNNING),
        attempt,
        Observation(Seen.UNKNOWN),
        limits=Limits(),
        now_ms=NOW_MS,
    )
    assert (decision.phase, decision.message) == (Phase.SEALING, text)
