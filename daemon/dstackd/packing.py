"""Folders of the control host as tars. Law: equal contents give equal bytes, whoever packs them and when.

Regular files, folders and symlinks that stay inside; owners, times and all modes but the executable bit are left out.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

SINGLE_NAME_MODE = 0o644


class UnreadableInput(Exception):
    """The input cannot be packed; the text says which path and why."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A finished tar."""

    path: Path
    sha256: str
    size_bytes: int


def check_allowed(source: str, allowed_roots: tuple[Path, ...]) -> Path:
    """The real path of an input. Raises UnreadableInput when it lies outside every allowed root."""
    path = Path(source)
    if not path.is_absolute():
        message = f"{source}: give an absolute path of the control host"
        raise UnreadableInput(message)
    real = path.resolve()
    if not any(real.is_relative_to(root.resolve()) for root in allowed_roots):
        message = (
            f"{source}: not below a folder of [inputs] allowed_roots in the daemon's configuration"
        )
        raise UnreadableInput(message)
    if not real.exists():
        message = f"{source}: does not exist on the control host"
        raise UnreadableInput(message)
    return real


def pack(source: Path, *, at: str, tar_path: Path) -> Packed:
    """Write the tar of `source` to `tar_path`, its names as they shall be in the job's folder.

    A folder's contents lie below `at` (`.` is the job's folder itself), a file is called `at`.
    """
    try:
        with (
            tar_path.open("wb") as file,
            tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            for path, name in _entries(source, PurePosixPath(at)):
                _add(tar, path, name)
    except OSError as error:
        message = f"{error.filename or source}: {error.strerror or error}"
        raise UnreadableInput(message) from error
    with tar_path.open("rb") as packed:
        digest = hashlib.file_digest(packed, "sha256").hexdigest()
    return Packed(tar_path, digest, tar_path.stat().st_size)


def _entries(source: Path, at: PurePosixPath) -> Iterator[tuple[Path, str]]:
    if not source.is_dir():
        yield source, str(at)
        return
    for folder, folders, names in os.walk(source):
        folders.sort()
        here = Path(folder)
        for name in sorted([*names, *folders]):
            path = here / name
            if path.is_symlink():
                _check_link(path, source)
            yield path, str(at / path.relative_to(source).as_posix())


def _check_link(link: Path, source: Path) -> None:
    """A link that leaves the folder would point at something else, or nothing, on the machine."""
    aim = os.path.normpath(link.parent / link.readlink())
    if link.readlink().is_absolute() or not Path(aim).is_relative_to(source):
        message = f"{link}: is a link that leaves the folder; copy what it points to, or remove it"
        raise UnreadableInput(message)


def _add(tar: tarfile.TarFile, path: Path, name: str) -> None:
    entry = tarfile.TarInfo(name)
    if path.is_symlink():
        entry.type, entry.linkname = tarfile.SYMTYPE, str(path.readlink())
        tar.addfile(entry)
    elif path.is_dir():
        entry.type, entry.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(entry)
    elif path.is_file():
        executable = path.stat().st_mode & 0o100
        entry.mode = 0o755 if executable else SINGLE_NAME_MODE
        # Not through a link that somebody has put there since: the daemon may read more than a submitter.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            _add_bytes(tar, entry, file)


def _add_bytes(tar: tarfile.TarFile, entry: tarfile.TarInfo, file: io.BufferedReader) -> None:
    entry.size = os.fstat(file.fileno()).st_size
    tar.addfile(entry, file)
