"""Which files the declared artifact paths mean. Law: reads names only; never leaves the job's folder.

Regular files only. A link is followed where it ends inside the job's folder, to a file or a folder.
"""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from dstackd.runner.paths import is_inside


@dataclass
class Collected:
    """`files`: paths relative to the job's folder, with `/`, sorted, each once."""

    files: list[str] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)
    """Declared paths that named nothing."""
    skipped: list[str] = field(default_factory=list)
    """What was there and is not a file that can be stored, with the reason."""


def collect(job_dir: str, patterns: Sequence[str]) -> Collected:
    """Every file below the declared paths."""
    found = Collected()
    files: set[str] = set()
    for pattern in patterns:
        tops = _tops(job_dir, pattern)
        if not tops:
            found.unmatched.append(pattern)
        for top in tops:
            files.update(_walk(job_dir, top, found, trail=()))
    found.files = sorted(files)
    return found


def _tops(job_dir: str, pattern: str) -> list[str]:
    if os.path.isabs(pattern):
        return []
    literal = os.path.normpath(os.path.join(job_dir, pattern))
    if os.path.lexists(literal):
        return [literal]
    matches = glob.glob(os.path.join(glob.escape(job_dir), pattern), recursive=True)
    return sorted(os.path.normpath(match) for match in matches)


def _walk(job_dir: str, path: str, found: Collected, *, trail: tuple[str, ...]) -> Iterator[str]:
    name = os.path.relpath(path, job_dir).replace(os.sep, "/")
    reason = _reason_to_skip(job_dir, path, name)
    if reason:
        found.skipped.append(f"{os.fsencode(name).decode('utf-8', 'backslashreplace')}: {reason}")
    elif os.path.isdir(path):
        real = os.path.realpath(path)
        if real in trail:
            found.skipped.append(f"{name}: a link to a folder around it")
            return
        try:
            children = sorted(os.listdir(path))
        except OSError as error:
            found.skipped.append(f"{name}: {error.strerror}")
            return
        for child in children:
            yield from _walk(job_dir, os.path.join(path, child), found, trail=(*trail, real))
    else:
        yield name


def _reason_to_skip(job_dir: str, path: str, name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        return "the name is not UTF-8"
    if not is_inside(job_dir, path):
        return "outside the job's folder"
    try:
        kind = os.stat(path).st_mode
    except OSError as error:
        return str(error.strerror)
    return "" if stat.S_ISREG(kind) or stat.S_ISDIR(kind) else "not a regular file"
