"""AWS Signature Version 4. Law: pure; tested against botocore's signer.

Source: AWS IAM user guide, "Create a signed AWS API request". The path is taken as it is written:
that is S3's rule, and the rule of every service for the path `/`, which is all that is sent here.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

ALGORITHM = "AWS4-HMAC-SHA256"
UNRESERVED = "-_.~"
PAYLOAD_HEADER = "x-amz-content-sha256"


@dataclass(frozen=True)
class Credentials:
    """What a request is signed with; `session_token` is empty for a long-lived key."""

    access_key_id: str
    secret_access_key: str
    session_token: str = ""


@dataclass(frozen=True)
class Request:
    """`path` is percent-encoded, `query` is not."""

    method: str
    path: str
    host: str
    query: Sequence[tuple[str, str]] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


def encode_path(path: str) -> str:
    """An S3 key as the path of a request."""
    return quote(path, safe="/" + UNRESERVED)


def encode_query(query: Sequence[tuple[str, str]]) -> str:
    """The query string, in the order that is signed."""
    pairs = sorted(
        (quote(name, safe=UNRESERVED), quote(value, safe=UNRESERVED)) for name, value in query
    )
    return "&".join(f"{name}={value}" for name, value in pairs)


def sign(
    request: Request,
    *,
    credentials: Credentials,
    region: str,
    service: str,
    amz_date: str,
) -> dict[str, str]:
    """All headers to send. `amz_date` is UTC as `YYYYMMDDTHHMMSSZ`."""
    headers = {name.lower(): value for name, value in request.headers.items()}
    # Whoever has hashed the body already says so: at gigabytes, a second time is seconds.
    payload = headers.get(PAYLOAD_HEADER) or hashlib.sha256(request.body).hexdigest()
    headers["host"] = request.host
    headers["x-amz-date"] = amz_date
    if service == "s3":
        headers[PAYLOAD_HEADER] = payload
    if credentials.session_token:
        headers["x-amz-security-token"] = credentials.session_token
    names = ";".join(sorted(headers))
    scope = f"{amz_date[:8]}/{region}/{service}/aws4_request"
    canonical = _canonical_request(request, headers, names, payload)
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    to_sign = f"{ALGORITHM}\n{amz_date}\n{scope}\n{digest}"
    key = _signing_key(credentials.secret_access_key, scope)
    signature = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
    headers["authorization"] = (
        f"{ALGORITHM} Credential={credentials.access_key_id}/{scope}, "
        f"SignedHeaders={names}, Signature={signature}"
    )
    return headers


def _canonical_request(
    request: Request, headers: Mapping[str, str], names: str, payload: str
) -> str:
    lines = "".join(f"{name}:{' '.join(headers[name].split())}\n" for name in sorted(headers))
    query = encode_query(request.query)
    return f"{request.method}\n{request.path}\n{query}\n{lines}\n{names}\n{payload}"


def _signing_key(secret: str, scope: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for word in scope.split("/"):
        key = hmac.new(key, word.encode(), hashlib.sha256).digest()
    return key
