"""What of an input folder stays at home, as ignore files in it say. Law: git's rules, and where a rule cannot be read it is an error:
a file that should have stayed must not be uploaded because of a typing error.

Rules are those of `.dstackdignore` files where the input's own folder has one, else those of `.gitignore` files; at each level, each
from its folder down, the nearest last. `.git` never goes. What a folder above the input says does not count.
"""

from __future__ import annotations

import codecs
import os
import re
import stat
from dataclasses import dataclass
from typing import Final

from pathspec import GitIgnoreSpec
from pathspec.patterns.gitignore import GitIgnorePatternError

OWN_NAME: Final = ".dstackdignore"
GIT_NAME: Final = ".gitignore"
NEVER: Final = ".git"
FILE_BYTES_MAX: Final = 1_048_576
STARS_MAX: Final = 6
"""In one part of a pattern: each more multiplies how long a name that almost matches can take, and the event loop waits."""

_AS_BYTES: Final = {n: 0xE000 + n for n in range(256) if not 31 < n < 127}  # noqa: PLR2004 - printable ASCII
"""Git compares bytes. Those that are no letters of ASCII become characters that stand for nothing else, are no white space and end
no line."""

_FOLDERS = re.compile(r"/\*\*/ *$")
"""Every folder below the one before it, but not that one, which pathspec 1.1 leaves out too (compared with git 2.39)."""
_CLASS = re.compile(r"\[(?:[^]\\]|\\.)*\[[:.=]")


class UnreadableRules(Exception):
    """The ignore file cannot be followed; the text says which and why."""


@dataclass(frozen=True, slots=True)
class _Level:
    """The rules of one file, for the paths below its folder."""

    folder: str
    """Relative to the input, with `/` at its end, bytewise; empty for the input itself."""
    rules: GitIgnoreSpec


@dataclass(frozen=True, slots=True)
class Ignoring:
    """The rules that hold in one folder of an input."""

    file_name: str
    levels: tuple[_Level, ...] = ()

    def within(self, folder: str, *, names: list[str], descriptor: int) -> Ignoring:
        """The rules that hold below `folder` (relative, `""` for the input), which contains `names` and is open as `descriptor`.

        Raises UnreadableRules and OSError.
        """
        if self.file_name not in names:
            return self
        path = f"{folder}/{self.file_name}" if folder else self.file_name
        rules = _read(path, self.file_name, descriptor)
        if rules is None:
            return self
        level = _Level(_bytewise(os.fsencode(f"{folder}/")) if folder else "", rules)
        return Ignoring(self.file_name, (*self.levels, level))

    def leaves_out(self, path: str, *, is_folder: bool) -> bool:
        """Whether `path` (relative to the input, with `/`), whose folders are all taken along, stays at home."""
        if path.rpartition("/")[2] == NEVER:
            return True
        asked = _bytewise(os.fsencode(path + "/" if is_folder else path))
        for level in reversed(self.levels):
            verdict = level.rules.check_file(asked[len(level.folder) :]).include
            if verdict is not None:
                return verdict
        return False


def ignoring(names: list[str]) -> Ignoring:
    """No rules yet, for an input whose own folder contains `names`."""
    return Ignoring(OWN_NAME if OWN_NAME in names else GIT_NAME)


def _read(path: str, name: str, descriptor: int) -> GitIgnoreSpec | None:
    """The rules of the file; None where it is a link or no file, which git passes over as well."""
    if not stat.S_ISREG(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode):
        return None
    opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=descriptor)
    with os.fdopen(opened, "rb") as file:
        content = file.read(FILE_BYTES_MAX + 1)
    if len(content) > FILE_BYTES_MAX:
        raise UnreadableRules(f"{path}: is larger than {FILE_BYTES_MAX} bytes; write fewer rules")
    lines = content.removeprefix(codecs.BOM_UTF8).split(b"\n")
    patterns = [_FOLDERS.sub("/**/*/", _bytewise(line.removesuffix(b"\r"))) for line in lines]
    for number, pattern in enumerate(patterns, start=1):
        _check(f"{path}:{number}", pattern)
    return GitIgnoreSpec.from_lines(patterns)


def _bytewise(written: bytes) -> str:
    return written.decode("latin-1").translate(_AS_BYTES)


def _check(where: str, line: str) -> None:
    if line.startswith("#"):
        return
    if _CLASS.search(line):
        raise UnreadableRules(
            f"{where}: [:class:] is not understood; write the characters, as [a-z]"
        )
    if any(part.count("*") > STARS_MAX for part in line.split("/")) or line.count("**") > STARS_MAX:
        raise UnreadableRules(f"{where}: has more than {STARS_MAX} stars; write a simpler pattern")
    try:
        GitIgnoreSpec.from_lines([line])
    except GitIgnorePatternError:
        raise UnreadableRules(f"{where}: is no pattern; correct it, or remove it") from None
