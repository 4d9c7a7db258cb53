"""Listeners: who may see what, and what happens when an address is taken."""

from __future__ import annotations

import re
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from dstackd import http
from dstackd.errors import ConfigError
from dstackd.http.app import build_app
from dstackd.http.following import FollowBoard
from dstackd.http.listening import parse_listen, unix_socket
from dstackd.http.probe import make_probes
from dstackd.http.server import serve
from tests.http.world import get, post, running, short_folder


async def test_tcp_shows_no_job() -> None:
    """On TCP every path of the API is refused, whatever the method, and health is not."""
    async with running() as world:
        job_id = await world.insert_job()
        for path in ("/v1/jobs", f"/v1/jobs/{job_id}", f"/v1/jobs/{job_id}/logs", "/v1/x", "/"):
            status, body = await get(world.web, path)
            assert (status, body["error"]["code"]) == (403, "unix_socket_only"), path
        status, _ = await post(world.web, "/v1/jobs", {"spec": {"commands": ["true"]}})
        assert status == 403
        status, _ = await post(world.web, f"/v1/jobs/{job_id}/stop")
        assert status == 403
        assert await world.sql("SELECT count(*), max(cancel_requested) FROM job") == [(1, 0)]
        assert (await get(world.api, "/v1/jobs"))[0] == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST.:9180", 200),
        ("127.0.0.1:9180", 200),
        ("[::1]:9180", 200),
        ("10.1.2.3", 200),
        ("dstackd.test:1", 200),
        ("rebound.example", 421),
        ("127.0.0.1.rebound.example", 421),
        ("localhost@rebound.example", 421),
        ("", 421),
    ],
)
async def test_host_header(host: str, status: int) -> None:
    """A name that somebody could point at loopback is refused; addresses, loopback names and configured ones are not."""
    async with running() as world, world.web.get("/livez", headers={"Host": host}) as response:
        assert response.status == status


async def test_the_socket_is_for_owner_and_group() -> None:
    """The Unix socket has mode 0660, and is gone after the stop."""
    async with running() as world:
        path = world.listening.socket_path
        assert path is not None
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert not path.exists()


async def test_a_stale_socket_is_replaced() -> None:
    """A file that a killed daemon left does not stop the next one."""
    with short_folder() as folder:
        path = folder / "api.sock"
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        with unix_socket(path) as listener:
            assert listener.getsockname() == str(path)


async def test_a_live_socket_is_refused() -> None:
    """A second daemon does not take the first one's socket away, and says what is wrong."""
    async with running() as world:
        path = world.listening.socket_path
        assert path is not None
        with pytest.raises(ConfigError, match=r"http\.socket: another dstackd answers"):
            await serve(world.context, listen="", socket_path=path)
        assert (await get(world.api, "/v1/version"))[0] == 200


async def test_a_taken_port_is_refused() -> None:
    """A port in use is an error of the configuration that names the key."""
    async with running() as world:
        assert world.listening.tcp is not None
        listen = "{}:{}".format(*world.listening.tcp)
        with pytest.raises(ConfigError, match=r"http\.listen: .*another program listens there"):
            await serve(world.context, listen=listen, socket_path=None)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda folder: folder / ("x" * 120), "at most|may have 103"),
        (lambda folder: folder / "file", "not a socket"),
        (lambda folder: folder / "file" / "api.sock", "cannot open"),
    ],
)
def test_a_bad_socket_path_is_refused(make: Callable[[Path], Path], reason: str) -> None:
    """A path that is too long, taken by a file, or in no folder is an error that names the key; the file stays."""
    with short_folder() as folder:
        file = folder / "file"
        file.write_text("mine")
        with (
            pytest.raises(ConfigError, match=rf"http\.socket: .*({reason})"),
            unix_socket(make(folder)),
        ):
            pass
        assert file.read_text() == "mine"


@pytest.mark.parametrize(
    "listen", ["", "9180", ":9180", "::1:9180", "localhost:", "a:65536", "a:-1", "a:²"]
)
def test_a_bad_listen_is_refused(listen: str) -> None:
    """Anything but HOST:PORT is an error that names the key."""
    with pytest.raises(ConfigError, match=r"http\.listen"):
        parse_listen(listen)


def test_a_good_listen() -> None:
    """Names, IPv4 and bracketed IPv6 are read."""
    assert parse_listen("127.0.0.1:9180") == ("127.0.0.1", 9180)
    assert parse_listen("[::1]:80") == ("::1", 80)


async def test_the_readme_lists_every_path() -> None:
    """Whoever reads the README of the folder knows every path that there is."""
    async with running() as world:
        app = build_app(
            world.context,
            probes=make_probes(world.context.database, clock=world.clock),
            board=FollowBoard(world.context.database),
            host_names=[],
        )
    readme = (Path(http.__file__).parent / "README.md").read_text()
    paths = {resource.canonical for resource in app.router.resources()}
    listed = set(re.findall(r"`(?:GET |POST )?(/[a-z0-9/{}.]+)[?`]", readme))
    assert paths == listed
