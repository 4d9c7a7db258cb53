"""Which artifacts a job has. Law: shows what a manifest lists, and reads no other object of the bucket.

A manifest comes from the machine, so its paths are looked at before they become part of a key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from aiohttp import web

from dstackd import artifact_manifest, protocol
from dstackd.artifact_manifest import Manifest, ManifestError, ManifestFile
from dstackd.errors import NotFound
from dstackd.http.asked import whole
from dstackd.http.context import HttpContext
from dstackd.http.job_names import one_job
from dstackd.http.responses import Refusal
from dstackd.ports import Bucket
from dstackd.store import queries

MANIFESTS_KEPT = 8
"""Whoever pulls a thousand files asks for their manifest a thousand times; a sealed one never changes."""
UNSEALED_KEPT_S = 5.0
"""One that is not sealed is overwritten while the job runs."""
CORRECTED_KEPT_S = 60.0


@dataclass(frozen=True, slots=True)
class ArtifactSet:
    """What one attempt has in the bucket: sealed, or what it had uploaded when it last said so."""

    manifest: Manifest
    sealed: bool
    read_at_s: float
    kept_s: float = UNSEALED_KEPT_S
    """How long contents go by it, from then on, where it is not sealed."""

    @property
    def shown(self) -> str:
        """What messages call it."""
        return f"attempt {self.manifest.attempt} of job {self.manifest.job_id}"

    def key_of(self, file: ManifestFile) -> str:
        """Where a file of the set lies: perhaps among the objects of an earlier attempt."""
        return self.manifest.key_of(file)


class ArtifactSets:
    """Finds them, and keeps those that were read last."""

    def __init__(self, context: HttpContext) -> None:
        self._context = context
        self._kept: dict[tuple[str, int], ArtifactSet] = {}

    @property
    def bucket(self) -> Bucket:
        """Raises Refusal where there is none."""
        if self._context.bucket is None:
            raise Refusal(503, "no_backend", "this daemon has no backend, so it can read no bucket")
        return self._context.bucket

    async def asked_for(self, request: web.Request, *, newest: bool = False) -> ArtifactSet:
        """That of the attempt in the query, or of the newest one that has any. Raises Refusal.

        `newest`: one that is not sealed is read anew. Otherwise it may be some seconds old, so that who fetches what it lists
        goes by one list.
        """
        number = whole(request.query, "attempt", low=1)
        job = await one_job(self._context.database, request.match_info["job"])
        rows = await self._context.database.read(partial(queries.job_attempts, job_id=job["id"]))
        for row in reversed(rows):
            if number in (None, row["number"]):
                found = await self._of(job["id"], row["number"], newest=newest)
                if found is not None:
                    return found
        which = f"attempt {number} of " if number is not None else ""
        message = f"{which}job {job['id']} has no artifacts in the bucket (phase {job['phase']})"
        raise Refusal(404, "no_artifacts", message + _seal_note(rows, number))

    def correct(self, artifacts: ArtifactSet, files: Sequence[ManifestFile]) -> ArtifactSet:
        """The set with these files in place of those that were listed; contents go by it for a minute."""
        corrected = replace(
            artifacts,
            manifest=replace(artifacts.manifest, files=tuple(files)),
            kept_s=CORRECTED_KEPT_S,
        )
        return self._keep(corrected)

    async def _of(self, job_id: str, attempt: int, *, newest: bool) -> ArtifactSet | None:
        now_s = self._context.clock.monotonic_s()
        kept = self._kept.get((job_id, attempt))
        if kept is not None:
            is_fresh = not newest and now_s - kept.read_at_s < kept.kept_s
            if kept.sealed or is_fresh:
                return kept
        for sealed, key_of in (
            (True, protocol.manifest_key),
            (False, protocol.partial_manifest_key),
        ):
            manifest = await self._manifest(key_of(job_id, attempt), job_id, attempt)
            if manifest is not None:
                return self._keep(ArtifactSet(manifest, sealed, now_s))
        return None

    def _keep(self, found: ArtifactSet) -> ArtifactSet:
        key = (found.manifest.job_id, found.manifest.attempt)
        self._kept.pop(key, None)
        while len(self._kept) >= MANIFESTS_KEPT:
            self._kept.pop(next(iter(self._kept)))
        self._kept[key] = found
        return found

    async def _manifest(self, key: str, job_id: str, attempt: int) -> Manifest | None:
        try:
            manifest = artifact_manifest.decode(await self.bucket.get(key))
        except NotFound:
            return None
        except ManifestError as error:
            raise Refusal(502, "bad_manifest", f"{key}: {error}") from None
        if (manifest.job_id, manifest.attempt) != (job_id, attempt):
            raise Refusal(502, "bad_manifest", f"{key}: is the manifest of another attempt")
        for file in manifest.files:
            if not _is_inside(file.path):
                raise Refusal(502, "bad_manifest", f"{key}: {file.path!r} leaves the job's folder")
        return manifest


def _is_inside(path: str) -> bool:
    return not {"", ".", ".."} & set(path.split("/")) and "\0" not in path


def _seal_note(rows: Sequence[Mapping[str, Any]], number: int | None) -> str:
    notes = (row["seal_message"] for row in reversed(rows) if number in (None, row["number"]))
    note = next((note for note in notes if note), "")
    return f": {note}" if note else ""
