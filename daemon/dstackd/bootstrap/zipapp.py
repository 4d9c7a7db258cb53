"""The runner as one file, and the user-data that fetches it.

Law: equal sources give equal bytes (names sorted, times fixed, one compression), because the digest
is the object's name in the bucket and a tag of every machine.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from dstackd import protocol

SHARED_MODULES = ("artifact_manifest.py", "launch_document.py", "protocol.py")
"""What the runner and the daemon have in common."""

USER_DATA_BYTES_MAX = 14_336
"""EC2 takes 16,384 ("User data is limited to 16384 bytes")."""

_EPOCH = (1980, 1, 1, 0, 0, 0)
_UNIX = 3
_REGULAR_0644 = 0o100644 << 16


@dataclass(frozen=True, slots=True)
class RunnerBundle:
    """The zipapp and the digest under which it lies in the bucket (`protocol.runner_key`)."""

    content: bytes
    sha256: str


@cache
def build_runner() -> RunnerBundle:
    """Pack this installation's runner; the same object each time."""
    content = _pack(_sources())
    return RunnerBundle(content=content, sha256=protocol.sha256_hex(content))


@cache
def user_data() -> str:
    """The user-data of every launch: the same text for all of them."""
    return (files("dstackd.bootstrap") / "user_data.sh").read_text(encoding="utf-8")


def _sources() -> dict[str, bytes]:
    package = files("dstackd")
    sources = {
        "__main__.py": b"from dstackd.runner.main import main\n\nmain()\n",
        # Not the package's own: a change of the daemon must not change the runner.
        "dstackd/__init__.py": b"",
    }
    for name in SHARED_MODULES:
        sources[f"dstackd/{name}"] = (package / name).read_bytes()
    for entry in (package / "runner").iterdir():
        if entry.name.endswith(".py"):
            sources[f"dstackd/runner/{entry.name}"] = entry.read_bytes()
    return sources


def _pack(sources: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(sources):
            entry = zipfile.ZipInfo(name, date_time=_EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = _UNIX
            entry.external_attr = _REGULAR_0644
            archive.writestr(entry, sources[name])
    return packed.getvalue()
