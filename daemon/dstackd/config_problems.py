"""From what pydantic found to sentences that an operator can act on.

Law: every sentence names the key, says what is wrong with it, and says what to write instead; the
value of a secret is in none of them.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

_SHOWN_CHARS_MAX = 60
_SECRET = frozenset({"access_key_id", "secret_access_key"})
_MISSING = {
    "region": "write the AWS region, such as eu-central-1",
    "bucket": "write the name of a bucket in that region",
}
_FIXES = {
    "bool": ("not true or false", "write true or false"),
    "float": ("not a number", "write a number of seconds, such as 10"),
    "finite": ("not a finite number", "write a number of seconds, such as 10"),
    "int": ("not a whole number", "write a whole number"),
    "string": ("not text", "put it in quotes"),
    "path": ("not a path", "put it in quotes"),
    "tuple": ("not a list", 'write a list, such as ["a", "b"]'),
    "dict": ("not a table of tables", "write [projects.NAME] above the keys of one"),
    "model": ("not a table", "write its keys below a line with its name in brackets"),
}


def key_of(location: Iterable[int | str]) -> str:
    """`backends[0].region` of its parts."""
    key = ""
    for part in location:
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else part
    return key


def sentence(error: ErrorDetails, *, root: type[BaseModel]) -> str:
    """What is wrong with a key; what to write instead."""
    location, kind, limits = error["loc"], error["type"], error.get("ctx", {})
    last = str(location[-1]) if location else ""
    given = "a secret" if last in _SECRET else shown(error["input"])
    match kind:
        case "extra_forbidden":
            return _unknown(last, keys_of(root, location[:-1]))
        case "missing":
            return f"is missing; {_MISSING.get(last, 'write it')}"
        case "value_error":
            return str(limits["error"])
        case "greater_than_equal":
            return f"is {given}; write {limits['ge']:g} or more"
        case "less_than_equal":
            return f"is {given}; write {limits['le']:g} or less"
        case "literal_error":
            return f"is {given}; write {limits['expected']}"
        case "string_too_short":
            return f"is empty; {_MISSING.get(last, 'write it, or remove the key')}"
        case _:
            what, fix = _FIXES.get(kind.split("_")[0], (error["msg"], "correct it"))
            return f"is {given}, {what}; {fix}"


def _unknown(name: str, known: list[str]) -> str:
    return f"is not a key; {did_you_mean(name, known) or 'remove it'}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`did you mean X?`, or nothing where no known name is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else ""


def keys_of(root: type[BaseModel], location: Iterable[int | str]) -> list[str]:
    """The keys that a table may have."""
    model = root
    for part in location:
        if isinstance(part, str) and part in model.model_fields:  # else it is a table's own name
            model = _models_in(model.model_fields[part].annotation)[0]
    return list(model.model_fields)


def _models_in(annotation: Any) -> list[type[BaseModel]]:  # noqa: ANN401 - any annotation
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for each in getattr(annotation, "__args__", ()) for model in _models_in(each)]


def shown(value: object) -> str:
    """A value as it might stand in the file, cut where it is long."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= _SHOWN_CHARS_MAX else f"{text[:_SHOWN_CHARS_MAX]}…"
