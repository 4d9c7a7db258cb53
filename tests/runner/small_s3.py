"""A small S3 in memory, over real HTTP, that can stop answering at any request. Law: what it does, it
does as S3's API reference says: objects appear whole, checksums are compared, conditions hold.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote_plus, unquote, urlsplit

from dstackd.runner.s3 import Bucket
from tests.runner.loopback import Answering, LoopbackServer, credentials, serving

PAGE_KEYS = 1000
NAME = "b"
"""The machine's own bucket."""


@dataclass
class Stored:
    """An object."""

    body: bytes
    etag: str
    metadata: dict[str, str] = field(default_factory=dict)
    tagging: str = ""


@dataclass
class Upload:
    """A multipart upload that is not complete."""

    key: str
    metadata: dict[str, str]
    parts: dict[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What is sent back."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """A request."""

    method: str
    bucket: str
    key: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


class SmallS3(LoopbackServer):
    """`objects` by bucket and key. `regions`: buckets of other regions, with the region."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answerer)
        self.lock = threading.Lock()
        self.objects: dict[tuple[str, str], Stored] = {}
        self.uploads: dict[str, Upload] = {}
        self.regions: dict[str, str] = {}
        self.asked: list[tuple[str, str]] = []
        self.refuse: list[Answer] = []
        """Answers of the next requests, in place of the right ones."""
        self.refuse_by_number: dict[int, Answer] = {}
        """The same for the n-th request (from 1)."""
        self.dies_at: int | None = None
        """From this request on (from 1) no answer comes."""
        self.executes_the_last = False
        """Whether the request at which it dies is carried out."""
        self.slow_s = 0.0
        self._sleep = threading.Event()
        self._numbers = itertools.count(1)

    def keys(self, bucket: str) -> list[str]:
        return [key for name, key in self.objects if name == bucket]

    def answer(self, asked: Asked) -> Answer | None:
        """None: the connection is cut."""
        if self.slow_s:
            self._sleep.wait(self.slow_s)
        with self.lock:
            self.asked.append((asked.method, asked.key))
            number = len(self.asked)
            if self.dies_at is not None and number >= self.dies_at:
                if number == self.dies_at and self.executes_the_last:
                    self._execute(asked)
                return None
            if self.refuse or number in self.refuse_by_number:
                return self.refuse_by_number.get(number) or self.refuse.pop(0)
            return self._execute(asked)

    def _execute(self, asked: Asked) -> Answer:
        region = self.regions.get(asked.bucket, "")
        if region and f"/{region}/s3/" not in asked.headers.get("authorization", ""):
            return an_error("PermanentRedirect", 301, {"x-amz-bucket-region": region})
        if not asked.key:
            return self._list(asked)
        if asked.method in {"GET", "HEAD"}:
            return self._get(asked)
        if asked.method == "DELETE":
            self.uploads.pop(asked.query["uploadId"], None)
            return Answer(204)
        return self._post(asked) if asked.method == "POST" else self._put(asked)

    def _get(self, asked: Asked) -> Answer:
        stored = self.objects.get((asked.bucket, asked.key))
        if stored is None:
            return an_error("NoSuchKey", 404)
        if asked.headers.get("if-match", stored.etag) != stored.etag:
            return an_error("PreconditionFailed", 412)
        headers = {"etag": stored.etag, **stored.metadata}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", asked.headers.get("range", ""))
        if wanted:
            first, last = int(wanted[1]), int(wanted[2])
            return Answer(206, stored.body[first : last + 1], headers)
        return Answer(200, stored.body, headers)

    def _put(self, asked: Asked) -> Answer:
        digest = base64.b64encode(hashlib.sha256(asked.body).digest()).decode()
        if asked.headers.get("x-amz-checksum-sha256", digest) != digest:
            return an_error("BadDigest", 400)
        etag = f'"{hashlib.md5(asked.body, usedforsecurity=False).hexdigest()}"'
        if "uploadId" in asked.query:
            upload = self.uploads.get(asked.query["uploadId"])
            if upload is None:
                return an_error("NoSuchUpload", 404)
            upload.parts[int(asked.query["partNumber"])] = asked.body
            return Answer(headers={"etag": etag})
        place = (asked.bucket, asked.key)
        if asked.headers.get("if-none-match") == "*" and place in self.objects:
            return an_error("PreconditionFailed", 412)
        self.objects[place] = Stored(
            asked.body, etag, _metadata(asked), asked.headers.get("x-amz-tagging", "")
        )
        return Answer(headers={"etag": etag})

    def _post(self, asked: Asked) -> Answer:
        if "uploads" in asked.query:
            upload_id = f"upload-{next(self._numbers)}"
            self.uploads[upload_id] = Upload(asked.key, _metadata(asked))
            return Answer(body=f"<R><UploadId>{upload_id}</UploadId></R>".encode())
        upload = self.uploads.pop(asked.query["uploadId"], None)
        if upload is None:
            return an_error("NoSuchUpload", 404)
        numbers = [int(number) for number in re.findall(r"<PartNumber>(\d+)<", asked.body.decode())]
        body = b"".join(upload.parts[number] for number in numbers)
        etag = f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}-{len(numbers)}"'
        self.objects[asked.bucket, asked.key] = Stored(body, etag, upload.metadata)
        return Answer(body=b"<CompleteMultipartUploadResult/>")

    def _list(self, asked: Asked) -> Answer:
        prefix, after = asked.query.get("prefix", ""), asked.query.get("continuation-token", "")
        count = min(PAGE_KEYS, int(asked.query.get("max-keys", PAGE_KEYS)))
        keys = sorted(
            (key for key in self.keys(asked.bucket) if key.startswith(prefix) and key > after),
            key=str.encode,
        )
        entries = "".join(
            f"<Contents><Key>{quote_plus(key, safe='/')}</Key>"
            f"<ETag>{self.objects[asked.bucket, key].etag.replace(chr(34), '&quot;')}</ETag>"
            f"<Size>{len(self.objects[asked.bucket, key].body)}</Size></Contents>"
            for key in keys[:count]
        )
        more = ""
        if len(keys) > count:
            more = f"<NextContinuationToken>{keys[count - 1]}</NextContinuationToken>"
        truncated = str(len(keys) > count).lower()
        page = (
            f"<EncodingType>url</EncodingType><IsTruncated>{truncated}</IsTruncated>{more}{entries}"
        )
        return Answer(body=f"<ListBucketResult>{page}</ListBucketResult>".encode())


def _metadata(asked: Asked) -> dict[str, str]:
    return {name: text for name, text in asked.headers.items() if name.startswith("x-amz-meta-")}


def an_error(code: str, status: int, headers: Mapping[str, str] | None = None) -> Answer:
    body = f"<Error><Code>{code}</Code><Message>made up</Message></Error>".encode()
    return Answer(status, body, headers or {})


class _Answerer(Answering):
    server: SmallS3
    disable_nagle_algorithm = True

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        _, bucket, key = (unquote(parts.path) + "/").split("/", 2)
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        headers = {name.lower(): text for name, text in self.headers.items()}
        answer = self.server.answer(Asked(self.command, bucket, key[:-1], query, headers, body))
        if answer is None:
            self.close_connection = True
            return
        self.send_response_only(answer.status)
        for name, text in answer.headers.items():
            self.send_header(name, text)
        self.send_header("content-length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve  # noqa: N815 - http.server's names


def wait_for_uploads(deadline_s: float = 20.0) -> None:
    """Until threads that an upload gave up on have ended, and with them their connections."""
    ours = ("ThreadPoolExecutor", "manifest", "artifacts")
    until = time.monotonic() + deadline_s
    while any(thread.name.startswith(ours) for thread in threading.enumerate()):
        assert time.monotonic() < until, threading.enumerate()
        time.sleep(0.01)


def small_s3() -> AbstractContextManager[SmallS3]:
    return serving(SmallS3())


def bucket_of(server: SmallS3) -> Bucket:
    """The machine's own bucket there."""
    return Bucket(NAME, region="r", credentials=credentials(), endpoint_url=server.url)
