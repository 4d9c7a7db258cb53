"""S3 in memory, path style. Law: one bucket's objects by key; strongly consistent, as S3 is."""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_left, insort
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from urllib.parse import quote
from xml.sax.saxutils import escape, unescape

PAGE_MAX = 1000
_SPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


@dataclass(frozen=True, slots=True)
class Stored:
    """One object."""

    body: bytes
    etag: str
    modified: datetime


@dataclass(frozen=True, slots=True)
class S3Answer:
    """Status, body and headers of an answer; an error has its code."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] | None = None
    code: str = ""


class S3:
    """Every object of every bucket: there is one."""

    def __init__(self) -> None:
        self.objects: dict[str, Stored] = {}
        self._keys: list[str] = []

    def put(self, key: str, body: bytes) -> Stored:
        """Write an object, as a machine or a client does."""
        if key not in self.objects:
            insort(self._keys, key)
        digest = hashlib.md5(body, usedforsecurity=False).hexdigest()
        self.objects[key] = Stored(body, f'"{digest}"', datetime.now(tz=UTC))
        return self.objects[key]

    def answer(
        self, operation: str, key: str, *, query: Mapping[str, str], body: bytes, only_if_new: bool
    ) -> S3Answer:
        """Do one of the operations of `operation_of`."""
        match operation:
            case "PutObject":
                if only_if_new and key in self.objects:
                    return _failure(412, "PreconditionFailed")
                return S3Answer(headers={"ETag": self.put(key, body).etag})
            case "GetObject" | "HeadObject":
                return self._get(key, whole=operation == "GetObject")
            case "ListObjectsV2":
                return self._list(query)
            case "DeleteObjects":
                return self._delete(body)
            case _:
                return _failure(501, "NotImplemented")

    def _get(self, key: str, *, whole: bool) -> S3Answer:
        stored = self.objects.get(key)
        if stored is None:
            return _failure(404, "NoSuchKey") if whole else S3Answer(404, code="404")
        headers = {
            "ETag": stored.etag,
            "Last-Modified": format_datetime(stored.modified, usegmt=True),
        }
        return S3Answer(body=stored.body if whole else b"", headers=headers)

    def _list(self, query: Mapping[str, str]) -> S3Answer:
        prefix = query.get("prefix", "")
        start = bisect_left(self._keys, query.get("continuation-token") or prefix)
        found: list[str] = []
        following = ""
        for key in self._keys[start:]:
            if not key.startswith(prefix):
                break
            if len(found) == PAGE_MAX:
                following = key
                break
            found.append(key)
        entries = "".join(self._entry(key) for key in found)
        more = f"<NextContinuationToken>{escape(following)}</NextContinuationToken>"
        body = (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="{_SPACE}">'
            f"<KeyCount>{len(found)}</KeyCount><MaxKeys>{PAGE_MAX}</MaxKeys><EncodingType>url</EncodingType>"
            f"<IsTruncated>{'true' if following else 'false'}</IsTruncated>"
            f"{more if following else ''}{entries}</ListBucketResult>"
        )
        return S3Answer(body=body.encode())

    def _entry(self, key: str) -> str:
        stored = self.objects[key]
        modified = stored.modified.isoformat(timespec="milliseconds").removesuffix("+00:00")
        return (
            f"<Contents><Key>{quote(key)}</Key><LastModified>{modified}Z</LastModified>"
            f"<ETag>{escape(stored.etag)}</ETag><Size>{len(stored.body)}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
        )

    def _delete(self, body: bytes) -> S3Answer:
        for written in re.findall(r"<Key>(.*?)</Key>", body.decode()):
            key = unescape(written)
            if self.objects.pop(key, None) is not None:
                del self._keys[bisect_left(self._keys, key)]
        return S3Answer(body=f'<DeleteResult xmlns="{_SPACE}"/>'.encode())


def operation_of(method: str, key: str, query: Mapping[str, str]) -> str:
    """The operation of a request, by AWS's name; empty for one that is not here."""
    if method == "POST":
        return "DeleteObjects" if "delete" in query else ""
    if method == "GET" and not key:
        return "ListObjectsV2" if query.get("list-type") == "2" else ""
    return {"PUT": "PutObject", "GET": "GetObject", "HEAD": "HeadObject"}.get(method, "")


def without_chunks(body: bytes) -> bytes:
    """The content of an `aws-chunked` body."""
    content: list[bytes] = []
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size.partition(b";")[0], 16)
        if not length:
            break
        content.append(rest[:length])
        body = rest[length + 2 :]
    return b"".join(content)


def _failure(status: int, code: str) -> S3Answer:
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{code}</Message></Error>'
    return S3Answer(status, body.encode(), code=code)
