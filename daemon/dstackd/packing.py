"""Folders of the control host as tars. Law: equal contents give equal bytes, whoever packs them and when.

Regular files, folders and symlinks that stay inside; owners, times and all modes but the executable bit are left out, and so is what
the folder's ignore files name. Each folder is opened below the one that holds it, never through a link: whoever may write there
while it is read cannot lead the daemon, which may read more than a submitter, to another place.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final

from dstackd.errors import StorageFailed
from dstackd.ignoring import OWN_NAME, Ignoring, UnreadableRules, ignoring

SINGLE_NAME_MODE: Final = 0o644
DEPTH_MAX: Final = 200
"""Folders within folders; each is open while what is in it is read."""
_TRIES: Final = 3
_COPY_BYTES: Final = 1_048_576


class UnreadableInput(Exception):
    """The input cannot be packed; the text says which path and why."""


class _Changed(UnreadableInput):
    """Somebody writes there at the moment."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A finished tar."""

    path: Path
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class _Entry:
    """Something below the source: its relative path, and how to reach it from the open folder that holds it."""

    path: str
    name: str
    status: os.stat_result
    folder: int


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

    A folder's contents lie below `at` (`.` is the job's folder itself), a file is called `at`. Raises UnreadableInput, and
    StorageFailed when the tar cannot be written. What changes while it is read is read again, a few times.
    """
    for _ in range(_TRIES - 1):
        with contextlib.suppress(_Changed):
            return _pack(source, at=at, tar_path=tar_path)
    return _pack(source, at=at, tar_path=tar_path)


def _pack(source: Path, *, at: str, tar_path: Path) -> Packed:
    with _writing(tar_path), tar_path.open("wb") as file:
        written = _Hashed(file, tar_path)
        with tarfile.TarFile(
            fileobj=written,  # type: ignore[arg-type] # it is only written to
            mode="w",
            format=tarfile.PAX_FORMAT,
            copybufsize=_COPY_BYTES,
        ) as tar:
            for entry in _entries(source):
                shown = source / entry.path
                name = PurePosixPath(at) / entry.path
                with _reading(shown):
                    _add(tar, entry, str(name), shown=shown)
    return Packed(tar_path, written.sha256, written.tell())


class _Hashed:
    """A file that is only written to, and knows its digest at the end: the tar is not read again for it."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path
        self._digest = hashlib.sha256()
        self._size_bytes = 0

    def write(self, content: bytes) -> int:
        """All of it."""
        with _writing(self._path):
            self._file.write(content)
        self._digest.update(content)
        self._size_bytes += len(content)
        return len(content)

    def tell(self) -> int:
        """Bytes so far."""
        return self._size_bytes

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """A full disk of ours is not the job's fault."""
    try:
        yield
    except OSError as error:
        raise StorageFailed(f"{path}: {error.strerror or error}") from error


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise _Changed(f"{path}: went away while it was read") from error
    except OSError as error:
        raise UnreadableInput(f"{path}: {error.strerror or error}") from error


def _entries(source: Path) -> Iterator[_Entry]:
    with _reading(source):
        is_folder = source.is_dir()
        if is_folder:
            folder = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        else:
            folder = os.open(source.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if is_folder:
            yield from _below(source, "", folder, None)
        else:
            with _reading(source):
                status = os.stat(source.name, dir_fd=folder, follow_symlinks=False)
            yield _Entry("", source.name, status, folder)
    finally:
        os.close(folder)


def _below(
    source: Path, path: str, folder: int, outer: Ignoring | None, *, depth: int = 0
) -> Iterator[_Entry]:
    """What is in the open folder and is not left out, each folder before its contents. `outer`: the rules of the folder above."""
    if depth > DEPTH_MAX:
        raise UnreadableInput(f"{source / path}: more than {DEPTH_MAX} folders deep")
    try:
        with _reading(source / path):
            names = sorted(os.listdir(folder))
            rules = (outer or ignoring(names)).within(path, names=names, descriptor=folder)
    except UnreadableRules as error:
        raise UnreadableInput(f"{source}/{error}") from None
    for name in names:
        below = f"{path}/{name}" if path else name
        with _reading(source / below):
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        is_folder = stat.S_ISDIR(status.st_mode)
        if rules.leaves_out(below, is_folder=is_folder):
            continue
        yield _Entry(below, name, status, folder)
        if is_folder:
            with _reading(source / below):
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
                inner = os.open(name, flags, dir_fd=folder)
            try:
                yield from _below(source, below, inner, rules, depth=depth + 1)
            finally:
                os.close(inner)


def _add(tar: tarfile.TarFile, entry: _Entry, name: str, *, shown: Path) -> None:
    member = tarfile.TarInfo(name)
    kind = stat.S_IFMT(entry.status.st_mode)
    if kind == stat.S_IFLNK:
        aim = os.readlink(entry.name, dir_fd=entry.folder)
        _check_link(entry.path, aim, shown=shown)
        member.type, member.linkname = tarfile.SYMTYPE, aim
        tar.addfile(member)
    elif kind == stat.S_IFDIR:
        member.type, member.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(member)
    elif kind == stat.S_IFREG:
        _add_file(tar, member, entry, shown=shown)
    else:
        raise UnreadableInput(
            f"{shown}: is a {_KINDS.get(kind, 'special file')}, which cannot be packed;"
            f" remove it, or name it in {OWN_NAME}"
        )


_KINDS: Final = {
    stat.S_IFSOCK: "socket",
    stat.S_IFIFO: "named pipe",
    stat.S_IFBLK: "device",
    stat.S_IFCHR: "device",
}


def _check_link(path: str, aim: str, *, shown: Path) -> None:
    """A link that leaves the folder would point at something else, or nothing, on the machine."""
    ends_at = os.path.normpath(str(PurePosixPath(path).parent / aim))
    if aim.startswith("/") or ends_at == ".." or ends_at.startswith("../"):
        raise UnreadableInput(
            f"{shown}: is a link that leaves the folder; copy what it points to,"
            f" remove it, or name it in {OWN_NAME}"
        )


def _add_file(tar: tarfile.TarFile, member: tarfile.TarInfo, entry: _Entry, *, shown: Path) -> None:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    with os.fdopen(os.open(entry.name, flags, dir_fd=entry.folder), "rb") as file:
        before = os.fstat(file.fileno())
        member.mode = 0o755 if before.st_mode & 0o100 else SINGLE_NAME_MODE
        member.size = before.st_size
        counted = _Counted(file.read)
        try:
            tar.addfile(member, counted)  # type: ignore[arg-type] # it only reads
        except OSError as error:
            # Tarfile's own word for a file that ended too early has no error number.
            if error.errno is not None:
                raise
        after = os.fstat(file.fileno())
    as_it_was = (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    if not as_it_was or counted.size_bytes != member.size:
        raise _Changed(
            f"{shown}: changed while it was read; submit again when it is written,"
            f" or name it in {OWN_NAME}"
        )


class _Counted:
    """What was read of a file, counted."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self.size_bytes = 0

    def read(self, size_bytes: int) -> bytes:
        """The next bytes."""
        content = self._read(size_bytes)
        self.size_bytes += len(content)
        return content
