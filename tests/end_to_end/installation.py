"""A whole installation for a test: the cloud on this machine, a configuration, and a daemon as a process of its own."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import boto3  # type: ignore[import-untyped]

from dstackd.local.cloud import LocalCloud, start_local_cloud
from tests.end_to_end.stores import new_store

REGION = "eu-central-1"
BUCKET = "end-to-end"
DEADLINE_S = 60.0
TERMINAL = {"succeeded", "failed", "cancelled", "rejected"}

_CONFIG = """
[database]
url = "{url}"
[state]
directory = "{folder}"
[http]
listen = "127.0.0.1:{port}"
[inputs]
allowed_roots = ["{folder}/inputs"]
[loops]
machines_s = 0.5
inbox_s = 0.3
logs_s = 0.3
heartbeats_s = 2
idle_sweep_s = 2
retention_s = 2
[runner]
heartbeat_s = 2
watch_s = 0.5
log_flush_s = 0.3
[[backends]]
region = "{region}"
bucket = "{bucket}"
endpoint_url = "{endpoint_url}"
access_key_id = "AKIAOFTHEDAEMON"
secret_access_key = "of no meaning"
"""


class Installation:
    """Everything below one short folder (Unix sockets have short names)."""

    def __init__(self, folder: Path, cloud: LocalCloud) -> None:
        self.folder = folder
        self.cloud = cloud
        self.port = _free_port()
        self.store = new_store(folder)
        self.daemon: subprocess.Popen[bytes] | None = None
        self.config = folder / "dstackd.toml"
        (folder / "inputs").mkdir(parents=True)
        self.config.write_text(
            _CONFIG.format(
                url=self.store.url,
                folder=folder,
                port=self.port,
                region=REGION,
                bucket=BUCKET,
                endpoint_url=cloud.endpoint_url,
            )
        )
        self.client("s3").create_bucket(
            Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION}
        )

    def client(self, service: str) -> Any:  # noqa: ANN401 - boto3 has no types
        """A client of the local cloud that is nobody's."""
        return boto3.client(
            service,
            region_name=REGION,
            endpoint_url=self.cloud.endpoint_url,
            aws_access_key_id="AKIAOFTHETEST",
            aws_secret_access_key="of no meaning",
        )

    def start_daemon(self) -> None:
        """Start `dstackd run` and wait until it is ready."""
        self.daemon = self.spawn_daemon()
        wait_until(self.is_ready, what=lambda: f"the daemon to be ready; {self.log()[-2000:]}")

    def spawn_daemon(self) -> subprocess.Popen[bytes]:
        """Start `dstackd run`, its output appended to daemon.log."""
        with (self.folder / "daemon.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "dstackd", "run", "--config", str(self.config)],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=self.environment(),
            )

    def environment(self) -> dict[str, str]:
        """Of the daemon's process."""
        return _environment()

    def end_daemon(self, number: signal.Signals) -> int:
        """Send a signal and wait; returns the exit status."""
        assert self.daemon is not None
        self.daemon.send_signal(number)
        return self.daemon.wait(DEADLINE_S)

    def is_ready(self) -> bool:
        """Whether /readyz says so."""
        assert self.daemon is not None
        assert self.daemon.poll() is None, f"the daemon ended: {self.log()[-2000:]}"
        return self.get("/readyz")[0] == http.client.OK

    def get(self, path: str) -> tuple[int, bytes]:
        """(status, body) of the TCP listener; (0, b"") when nobody listens."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        except OSError:
            return 0, b""
        finally:
            connection.close()

    def run(self, *arguments: str, expect: int | None = 0) -> str:
        """Run the command line; returns its standard output."""
        done = subprocess.run(
            [sys.executable, "-m", "dstackd", *arguments],
            env=_environment() | {"DSTACKD_CONFIG": str(self.config)},
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert expect is None or done.returncode == expect, (done.returncode, done.stderr)
        return done.stdout

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """One statement in autocommit, as a foreign application would."""
        return self.store.execute(statement, *values)

    def insert(self, spec: object) -> str:
        """Insert one job with one column; returns its id."""
        rows = self.sql("INSERT INTO job (spec) VALUES (?) RETURNING id", json.dumps(spec))
        return str(rows[0][0])

    def job(self, job_id: str) -> dict[str, Any]:
        """Some columns of the job."""
        names = ("phase", "reason", "message", "exit_code", "attempt")
        (row,) = self.sql(f"SELECT {', '.join(names)} FROM job WHERE id = ?", job_id)
        return dict(zip(names, row, strict=True))

    def wait_for(self, job_id: str, *phases: str) -> dict[str, Any]:
        """Wait until the job is in one of the phases (any terminal one when none is given)."""
        wanted = set(phases) or TERMINAL
        wait_until(
            lambda: self.job(job_id)["phase"] in wanted,
            what=lambda: f"{wanted}; it is {self.job(job_id)}; {self.log()[-3000:]}",
        )
        return self.job(job_id)

    def log(self) -> str:
        """What the daemons have printed."""
        path = self.folder / "daemon.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def live_machines(self) -> list[str]:
        """Instances that EC2 would bill."""
        return [
            machine["instance_id"]
            for machine in self.cloud.control.machines()
            if machine["state"] != "terminated"
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.kill()
            self.daemon.wait()


@contextlib.contextmanager
def installation() -> Iterator[Installation]:
    """A fresh one; all its processes end with the block."""
    with a_cloud() as (folder, cloud), Installation(folder, cloud) as made:
        yield made


@contextlib.contextmanager
def a_cloud() -> Iterator[tuple[Path, LocalCloud]]:
    """A folder for an installation, and a cloud beside it. The name is short: so are those of Unix sockets."""
    folder = Path(tempfile.mkdtemp(prefix="dstackd-"))
    try:
        with start_local_cloud(folder / "cloud") as cloud:
            yield folder / ".dstackd-dev", cloud
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def wait_until(
    condition: Callable[[], bool], *, what: Callable[[], str], within_s: float = DEADLINE_S
) -> None:
    """Poll until the condition holds; fails with `what` when it does not in time."""
    deadline_s = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline_s:
            message = f"waited {within_s:.0f} s for {what()}"
            raise AssertionError(message)
        time.sleep(0.05)


def _environment() -> dict[str, str]:
    """This process's, with the sources importable and without anything of AWS or dstackd."""
    source_root = str(Path(__file__).resolve().parents[2] / "daemon")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AWS_", "DSTACKD_"))
    }
    return kept | {"PYTHONPATH": source_root}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
