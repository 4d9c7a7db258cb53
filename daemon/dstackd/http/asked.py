"""What comes in. Law: a parameter is read strictly or refused by name, never guessed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from aiohttp import web

from dstackd.http.responses import Refusal
from dstackd.spec.errors import FieldError, SpecError
from dstackd.spec.parse import load_json

WHOLE_MAX = 2**53 - 1
"""The largest whole number that JSON readers agree on."""

_SWITCH = {"0": False, "1": True, "false": False, "true": True}


def refuse_parameter(name: str, problem: str, fix: str) -> NoReturn:
    """Answer 400: the parameter `name` cannot be used as it is."""
    field = FieldError(name, problem, fix)
    raise Refusal(400, "bad_parameter", field.sentence, fields=[field])


def switch(query: Mapping[str, str], name: str) -> bool:
    """A parameter that is 0 or 1; absent means 0."""
    written = query.get(name, "0")
    if written not in _SWITCH:
        refuse_parameter(name, f"{written[:40]!r} is neither 0 nor 1", "write 0 or 1")
    return _SWITCH[written]


def whole(
    query: Mapping[str, str], name: str, *, low: int = 0, high: int = WHOLE_MAX
) -> int | None:
    """A parameter that is a whole number from `low` to `high`; None when it is absent."""
    written = query.get(name)
    if written is None:
        return None
    return whole_in(written, name, low=low, high=high)


def whole_in(written: str, name: str, *, low: int, high: int = WHOLE_MAX) -> int:
    """`written` as a whole number from `low` to `high`."""
    is_number = written.isascii() and written.isdecimal() and len(written) <= len(str(high))
    if not is_number or not low <= int(written) <= high:
        fix = f"write a whole number from {low} to {high}"
        refuse_parameter(name, f"{written[:40]!r} is not one", fix)
    return int(written)


async def json_object(request: web.Request) -> dict[str, object]:
    """The request's body, a JSON object without repeated keys."""
    try:
        value = load_json((await request.read()).decode(), where="body")
    except UnicodeDecodeError as error:
        field = FieldError("body", f"is not UTF-8: {error.reason}", "encode the JSON as UTF-8")
        raise Refusal(400, "bad_json", field.sentence, fields=[field]) from None
    except SpecError as error:
        raise Refusal(400, "bad_json", str(error), fields=error.errors) from None
    if not isinstance(value, dict):
        field = FieldError(
            "body", "is not a mapping", 'send {"spec": {"commands": ["echo hello"]}}'
        )
        raise Refusal(400, "bad_json", field.sentence, fields=[field])
    return value
