"""A folder changes hands. Law: links are never followed, whoever made them."""

from __future__ import annotations

import os


def give(folder: str, *, uid: int, gid: int) -> None:
    """Make the user the owner of the folder and of all that is in it. Raises OSError."""
    for _, folders, files, here in os.fwalk(folder, follow_symlinks=False):
        os.fchown(here, uid, gid)
        for name in (*folders, *files):
            os.chown(name, uid, gid, dir_fd=here, follow_symlinks=False)
