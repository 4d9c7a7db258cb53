"""Artifacts over the API: what a sealed manifest lists, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import ClientPayloadError

from dstackd import artifact_manifest, protocol
from dstackd.artifact_manifest import Manifest, ManifestFile
from dstackd.errors import Unauthorized
from tests.http.world import World, get, running


def seal(
    world: World,
    job_id: str,
    attempt: int,
    files: dict[str, bytes],
    *,
    verdict: str = "complete",
    key_of: Callable[[str, int], str] = protocol.manifest_key,
) -> None:
    """Put files by path, and their manifest."""
    for path, content in files.items():
        world.bucket.objects[protocol.artifact_key(job_id, attempt, path)] = content
    listed = (
        ManifestFile(path, len(content), protocol.sha256_hex(content), 0o644)
        for path, content in files.items()
    )
    manifest = artifact_manifest.encode(Manifest(job_id, attempt, verdict, tuple(listed)))
    world.bucket.objects[key_of(job_id, attempt)] = manifest


def upload_so_far(world: World, job_id: str, attempt: int, files: dict[str, bytes]) -> None:
    """What a machine does while the commands run."""
    key_of = protocol.partial_manifest_key
    seal(world, job_id, attempt, files, verdict="partial", key_of=key_of)


async def a_job(world: World, *, attempts: int = 1) -> str:
    job_id = await world.insert_job()
    for number in range(1, attempts + 1):
        await world.insert_attempt(job_id, number)
    return job_id


async def pull(world: World, job_id: str, **query: object) -> tuple[int, bytes]:
    params = {name: str(value) for name, value in query.items()}
    path = f"/v1/jobs/{job_id}/artifacts/content"
    async with world.api.get(path, params=params) as response:
        return response.status, await response.read()


async def test_list_and_pull() -> None:
    """The newest sealed attempt is shown unless one is named, and each file comes as it is in the bucket."""
    async with running() as world:
        job_id = await a_job(world, attempts=3)
        seal(world, job_id, 1, {"out/a": b"old"}, verdict="partial")
        seal(world, job_id, 2, {"out/a": b"new content", "out/empty": b""})
        path = f"/v1/jobs/{job_id}/artifacts"
        status, answer = await get(world.api, path)
        assert (status, answer["attempt"], answer["verdict"]) == (200, 2, "complete")
        digest = protocol.sha256_hex(b"new content")
        assert answer["files"][0] == {"path": "out/a", "size": 11, "sha256": digest, "mode": 0o644}
        _, answer = await get(world.api, path, attempt=1)
        assert (answer["attempt"], answer["verdict"]) == (1, "partial")
        assert await pull(world, job_id, path="out/a") == (200, b"new content")
        assert await pull(world, job_id, path="out/empty") == (200, b"")
        assert await pull(world, job_id, path="out/a", attempt=1) == (200, b"old")


@pytest.mark.parametrize(
    "path",
    [
        "other",
        "",
        "out",
        "../2/files/out/a",
        "out/../out/a",
        "/out/a",
        "out/a/",
        "out//a",
        "manifest.json",
    ],
)
async def test_only_what_is_listed(path: str) -> None:
    """A path that the manifest does not list word for word is not there, whatever it would mean as a path."""
    async with running() as world:
        job_id = await a_job(world)
        seal(world, job_id, 1, {"out/a": b"content"})
        world.bucket.objects[protocol.artifact_key(job_id, 1, "other")] = b"not listed"
        status, _ = await pull(world, job_id, path=path)
        assert status == 404


async def test_a_file_of_an_earlier_attempt_is_served_from_there() -> None:
    """A manifest may name an earlier attempt's object: it is listed, served and verified as that."""
    async with running() as world:
        job_id = await a_job(world, attempts=2)
        seal(world, job_id, 1, {"ckpt": b"kept"})
        file = ManifestFile("ckpt", 4, protocol.sha256_hex(b"kept"), 0o644, attempt=1)
        manifest = artifact_manifest.encode(Manifest(job_id, 2, "partial", (file,)))
        world.bucket.objects[protocol.manifest_key(job_id, 2)] = manifest
        status, listed = await get(world.api, f"/v1/jobs/{job_id}/artifacts")
        assert (status, listed["attempt"], listed["files"][0]["attempt"]) == (200, 2, 1)
        assert await pull(world, job_id, path="ckpt") == (200, b"kept")


@pytest.mark.parametrize("path", ["../../x", "a/../../x", "/etc/passwd", "a//b", ".", ""])
async def test_a_manifest_that_leaves_its_folder_is_refused(path: str) -> None:
    """A manifest is written on a machine where a job runs: one with a path that leads elsewhere is not followed."""
    async with running() as world:
        job_id = await a_job(world)
        manifest = Manifest(job_id, 1, "complete", (ManifestFile(path, 1, "0" * 64, 0o644),))
        key = protocol.manifest_key(job_id, 1)
        world.bucket.objects[key] = artifact_manifest.encode(manifest)
        for suffix in ("", f"/content?path={path}"):
            status, answer = await get(world.api, f"/v1/jobs/{job_id}/artifacts{suffix}")
            assert (status, answer["error"]["code"]) == (502, "bad_manifest")


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"version": 99}'])
async def test_a_broken_manifest_is_refused(content: bytes) -> None:
    """An object that is no manifest is an error that names it."""
    async with running() as world:
        job_id = await a_job(world)
        world.bucket.objects[protocol.manifest_key(job_id, 1)] = content
        status, answer = await get(world.api, f"/v1/jobs/{job_id}/artifacts")
        assert (status, answer["error"]["code"]) == (502, "bad_manifest")
        assert "manifest.json" in answer["error"]["message"]


async def test_nothing_sealed() -> None:
    """Without a manifest the answer says so, with the job's phase and what the machine said."""
    async with running() as world:
        job_id = await a_job(world)
        await world.sql("UPDATE attempt SET seal_message = 'disk full'")
        status, answer = await get(world.api, f"/v1/jobs/{job_id}/artifacts")
        assert (status, answer["error"]["code"]) == (404, "no_artifacts")
        assert "phase submitted): disk full" in answer["error"]["message"]
        status, answer = await get(world.api, f"/v1/jobs/{job_id}/artifacts", attempt=4)
        assert (status, answer["error"]["code"]) == (404, "no_artifacts")


async def test_a_listed_file_that_is_gone() -> None:
    """A file that somebody deleted from the bucket is a clear 404, not an empty file."""
    async with running() as world:
        job_id = await a_job(world)
        seal(world, job_id, 1, {"a": b"x"})
        del world.bucket.objects[protocol.artifact_key(job_id, 1, "a")]
        status, answer = await get(world.api, f"/v1/jobs/{job_id}/artifacts/content", path="a")
        assert (status, answer["error"]["code"]) == (404, "artifact_gone")


async def test_a_short_object_is_no_file() -> None:
    """An object shorter than its manifest says breaks the connection: a part is never taken for the whole."""
    async with running() as world:
        job_id = await a_job(world)
        seal(world, job_id, 1, {"a": b"0123456789"})
        world.bucket.objects[protocol.artifact_key(job_id, 1, "a")] = b"0123"
        with pytest.raises(ClientPayloadError):
            await pull(world, job_id, path="a")
        assert (await get(world.api, "/v1/version"))[0] == 200


async def test_aws_errors() -> None:
    """What AWS refuses is 502 with AWS's own code, its message, and what to do about it."""
    async with running() as world:
        job_id = await a_job(world)
        world.bucket.error = Unauthorized(
            "AccessDenied", "no", operation="GetObject", advice="allow s3:GetObject"
        )
        status, answer = await get(world.api, f"/v1/jobs/{job_id}/artifacts")
        assert (status, answer["error"]["code"]) == (502, "AccessDenied")
        assert "GetObject" in answer["error"]["message"]
        assert "allow s3:GetObject" in answer["error"]["message"]


async def test_no_backend() -> None:
    """A daemon without a bucket says that it has none."""
    async with running(bucket=False) as world:
        job_id = await a_job(world)
        status, answer = await get(world.api, f"/v1/jobs/{job_id}/artifacts")
        assert (status, answer["error"]["code"]) == (503, "no_backend")


async def test_a_manifest_is_read_once() -> None:
    """Pulling many files reads their sealed manifest from the bucket once."""
    async with running() as world:
        job_id = await a_job(world)
        seal(world, job_id, 1, {f"f{n}": b"x" for n in range(20)})
        for n in range(20):
            assert await pull(world, job_id, path=f"f{n}") == (200, b"x")
        assert world.bucket.gets == 20 + 1


async def test_what_is_uploaded_so_far() -> None:
    """A running attempt shows what it has, says that it is not sealed, and the sealed one before it can still be asked for."""
    async with running() as world:
        job_id = await a_job(world, attempts=2)
        seal(world, job_id, 1, {"a": b"first"})
        path = f"/v1/jobs/{job_id}/artifacts"
        assert (await get(world.api, path))[1]["attempt"] == 1
        upload_so_far(world, job_id, 2, {"a": b"now", "b": b"1"})
        _, answer = await get(world.api, path)
        assert (answer["attempt"], answer["sealed"], len(answer["files"])) == (2, False, 2)
        assert (await get(world.api, path, attempt=1))[1]["sealed"] is True
        assert await pull(world, job_id, path="b") == (200, b"1")
        seal(world, job_id, 2, {"a": b"end", "b": b"12", "c": b""})
        _, answer = await get(world.api, path)
        assert (answer["attempt"], answer["sealed"], len(answer["files"])) == (2, True, 3)
        assert await pull(world, job_id, path="b") == (200, b"12")


async def test_a_list_is_new_and_stays_for_a_while() -> None:
    """Each list of a running attempt is read anew; the contents that are fetched after it go by it, a few seconds long."""
    async with running() as world:
        job_id = await a_job(world)
        upload_so_far(world, job_id, 1, {f"f{n}": b"x" for n in range(20)})
        await get(world.api, f"/v1/jobs/{job_id}/artifacts")
        gets = world.bucket.gets
        for n in range(20):
            assert await pull(world, job_id, path=f"f{n}") == (200, b"x")
        assert world.bucket.gets - gets == 20
        upload_so_far(world, job_id, 1, {"new": b"y"})
        assert (await pull(world, job_id, path="new"))[0] == 404
        world.clock.ahead_s += 6
        assert await pull(world, job_id, path="new") == (200, b"y")
        upload_so_far(world, job_id, 1, {"newer": b"z"})
        _, answer = await get(world.api, f"/v1/jobs/{job_id}/artifacts")
        assert [file["path"] for file in answer["files"]] == ["newer"]


async def test_a_corrected_list_does_not_hide_the_seal() -> None:
    """However often the objects were asked for as they are, the next list shows what has been sealed since."""
    async with running() as world:
        job_id = await a_job(world)
        upload_so_far(world, job_id, 1, {"log": b"12"})
        path = f"/v1/jobs/{job_id}/artifacts"
        for _ in range(3):
            assert (await get(world.api, path, as_they_are=1))[1]["sealed"] is False
        seal(world, job_id, 1, {"log": b"123"})
        assert (await get(world.api, path))[1]["sealed"] is True


async def test_a_replaced_file_is_refused() -> None:
    """An object that has grown since it was listed is not sent as what was listed: list again."""
    async with running() as world:
        job_id = await a_job(world)
        upload_so_far(world, job_id, 1, {"log": b"12"})
        assert await pull(world, job_id, path="log") == (200, b"12")
        world.bucket.objects[protocol.artifact_key(job_id, 1, "log")] = b"123"
        status, answer = await get(world.api, f"/v1/jobs/{job_id}/artifacts/content", path="log")
        assert (status, answer["error"]["code"]) == (409, "artifact_replaced")


async def verified(world: World, job_id: str) -> list[dict[str, Any]]:
    """The lines of a check."""
    async with world.api.get(f"/v1/jobs/{job_id}/artifacts/verify") as response:
        return [json.loads(line) for line in (await response.text()).splitlines()]


async def test_a_check_tells_each_problem() -> None:
    """More files than are looked at together: the head, the problems in order, how far it is, the end."""
    async with running() as world:
        job_id = await a_job(world)
        files = {f"f{number:03d}": b"x" * number for number in range(50)}
        seal(world, job_id, 1, files)
        del world.bucket.objects[protocol.artifact_key(job_id, 1, "f003")]
        world.bucket.objects[protocol.artifact_key(job_id, 1, "f040")] = b"y" * 40
        head, *lines, end = await verified(world, job_id)
    assert head == {"attempt": 1, "verdict": "complete", "sealed": True, "files": 50, "bytes": 1225}
    assert [line["path"] for line in lines if "path" in line] == ["f003", "f040"]
    assert [line["checked"] for line in lines if "checked" in line] == [16, 32, 48, 50]
    assert end == {"done": True, "checked": 50, "problems": 2, "read_bytes": 1222}


async def test_a_check_that_breaks_off_says_why() -> None:
    """What AWS refuses in the middle is the last line, and no verdict."""
    async with running() as world:
        job_id = await a_job(world)
        seal(world, job_id, 1, {"a": b"x"})
        await get(world.api, f"/v1/jobs/{job_id}/artifacts")
        world.bucket.error = Unauthorized(
            "AccessDenied", "no", operation="HeadObject", advice="ask"
        )
        _, end = await verified(world, job_id)
    assert end == {"error": "HeadObject: AccessDenied: no; ask"}
