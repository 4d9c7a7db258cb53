"""Where the configuration is, and the few of its values that a client of the daemon needs.

Law: standard library only and light to import: client commands read the file through this module,
the daemon reads it through `config`, and both look in the same places.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dstackd.errors import ConfigError

CONFIG_VARIABLE = "DSTACKD_CONFIG"
DEV_DIRECTORY_VARIABLE = "DSTACKD_DEV_DIRECTORY"
LOCAL_NAME = "dstackd.toml"
SYSTEM_PATH = Path("/etc/dstackd/dstackd.toml")

STATE_DIRECTORY = "/var/lib/dstackd"
DATABASE_URL = "sqlite:////var/lib/dstackd/queue.db"
SOCKET_NAME = "dstackd.sock"

_SQLITE = "sqlite:///"


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """What a client command knows of the daemon. `source` None: no file, the defaults hold."""

    source: Path | None
    socket: Path
    database: Path | None
    """The SQLite file, for a person who wants to look at the queue without the daemon."""
    cache: Path
    """Where the daemon keeps what it could ask for again."""
    region: str
    """The backend's; empty where the file does not say it."""


def find_config(given: Path | None, *, environ: Mapping[str, str], folder: Path) -> Path | None:
    """The configuration file: `given`, else $DSTACKD_CONFIG, else the one in `folder`, else the
    system's; None when there is none. Raises ConfigError for a file that was named and is missing.
    """
    if given is not None:
        return _existing(folder / given, "name a file that is there after --config")
    if environ.get(CONFIG_VARIABLE):
        fix = f"${CONFIG_VARIABLE} names it; change or unset the variable"
        return _existing(folder / environ[CONFIG_VARIABLE], fix)
    return next((path for path in (folder / LOCAL_NAME, SYSTEM_PATH) if path.is_file()), None)


def read_toml(path: Path) -> dict[str, Any]:
    """The file's tables. Raises ConfigError that names the file, and the line of a syntax error."""
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except tomllib.TOMLDecodeError as error:
        message = f"{path}: is not TOML: {error}; correct the file at that place"
    except UnicodeDecodeError:
        message = f"{path}: is not UTF-8 text; save it as UTF-8"
    except OSError as error:
        message = f"{path}: cannot be read: {error.strerror}; make it readable for this user"
    raise ConfigError(message)


def absolute_path(written: str | Path, *, base: Path) -> Path:
    """A path of the configuration; a relative one begins where the file is."""
    return Path(base, written)


def absolute_url(url: str, *, base: Path) -> str:
    """A database URL; a relative path in one of SQLite begins where the file is."""
    path = _sqlite_path(url)
    return url if path is None else f"{_SQLITE}{absolute_path(path, base=base)}"


def socket_path(socket: str, *, directory: Path, base: Path) -> Path:
    """Where the daemon listens for its command line; empty is the default, in its directory."""
    return absolute_path(socket, base=base) if socket else directory / SOCKET_NAME


def base_of(source: Path | None, *, folder: Path) -> Path:
    """The folder in which the relative paths of a configuration begin."""
    return folder if source is None else source.parent


def client_config(given: Path | None, *, environ: Mapping[str, str], folder: Path) -> ClientConfig:
    """Where the daemon of this configuration listens. Raises ConfigError."""
    source = find_config(given, environ=environ, folder=folder)
    values = {} if source is None else read_toml(source)
    base = base_of(source, folder=folder)

    def text(section: str, key: str, default: str) -> str:
        table = values.get(section, {})
        written: object = table.get(key, default) if isinstance(table, dict) else None
        value = environ.get(f"DSTACKD_{section}__{key}".upper(), written)
        if isinstance(value, str):
            return value
        message = f"{source}: {section}.{key}: is not text; put it in quotes"
        raise ConfigError(message)

    directory = absolute_path(text("state", "directory", STATE_DIRECTORY), base=base)
    database = _sqlite_path(absolute_url(text("database", "url", DATABASE_URL), base=base))
    return ClientConfig(
        source=source,
        socket=socket_path(text("http", "socket", ""), directory=directory, base=base),
        database=None if database is None else Path(database),
        cache=directory / "cache",
        region=_region(values, environ.get("DSTACKD_BACKENDS")),
    )


def _region(values: Mapping[str, object], variable: str | None) -> str:
    """The region of the first backend, of the variable (JSON) before the file's; what is wrong with them is the
    daemon's to say.
    """
    backends = values.get("backends")
    if variable is not None:
        with suppress(ValueError):
            backends = json.loads(variable)
    first = backends[0] if isinstance(backends, list) and backends else {}
    region = first.get("region") if isinstance(first, dict) else None
    return region if isinstance(region, str) else ""


def _sqlite_path(url: str) -> str | None:
    path = url.removeprefix(_SQLITE) if url.startswith(_SQLITE) else ""
    return None if path in {"", ":memory:"} else path


def _existing(path: Path, fix: str) -> Path:
    if not path.is_file():
        message = f"{path}: there is no such file; {fix}"
        raise ConfigError(message)
    return path
