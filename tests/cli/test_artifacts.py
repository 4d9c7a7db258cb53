"""`dstackd artifacts`: what arrives is what was sealed, and it stays in its folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstackd import artifact_manifest, protocol
from dstackd.artifact_manifest import Manifest, ManifestFile
from dstackd.cli.pulling import PullError, place_of
from tests.cli.double import Reply, as_json, described, playing
from tests.cli.program import Finished, ask, at, dstackd
from tests.http.world import World, running

CONTENT = {"out/a": b"alpha\n", "out/deep/b": os.urandom(5000), "run.sh": b"#!/bin/sh\n"}
MODES = {"out/a": 0o644, "out/deep/b": 0o600, "run.sh": 0o4755}


async def job_with_artifacts(world: World, *, verdict: str = "complete") -> str:
    """A job whose attempt left `CONTENT`."""
    job_id = await world.insert_job()
    await world.insert_attempt(job_id, 1)
    files = []
    for path, content in CONTENT.items():
        world.bucket.objects[protocol.artifact_key(job_id, 1, path)] = content
        files.append(ManifestFile(path, len(content), protocol.sha256_hex(content), MODES[path]))
    manifest = Manifest(job_id=job_id, attempt=1, verdict=verdict, files=tuple(files))
    world.bucket.objects[protocol.manifest_key(job_id, 1)] = artifact_manifest.encode(manifest)
    return job_id


async def test_ls_lists_them() -> None:
    """Paths on standard output, the verdict on standard error; JSON is the API's answer."""
    async with running() as world:
        job_id = await job_with_artifacts(world)
        done = await ask(world, "artifacts", "ls", job_id)
        listed = json.loads((await ask(world, "artifacts", "ls", "--json", job_id)).out)
    assert [row.split()[-1] for row in done.out.splitlines()] == ["PATH", *CONTENT]
    assert done.err == "attempt 1, complete: 3 files\n"
    assert [file["path"] for file in listed["files"]] == list(CONTENT)


async def test_pull_brings_them_home(tmp_path: Path) -> None:
    """Content and permissions arrive, never set-user-id; a second pull changes nothing."""
    async with running() as world:
        job_id = await job_with_artifacts(world, verdict="partial")
        done = await ask(world, "artifacts", "pull", job_id[:8], folder=tmp_path)
        root = tmp_path / job_id
        first = {path: (root / path).stat().st_ino for path in CONTENT}
        gets = world.bucket.gets
        (root / "run.sh").write_bytes(b"changed")
        again = await ask(world, "artifacts", "pull", job_id, str(root), folder=tmp_path)
        gets_again = world.bucket.gets - gets
    assert (done.code, again.code) == (0, 0)
    assert "sealed them as partial" in done.err
    assert {path: (root / path).read_bytes() for path in CONTENT} == CONTENT
    modes = {path: (root / path).stat().st_mode & 0o7777 for path in CONTENT}
    assert modes == {"out/a": 0o644, "out/deep/b": 0o600, "run.sh": 0o755}
    assert (root / "out/a").stat().st_ino == first["out/a"]
    assert gets_again == 1
    assert sorted(each for each in root.rglob("*") if each.is_file()) == sorted(
        root / path for path in CONTENT
    )


async def test_no_artifacts_is_said() -> None:
    """A job without sealed artifacts ends the command with a reason."""
    async with running() as world:
        done = await ask(world, "artifacts", "pull", await world.insert_job())
    assert done.code == 2
    assert "has no sealed artifacts" in done.err


def pull(root: Path, *files: dict[str, object], content: bytes) -> Finished:
    """Pull from a daemon that lists `files` and gives `content` for each of them."""

    def answer(path: str, _query: dict[str, str]) -> Reply:
        if path.endswith("/content"):
            return Reply(content)
        if path.endswith("/artifacts"):
            return as_json({"attempt": 1, "verdict": "complete", "files": files})
        return described()

    with playing(answer) as double:
        return dstackd("artifacts", "pull", "abc", str(root), variables=at(double.socket))


def listed(path: str, content: bytes) -> dict[str, object]:
    """A file of a manifest."""
    sha256 = protocol.sha256_hex(content)
    return {"path": path, "size": len(content), "sha256": sha256, "mode": 0o644}


def test_a_wrong_checksum_leaves_nothing_behind(tmp_path: Path) -> None:
    """Content that is not what was sealed gets no name, and does not replace what was there."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "a").write_bytes(b"before")
    done = pull(root, listed("a", b"good"), listed("b", b"evil"), content=b"evil")
    assert done.code == 1
    assert "a: the 4 bytes that came are not the 4 that were sealed" in done.err
    assert {each.name: each.read_bytes() for each in root.iterdir()} == {
        "a": b"before",
        "b": b"evil",
    }


@pytest.mark.parametrize("path", ["../a", "/etc/a", "x/../../a", "link/a", "link/new/a", "a\0b"])
def test_nothing_is_written_outside(tmp_path: Path, path: str) -> None:
    """Neither a path nor a link that was there before leads out of the folder."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "link").symlink_to(outside)
    done = pull(root, listed(path, b"x"), listed("good", b"x"), content=b"x")
    assert done.code == 1
    assert (root / "good").read_bytes() == b"x"
    assert sorted(each.name for each in tmp_path.rglob("*")) == ["good", "link", "outside", "root"]


@given(st.text(alphabet="ab./\\\0~", max_size=12))
def test_places_are_below_the_folder(path: str) -> None:
    """Whatever a manifest says, the place is below the folder, and is the path itself, or refused."""
    root = Path("/root-of-it")
    try:
        place = place_of(path, root=root)
    except PullError:
        return
    assert os.path.normpath(place) == str(place)
    assert place.relative_to(root).as_posix() == path
