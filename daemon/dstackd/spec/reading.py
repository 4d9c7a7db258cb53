"""How a value of unknown shape is read: readers refuse, a collector goes on.

LAW: a reader is `object -> T` and raises RefusedError; only Problems turns that into an error
with a path. Nothing here recurses into a value or shows more of it than fits a message, so that
no input, however deep or large, makes it fail in another way.
"""

import json
from collections.abc import Callable
from typing import Final, NoReturn, TypeVar

from dstackd.spec.errors import FieldError, SpecError

T = TypeVar("T")
Reader = Callable[[object], T]

_SHOWN_CHARS_MAX = 60
_SHOWN_BITS_MAX = 64
# Keys that look like fields and live elsewhere.
_ELSEWHERE: Final = {
    "priority": (
        "it is a column of the job table, not a part of the spec",
        "set it in the row: INSERT INTO job (spec, priority) VALUES (…)",
    ),
}


class RefusedError(Exception):
    """A reader cannot accept the value it was given."""

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(problem, fix)
        self.problem = problem
        self.fix = fix


class Problems:
    """Collects everything that is wrong, so that a person repairs a spec in one go."""

    def __init__(self) -> None:
        self._errors: dict[FieldError, None] = {}

    def add(self, field: str, problem: str, fix: str) -> None:
        self._errors[FieldError(field, problem, fix)] = None

    def read(self, field: str, value: object, reader: Reader[T], default: T) -> T:
        """The value as read, or `default` with the refusal kept."""
        try:
            return reader(value)
        except RefusedError as refusal:
            self.add(field, refusal.problem, refusal.fix)
            return default

    def raise_if_any(self) -> None:
        """Raise SpecError with all that was collected."""
        if self._errors:
            raise SpecError(self._errors)

    def items(self, field: str, value: object, *, items_max: int) -> list[tuple[str, object]]:
        """The members of a list with their paths; a bare value stands for a list of one."""
        if not isinstance(value, list | tuple):
            return [(field, value)]
        if len(value) > items_max:
            self.add(field, f"has {len(value)} members", f"give at most {items_max}")
            return []
        return [(f"{field}[{index}]", member) for index, member in enumerate(value)]


class Fields:
    """One mapping of a spec while it is read; null is the same as a field that is not given."""

    def __init__(self, problems: Problems, path: str, value: dict[object, object]) -> None:
        self.problems = problems
        self._path = path
        self._value = value
        self._taken: list[str] = []

    def path(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key

    def raw(self, key: str) -> object:
        """The value of a field as given, None if absent."""
        self._taken.append(key)
        return self._value.get(key)

    def take(self, key: str, reader: Reader[T], default: T) -> T:
        """A field that one reader reads."""
        value = self.raw(key)
        return (
            default if value is None else self.problems.read(self.path(key), value, reader, default)
        )

    def require(self, key: str, reader: Reader[str], *, fix: str) -> str:
        """A field of text that must be given."""
        if self.raw(key) is None:
            self.problems.add(self.path(key), "is missing", fix)
        return self.take(key, reader, "")

    def take_block(self, key: str, reader: Callable[[Problems, str, object], T], default: T) -> T:
        """A field with members of its own: its reader gets the collector and the path."""
        value = self.raw(key)
        return default if value is None else reader(self.problems, self.path(key), value)

    def refuse_unknown(self) -> None:
        """To be called when every known field was taken."""
        for key in self._value:
            if key not in self._taken:
                self._refuse_unknown_key(key)

    def _refuse_unknown_key(self, key: object) -> None:
        name = key_text(key)
        path = self.path(name)
        if path in _ELSEWHERE:
            self.problems.add(path, *_ELSEWHERE[name])
        else:
            self.problems.add(path, "there is no such field", self._suggestion(name))

    def _suggestion(self, name: str) -> str:
        from difflib import get_close_matches  # noqa: PLC0415 - only a slip pays for its import

        near = get_close_matches(name.lower().replace("-", "_"), self._taken, n=1)
        if near:
            return f"did you mean {self.path(near[0])}?"
        return f"the fields here are {', '.join(sorted(self._taken))}"


def with_key_on(value: dict[object, object]) -> dict[object, object]:
    """YAML 1.1 readers take the key `on` for true, and JSON writers make "true" of that."""
    if "on" in value:
        return value
    return {"on" if key is True or key == "true" else key: each for key, each in value.items()}


def is_text(value: str) -> bool:
    """Whether a string can be written as UTF-8: JSON can smuggle in half of a surrogate pair."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(value: object) -> str:
    """A value as a message quotes it: short, on one line, and of any value at all."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            short = value if len(value) <= _SHOWN_CHARS_MAX else value[:_SHOWN_CHARS_MAX] + "…"
            return json.dumps(short, ensure_ascii=not is_text(short))
        case int():
            small = value.bit_length() <= _SHOWN_BITS_MAX
            return str(value) if small else f"a number of {value.bit_length()} bits"
        case float():
            return repr(value)
        case list() | tuple():
            return f"a list of {len(value)}"
        case dict():
            return "a mapping"
        case _:
            return f"a {type(value).__name__}"


def key_text(key: object) -> str:
    """A key as a path holds it: itself where that is short and printable, else as quoted."""
    plain = isinstance(key, str) and key.isprintable() and 0 < len(key) <= _SHOWN_CHARS_MAX
    return str(key) if plain else shown(key)


def refuse(value: object, expected: str, fix: str) -> NoReturn:
    """Refuse a value because it is not what is expected, for example `a size`."""
    raise RefusedError(f"{shown(value)} is not {expected}", fix)
