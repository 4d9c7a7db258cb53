"""A registry of one image, with Basic authentication (Distribution API v2), on loopback."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import platform
from contextlib import AbstractContextManager

from tests.runner.loopback import Answering, LoopbackServer, serving

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
_ARCH = {"x86_64": "amd64", "aarch64": "arm64"}


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


class Registry(LoopbackServer):
    """Serves `path:1`, and by its digest; `logins`: empty is for everybody."""

    def __init__(self, tree: bytes, *, path: str, logins: tuple[tuple[str, str], ...]) -> None:
        super().__init__(("127.0.0.1", 0), _Answerer)
        layer = gzip.compress(tree, mtime=0)
        config = json.dumps(
            {
                "architecture": _ARCH.get(platform.machine(), "amd64"),
                "os": "linux",
                "config": {"Cmd": ["sh"]},
                "rootfs": {"type": "layers", "diff_ids": [_digest(tree)]},
            }
        ).encode()
        self.manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST_TYPE,
                "config": _part(config, "application/vnd.docker.container.image.v1+json"),
                "layers": [_part(layer, "application/vnd.docker.image.rootfs.diff.tar.gzip")],
            }
        ).encode()
        self.path = path
        self.blobs = {_digest(content): content for content in (layer, config)}
        self.allowed = {
            "Basic " + base64.b64encode(f"{name}:{word}".encode()).decode() for name, word in logins
        }
        self.refusals: list[int] = []
        """Statuses of the next answers about the image."""
        self.asked: list[str] = []

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    @property
    def image(self) -> str:
        return f"{self.host}/{self.path}:1"

    @property
    def digest(self) -> str:
        return _digest(self.manifest)

    def answer(self, target: str, authorization: str) -> tuple[int, str, bytes]:
        """Status, content type and body."""
        if self.allowed and authorization not in self.allowed:
            return 401, "application/json", b'{"errors":[{"code":"UNAUTHORIZED"}]}'
        if target == "/v2/":
            return 200, "application/json", b"{}"
        self.asked.append(target)
        if self.refusals:
            return self.refusals.pop(0), "text/plain", b"made to fail"
        kind, _, name = target.removeprefix(f"/v2/{self.path}/").partition("/")
        if kind == "manifests" and name in {"1", self.digest}:
            return 200, MANIFEST_TYPE, self.manifest
        if kind == "blobs" and name in self.blobs:
            return 200, "application/octet-stream", self.blobs[name]
        return 404, "application/json", b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}'


def _part(content: bytes, kind: str) -> dict[str, object]:
    return {"mediaType": kind, "size": len(content), "digest": _digest(content)}


class _Answerer(Answering):
    server: Registry

    def _serve(self) -> None:
        status, kind, body = self.server.answer(self.path, self.headers.get("authorization", ""))
        self.send_response(status)
        self.send_header("docker-distribution-api-version", "registry/2.0")
        if status == 401:
            self.send_header("www-authenticate", 'Basic realm="tests"')
        if kind == MANIFEST_TYPE:
            self.send_header("docker-content-digest", self.server.digest)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_GET = do_HEAD = _serve  # noqa: N815 - http.server's names


def registry(
    tree: bytes, *, path: str = "team/tool", logins: tuple[tuple[str, str], ...] = ()
) -> AbstractContextManager[Registry]:
    """Starts it, and ends it."""
    return serving(Registry(tree, path=path, logins=logins))
