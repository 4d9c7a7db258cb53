"""Folders deeper than Python's stack and the kernel's paths are walked, given and removed; links are not followed."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from dstackd.runner import container_owner, ownership
from dstackd.runner.cleaning import Cleaner, NotClean, end_user, owned_below
from dstackd.runner.power import LOCAL_VARIABLE
from dstackd.runner.trees import is_gone, remove, walk

DEPTH = sys.getrecursionlimit() + 500
NAME = "a-folder"
PLAYED = {LOCAL_VARIABLE: "http://127.0.0.1:1", "PATH": "/nowhere"}
UID = 61_236
"""Nobody has it."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives things away")


def make_deep(folder: Path, *, name: str = NAME) -> Path:
    """The folder, with DEPTH others of this name, one in the other, and a file in the last."""
    folder.mkdir(exist_ok=True)
    here = os.open(folder, os.O_RDONLY)
    for _ in range(DEPTH):
        os.mkdir(name, dir_fd=here)
        inner = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=here))
    os.close(here)
    return folder


def test_what_is_deeper_than_the_stack_is_removed(tmp_path: Path) -> None:
    """Also where its path is longer than the kernel takes."""
    deep = make_deep(tmp_path / "deep")
    assert DEPTH * len(NAME) > os.pathconf("/", "PC_PATH_MAX")
    assert remove(str(deep))
    assert is_gone(str(deep))


def test_a_deep_folder_is_no_reason_against_the_next_job(tmp_path: Path) -> None:
    """The runner's folder is as it was."""
    cleaner = Cleaner(str(tmp_path), environ=PLAYED, say=print)
    make_deep(tmp_path / "job")
    assert cleaner.clean(had_container=False)
    assert list(tmp_path.iterdir()) == []


def test_each_folder_comes_before_and_behind_what_is_in_it(tmp_path: Path) -> None:
    """As many files are open in the end as before."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_text("")
    (tmp_path / "a" / "link").symlink_to("/")
    before = len(list(Path("/proc/self/fd").iterdir()))
    seen = [
        (entry.path.removeprefix(f"{tmp_path}/"), entry.is_left) for entry in walk(str(tmp_path))
    ]
    assert sorted(seen) == sorted(
        [
            ("a", False),
            ("a/b", False),
            ("a/b/c", False),
            ("a/b", True),
            ("a/link", False),
            ("a", True),
        ]
    )
    assert seen.index(("a/b", True)) > seen.index(("a/b/c", False))
    assert seen[-1] == ("a", True)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_what_a_link_points_at_stays(tmp_path: Path) -> None:
    """In the folder, and in its place."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(outside)
    (tmp_path / "link").symlink_to(outside)
    assert remove(str(tmp_path / "folder"))
    assert remove(str(tmp_path / "link"))
    assert (outside / "file").read_text() == "x"


def test_a_folder_that_was_moved_leads_nowhere_else(tmp_path: Path) -> None:
    """The way back is only to where the walk came from: nothing beside the folder's new place is seen."""
    inner = tmp_path / "top" / "inner"
    inner.mkdir(parents=True)
    (inner / "file").write_text("")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("")
    entries = walk(str(tmp_path / "top"))
    assert [next(entries).name, next(entries).name] == ["inner", "file"]
    inner.rename(elsewhere / "inner")
    with pytest.raises(OSError, match="another folder"):
        next(entries)


@needs_root
def test_a_deep_folder_changes_hands(tmp_path: Path) -> None:
    """All of it, and what is the user's goes as a whole."""
    shared = tmp_path / "shared"
    shared.mkdir()
    deep = make_deep(shared / "deep")
    ownership.give(str(deep), uid=UID, gid=UID)
    assert {entry.status.st_uid for entry in walk(str(deep))} == {UID}
    assert owned_below((str(shared),), UID) == [str(deep)]
    assert list(end_user("nobody-has-this", UID, folders=(str(shared),))) == []
    assert list(shared.iterdir()) == []


@needs_root
def test_what_others_made_deep_is_looked_through(tmp_path: Path) -> None:
    """A file of the user's at the bottom, longer than a path may be, cannot be removed by its path: it is said."""
    deep = make_deep(tmp_path / "deep")
    for entry in walk(str(deep)):
        if entry.name == "file":
            os.chown("file", UID, UID, dir_fd=entry.here)
    (left,) = end_user("nobody-has-this", UID, folders=(str(tmp_path),))
    assert left.endswith("/file")
    assert remove(str(deep))


def test_a_deep_folder_is_opened_for_the_images_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the runner may not give it away."""
    deep = make_deep(tmp_path / "deep")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    container_owner.give(str(deep), (UID, UID))
    modes = {stat.S_IMODE(entry.status.st_mode) for entry in walk(str(deep)) if not entry.is_folder}
    assert modes == {0o666}
    assert remove(str(deep))


def test_cleaning_is_bounded(tmp_path: Path) -> None:
    """Between two entries it is noticed that the time is over, or that the machine has to go."""
    cleaner = Cleaner(str(tmp_path), environ=PLAYED, say=print)
    (tmp_path / "job" / "a").mkdir(parents=True)
    with pytest.raises(NotClean, match="not done within"):
        cleaner.clean(had_container=False, patience_s=0.0)
    with pytest.raises(NotClean, match="has to go"):
        cleaner.clean(had_container=False, leaves=lambda: True)
    assert (tmp_path / "job" / "a").is_dir()
