"""What lies below a prefix of a bucket. Law: reads names, no content; all pages, in S3's order."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import unquote_plus

from dstackd.runner.s3 import Bucket

_ENTRY = re.compile(r"<Contents>(.*?)</Contents>", re.DOTALL)


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
    while True:
        more = [("continuation-token", token)] if token else []
        page = bucket.list_page([*asked, *more], patience_s=patience_s).decode()
        encoded = "<EncodingType>url</EncodingType>" in page
        for entry in _ENTRY.findall(page):
            yield _listed(entry, encoded=encoded)
        token = html.unescape(_tag(page, "NextContinuationToken"))
        if count_max is not None or not token or _tag(page, "IsTruncated") != "true":
            return


def _listed(entry: str, *, encoded: bool) -> Listed:
    key = html.unescape(_tag(entry, "Key"))
    return Listed(
        key=unquote_plus(key) if encoded else key,
        size=int(_tag(entry, "Size")),
        etag=html.unescape(_tag(entry, "ETag")),
    )


def _tag(text: str, name: str) -> str:
    found = re.search(f"<{name}>(.*?)</{name}>", text, re.DOTALL)
    return found.group(1) if found else ""
