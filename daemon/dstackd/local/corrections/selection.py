"""Filters and pages as EC2's Describe actions have them.

Law: pure. A filter is a name and values that are or-ed; filters are and-ed; values may hold `*`
and `?` (AWS, "List and filter your resources using the CLI and API").
"""

import base64
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from dstackd.local.corrections.errors import refuse

T = TypeVar("T")
Getters = Mapping[str, Callable[[T], str | None]]


def keep(
    items: Iterable[T],
    filters: Mapping[str, Sequence[str]],
    *,
    getters: Getters[T],
    tags: Callable[[T], Mapping[str, str]],
) -> list[T]:
    """Return the items that pass every filter. EC2 error InvalidParameterValue on an unknown name."""
    tests = [_test(name, values, getters, tags) for name, values in filters.items()]
    return [item for item in items if all(test(item) for test in tests)]


def _test(
    name: str,
    values: Sequence[str],
    getters: Getters[T],
    tags: Callable[[T], Mapping[str, str]],
) -> Callable[[T], bool]:
    pattern = re.compile("|".join(_regex(value) for value in values) or r"(?!)", re.DOTALL)
    if name == "tag-key":
        return lambda item: any(pattern.fullmatch(key) for key in tags(item))
    if name.startswith("tag:"):
        key = name.removeprefix("tag:")
        return lambda item: key in tags(item) and bool(pattern.fullmatch(tags(item)[key]))
    getter = getters.get(name)
    if getter is None:
        raise refuse(
            "InvalidParameterValue", f"The filter '{name}' is invalid (or not played here)"
        )
    return lambda item: bool(pattern.fullmatch(getter(item) or "\0"))


def _regex(value: str) -> str:
    return re.escape(value).replace(r"\*", ".*").replace(r"\?", ".")


def page(
    items: Sequence[T],
    *,
    key: Callable[[T], str],
    size: int,
    token: str | None,
) -> tuple[list[T], str | None]:
    """Return at most `size` items after the token's item, and the token of the next page or None.

    `items` come in ascending order of `key`. The token holds the last key shown, so a walk over
    pages neither skips nor repeats what stays while other items come and go.
    """
    after = _decode(token) if token else ""
    rest = [item for item in items if key(item) > after]
    shown = rest[:size]
    return shown, _encode(key(shown[-1])) if len(rest) > size else None


def page_size(asked: object, *, default: int, least: int, most: int) -> int:
    """Return MaxResults. EC2 error InvalidParameterValue outside `least`..`most`."""
    if asked is None:
        return default
    size = int(str(asked))
    if not least <= size <= most:
        raise refuse(
            "InvalidParameterValue",
            f"Value ( {size} ) for parameter maxResults is invalid. "
            f"Expecting a value between {least} and {most}.",
        )
    return size


def _encode(key: str) -> str:
    return base64.urlsafe_b64encode(f"after:{key}".encode()).decode()


def _decode(token: str) -> str:
    try:
        text = base64.urlsafe_b64decode(token.encode()).decode()
    except ValueError:
        text = ""
    if not text.startswith("after:"):
        raise refuse("InvalidParameterValue", f"The token '{token}' is invalid")
    return text.removeprefix("after:")
