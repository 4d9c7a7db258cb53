"""What was called: one record per AWS request, and who made it.

Law: reads requests, changes none (a body that was read is put back). Secrets and user-data are
never recorded, only their sizes.
"""

import io
import json
import re
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

Environ = dict[str, Any]

_KEPT = 50_000
_CREDENTIAL = re.compile(r"Credential=([^/]+)/\d+/([^/]+)/([^/]+)/aws4_request")
_TAGGED_ID = re.compile(r"(?:i|sir)-[0-9a-z]+")
_SECRET = re.compile(r"UserData|SecretString|SecretBinary|PolicyDocument", re.IGNORECASE)
_LONGEST = 300

# S3's operations by method and sub-resource; the SDK's names, not IAM's.
_BUCKET_OPERATIONS = {
    "GET": {
        "location": "GetBucketLocation",
        "lifecycle": "GetBucketLifecycleConfiguration",
        "acl": "GetBucketAcl",
        "uploads": "ListMultipartUploads",
        "versions": "ListObjectVersions",
        "tagging": "GetBucketTagging",
        "list-type": "ListObjectsV2",
        "": "ListObjects",
    },
    "PUT": {
        "lifecycle": "PutBucketLifecycleConfiguration",
        "tagging": "PutBucketTagging",
        "": "CreateBucket",
    },
    "HEAD": {"": "HeadBucket"},
    "DELETE": {"lifecycle": "DeleteBucketLifecycle", "": "DeleteBucket"},
    "POST": {"delete": "DeleteObjects", "": "PostObject"},
}
_OBJECT_OPERATIONS = {
    "GET": {
        "tagging": "GetObjectTagging",
        "acl": "GetObjectAcl",
        "attributes": "GetObjectAttributes",
        "uploadId": "ListParts",
        "": "GetObject",
    },
    "PUT": {
        "tagging": "PutObjectTagging",
        "acl": "PutObjectAcl",
        "partNumber": "UploadPart",
        "": "PutObject",
    },
    "HEAD": {"": "HeadObject"},
    "DELETE": {
        "tagging": "DeleteObjectTagging",
        "uploadId": "AbortMultipartUpload",
        "": "DeleteObject",
    },
    "POST": {
        "uploads": "CreateMultipartUpload",
        "uploadId": "CompleteMultipartUpload",
        "": "PostObject",
    },
}


@dataclass(slots=True)
class Call:
    """One request. `principal` is an instance id for a machine's role, else `client`."""

    number: int
    at_ms: int
    service_name: str
    operation: str
    region: str
    access_key: str
    principal: str
    parameters: dict[str, Any]
    resource_tags: dict[str, dict[str, str]]
    """Tags, when the call arrived, of every instance and spot request named in the parameters."""
    status: int = 0


@dataclass(slots=True)
class CallLog:
    """The last 50,000 calls and the counts of all."""

    principal: Callable[[str], str | None]
    tags: Callable[[str], Mapping[str, str]]
    now: Callable[[], float]
    _records: "deque[Call]" = field(default_factory=lambda: deque(maxlen=_KEPT))
    _counts: dict[str, "Counter[str]"] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _number: int = 0

    def begin(self, environ: Environ) -> Call:
        """Record a request that has just arrived; the caller sets `status` later."""
        access_key, region, service_name = _signed_by(environ)
        operation, parameters = _what(environ, service_name)
        instance = self.principal(access_key)
        named = {
            text
            for text in parameters.values()
            if isinstance(text, str) and _TAGGED_ID.fullmatch(text)
        }
        tags = {one: dict(self.tags(one)) for one in sorted(named)}
        with self._lock:
            self._number += 1
            call = Call(
                number=self._number,
                at_ms=int(self.now() * 1000),
                service_name=service_name,
                operation=operation,
                region=region,
                access_key=access_key,
                principal=instance or "client",
                parameters=parameters,
                resource_tags=tags,
            )
            self._records.append(call)
            side = self._counts.setdefault("machines" if instance else "client", Counter())
            side[f"{service_name}:{operation}"] += 1
        return call

    def report(self, *, since: int) -> dict[str, Any]:
        """Return counts by side and the records numbered above `since`."""
        with self._lock:
            counts = {side: dict(sorted(counter.items())) for side, counter in self._counts.items()}
            records = [asdict(call) for call in self._records if call.number > since]
        return {"client": {}, "machines": {}, **counts, "records": records, "last": self._number}


def _signed_by(environ: Environ) -> tuple[str, str, str]:
    """Return access key id, region and service; an unsigned request is S3's, as moto has it."""
    query = unquote(environ.get("QUERY_STRING", ""))
    signature = environ.get("HTTP_AUTHORIZATION", "") or query.replace(
        "X-Amz-Credential", "Credential"
    )
    match = _CREDENTIAL.search(signature)
    return (match[1], match[2], match[3]) if match else ("", "", "s3")


def _what(environ: Environ, service_name: str) -> tuple[str, dict[str, Any]]:
    if service_name == "s3":
        return _what_of_s3(environ)
    body = _body(environ)
    target = environ.get("HTTP_X_AMZ_TARGET")
    if target is not None:
        return target.rpartition(".")[2], _outline(_json(body))
    form = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
    operation = form.pop("Action", "") or f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"
    form.pop("Version", None)
    return operation, _outline(form)


def _what_of_s3(environ: Environ) -> tuple[str, dict[str, Any]]:
    bucket, _, key = environ["PATH_INFO"].lstrip("/").partition("/")
    query = dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))
    parameters: dict[str, Any] = {"Bucket": bucket, "Key": key}
    parameters |= {
        name: query[name] for name in ("prefix", "delimiter", "max-keys") if name in query
    }
    for name, header in (("IfNoneMatch", "HTTP_IF_NONE_MATCH"), ("IfMatch", "HTTP_IF_MATCH")):
        if header in environ:
            parameters[name] = environ[header]
    method = environ["REQUEST_METHOD"]
    if not bucket:
        return "ListBuckets", {}
    table = (_OBJECT_OPERATIONS if key else _BUCKET_OPERATIONS).get(method, {})
    for name, operation in table.items():
        if name == "" or name in query:
            if operation == "PutObject" and "HTTP_X_AMZ_COPY_SOURCE" in environ:
                return "CopyObject", parameters
            return operation, parameters
    return method, parameters


def _body(environ: Environ) -> bytes:
    length = int(environ.get("CONTENT_LENGTH") or 0)
    body: bytes = environ["wsgi.input"].read(length)
    environ["wsgi.input"] = io.BytesIO(body)
    return body


def _json(body: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(body or b"{}")
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _outline(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Keep what a reader needs: short values as they are, sizes of long and of secret ones."""
    outline: dict[str, Any] = {}
    for name, value in parameters.items():
        text = value if isinstance(value, str) else json.dumps(value)
        if _SECRET.search(name):
            outline[name] = f"<{len(text)} characters>"
        elif isinstance(value, list) and len(text) > _LONGEST:
            outline[name] = f"<{len(value)} items>"
        else:
            outline[name] = value if len(text) <= _LONGEST else text[:_LONGEST] + "…"
    return outline
