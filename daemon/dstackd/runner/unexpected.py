"""Exceptions that nobody expected in a thread that has to go on. Law: said once for each kind, never raised.

A thread that ends with one is missed by nobody until the job needs it: its output, its reports or its log
stay away. What may be one: no memory, no room for another thread, a mistake of ours.
"""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Callable

from dstackd.runner.pace import backoff_s


class Unexpected:
    """What a loop has met; for one thread."""

    def __init__(self, name: str, say: Callable[[str], None]) -> None:
        self._name = name
        self._say = say
        self._said: set[tuple[str, str]] = set()
        self._tries = 0

    def met(self, error: Exception) -> float:
        """Say it if it is a new kind; the seconds to pause before the loop goes on."""
        # Without memory it may be impossible to say that there is none.
        with contextlib.suppress(Exception):
            self._note(error)
        self._tries += 1
        return backoff_s(self._tries - 1)

    def passed(self) -> None:
        """It went well: the next pause is a short one again."""
        self._tries = 0

    def _note(self, error: Exception) -> None:
        place = _place(error)
        kind = (type(error).__name__, place)
        if kind not in self._said:
            self._said.add(kind)
            words = traceback.format_exception_only(type(error), error)[-1].strip()
            self._say(f"{self._name}: unexpected: {words} ({place})")


def _place(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return "nowhere"
    return f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}"
