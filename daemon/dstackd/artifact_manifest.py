"""The sealed list of one attempt's artifacts: what the machine writes once, last, and all read.

Law: standard library and `dstackd.protocol` only, Python 3.9 syntax (it travels inside the runner
zipapp), no I/O. It lies in the bucket at `protocol.manifest_key(job_id, attempt)`, each file where
`Manifest.key_of` says: among the attempt's own objects, or, where a resumed attempt left a file as it
had found it, still among those of the earlier attempt.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from dstackd import protocol

VERSION = 1

COMPLETE = "complete"
"""Every regular file below the declared paths is there."""
PARTIAL = "partial"
"""The attempt was interrupted, or a file could not be stored, or the manifest is that of a round while
the commands ran (`protocol.partial_manifest_key`).
"""
FAILED = "failed"
"""There is no manifest; only an inbox event says so, never a manifest."""


DIGEST_HEADER = "x-amz-meta-dstackd-sha256"
"""Metadata of an artifact's object: the sha256 of its content. A file that goes up again while the
commands run replaces its object before the next partial manifest names it; until then this says what
the object is. A long file that went up once only may be without it.
"""
MODE_HEADER = "x-amz-meta-dstackd-mode"
"""Metadata beside DIGEST_HEADER: the permission bits, octal."""


class ManifestError(ValueError):
    """The object is not a manifest that this reader can use."""


@dataclass(frozen=True)
class ManifestFile:
    """One stored file. `path` is relative to the job's folder, with `/`; `mode` is the
    permission bits. `attempt`: whose object it is; None is the manifest's own.
    """

    path: str
    size: int
    sha256: str
    mode: int
    attempt: int | None = None


@dataclass(frozen=True)
class Manifest:
    """One attempt's artifacts; `files` is sorted by path."""

    job_id: str
    attempt: int
    verdict: str
    files: tuple[ManifestFile, ...]
    version: int = VERSION

    @property
    def size_bytes(self) -> int:
        return sum(file.size for file in self.files)

    def holder_of(self, file: ManifestFile) -> int:
        """The attempt that holds the object of one of the files."""
        return self.attempt if file.attempt is None else file.attempt

    def key_of(self, file: ManifestFile) -> str:
        """Where one of the files lies."""
        return protocol.artifact_key(self.job_id, self.holder_of(file), file.path)


def fields_of(file: ManifestFile) -> dict[str, object]:
    """As JSON has it: without an `attempt` that is the manifest's own."""
    fields = dataclasses.asdict(file)
    if file.attempt is None:
        del fields["attempt"]
    return fields


def encode(manifest: Manifest) -> bytes:
    """The object's content: canonical JSON."""
    files = [fields_of(file) for file in manifest.files]
    return protocol.canonical_json(
        {
            "version": manifest.version,
            "job_id": manifest.job_id,
            "attempt": manifest.attempt,
            "verdict": manifest.verdict,
            "files": files,
        }
    )


def decode(content: bytes) -> Manifest:
    """The manifest in an object; unknown keys are passed over. Raises ManifestError."""
    try:
        value = protocol.load_json(content)
        version = int(value["version"])
        if version > VERSION:
            raise ManifestError(f"version {version}; this reader knows {VERSION}")
        attempt = int(value["attempt"])
        return Manifest(
            version=version,
            job_id=str(value["job_id"]),
            attempt=attempt,
            verdict=str(value["verdict"]),
            files=tuple(
                ManifestFile(
                    path=str(file["path"]),
                    size=int(file["size"]),
                    sha256=str(file["sha256"]),
                    mode=int(file["mode"]),
                    attempt=_earlier(file.get("attempt"), attempt),
                )
                for file in value["files"]
            ),
        )
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise ManifestError(f"not a manifest: {error!r}") from error


def _earlier(value: object, attempt: int) -> int | None:
    if value is None:
        return None
    if type(value) is not int or not 1 <= value < attempt:
        raise ManifestError(f"{value!r} is no attempt before {attempt}")
    return value
