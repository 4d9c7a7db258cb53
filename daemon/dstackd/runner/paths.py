"""Names that may come from outside, made into paths below a folder. Law: nothing escapes."""

from __future__ import annotations

import os


class UnsafePath(ValueError):
    """The name leads out of its folder."""


def is_inside(folder: str, path: str) -> bool:
    """Whether `path`, links resolved, is `folder` or below it."""
    root = os.path.realpath(folder)
    real = os.path.realpath(path)
    return real == root or real.startswith(root.rstrip(os.sep) + os.sep)


class Places:
    """Paths of files below a folder, whose folders are made. Quick for many files: each folder is
    looked at once.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._made: set[str] = set()

    def place(self, name: str) -> str:
        """Where the file `name` goes. Raises UnsafePath, OSError."""
        parent, _, last = name.rpartition("/")
        if last in {"", ".", ".."} or name.startswith("/") or "\0" in name:
            raise UnsafePath(f"{name!r} is not the path of a file below the folder")
        folder = below(self._folder, parent or ".") if parent not in self._made else ""
        if folder:
            os.makedirs(folder, exist_ok=True)
            self._made.add(parent)
        return os.path.normpath(os.path.join(self._folder, name))


def below(folder: str, name: str) -> str:
    """The path of `name` below `folder`, resolving links that are there now. Raises UnsafePath."""
    if not name or name.startswith("/") or "\0" in name or ".." in name.split("/"):
        raise UnsafePath(f"{name!r} is not a path below the folder")
    path = os.path.normpath(os.path.join(folder, name))
    if not is_inside(folder, path):
        raise UnsafePath(f"{name!r} leads out of the folder through a link")
    return path
