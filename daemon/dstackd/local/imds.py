"""One machine's instance metadata service, version 2.

Law: standard library only, light to import (a machine player loads it); answers on 127.0.0.1 only;
never answers without a valid session token, so code that would need version 1 fails here too.
Source of paths and statuses: AWS, "Use the Instance Metadata Service to access instance metadata".
"""

import base64
import json
import os
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

MAX_TOKEN_TTL_S = 21_600
_CREDENTIALS_TTL_S = 21_600
_HEAD_LIMIT_BYTES = 65_536
_TTL_HEADER = "x-aws-ec2-metadata-token-ttl-seconds"
_TOKEN_HEADER = "x-aws-ec2-metadata-token"  # noqa: S105  a header's name

Facts = Mapping[str, Any]
Answer = tuple[str, bytes]


class MetadataServer:
    """Serve `facts` (shape: `machine_facts.metadata_facts`) until the process ends."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._tokens: dict[str, float] = {}
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]

    def start(self) -> None:
        threading.Thread(target=self._accept, daemon=True).start()

    def update(self, changes: Facts) -> None:
        """Replace some facts; the next request sees all of them."""
        self._facts = {**self._facts, **changes}

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(10)
            try:
                head = _read_head(connection)
                status, body = self._answer(head)
                connection.sendall(
                    f"HTTP/1.1 {status}\r\nServer: EC2ws\r\nContent-Type: text/plain\r\n"
                    f"Content-Length: {len(body)}\r\nConnection: close\r\n"
                    f"{_TTL_HEADER}: {MAX_TOKEN_TTL_S}\r\n\r\n".encode()
                    + body
                )
            except OSError:
                return

    def _answer(self, head: str) -> Answer:
        request, *lines = head.split("\r\n")
        method, _, target = request.partition(" ")
        path = target.partition(" ")[0].partition("?")[0]
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        if method == "PUT" and path == "/latest/api/token":
            return self._new_token(headers)
        if self._tokens.get(headers.get(_TOKEN_HEADER, ""), 0.0) < time.monotonic():
            return "401 Unauthorized", b""
        if method != "GET":
            return "405 Not Allowed", b""
        return self._look_up(path)

    def _new_token(self, headers: Mapping[str, str]) -> Answer:
        if "x-forwarded-for" in headers:
            return "403 Forbidden", b""
        ttl = headers.get(_TTL_HEADER, "")
        if not ttl.isdecimal() or not 1 <= int(ttl) <= MAX_TOKEN_TTL_S:
            return "400 Bad Request", b""
        token = base64.urlsafe_b64encode(os.urandom(40)).decode()
        self._tokens[token] = time.monotonic() + int(ttl)
        return "200 OK", token.encode()

    def _look_up(self, path: str) -> Answer:
        version, _, wanted = path.lstrip("/").partition("/")
        if version != "latest" and not version[:4].isdigit():
            return "404 Not Found", b""
        if wanted == "user-data":
            script = base64.b64decode(self._facts["user_data"])
            return ("200 OK", script) if script else ("404 Not Found", b"")
        text = find(leaves(self._facts, now=time.time()), wanted)
        return ("404 Not Found", b"") if text is None else ("200 OK", text.encode())


def _read_head(connection: socket.socket) -> str:
    received = b""
    while b"\r\n\r\n" not in received and len(received) < _HEAD_LIMIT_BYTES:
        piece = connection.recv(8192)
        if not piece:
            break
        received += piece
    return received.partition(b"\r\n\r\n")[0].decode("latin-1")


def find(tree: Mapping[str, str], path: str) -> str | None:
    """Return a leaf's text, a folder's listing (one name a line, folders with `/`), or None."""
    if path in tree:
        return tree[path]
    prefix = path.rstrip("/") + "/" if path.strip("/") else ""
    below = (leaf[len(prefix) :].partition("/") for leaf in tree if leaf.startswith(prefix))
    names = {name + slash for name, slash, _ in below}
    return "\n".join(sorted(names)) if names else None


def leaves(facts: Facts, *, now: float) -> dict[str, str]:
    """Path below /latest/ -> text, for everything that has a fixed answer now (`now`: epoch, s)."""
    meta = {
        "ami-id": facts["ami_id"],
        "ami-launch-index": str(facts["launch_index"]),
        "hostname": facts["hostname"],
        "instance-id": facts["instance_id"],
        "instance-life-cycle": facts["lifecycle"],
        "instance-type": facts["instance_type"],
        "local-hostname": facts["hostname"],
        "local-ipv4": facts["private_ip"],
        "placement/availability-zone": facts["zone"],
        "placement/region": facts["region"],
        "reservation-id": facts["reservation_id"],
        **_tag_leaves(facts),
        **_role_leaves(facts, now=now),
        **_spot_leaves(facts),
    }
    tree = {f"meta-data/{path}": text for path, text in meta.items()}
    tree["dynamic/instance-identity/document"] = json.dumps(facts["identity"], indent=2)
    return tree


def _tag_leaves(facts: Facts) -> dict[str, str]:
    # None: the launch did not ask for InstanceMetadataTags, and AWS answers 404.
    return {f"tags/instance/{key}": text for key, text in (facts["tags"] or {}).items()}


def _role_leaves(facts: Facts, *, now: float) -> dict[str, str]:
    role = facts["role"]
    if role is None:
        return {}
    credentials = {
        "Code": "Success",
        "LastUpdated": _iso(now),
        "Type": "AWS-HMAC",
        **role["credentials"],
        "Expiration": _iso(now + _CREDENTIALS_TTL_S),
    }
    profile = {
        "Code": "Success",
        "LastUpdated": _iso(now),
        "InstanceProfileArn": role["profile_arn"],
        "InstanceProfileId": role["profile_id"],
    }
    return {
        "iam/info": json.dumps(profile, indent=2),
        f"iam/security-credentials/{role['name']}": json.dumps(credentials, indent=2),
    }


def _spot_leaves(facts: Facts) -> dict[str, str]:
    found = {}
    if facts.get("reclaim_at") is not None:
        when = _iso(facts["reclaim_at"])
        found["spot/instance-action"] = json.dumps({"action": "terminate", "time": when})
        found["spot/termination-time"] = when
    if facts.get("rebalance_at") is not None:
        found["events/recommendations/rebalance"] = json.dumps(
            {"noticeTime": _iso(facts["rebalance_at"])}
        )
    return found


def _iso(epoch_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch_s))
