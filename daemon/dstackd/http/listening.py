"""Addresses and sockets. Law: what cannot be opened is a ConfigError that names the key; a live socket is never taken away."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dstackd.errors import ConfigError

LISTEN_KEY = "http.listen"
SOCKET_KEY = "http.socket"

SOCKET_MODE = 0o660
SOCKET_PATH_BYTES_MAX = 103
"""sun_path holds 104 bytes with the final NUL on macOS, 108 on Linux (unix(7))."""

_PORT_MAX = 65535


def parse_listen(listen: str) -> tuple[str, int]:
    """(host, port) of `HOST:PORT` or `[IPv6]:PORT`. Raises ConfigError."""
    host, colon, port = listen.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    is_port = port.isascii() and port.isdecimal() and int(port) <= _PORT_MAX
    if not colon or not bare or not is_port or (":" in bare and bare == host):
        raise ConfigError(
            f"{LISTEN_KEY}: {listen!r} is not HOST:PORT; write 127.0.0.1:9180, [::1]:9180, "
            'or "" for no listener'
        )
    return bare, int(port)


def listen_error(listen: str, error: OSError) -> ConfigError:
    """Why the address cannot be listened on."""
    if error.errno == errno.EADDRINUSE:
        advice = "another program listens there; stop it, or choose another port"
    else:
        advice = f"{error.strerror or error}; choose an address of this host and a free port"
    return ConfigError(f"{LISTEN_KEY}: cannot listen on {listen}: {advice}")


@contextmanager
def unix_socket(path: Path) -> Iterator[socket.socket]:
    """A bound socket at `path` for the block, mode 0660; the file goes when the block ends.

    A file that a dead daemon left is replaced. Raises ConfigError when a live one answers there, when something else is
    there, or when the path cannot be used.
    """
    size_bytes = len(os.fsencode(path))
    if size_bytes > SOCKET_PATH_BYTES_MAX:
        raise ConfigError(
            f"{SOCKET_KEY}: {path} has {size_bytes} bytes, and the path of a Unix socket may have "
            f"{SOCKET_PATH_BYTES_MAX}; choose a shorter one"
        )
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _bind(listener, path)
        ours = path.stat()
        try:
            yield listener
        finally:
            with suppress(OSError):
                if os.path.samestat(path.stat(), ours):
                    path.unlink()
    finally:
        listener.close()


def _bind(listener: socket.socket, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
        # Linux makes the file with the mode of the open socket: at no moment may others connect.
        os.fchmod(listener.fileno(), SOCKET_MODE)
        listener.bind(os.fspath(path))
        path.chmod(SOCKET_MODE)
    except OSError as error:
        raise ConfigError(f"{SOCKET_KEY}: cannot open {path}: {error.strerror or error}") from None


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"{SOCKET_KEY}: {path} is there already and is not a socket")
    if _answers(path):
        raise ConfigError(
            f"{SOCKET_KEY}: another dstackd answers at {path}; stop it, or choose another path"
        )
    path.unlink()


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(0)  # a full backlog answers EAGAIN at once, and is a live one
        try:
            client.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except BlockingIOError:
            return True
        return True
