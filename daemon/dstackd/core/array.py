"""How an array follows its elements. Law: it ends when all of them have, and as badly as the worst of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from dstackd.core.job import Job
from dstackd.core.phase import TERMINAL, Phase


class Element(Protocol):
    """One job of an array."""

    @property
    def id(self) -> str: ...
    @property
    def phase(self) -> Phase: ...
    @property
    def exit_code(self) -> int | None: ...
    @property
    def cancel_requested(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class ArrayDecision:
    """`phase` None: elements are still on their way. `cancel`: elements that the array's cancel has not reached."""

    phase: Phase | None = None
    exit_code: int | None = None
    message: str = ""
    cancel: tuple[str, ...] = ()


def decide_array(array: Job, elements: Sequence[Element]) -> ArrayDecision:
    """The array's next step. Elements that somebody has deleted count for nothing."""
    if not elements:
        return ArrayDecision(Phase.CANCELLED, message="none of its jobs is there any more")
    open_elements = [element for element in elements if element.phase not in TERMINAL]
    if open_elements:
        to_cancel = (
            tuple(element.id for element in open_elements if not element.cancel_requested)
            if array.cancel_requested
            else ()
        )
        return ArrayDecision(cancel=to_cancel)
    counts = {phase: sum(element.phase is phase for element in elements) for phase in TERMINAL}
    message = ", ".join(f"{count} {phase}" for phase, count in sorted(counts.items()) if count)
    codes = [element.exit_code for element in elements if element.exit_code is not None]
    exit_code = next((code for code in codes if code != 0), codes[0] if codes else None)
    if counts[Phase.SUCCEEDED] == len(elements):
        return ArrayDecision(Phase.SUCCEEDED, exit_code, message)
    if counts[Phase.FAILED] or counts[Phase.REJECTED]:
        return ArrayDecision(Phase.FAILED, exit_code, message)
    return ArrayDecision(Phase.CANCELLED, exit_code, message)
