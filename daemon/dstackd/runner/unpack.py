"""Unpack a tar into a folder. Law: writes below the folder only, whatever the tar says.

Python 3.9 of stock images has no extraction filter, so the checks here do not lean on one; where
`tarfile.data_filter` exists it has its say as well.
"""

from __future__ import annotations

import os
import shutil
import tarfile

from dstackd.runner.paths import UnsafePath, below, is_inside


class UnsafeTar(ValueError):
    """A member would be written outside the folder, or is not a file, folder or link."""


def unpack(tar_path: str, folder: str) -> None:
    """Every member, or UnsafeTar, tarfile.TarError, OSError; what was unpacked before stays."""
    os.makedirs(folder, exist_ok=True)
    modes: list[tuple[str, int]] = []
    with tarfile.open(tar_path) as tar:
        try:
            for member in tar:
                _unpack_one(tar, member, folder, modes)
        except UnsafePath as error:
            raise UnsafeTar(str(error)) from error
    # Last: a folder may be read-only, and its files come after it.
    for path, mode in reversed(modes):
        os.chmod(path, mode)


def _unpack_one(
    tar: tarfile.TarFile, member: tarfile.TarInfo, folder: str, modes: list[tuple[str, int]]
) -> None:
    if hasattr(tarfile, "data_filter"):
        try:
            tarfile.data_filter(member, folder)
        except tarfile.FilterError as error:
            raise UnsafeTar(str(error)) from error
    if os.path.normpath(member.name) == ".":
        return
    path = below(folder, member.name)
    if member.isdir():
        os.makedirs(path, exist_ok=True)
        modes.append((path, member.mode & 0o777 | 0o700))
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.lexists(path):
        os.unlink(path)
    if member.issym():
        _link(member, path, folder)
    elif member.islnk():
        os.link(below(folder, member.linkname), path, follow_symlinks=False)
    elif member.isreg():
        _write(tar, member, path)
    else:
        raise UnsafeTar(f"{member.name!r} is neither a file, a folder nor a link")


def _link(member: tarfile.TarInfo, path: str, folder: str) -> None:
    target = os.path.join(os.path.dirname(path), member.linkname)
    if os.path.isabs(member.linkname) or not is_inside(folder, target):
        raise UnsafeTar(f"{member.name!r} links out of the folder")
    os.symlink(member.linkname, path)


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
    source = tar.extractfile(member)
    if source is None:
        raise UnsafeTar(f"{member.name!r} has no content")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        shutil.copyfileobj(source, file, 1024 * 1024)
    os.chmod(path, member.mode & 0o777 | 0o400)
    os.utime(path, (member.mtime, member.mtime))
