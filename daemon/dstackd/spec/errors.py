"""What a person is told about a spec that cannot be accepted.

LAW: standard library only. Each error names the field by its path, says what is wrong with what
was given, and says what to write instead.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from dstackd.errors import DstackdError

_SHOWN_MAX = 20


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing that is wrong.

    `field` is a path such as `resources.memory`, `commands[2]` or `env.FOO`; `spec` is the whole
    document, and `job.yaml:12:3` is a place in a file (line and column from 1).
    """

    field: str
    problem: str
    fix: str

    @property
    def sentence(self) -> str:
        """The error on one line."""
        return f"{self.field}: {self.problem}; {self.fix}"


class SpecError(DstackdError):
    """A spec is refused; `errors` holds all that is wrong with it, never less than one.

    Its text has a line for each of the first 20.
    """

    def __init__(self, errors: Iterable[FieldError]) -> None:
        self.errors = tuple(errors)
        lines = [error.sentence for error in self.errors[:_SHOWN_MAX]]
        if len(self.errors) > _SHOWN_MAX:
            lines.append(f"and {len(self.errors) - _SHOWN_MAX} more")
        super().__init__("\n".join(lines))
