"""What a person reads when there is no daemon, or no configuration."""

from __future__ import annotations

import socket
import sqlite3
from pathlib import Path

from tests.cli.double import Reply, playing
from tests.cli.program import at, dstackd
from tests.http.world import short_folder


def test_where_it_looked_and_what_to_do(tmp_path: Path) -> None:
    """69, with the socket, the file that names it, how to start, and the queue for a look."""
    config = tmp_path / "dstackd.toml"
    config.write_text('[state]\ndirectory = "state"\n[database]\nurl = "sqlite:///q.db"\n')
    sqlite3.connect(tmp_path / "q.db").close()
    done = dstackd("ps", folder=tmp_path)
    assert (done.code, done.out) == (69, "")
    assert f"{tmp_path}/state/dstackd.sock (from {config}): No such file" in done.err
    assert f"dstackd run --config {config}" in done.err
    assert f"sqlite3 -readonly {tmp_path}/q.db" in done.err


def test_a_dead_socket_is_no_daemon() -> None:
    """The file that a killed daemon left says nothing."""
    with short_folder() as folder:
        path = folder / "dead.sock"
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        done = dstackd("stop", "x", variables=at(path))
    assert done.code == 69
    assert "Connection refused" in done.err


def test_an_impossible_socket_is_no_crash(tmp_path: Path) -> None:
    """A path that is too long for a socket is said to be that."""
    done = dstackd("ps", variables=at(tmp_path / ("x" * 120)))
    assert done.code == 69
    assert "File name too long" in done.err


def test_something_else_that_answers() -> None:
    """An answer that is not the daemon's is an error with 69, never a traceback."""
    with playing(lambda _path, _query: Reply(b"<html>")) as double:
        done = dstackd("ps", variables=at(double.socket))
    assert done.code == 69
    assert "not JSON" in done.err
    assert "Traceback" not in done.err


def test_a_wrong_configuration_is_78(tmp_path: Path) -> None:
    """Also for clients: a file that was named and is missing, and one that is not TOML."""
    missing = dstackd("ps", "--config", "nosuch.toml", folder=tmp_path)
    (tmp_path / "dstackd.toml").write_text("[state\n")
    broken = dstackd("ps", folder=tmp_path)
    assert (missing.code, broken.code) == (78, 78)
    assert f"{tmp_path}/nosuch.toml: there is no such file" in missing.err
    assert f"{tmp_path}/dstackd.toml: is not TOML" in broken.err
    assert "line 1" in broken.err
