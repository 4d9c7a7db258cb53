"""The blocks of code in migrations/CONTRACT.md. Law: as they stand there, to the letter."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

CONTRACT = Path(__file__).parents[2] / "migrations" / "CONTRACT.md"

_FENCE = re.compile(r"^```(\w+)((?: \w+)*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Snippet:
    """A block; `kind`: what stands behind the language, such as the driver."""

    language: str
    kind: str
    code: str
    line: int

    @property
    def name(self) -> str:
        """For the test's name."""
        return f"{self.language} {self.kind}".strip().replace(" ", "-") + f"-line{self.line}"


def snippets() -> list[Snippet]:
    """All of them, in order."""
    text = CONTRACT.read_text(encoding="utf-8")
    return [
        Snippet(found[1], found[2].strip(), found[3], text.count("\n", 0, found.start()) + 1)
        for found in _FENCE.finditer(text)
    ]


def of(language: str, *kinds: str) -> list[Snippet]:
    """Those of a language and one of the kinds."""
    return [each for each in snippets() if each.language == language and each.kind in kinds]
