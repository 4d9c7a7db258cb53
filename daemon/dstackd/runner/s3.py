"""The bucket, as a machine uses it. Law: keys in, bytes out; no knowledge of jobs.

Every write carries its SHA-256, which S3 compares before it answers.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dstackd.runner.aws import AwsApi
from dstackd.runner.credentials import InstanceCredentials
from dstackd.runner.errors import AwsError, Unreachable
from dstackd.runner.pace import Deadline, backoff_s
from dstackd.runner.sigv4 import PAYLOAD_HEADER, encode_path
from dstackd.runner.wire import Sink

CHECKSUM_HEADER = "x-amz-checksum-sha256"
KEY_BYTES_MAX = 1024
"""In UTF-8 (S3 user guide, "Naming Amazon S3 objects")."""


def partition_domain(region: str) -> str:
    """DNS name that the region's endpoints end in."""
    return "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"


def asked_endpoint(environ: Mapping[str, str], variable: str) -> str:
    """The endpoint that the environment asks for in a service's `variable`, or for all services, as AWS's own
    SDKs read it; empty for AWS.
    """
    return environ.get(variable) or environ.get("AWS_ENDPOINT_URL") or ""


def service_url(environ: Mapping[str, str], variable: str, *, name: str, region: str) -> str:
    """Where the service called `name` is: in the region, or where the environment says."""
    return (
        asked_endpoint(environ, variable) or f"https://{name}.{region}.{partition_domain(region)}"
    )


@dataclass(frozen=True)
class ObjectHead:
    """What S3 tells about an object; header names are in lower case."""

    size: int
    etag: str
    headers: Mapping[str, str] = field(default_factory=dict)


class Bucket:
    """One bucket. May be used from several threads."""

    def __init__(
        self, name: str, *, region: str, credentials: InstanceCredentials, endpoint_url: str = ""
    ) -> None:
        domain = f"s3.{region}.{partition_domain(region)}"
        # A name with dots fails the certificate's wildcard; an endpoint of one's own has no
        # wildcard names at all.
        in_path = bool(endpoint_url) or "." in name
        url = endpoint_url or (f"https://{domain}" if in_path else f"https://{name}.{domain}")
        self._prefix = f"/{name}/" if in_path else "/"
        self._api = AwsApi("s3", url=url, region=region, credentials=credentials)
        self._credentials = credentials
        self._endpoint_url = endpoint_url
        self.name = name
        self.region = region

    def other(self, name: str, *, region: str = "") -> Bucket:
        """Another bucket under the same role; `region` empty is this one's."""
        return Bucket(
            name,
            region=region or self.region,
            credentials=self._credentials,
            endpoint_url=self._endpoint_url,
        )

    def put(
        self,
        key: str,
        body: bytes,
        *,
        patience_s: float,
        only_if_new: bool = False,
        headers: Mapping[str, str] | None = None,
        digest: bytes = b"",
    ) -> None:
        """Write an object. `only_if_new`: AwsError with status 412 when the key exists. `headers`: more
        of them, such as metadata. `digest`: the body's SHA-256, where it is known already.
        """
        sent = {**checksums(digest or sha256(body)), **(headers or {})}
        if only_if_new:
            sent["if-none-match"] = "*"
        self._api.call("PUT", self._path(key), headers=sent, body=body, patience_s=patience_s)

    def get(self, key: str, *, patience_s: float) -> bytes | None:
        """The whole object; None when it is not there."""
        try:
            return self._api.call("GET", self._path(key), patience_s=patience_s).body
        except AwsError as error:
            if error.code == "NoSuchKey":
                return None
            raise

    def head(self, key: str, *, patience_s: float) -> ObjectHead:
        """Size, ETag and metadata. AwsError with status 404 when it is not there."""
        headers = self._api.call("HEAD", self._path(key), patience_s=patience_s).headers
        size = headers.get("content-length", "")
        if not size.isdecimal():
            raise Unreachable(f"HEAD {key}: an answer without the object's size")
        return ObjectHead(int(size), headers.get("etag", ""), headers)

    def download(
        self,
        key: str,
        sink: Sink,
        *,
        patience_s: float,
        etag: str = "",
        piece: tuple[int, int] | None = None,
    ) -> Mapping[str, str]:
        """Pour the object into `sink`; a retry begins it again. `etag`: AwsError with status 412 when
        it is another one now. `piece`: first and last byte. The answer's headers.
        """
        headers = {"if-match": etag} if etag else {}
        if piece is not None:
            headers["range"] = f"bytes={piece[0]}-{piece[1]}"
        answer = self._api.call(
            "GET", self._path(key), headers=headers, sink=sink, patience_s=patience_s
        )
        return answer.headers

    def list_page(self, query: Sequence[tuple[str, str]], *, patience_s: float) -> bytes:
        """One page of ListObjectsV2, as XML."""
        asked = (("list-type", "2"), *query)
        path = encode_path(self._prefix.rstrip("/")) or "/"
        return self._api.call("GET", path, query=asked, patience_s=patience_s).body

    def begin_multipart(
        self, key: str, *, patience_s: float, headers: Mapping[str, str] | None = None
    ) -> str:
        """Upload id. The bucket's lifecycle rule clears what is never completed."""
        answer = self._api.call(
            "POST",
            self._path(key),
            query=(("uploads", ""),),
            headers={"x-amz-checksum-algorithm": "SHA256", **(headers or {})},
            patience_s=patience_s,
        )
        upload_id = answer.body.decode("utf-8", "replace").partition("<UploadId>")[2]
        upload_id, found, _ = upload_id.partition("</UploadId>")
        if not found:
            raise Unreachable(f"POST {key}: an answer without the upload's id")
        return upload_id

    def put_part(
        self,
        key: str,
        upload_id: str,
        *,
        number: int,
        body: bytes,
        patience_s: float,
        digest: bytes = b"",
    ) -> str:
        """Upload part `number` (from 1); its ETag."""
        answer = self._api.call(
            "PUT",
            self._path(key),
            query=(("partNumber", str(number)), ("uploadId", upload_id)),
            headers=checksums(digest or sha256(body)),
            body=body,
            patience_s=patience_s,
        )
        if "etag" not in answer.headers:
            raise Unreachable(f"PUT {key}: an answer without an ETag")
        return answer.headers["etag"]

    def complete_multipart(
        self, key: str, upload_id: str, *, parts: Sequence[tuple[str, str]], patience_s: float
    ) -> None:
        """Join the parts: (ETag, checksum) in order."""
        body = "".join(
            f"<Part><ChecksumSHA256>{digest}</ChecksumSHA256><ETag>{etag}</ETag>"
            f"<PartNumber>{number}</PartNumber></Part>"
            for number, (etag, digest) in enumerate(parts, start=1)
        )
        xmlns = "http://s3.amazonaws.com/doc/2006-03-01/"
        content = (
            f'<CompleteMultipartUpload xmlns="{xmlns}">{body}</CompleteMultipartUpload>'.encode()
        )
        deadline = Deadline(patience_s)
        for tries in itertools.count():
            answer = self._api.call(
                "POST",
                self._path(key),
                query=(("uploadId", upload_id),),
                body=content,
                patience_s=deadline.left_s(),
            )
            # S3 may answer 200 and then an error in the body, which is to be repeated
            # (CompleteMultipartUpload, API reference).
            if b"<Error>" not in answer.body:
                return
            wait_s = backoff_s(tries)
            if wait_s >= deadline.left_s():
                raise AwsError("CompleteFailed", status=500, message=repr(answer.body[:300]))
            time.sleep(wait_s)

    def abort_multipart(self, key: str, upload_id: str, *, patience_s: float) -> None:
        """Drop an upload and its parts."""
        query = (("uploadId", upload_id),)
        self._api.call("DELETE", self._path(key), query=query, patience_s=patience_s)

    def close(self) -> None:
        self._api.close()

    def _path(self, key: str) -> str:
        return encode_path(self._prefix + key)


def sha256(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()


def checksum(digest: bytes) -> str:
    """What `x-amz-checksum-sha256` carries."""
    return base64.b64encode(digest).decode()


def checksums(digest: bytes) -> dict[str, str]:
    """The headers of a body with this SHA-256: the same digest is the checksum and signs the body."""
    return {CHECKSUM_HEADER: checksum(digest), PAYLOAD_HEADER: digest.hex()}


def s3_endpoint(environ: Mapping[str, str]) -> str:
    """The endpoint that the environment asks for; empty for AWS."""
    return asked_endpoint(environ, "AWS_ENDPOINT_URL_S3")
