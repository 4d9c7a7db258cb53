"""`dstackd artifacts`: what arrives is what was sealed, and it stays in its folder."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstackd import artifact_manifest, protocol
from dstackd.artifact_manifest import Manifest, ManifestFile
from dstackd.cli.pulling import PullError, place_of
from dstackd.errors import CloudUnavailable
from tests.cli.double import Reply, as_json, as_lines, described, playing
from tests.cli.program import DEADLINE_S, Finished, ask, at, dstackd, environment
from tests.http.world import World, running

CONTENT = {"out/a": b"alpha\n", "out/deep/b": os.urandom(5000), "run.sh": b"#!/bin/sh\n"}
MODES = {"out/a": 0o644, "out/deep/b": 0o600, "run.sh": 0o4755}


async def job_with_artifacts(
    world: World,
    *,
    verdict: str = "complete",
    contents: Mapping[str, bytes] = CONTENT,
    sealed: bool = True,
) -> str:
    """A job whose attempt left `CONTENT`, or something else; not sealed: it still runs."""
    job_id = await world.insert_job()
    await world.insert_attempt(job_id, 1)
    files = []
    for path, content in contents.items():
        world.bucket.objects[protocol.artifact_key(job_id, 1, path)] = content
        mode = MODES.get(path, 0o644)
        files.append(ManifestFile(path, len(content), protocol.sha256_hex(content), mode))
    manifest = Manifest(job_id=job_id, attempt=1, verdict=verdict, files=tuple(files))
    key_of = protocol.manifest_key if sealed else protocol.partial_manifest_key
    world.bucket.objects[key_of(job_id, 1)] = artifact_manifest.encode(manifest)
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


def files_below(root: Path) -> list[str]:
    """Every file there, temporary ones included."""
    return sorted(str(each.relative_to(root)) for each in root.rglob("*") if each.is_file())


async def test_a_part_of_them(tmp_path: Path) -> None:
    """A path, a folder or a glob; one that means nothing is an error, and a name with a star means itself."""
    contents = {path: path.encode() for path in ("a", "a*", "ab", "out/x.py", "out/y/z.py", "out2")}
    async with running() as world:
        job_id = await job_with_artifacts(world, contents=contents)
        for patterns, expected in {
            ("a*",): {"a", "a*", "ab"},
            ("a",): {"a"},
            ("out",): {"out/x.py", "out/y/z.py"},
            ("out/", "ab"): {"out/x.py", "out/y/z.py", "ab"},
            ("*.py",): {"out/x.py", "out/y/z.py"},
        }.items():
            root = tmp_path / patterns[0].replace("*", "star")
            done = await ask(world, "artifacts", "pull", job_id, str(root), *patterns)
            assert done.code == 0, done.err
            assert files_below(root) == sorted(expected)
        done = await ask(world, "artifacts", "pull", job_id, str(tmp_path / "none"), "a", "q")
    assert (done.code, (tmp_path / "none").exists()) == (2, False)
    assert "no artifact is called q" in done.err


async def test_many_at_once_and_the_rest_the_second_time(tmp_path: Path) -> None:
    """Hundreds of files; some lie there half-written under their names or under temporary ones: those alone are fetched."""
    contents = {f"d{number % 7}/{number}": os.urandom(number) for number in range(300)}
    async with running() as world:
        job_id = await job_with_artifacts(world, contents=contents)
        done = await ask(world, "artifacts", "pull", job_id, str(tmp_path))
        (tmp_path / "d0" / "7").write_bytes(b"half")
        (tmp_path / "d1" / "1").unlink()
        gets = world.bucket.gets
        again = await ask(world, "artifacts", "pull", job_id, str(tmp_path))
        gets_again = world.bucket.gets - gets
    assert (done.code, again.code, gets_again) == (0, 0, 2)
    assert {path: (tmp_path / path).read_bytes() for path in contents} == contents
    assert len(files_below(tmp_path)) == len(contents)


async def test_one_that_is_gone_keeps_no_other_back(tmp_path: Path) -> None:
    """A file that is missing in the bucket, one that is shorter there: each a line, exit code 1, and all others arrive."""
    contents = {name: name.encode() * 10 for name in "abcdef"}
    async with running() as world:
        job_id = await job_with_artifacts(world, contents=contents)
        del world.bucket.objects[protocol.artifact_key(job_id, 1, "b")]
        world.bucket.objects[protocol.artifact_key(job_id, 1, "d")] = b"d"
        done = await ask(world, "artifacts", "pull", job_id, str(tmp_path))
    assert done.code == 1
    assert files_below(tmp_path) == ["a", "c", "e", "f"]
    first, second = (
        line for line in done.err.splitlines() if "'b'" in line or line.startswith("d:")
    )
    assert "gone from the bucket" in first
    assert "broke off on the way" in second or "were listed" in second


async def test_while_the_job_runs(tmp_path: Path) -> None:
    """What has been uploaded so far is listed and fetched, and said to be that; a file that was replaced is taken as it is now."""
    async with running() as world:
        job_id = await job_with_artifacts(world, sealed=False, verdict="partial")
        done = await ask(world, "artifacts", "ls", job_id)
        assert done.err == "attempt 1, not sealed (uploaded so far): 3 files\n"
        done = await ask(world, "artifacts", "pull", job_id, str(tmp_path))
        assert done.code == 0
        assert "not sealed" in done.err
        world.bucket.objects[protocol.artifact_key(job_id, 1, "out/a")] = b"newer"
        done = await ask(world, "artifacts", "verify", job_id)
    assert done.code == 1
    assert done.out == "out/a: has 5 bytes in the bucket, 6 in the manifest\n"
    assert "1 not as listed (the machine may be uploading them anew)" in done.err


async def test_a_newer_object_says_what_it_is(tmp_path: Path) -> None:
    """The machine died between a replaced object and the list that names it: the newer content is checked and fetched all the same."""
    async with running() as world:
        job_id = await job_with_artifacts(world, sealed=False, verdict="partial")
        for path, stated in {"out/a": b"newer", "run.sh": b"another"}.items():
            key = protocol.artifact_key(job_id, 1, path)
            world.bucket.objects[key] = b"newer"
            world.bucket.metadata[key] = {
                "dstackd-sha256": protocol.sha256_hex(stated),
                "dstackd-mode": "600",
            }
        done = await ask(world, "artifacts", "pull", job_id, str(tmp_path))
        checked = await ask(world, "artifacts", "verify", job_id)
    assert done.code == 1
    assert (tmp_path / "out/a").read_bytes() == b"newer"
    assert (tmp_path / "out/a").stat().st_mode & 0o777 == 0o600
    assert "run.sh: the 5 bytes that came are not the 5 that were listed" in done.err
    assert files_below(tmp_path) == ["out/a", "out/deep/b"]
    assert checked.code == 1
    assert [line.split(": ")[0] for line in checked.out.splitlines()] == ["run.sh"]


async def test_verify_compares_every_file() -> None:
    """By S3's checksum where it has one, else by reading; a line for each file that is wrong, and the exit code."""
    async with running() as world:
        contents = {"a": b"aa", "b": b"bb", "c\n\x1b[31m": b"cc", "d": b"dd"}
        job_id = await job_with_artifacts(world, contents=contents)
        good = await ask(world, "artifacts", "verify", job_id)
        keys = {path: protocol.artifact_key(job_id, 1, path) for path in contents}
        world.bucket.checksums[keys["a"]] = protocol.sha256_hex(b"aa")
        world.bucket.checksums[keys["b"]] = protocol.sha256_hex(b"others")
        world.bucket.objects[keys["c\n\x1b[31m"]] = b"CC"
        del world.bucket.objects[keys["d"]]
        gets = world.bucket.gets
        bad = await ask(world, "artifacts", "verify", job_id)
        read = world.bucket.gets - gets
        told = json.loads((await ask(world, "artifacts", "verify", "--json", job_id)).out)
    assert (good.code, good.out) == (0, "")
    assert good.err == "attempt 1, complete: 4 files, 8 B, 8 B of them read; all as listed\n"
    assert (bad.code, read) == (1, 1 + 1)  # one content was read, one was looked for
    lines = bad.out.splitlines()
    assert [line.split(": ")[0] for line in lines] == ["b", "c\\n\\x1b[31m", "d"]
    assert "sha256" in lines[0]
    assert "sha256" in lines[1]
    assert lines[2] == "d: is not in the bucket"
    assert "3 not as listed" in bad.err
    assert [each["path"] for each in told["problems"]] == ["b", "c\n\x1b[31m", "d"]
    assert told["sealed"] is True


async def test_trouble_is_no_verdict() -> None:
    """When the bucket does not answer, nothing is said of the files: exit code 69, and why."""
    async with running() as world:
        job_id = await job_with_artifacts(world)
        await ask(world, "artifacts", "ls", job_id)  # the manifest is known then
        world.bucket.error = CloudUnavailable("SlowDown", "later", operation="s3:HeadObject")
        done = await ask(world, "artifacts", "verify", job_id)
    assert (done.code, done.out) == (69, "")
    assert "s3:HeadObject: SlowDown: later" in done.err


def test_an_answer_that_breaks_off_is_no_verdict() -> None:
    """Without the last line nothing is known."""
    head = {"attempt": 1, "verdict": "complete", "sealed": True, "files": 2, "bytes": 2}

    def answer(_path: str, _query: dict[str, str]) -> Reply:
        return as_lines(head, {"checked": 1})

    with playing(answer) as double:
        done = dstackd("artifacts", "verify", "abc", variables=at(double.socket))
    assert (done.code, done.out) == (69, "")


async def test_names_cannot_move_the_cursor() -> None:
    """A name with a line end and escapes is one line on a terminal, and itself in JSON."""
    name = "a\n\x1b[2Jb\u202e"
    async with running() as world:
        job_id = await job_with_artifacts(world, contents={name: b"x"})
        done = await ask(world, "artifacts", "ls", job_id)
        told = json.loads((await ask(world, "artifacts", "ls", "--json", job_id)).out)
    assert done.out.splitlines()[1].endswith("a\\n\\x1b[2Jb\\u202e")
    assert told["files"][0]["path"] == name


async def test_progress_is_shown_on_a_terminal_only(tmp_path: Path) -> None:
    """On a terminal one line is written anew and taken away at the end; in a pipe there is none."""
    contents = {str(number): os.urandom(200_000) for number in range(60)}
    async with running() as world:
        job_id = await job_with_artifacts(world, contents=contents)
        shown = await anyio.to_thread.run_sync(on_a_terminal, world, job_id, tmp_path / "t")
        piped = await ask(world, "artifacts", "pull", job_id, str(tmp_path / "p"))
    assert b" of 60 files, " in shown
    assert b"\x1b[K" in shown
    assert shown.rpartition(b"\x1b[K")[2].startswith(b"attempt 1: 60 files in ")
    assert "\x1b" not in piped.err


def on_a_terminal(world: World, job_id: str, root: Path) -> bytes:
    """What `pull` writes on a terminal."""
    assert world.listening.socket_path is not None
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "dstackd", "artifacts", "pull", job_id, str(root)]
    with subprocess.Popen(
        command, env=environment(**at(world.listening.socket_path)), stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # the other side is closed
                break
            if not chunk:
                break
            shown += chunk
        process.wait(DEADLINE_S)
    os.close(ours)
    return shown


async def test_no_artifacts_is_said() -> None:
    """A job without artifacts ends the command with a reason."""
    async with running() as world:
        done = await ask(world, "artifacts", "pull", await world.insert_job())
    assert done.code == 2
    assert "has no artifacts in the bucket (phase submitted)" in done.err


def pull(root: Path, *files: dict[str, object], content: bytes) -> Finished:
    """Pull from a daemon that lists `files` and gives `content` for each of them."""

    def answer(path: str, _query: dict[str, str]) -> Reply:
        if path.endswith("/content"):
            return Reply(content)
        if path.endswith("/artifacts"):
            return as_json({"attempt": 1, "verdict": "complete", "sealed": True, "files": files})
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
    assert "a: the 4 bytes that came are not the 4 that were listed" in done.err
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
