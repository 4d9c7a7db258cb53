"""Inputs are unpacked into the job's folder, and nowhere else, whatever the tar says."""

from __future__ import annotations

import io
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstackd.runner.paths import UnsafePath, below
from dstackd.runner.unpack import UnsafeTar, unpack

Member = tuple[str, str, str]
"""(kind, name, link target)"""

parts = st.sampled_from(["a", "b", "c", "..", ".", ""])
names = st.lists(parts, min_size=1, max_size=4).map("/".join)
members = st.lists(st.tuples(st.sampled_from("dfslp"), names, names), min_size=1, max_size=8)
KINDS = {
    "d": tarfile.DIRTYPE,
    "f": tarfile.REGTYPE,
    "s": tarfile.SYMTYPE,
    "l": tarfile.LNKTYPE,
    "p": tarfile.FIFOTYPE,
}


def write_tar(path: Path, wanted: Sequence[Member]) -> None:
    with tarfile.open(path, "w") as tar:
        for kind, name, target in wanted:
            member = tarfile.TarInfo(name)
            member.type = KINDS[kind]
            member.linkname = target if kind in "sl" else ""
            member.size = 4 if kind == "f" else 0
            member.mode = 0o755
            tar.addfile(member, io.BytesIO(b"evil"))


def outside(root: Path, folder: Path) -> dict[str, bytes]:
    """Every file below `root` that is not below `folder`, with its content; links not followed."""
    return {
        str(path): path.read_bytes() if path.is_file() else b""
        for path in walk(root)
        if path != folder and folder not in path.parents
    }


def walk(root: Path) -> Iterator[Path]:
    for path in sorted(root.iterdir()):
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from walk(path)


def try_to_unpack(root: Path, wanted: Sequence[Member]) -> bool:
    """Unpack into root/x/folder, with files to spoil around it; whether all was unpacked."""
    folder = root / "x" / "folder"
    folder.mkdir(parents=True)
    for name in "abc":
        (root / "x" / name).write_bytes(b"good")
    tar = root / "input.tar"
    write_tar(tar, wanted)
    before = outside(root, folder)
    try:
        unpack(str(tar), str(folder))
    except (UnsafeTar, OSError):
        return False
    finally:
        assert outside(root, folder) == before
    return True


@settings(deadline=None, max_examples=300)
@given(members)
def test_nothing_is_written_outside(wanted: list[Member]) -> None:
    """For any members, in any order, with any links, what is around the folder stays as it was."""
    with tempfile.TemporaryDirectory() as root:
        try_to_unpack(Path(root), wanted)


@pytest.mark.parametrize(
    "wanted",
    [
        [("f", "/etc/passwd", "")],
        [("f", "../a", "")],
        [("s", "link", "/etc"), ("f", "link/a", "")],
        [("s", "link", ".."), ("f", "link/a", "")],
        [("s", "link", "../a"), ("f", "link", "")],
        # The link is inside while `b` is not there, and outside once it is.
        [("s", "a", "b/.."), ("s", "b", "."), ("f", "a/c", "")],
        [("l", "hard", "../a"), ("f", "hard", "")],
        [("s", "link", "../a"), ("l", "hard", "link")],
        [("p", "pipe", "")],
    ],
)
def test_known_attacks_are_refused(tmp_path: Path, wanted: list[Member]) -> None:
    """Each of them fails, and none leaves a trace around the folder."""
    assert not try_to_unpack(tmp_path, wanted)


def test_what_is_good_is_unpacked(tmp_path: Path) -> None:
    """Files, folders, modes and links that stay inside arrive as they were packed."""
    good: list[Member] = [
        ("d", ".", ""),
        ("d", "./deep", ""),
        ("f", "./deep/file", ""),
        ("f", "alone/file", ""),
        ("s", "deep/link", "../alone/file"),
        ("l", "hard", "deep/file"),
    ]
    assert try_to_unpack(tmp_path, good)
    folder = tmp_path / "x" / "folder"
    assert {str(path.relative_to(folder)) for path in walk(folder)} == {
        *("deep", "deep/file", "deep/link", "alone", "alone/file", "hard")
    }
    assert (folder / "deep/link").read_bytes() == (folder / "hard").read_bytes() == b"evil"
    assert (folder / "deep/file").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("name", ["", "/a", "../a", "a/../..", "a\0b"])
def test_unsafe_names_are_refused(tmp_path: Path, name: str) -> None:
    """Targets, working folders and manifest paths go through the same gate."""
    with pytest.raises(UnsafePath):
        below(str(tmp_path), name)


def test_a_link_that_leads_out_is_seen(tmp_path: Path) -> None:
    """The gate looks at the disk, not at the name alone."""
    (tmp_path / "link").symlink_to("/")
    with pytest.raises(UnsafePath):
        below(str(tmp_path), "link/etc")
    assert below(str(tmp_path), "./a//b") == str(tmp_path / "a" / "b")
