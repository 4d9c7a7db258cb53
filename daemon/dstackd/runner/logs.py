"""CloudWatch Logs, write side. Law: one call a method; batching is the shipper's.

Source: AWS, "PutLogEvents" and "CloudWatch Logs quotas".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from dstackd import protocol
from dstackd.runner.aws import AwsApi
from dstackd.runner.credentials import InstanceCredentials
from dstackd.runner.errors import AwsError, Unreachable
from dstackd.runner.s3 import service_url

Event = tuple[int, str]
"""(ms since the epoch, message)"""


class LogStream:
    """One stream of one group; the group is made by the daemon."""

    def __init__(self, logs: AwsApi, *, group: str, stream: str) -> None:
        self._logs = logs
        self._name = {"logGroupName": group, "logStreamName": stream}

    def create(self, *, patience_s: float) -> None:
        """Make the stream; it may be there. AwsError ResourceNotFoundException: no such group."""
        try:
            self._send("CreateLogStream", _json(self._name), patience_s=patience_s)
        except AwsError as error:
            if error.code != "ResourceAlreadyExistsException":
                raise

    def put(self, events: Sequence[Event], *, patience_s: float) -> str:
        """Write one batch in time order; AWS's words about events it refused, or nothing."""
        entries = ({"timestamp": at_ms, "message": message} for at_ms, message in events)
        return self.put_encoded(b",".join(map(_json, entries)), patience_s=patience_s)

    def put_encoded(self, entries: bytes, *, patience_s: float) -> str:
        """The same for JSON objects with commas between."""
        names = _json(self._name)[:-1]
        body = b'%s,"logEvents":[%s]}' % (names, entries)
        answer = self._send("PutLogEvents", body, patience_s=patience_s)
        refused = answer.get("rejectedLogEventsInfo")
        return json.dumps(refused) if refused else ""

    def _send(self, operation: str, body: bytes, *, patience_s: float) -> dict[str, object]:
        answer = self._logs.call_json(f"Logs_20140328.{operation}", body, patience_s=patience_s)
        try:
            value = protocol.load_json(answer or b"{}")
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise Unreachable(f"{operation}: an answer that is no JSON object")
        return value


def _json(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")


def logs_api(
    *, region: str, credentials: InstanceCredentials, environ: Mapping[str, str]
) -> AwsApi:
    """The service in this region, or at the endpoint that the environment asks for."""
    url = service_url(environ, "AWS_ENDPOINT_URL_CLOUDWATCH_LOGS", name="logs", region=region)
    return AwsApi("logs", url=url, region=region, credentials=credentials)
