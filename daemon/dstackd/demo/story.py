"""The history in words. Law: pure; elements of an array that did the same in the same batch become one line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from dstackd.demo.queue_view import EventView

WAITS: Final = "waits"
"""In the place of the phase where a job waits and does not move."""

_ELEMENT = re.compile(r"(?P<array>.+)\[(?P<index>\d+)\]")


@dataclass(frozen=True, slots=True)
class Told:
    """One line: who came into which phase, when, and why."""

    at_ms: int
    who: str
    phase: str
    text: str


def tell(events: Sequence[EventView], *, name: Callable[[str], str]) -> list[Told]:
    """A line for each event, in order; `name` gives what a job is called by its id."""
    groups: list[list[EventView]] = []
    for event in events:
        group = _group_of(event, groups, name=name)
        if group is None:
            groups.append([event])
        else:
            group.append(event)
    return [
        Told(
            at_ms=group[0].at_ms,
            who=together([name(event.job_id) for event in group]),
            phase=group[0].phase or WAITS,
            text=blend([event.message for event in group]),
        )
        for group in groups
    ]


def _group_of(
    event: EventView, groups: Sequence[list[EventView]], *, name: Callable[[str], str]
) -> list[EventView] | None:
    """The line that the event can join: nothing of the same job may stand behind it."""
    for group in reversed(groups):
        array = _array_of(name(event.job_id))
        alike = group[0].phase == event.phase and _array_of(name(group[0].job_id)) == array
        if any(other.job_id == event.job_id for other in group):
            return None
        if alike and array:
            return group
    return None


def _array_of(called: str) -> str:
    element = _ELEMENT.fullmatch(called)
    return element["array"] if element else ""


def together(names: Sequence[str]) -> str:
    """`a` for `a`; `a[0-2,5]` for four elements of an array."""
    elements = [element for one in names if (element := _ELEMENT.fullmatch(one))]
    if len(elements) != len(names) or len(elements) == 1:
        return ", ".join(names)
    return f"{elements[0]['array']}[{spans(int(element['index']) for element in elements)}]"


def spans(numbers: Iterable[int]) -> str:
    """`0-2,5` for 5, 0, 1, 2."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


def blend(messages: Sequence[str]) -> str:
    """What the messages have in common, word by word; an ellipsis where they differ."""
    split = [message.split(" ") for message in messages]
    if len({len(words) for words in split}) != 1:
        return f"{len(messages)} jobs, each with its own reason"
    columns = zip(*split, strict=True)
    return " ".join(words[0] if len(set(words)) == 1 else "…" for words in columns)
