"""A folder changes hands. Law: links are never followed, whoever made them."""

from __future__ import annotations

import os

from dstackd.runner.trees import walk


def give(folder: str, *, uid: int, gid: int) -> None:
    """Make the user the owner of the folder and of all that is in it. Raises OSError."""
    if os.path.islink(folder):
        return
    os.chown(folder, uid, gid, follow_symlinks=False)
    for entry in walk(folder):
        if not entry.is_left:
            os.chown(entry.name, uid, gid, dir_fd=entry.here, follow_symlinks=False)
