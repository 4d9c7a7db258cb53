"""AWS's side of the wire for tests that run the runner's parts in the test's own process."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

from typing_extensions import override

from dstackd.local.imds import MetadataServer
from dstackd.runner.credentials import InstanceCredentials
from dstackd.runner.imds import Imds

BATCH_BYTES_MAX = 1_048_576
BATCH_EVENTS_MAX = 10_000
SPAN_MS_MAX = 24 * 3_600_000


def metadata_facts(**changes: object) -> dict[str, Any]:
    """What one machine's metadata service tells."""
    return {
        "ami_id": "ami-1",
        "hostname": "ip-10-0-0-1",
        "identity": {},
        "instance_id": "i-0123456789abcdef0",
        "instance_type": "m5.large",
        "launch_index": 0,
        "lifecycle": "spot",
        "private_ip": "10.0.0.1",
        "region": "us-east-1",
        "reservation_id": "r-1",
        "role": {
            "name": "a-role",
            "profile_arn": "arn:aws:iam::123456789012:instance-profile/a-role",
            "profile_id": "AIPA",
            "credentials": {
                "AccessKeyId": "ASIAOFAMACHINE",
                "SecretAccessKey": "of no meaning",
                "Token": "a token",
            },
        },
        "tags": {"dstack_bucket": "a-bucket", "dstackd:launch": "a-launch"},
        "user_data": "",
        "zone": "us-east-1a",
    } | changes


def metadata(**changes: object) -> tuple[MetadataServer, Imds]:
    """A metadata service and its reader."""
    server = MetadataServer(metadata_facts(**changes))
    server.start()
    return server, Imds(f"http://127.0.0.1:{server.port}")


def credentials() -> InstanceCredentials:
    return InstanceCredentials(metadata()[1])


class LoopbackServer(ThreadingHTTPServer):
    """On a free port of 127.0.0.1."""

    daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answering(BaseHTTPRequestHandler):
    """One connection to such a server; it stays open, and nothing is printed."""

    protocol_version = "HTTP/1.1"

    @override
    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


S = TypeVar("S", bound=LoopbackServer)


@contextmanager
def serving(server: S) -> Iterator[S]:
    """Have it answer, in a thread, until the block ends."""
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class CloudWatch(LoopbackServer):
    """CloudWatch Logs, write side, which refuses what AWS refuses (its API reference)."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answerer)
        self.lock = threading.Lock()
        self.has_group = True
        self.answers: list[tuple[int, str]] = []
        """(status, code) of the next calls, before the normal behaviour goes on."""
        self.streams: dict[str, list[str]] = {}
        self.batches: list[int] = []

    def answer(self, operation: str, asked: dict[str, Any]) -> tuple[int, str]:
        """The status and the error code."""
        with self.lock:
            if self.answers:
                return self.answers.pop(0)
            if not self.has_group:
                return 400, "ResourceNotFoundException"
            stream = asked["logStreamName"]
            if operation == "CreateLogStream":
                if stream in self.streams:
                    return 400, "ResourceAlreadyExistsException"
                self.streams[stream] = []
                return 200, ""
            if stream not in self.streams:
                return 400, "ResourceNotFoundException"
            return self._put(stream, asked["logEvents"])

    def _put(self, stream: str, events: list[dict[str, Any]]) -> tuple[int, str]:
        stamps = [event["timestamp"] for event in events]
        messages = [event["message"] for event in events]
        fits = (
            1 <= len(events) <= BATCH_EVENTS_MAX
            and sum(len(message.encode()) + 26 for message in messages) <= BATCH_BYTES_MAX
            and all(0 < len(message.encode()) <= 262_144 - 26 for message in messages)
            and stamps == sorted(stamps)
            and stamps[-1] - stamps[0] <= SPAN_MS_MAX
        )
        if not fits:
            return 400, "InvalidParameterException"
        self.streams[stream] += messages
        self.batches.append(len(events))
        return 200, ""


class _Answerer(Answering):
    server: CloudWatch

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        operation = self.headers["x-amz-target"].partition(".")[2]
        status, code = self.server.answer(operation, json.loads(body))
        answer = json.dumps({"__type": f"com.amazonaws.logs#{code}"} if code else {}).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


def cloudwatch() -> AbstractContextManager[CloudWatch]:
    return serving(CloudWatch())


@dataclass
class Canned:
    """One answer of a ScriptedServer; `cut`: the connection ends in the middle of the body."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False


@dataclass(frozen=True)
class Asked:
    """One request that a ScriptedServer has seen."""

    method: str
    target: str
    headers: dict[str, str]


class ScriptedServer(LoopbackServer):
    """Gives the answers it was given, then `always`: 200 without a body."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Reciter)
        self.answers: list[Canned] = []
        self.always = Canned()
        self.asked: list[Asked] = []
        self.connections = 0


class _Reciter(Answering):
    server: ScriptedServer

    @override
    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def _recite(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): text for name, text in self.headers.items()}
        self.server.asked.append(Asked(self.command, self.path, headers))
        answer = self.server.answers.pop(0) if self.server.answers else self.server.always
        self.send_response_only(answer.status)
        for name, text in answer.headers.items():
            self.send_header(name, text)
        self.send_header("content-length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body[: len(answer.body) // 2] if answer.cut else answer.body)
        self.close_connection = self.close_connection or answer.cut

    do_GET = do_PUT = do_POST = _recite  # noqa: N815 - http.server's names


def scripted() -> AbstractContextManager[ScriptedServer]:
    return serving(ScriptedServer())
