"""`dstackd dev`: the daemon in the foreground, on a cloud that lives and dies with it.

Law: nothing here ever speaks to AWS: the variables that could lead there are taken away first.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import anyio

from dstackd.app import run_daemon
from dstackd.cli import exit_codes
from dstackd.cli.failures import Failure, say
from dstackd.config import load_settings
from dstackd.local.cloud import LocalCloudError, start_local_cloud
from dstackd.logging_setup import configure_logging

BUCKET: Final = "dstackd-dev"
REGION: Final = "us-east-1"
CONFIG_NAME: Final = "dstackd.toml"

_TIMEOUT_S: Final = 10.0
_CONFIG: Final = """\
# Written by `dstackd dev` at each start: changes are lost.

[database]
url = "sqlite:///queue.db"

[state]
directory = "state"

[http]
listen = {listen}

[inputs]
# The jobs are processes of the person who started this, and may read what that person may.
allowed_roots = ["/"]

# Nobody throttles here, so everything may look often.
[loops]
machines_s = 1.0
inbox_s = 0.3
heartbeats_s = 5.0
logs_s = 0.3
idle_sweep_s = 5.0

[limits]
heartbeat_timeout_s = 30.0
logs_wait_s = 5.0

[runner]
heartbeat_s = 5.0
watch_s = 0.5
log_flush_s = 0.2

[[backends]]
name = "local"
region = {region}
bucket = {bucket}
access_key_id = "local"
secret_access_key = "local"
endpoint_url = {endpoint_url}
"""


def run_dev(directory: Path, *, http_port: int | None, cloud_port: int) -> None:
    """Serve until Ctrl-C or SIGTERM. `directory` keeps the queue; `http_port` None: no TCP.

    Raises ConfigError, and Failure when the cloud cannot start.
    """
    for name in [each for each in os.environ if each.startswith("AWS_")]:
        del os.environ[name]
    directory.mkdir(parents=True, exist_ok=True)
    try:
        cloud = start_local_cloud(directory / "cloud", port=cloud_port)
    except LocalCloudError as error:
        raise Failure(str(error), exit_code=exit_codes.REFUSED) from None
    with cloud:
        create_bucket(cloud.endpoint_url, BUCKET)
        path = write_config(directory, endpoint_url=cloud.endpoint_url, http_port=http_port)
        _say_how(path, cloud.endpoint_url)
        settings = load_settings(path)
        configure_logging(
            level=settings.logging.level, style=settings.logging.format, stream=sys.stderr
        )
        anyio.run(run_daemon, settings)
    say("the daemon and its cloud have ended")


def write_config(directory: Path, *, endpoint_url: str, http_port: int | None = None) -> Path:
    """The configuration of a daemon in `directory` on a local cloud; returns its path."""
    path = directory / CONFIG_NAME
    listen = "" if http_port is None else f"127.0.0.1:{http_port}"
    values = {
        "listen": listen,
        "region": REGION,
        "bucket": BUCKET,
        "endpoint_url": endpoint_url,
    }
    text = _CONFIG.format(**{name: json.dumps(value) for name, value in values.items()})
    path.write_text(text, encoding="utf-8")
    return path


def create_bucket(endpoint_url: str, bucket: str) -> None:
    """Make a bucket in the local cloud, which takes unsigned requests; one that is there stays."""
    parts = urlsplit(endpoint_url)
    connection = http.client.HTTPConnection(
        parts.hostname or "127.0.0.1", parts.port, timeout=_TIMEOUT_S
    )
    try:
        connection.request("PUT", f"/{bucket}")
        response = connection.getresponse()
        response.read()
    finally:
        connection.close()
    if response.status not in {http.client.OK, http.client.CONFLICT}:
        message = f"the local cloud did not make the bucket {bucket}: HTTP {response.status}"
        raise Failure(message, exit_code=exit_codes.REFUSED)


def _say_how(path: Path, endpoint_url: str) -> None:
    say(f"""\
a cloud on this machine serves at {endpoint_url} (its log: {path.parent}/cloud/cloud.log)
the daemon starts now; in another terminal:

    export DSTACKD_CONFIG={path}
    dstackd submit -- echo hello
    dstackd ps -a
    dstackd logs -f JOB

Ctrl-C ends the daemon, the cloud and its machines.
""")
