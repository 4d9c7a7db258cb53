"""What lies below a prefix of a bucket. Law: reads names, no content; all pages, in S3's order."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import unquote_plus

from dstackd.runner.errors import Unreachable
from dstackd.runner.s3 import Bucket

PAGES_MAX = 10_000
"""Ten million objects: whoever goes on has lost the way."""
_TEXT_CHARS_MAX = 4_096
"""A key has 1,024 bytes, each three characters when it is encoded."""
_SIZE_DIGITS_MAX = 18


class Listed(NamedTuple):
    """One object of a listing."""

    key: str
    size: int
    etag: str


def list_objects(
    bucket: Bucket, prefix: str, *, patience_s: float, count_max: int | None = None
) -> Iterator[Listed]:
    """Every object whose key begins with `prefix`, at most `count_max`. Raises RunnerError."""
    # Encoded, because XML 1.0 has no way to write some characters that a key may have.
    asked = [("encoding-type", "url"), ("prefix", prefix)]
    if count_max is not None:
        asked.append(("max-keys", str(count_max)))
    token = ""
    for _ in range(PAGES_MAX):
        more = [("continuation-token", token)] if token else []
        content = bucket.list_page([*asked, *more], patience_s=patience_s)
        listed, following = read_page(content)
        yield from listed
        if count_max is not None or not following:
            return
        if following == token:
            break
        token = following
    raise Unreachable(f"the list of {bucket.name} has no end")


def read_page(content: bytes) -> tuple[list[Listed], str]:
    """The objects of one page, and the token of the next one or nothing. Raises Unreachable for what is no page.

    No XML parser: nothing in a page can make this take more than one look at each character.
    """
    try:
        page = content.decode()
    except UnicodeDecodeError:
        page = ""
    if "<ListBucketResult" not in page or "</ListBucketResult>" not in page:
        raise Unreachable(f"no list of objects: {content[:200]!r}")
    encoded = "<EncodingType>url</EncodingType>" in page
    entries = page.split("<Contents>")
    listed = [_listed(each.partition("</Contents>")[0], encoded=encoded) for each in entries[1:]]
    outside = entries[0] + entries[-1].rpartition("</Contents>")[2]
    token = _text(outside, "NextContinuationToken")
    return listed, token if _tag(outside, "IsTruncated") == "true" else ""


def _listed(entry: str, *, encoded: bool) -> Listed:
    key, size = _text(entry, "Key"), _tag(entry, "Size")
    if not key or not (size.isascii() and size.isdecimal() and len(size) <= _SIZE_DIGITS_MAX):
        raise Unreachable(f"no object of a list: {entry[:200]!r}")
    return Listed(
        key=unquote_plus(key) if encoded else key,
        size=int(size),
        etag=_text(entry, "ETag"),
    )


def _text(text: str, name: str) -> str:
    """What is in the element. A figure in `&#…;` may be of any length, so the whole has a bound."""
    return html.unescape(_tag(text, name)[:_TEXT_CHARS_MAX])


def _tag(text: str, name: str) -> str:
    return text.partition(f"<{name}>")[2].partition(f"</{name}>")[0]
