"""How the commands ended, in words. Law: pure; the same words in the event, in the row and for a retry."""

from __future__ import annotations

from dstackd.core.job import Attempt

_WHY = {
    "exit": "",
    "oom": "out of memory; give resources.memory more",
    "stopped": "stopped on request",
    "timed_out": "stopped after max_duration",
    "interrupted": "stopped because EC2 takes the machine back",
    "silence": "stopped because the machine did not reach its bucket",
}


def ending_text(attempt: Attempt) -> str:
    """`exit code 137 (SIGKILL): out of memory; give resources.memory more`."""
    signalled = f" ({attempt.exit_signal})" if attempt.exit_signal else ""
    why = _WHY.get(attempt.exit_cause, attempt.exit_cause)
    return f"exit code {attempt.exit_code}{signalled}" + (f": {why}" if why else "")
