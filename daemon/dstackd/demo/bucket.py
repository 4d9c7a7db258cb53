"""The two requests that the demo makes to S3 itself: the operator's bucket, and a look past the daemon.

Law: standard library only, and for the local cloud only, which reads who signed a request and does
not check the signature. An SDK would be a second of imports for two requests.
"""

from __future__ import annotations

import http.client
from typing import Final
from urllib.parse import quote, urlsplit

from dstackd.demo.config_file import BUCKET, REGION
from dstackd.demo.errors import DemoError

_TIMEOUT_S: Final = 20.0
_AUTHORIZATION: Final = (
    f"AWS4-HMAC-SHA256 Credential=operator/20260101/{REGION}/s3/aws4_request,"
    " SignedHeaders=host, Signature=0"
)
_CONFIGURATION: Final = (
    f"<CreateBucketConfiguration><LocationConstraint>{REGION}</LocationConstraint>"
    "</CreateBucketConfiguration>"
)


def create_bucket(endpoint_url: str) -> None:
    """Make the demo's bucket. Raises DemoError, OSError."""
    status, content = _ask(endpoint_url, "PUT", f"/{BUCKET}", _CONFIGURATION.encode())
    if status != http.client.OK:
        raise DemoError(f"the cloud did not make the bucket: {status} {content[:200]!r}")


def read_object(endpoint_url: str, key: str) -> bytes | None:
    """An object's content; None where there is none. Raises DemoError, OSError."""
    status, content = _ask(endpoint_url, "GET", f"/{BUCKET}/{quote(key)}")
    if status == http.client.NOT_FOUND:
        return None
    if status != http.client.OK:
        raise DemoError(f"the cloud did not give {key}: {status} {content[:200]!r}")
    return content


def _ask(endpoint_url: str, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    parts = urlsplit(endpoint_url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=_TIMEOUT_S)
    try:
        connection.request(method, path, body or None, {"Authorization": _AUTHORIZATION})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
