"""Where everything of one demo lies. Law: one folder, and nothing outside it."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dstackd.demo.errors import DemoError

SOCKET_PATH_BYTES_MAX: Final = 103
"""A Unix socket's path on the narrowest system (macOS)."""
_SHORT_FOLDER: Final = Path("/tmp")  # noqa: S108 - a folder with a random name is made below it
_PREFIX: Final = "dstackd-demo-"


@dataclass(frozen=True, slots=True)
class Places:
    """Paths below the demo's folder."""

    directory: Path

    @property
    def texts(self) -> Path:
        """The input folder on the control host."""
        return self.directory / "texts"

    @property
    def config(self) -> Path:
        return self.directory / "dstackd.toml"

    @property
    def database(self) -> Path:
        return self.directory / "queue.db"

    @property
    def state(self) -> Path:
        """The daemon's own folder."""
        return self.directory / "state"

    @property
    def socket(self) -> Path:
        return self.directory / "dstackd.sock"

    @property
    def daemon_log(self) -> Path:
        return self.directory / "daemon.log"

    @property
    def cloud(self) -> Path:
        """The local cloud's folder: cloud.log, and a folder for each machine."""
        return self.directory / "cloud"

    @property
    def submit_script(self) -> Path:
        return self.directory / "submit.py"

    @property
    def specs(self) -> Path:
        """What the submitting process inserts: one spec a line."""
        return self.directory / "jobs.jsonl"

    @property
    def pulled(self) -> Path:
        """Where the artifacts are pulled to."""
        return self.directory / "artifacts"

    @property
    def pull_log(self) -> Path:
        return self.directory / "pull.log"


def make_places(directory: Path | None) -> Places:
    """Use `directory`, which must be empty or missing, or make a temporary one. Raises DemoError."""
    if directory is None:
        return Places(_temporary())
    try:
        directory.mkdir(parents=True, exist_ok=True)
        is_empty = not any(directory.iterdir())
    except OSError as error:
        raise DemoError(f"{directory}: {error.strerror}; name a folder that can be made") from None
    if not is_empty:
        raise DemoError(f"{directory} is not empty; name a folder that is, or none")
    places = Places(directory.resolve())
    if not _fits(places.directory):
        raise DemoError(f"{places.socket} is too long for a Unix socket; name a shorter folder")
    return places


def remove(places: Places) -> None:
    """Remove the folder and everything in it."""
    shutil.rmtree(places.directory, ignore_errors=True)


def _temporary() -> Path:
    folder = Path(tempfile.gettempdir()).resolve()
    longest = folder / f"{_PREFIX}12345678"
    usual = _fits(longest) or not _SHORT_FOLDER.is_dir()
    return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder if usual else _SHORT_FOLDER)).resolve()


def _fits(directory: Path) -> bool:
    return len(os.fsencode(Places(directory).socket)) <= SOCKET_PATH_BYTES_MAX
