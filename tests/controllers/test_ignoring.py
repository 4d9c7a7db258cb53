"""Ignore files mean what git says that they mean."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstackd.packing import UnreadableInput, pack

WORDS = st.sampled_from(
    ["a", "b", "ab", "a.py", "b.log", "ü", "à", "a b", "a ", "x\ny", "#c", "!d", "a\t"]
)
FILES = st.lists(st.lists(WORDS, min_size=1, max_size=4).map("/".join), min_size=1, max_size=8)
PARTS = st.sampled_from(
    [
        "*",
        "?",
        "**",
        "a",
        "b",
        "ab",
        "*.py",
        "a*",
        "[ab]",
        "[!a]",
        "b.log",
        "ü",
        "à",
        "a\\ b",
        "\\#c",
        "\\!d",
    ]
)
PATTERNS = st.builds(
    lambda no, start, parts, end: no + start + "/".join(parts) + end,
    *(st.sampled_from(["", "", "!"]), st.sampled_from(["", "/"])),
    *(st.lists(PARTS, min_size=1, max_size=3), st.sampled_from(["", "", "/", " ", "\t", "\\ "])),
)
IGNORE_FILES = st.dictionaries(
    st.sampled_from(["", "a", "ab", "a/b"]), st.lists(PATTERNS, min_size=1, max_size=4), max_size=3
)


def write(root: Path, paths: Iterable[str]) -> None:
    """A file at each path, where no file of the path is a folder already."""
    for path in paths:
        place = root / path
        if not any(each.is_file() for each in place.parents) and not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text("")


def packed(root: Path) -> set[str]:
    """The files that are packed of a folder."""
    with tempfile.TemporaryDirectory() as folder:
        done = pack(root, at=".", tar_path=Path(folder) / "tar")
        with tarfile.open(done.path) as tar:
            return {member.name for member in tar if member.isfile()}


def taken_by_git(root: Path) -> set[str]:
    """The files that git would add."""
    for command in (["init", "-q"], ["-c", "core.excludesFile=", "add", "-A"]):
        subprocess.run(["git", *command], cwd=root, check=True, capture_output=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True
    ).stdout
    return {path for path in listed.decode().split("\0") if path}


@pytest.mark.skipif(shutil.which("git") is None, reason="compares with git")
@settings(max_examples=60, deadline=None)
@given(files=FILES, rules=IGNORE_FILES)
def test_as_git_does(files: list[str], rules: dict[str, list[str]]) -> None:
    """Any folder with any ignore files at any level: exactly what git would add is packed."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write(root, files)
        for below, lines in rules.items():
            if (root / below).is_dir():
                (root / below / ".gitignore").write_text("\n".join(lines))
        assert packed(root) == taken_by_git(root)


def test_our_own_file_goes_first(tmp_path: Path) -> None:
    """Where the folder has a .dstackdignore, what git ignores is no matter: data may be in it that no commit may have."""
    write(tmp_path, ["data/big", "secret", "code", "sub/secret", "sub/more", "sub/big"])
    (tmp_path / ".gitignore").write_text("big\n")
    assert packed(tmp_path) == {".gitignore", "secret", "code", "sub/secret", "sub/more"}
    (tmp_path / ".dstackdignore").write_text("secret\n")
    (tmp_path / "sub" / ".dstackdignore").write_text("!secret\n/more\n")
    expected = {".dstackdignore", ".gitignore", "code", "data/big", "sub/big"}
    assert packed(tmp_path) == expected | {"sub/.dstackdignore", "sub/secret"}


def test_git_itself_stays(tmp_path: Path) -> None:
    """History is not an input: .git, as a folder or as a file of a submodule, at any level, even if a rule says otherwise."""
    write(tmp_path, [".git/config", "sub/.git", "sub/a", ".github/b"])
    (tmp_path / ".dstackdignore").write_text("!.git\n")
    assert packed(tmp_path) == {".dstackdignore", ".github/b", "sub/a"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("!", "is no pattern"),
        ("a\\", "is no pattern"),
        ("[[:alpha:]]*", "[:class:] is not understood"),
        ("*a*a*a*a*a*a*a*", "more than 6 stars"),
    ],
)
def test_a_rule_that_cannot_be_read_is_an_error(tmp_path: Path, line: str, message: str) -> None:
    """A typing error must not upload what should have stayed: the file and the line are named."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / ".gitignore").write_text(f"# ok\n\n{line}\n")
    with pytest.raises(UnreadableInput) as caught:
        packed(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/sub/.gitignore:3: ")
    assert message in str(caught.value)


def test_lines_of_windows_and_links(tmp_path: Path) -> None:
    """A carriage return and a byte order mark are no part of a rule; an ignore file that is a link is not followed."""
    write(tmp_path, ["a", "b", "c/d"])
    (tmp_path / ".gitignore").write_bytes(b"\xef\xbb\xbfa\r\nb\r\n")
    (tmp_path / "c" / "rules").write_text("d\n")
    (tmp_path / "c" / ".gitignore").symlink_to("rules")
    assert packed(tmp_path) == {".gitignore", "c/d", "c/rules"}
