"""A folder becomes a tar: the same bytes for the same contents, and an error that names the path where it cannot."""

from __future__ import annotations

import os
import socket
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dstackd import packing
from dstackd.errors import StorageFailed
from dstackd.packing import DEPTH_MAX, Packed, UnreadableInput, pack
from dstackd.protocol import sha256_hex

NOBODY = 65534


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An empty folder to pack."""
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


def packed(source: Path, *, at: str = ".") -> Packed:
    """The tar, beside the folder."""
    return pack(source, at=at, tar_path=source.parent / "tar")


def names(done: Packed) -> list[str]:
    """What is in it, in order."""
    with tarfile.open(done.path) as tar:
        return tar.getnames()


def test_equal_contents_give_equal_bytes(source: Path) -> None:
    """Times, owners and modes but the executable bit do not matter, nor who wrote first; the digest is that of the file."""
    for name in ("b", "a", "run"):
        (source / name).write_text(name)
    (source / "run").chmod(0o755)
    first = packed(source)
    content = first.path.read_bytes()
    os.utime(source / "a", (1, 1))
    (source / "a").chmod(0o600)
    second = packed(source)
    assert second.path.read_bytes() == content
    assert (
        (first.sha256, first.size_bytes)
        == (sha256_hex(content), len(content))
        == (
            second.sha256,
            second.size_bytes,
        )
    )
    (source / "run").chmod(0o644)
    assert packed(source).sha256 != first.sha256


def test_names_are_those_in_the_job(source: Path) -> None:
    """A folder lies below its target, a file is called so, and any byte may be in a name."""
    (source / "sub").mkdir()
    (source / "sub" / "f").write_text("")
    assert names(packed(source, at="x/y")) == ["x/y/sub", "x/y/sub/f"]
    assert names(packed(source / "sub" / "f", at="x/g")) == ["x/g"]
    Path(os.fsdecode(bytes(source) + b"/\xff\n")).write_text("odd")
    assert os.fsencode(names(packed(source))[-1]) == b"\xff\n"


def test_links_inside_stay_links(source: Path) -> None:
    """A link within the folder is kept, also a dangling one; one that leaves it is an error."""
    (source / "sub").mkdir()
    for name, aim in {"a": "sub", "sub/b": "../none", "sub/c": "."}.items():
        (source / name).symlink_to(aim)
    with tarfile.open(packed(source).path) as tar:
        links = {member.name: member.linkname for member in tar if member.issym()}
    assert links == {"a": "sub", "sub/b": "../none", "sub/c": "."}
    for aim in ("../../x", "/etc/passwd", str(source / "sub"), "b/../../.."):
        (source / "sub" / "out").symlink_to(aim)
        with pytest.raises(UnreadableInput, match=f"{source}/sub/out: is a link that leaves"):
            packed(source)
        (source / "sub" / "out").unlink()


def test_what_cannot_be_packed_is_named(source: Path) -> None:
    """A socket, a pipe, a file or a folder that may not be read: its path and why."""
    with socket.socket(socket.AF_UNIX) as listening:
        here = Path.cwd()
        os.chdir(source)  # a socket's name is short
        listening.bind("s")
        os.chdir(here)
    with pytest.raises(
        UnreadableInput, match=f"{source}/s: is a socket, .* name it in .dstackdignore"
    ):
        packed(source)
    (source / ".dstackdignore").write_text("s\n")
    os.mkfifo(source / "p")
    with pytest.raises(UnreadableInput, match=f"{source}/p: is a named pipe"):
        packed(source)
    (source / "p").unlink()
    deep = source
    for _ in range(DEPTH_MAX + 2):
        deep /= "d"
    deep.mkdir(parents=True)
    with pytest.raises(UnreadableInput, match=f"more than {DEPTH_MAX} folders deep"):
        packed(source)


@contextmanager
def open_to_all() -> Iterator[Path]:
    """A folder that any user reaches, and a process without root's rights for the block."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        before = os.geteuid()
        if before == 0:
            os.seteuid(NOBODY)
        try:
            (Path(folder) / "source").mkdir()
            yield Path(folder) / "source"
        finally:
            os.seteuid(before)


@pytest.mark.parametrize("name", ["file", "folder"])
def test_what_may_not_be_read_is_named(name: str) -> None:
    """The path, and the system's word."""
    with open_to_all() as source:
        path = source / name
        path.mkdir() if name == "folder" else path.write_text("")
        path.chmod(0)
        with pytest.raises(UnreadableInput, match=f"{path}: Permission denied"):
            packed(source)
        path.chmod(0o700)


def test_a_file_that_is_always_written_is_an_error(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read again twice, then an error that names it; one change alone is no error."""
    path = source / "log"
    path.write_bytes(b"x" * 100)
    changes = 0
    inner = packing._Counted.read

    def read_and_change(self: packing._Counted, size_bytes: int) -> bytes:
        nonlocal changes
        content = inner(self, size_bytes)
        if changes > 0:
            changes -= 1
            with path.open("ab") as file:
                file.write(b"more")
        return content

    monkeypatch.setattr(packing._Counted, "read", read_and_change)
    changes = 1
    done = packed(source)
    with tarfile.open(done.path) as tar:
        assert tar.getmember("log").size == path.stat().st_size
    changes = 100
    with pytest.raises(UnreadableInput, match=f"{path}: changed while it was read"):
        packed(source)


def test_a_shrinking_file_is_an_error(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut while it is read, each time: named, not half a file and not an error of tarfile."""
    path = source / "f"
    path.write_bytes(b"x" * 3_000_000)
    inner = packing._Counted.read

    def read_and_cut(self: packing._Counted, size_bytes: int) -> bytes:
        content = inner(self, size_bytes)
        os.truncate(path, max(path.stat().st_size - 1_500_000, 1))
        return content

    monkeypatch.setattr(packing._Counted, "read", read_and_cut)
    with pytest.raises(UnreadableInput, match=f"{path}: changed while it was read"):
        packed(source)


def test_a_folder_that_becomes_a_link_is_not_followed(source: Path) -> None:
    """Somebody swaps a folder for a link to another place while it is packed, again and again: nothing from there is ever read."""
    secret = source.parent / "secret"
    secret.mkdir()
    (secret / "key").write_text("SECRET")
    inside, away = source / "sub", source.parent / "away"
    inside.mkdir()
    (inside / "key").write_text("public")
    over = threading.Event()

    def swap() -> None:
        while not over.is_set():
            inside.rename(away)
            inside.symlink_to(secret)
            inside.unlink()
            away.rename(inside)

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        for number in range(300):
            tar_path = source.parent / f"tar-{number % 2}"
            try:
                pack(source, at=".", tar_path=tar_path)
            except UnreadableInput:
                continue
            assert b"SECRET" not in tar_path.read_bytes()
    finally:
        over.set()
        swapping.join()


def test_a_full_disk_of_ours_is_not_the_jobs_fault(source: Path) -> None:
    """The tar cannot be written: an error of the daemon, to be tried again."""
    (source / "f").write_bytes(b"x" * 100_000)
    with pytest.raises(StorageFailed, match="No space left"):
        pack(source, at=".", tar_path=Path("/dev/full"))
