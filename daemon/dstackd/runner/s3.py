"""The bucket, as a machine uses it. Law: keys in, bytes out; no knowledge of jobs.

Every write carries its SHA-256, which S3 compares before it answers.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence

from dstackd.runner.aws import AwsApi
from dstackd.runner.credentials import InstanceCredentials
from dstackd.runner.errors import AwsError
from dstackd.runner.sigv4 import encode_path
from dstackd.runner.wire import Sink

CHECKSUM_HEADER = "x-amz-checksum-sha256"


def partition_domain(region: str) -> str:
    """DNS name that the region's endpoints end in."""
    return "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"


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

    def put(self, key: str, body: bytes, *, patience_s: float, only_if_new: bool = False) -> None:
        """Write an object. `only_if_new`: AwsError with status 412 when the key exists."""
        headers = {CHECKSUM_HEADER: checksum(body)}
        if only_if_new:
            headers["if-none-match"] = "*"
        self._api.call("PUT", self._path(key), headers=headers, body=body, patience_s=patience_s)

    def get(self, key: str, *, patience_s: float) -> bytes | None:
        """The whole object; None when it is not there."""
        try:
            return self._api.call("GET", self._path(key), patience_s=patience_s).body
        except AwsError as error:
            if error.code == "NoSuchKey":
                return None
            raise

    def download(self, key: str, sink: Sink, *, patience_s: float) -> None:
        """Pour the object into `sink`; a retry begins it again."""
        self._api.call("GET", self._path(key), sink=sink, patience_s=patience_s)

    def begin_multipart(self, key: str, *, patience_s: float) -> str:
        """Upload id. The bucket's lifecycle rule clears what is never completed."""
        answer = self._api.call(
            "POST",
            self._path(key),
            query=(("uploads", ""),),
            headers={"x-amz-checksum-algorithm": "SHA256"},
            patience_s=patience_s,
        )
        return answer.body.decode().partition("<UploadId>")[2].partition("</UploadId>")[0]

    def put_part(
        self, key: str, upload_id: str, *, number: int, body: bytes, patience_s: float
    ) -> str:
        """Upload part `number` (from 1); its ETag."""
        answer = self._api.call(
            "PUT",
            self._path(key),
            query=(("partNumber", str(number)), ("uploadId", upload_id)),
            headers={CHECKSUM_HEADER: checksum(body)},
            body=body,
            patience_s=patience_s,
        )
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
        answer = self._api.call(
            "POST",
            self._path(key),
            query=(("uploadId", upload_id),),
            body=f'<CompleteMultipartUpload xmlns="{xmlns}">{body}</CompleteMultipartUpload>'.encode(),
            patience_s=patience_s,
        )
        # S3 may answer 200 and then an error in the body (CompleteMultipartUpload documentation).
        if b"<Error>" in answer.body:
            raise AwsError("CompleteFailed", status=answer.status, message=repr(answer.body[:300]))

    def close(self) -> None:
        self._api.close()

    def _path(self, key: str) -> str:
        return encode_path(self._prefix + key)


def checksum(body: bytes) -> str:
    """What `x-amz-checksum-sha256` carries."""
    return base64.b64encode(hashlib.sha256(body).digest()).decode()


def s3_endpoint(environ: Mapping[str, str]) -> str:
    """The endpoint that the environment asks for, as AWS's own SDKs read it; empty for AWS."""
    return environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL") or ""
