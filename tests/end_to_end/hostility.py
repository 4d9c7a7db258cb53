"""What is done to machines in these tests: processes to kill, disks that are small, an AWS that refuses."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dstackd import artifact_manifest, protocol
from dstackd.artifact_manifest import Manifest
from dstackd.local import processes
from dstackd.store.tables import ATTEMPT
from tests.end_to_end.installation import BUCKET, Installation, installation, wait_until

EVER = 10**9
WAITS = "while [ ! -e {go} ]; do sleep 0.05; done"
S3_OPERATIONS = (
    *("GetObject", "HeadObject", "PutObject", "DeleteObject", "DeleteObjects", "ListObjectsV2"),
    *("CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "AbortMultipartUpload"),
)
LOG_OPERATIONS = ("CreateLogStream", "PutLogEvents", "FilterLogEvents")

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root may mount a small disk")


@dataclass(frozen=True)
class Machine:
    """A machine of the local cloud, and its processes."""

    instance_id: str
    home: Path
    player: int

    @property
    def runner(self) -> int:
        """The runner's process."""
        return self.only("runner.pyz", not_named="timeout")

    @property
    def shell(self) -> int:
        """The job's shell."""
        return self.only("commands.sh")

    def only(self, word: str, *, not_named: str = "\0") -> int:
        """The one process that has an argument that ends so, and is not the program `not_named`."""
        (pid,) = [
            pid
            for pid, arguments in self.commands().items()
            if arguments[-1].endswith(word) and not arguments[0].endswith(not_named)
        ]
        return pid

    def commands(self) -> dict[int, list[str]]:
        """Arguments of every process of the machine, by process id."""
        found = {}
        for pid in processes.descendants(self.player):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if words:
                found[pid] = words.rstrip("\0").split("\0")
        return found

    def console(self) -> str:
        """What the machine has printed."""
        return (self.home / "console.log").read_text(errors="replace")


def machine_of(site: Installation, job_id: str, attempt: int = 1) -> Machine:
    """The machine of an attempt that has one."""
    instance_id = str(attempt_of(site, job_id, attempt)["instance_id"])
    view = site.cloud.control.machine(instance_id)
    assert view["pid"] is not None
    return Machine(instance_id, Path(view["directory"]), view["pid"])


def attempt_of(site: Installation, job_id: str, number: int = 1) -> dict[str, Any]:
    """What the table says of an attempt; empty when there is none."""
    names = [column.name for column in ATTEMPT.columns]
    rows = site.sql(
        f"SELECT {', '.join(names)} FROM attempt WHERE job_id = ? AND number = ?", job_id, number
    )
    return dict(zip(names, rows[0], strict=True)) if rows else {}


def wait_for_attempt(site: Installation, job_id: str, number: int, column: str) -> dict[str, Any]:
    """Wait until the attempt has something in this column."""
    wait_until(
        lambda: attempt_of(site, job_id, number).get(column) not in (None, ""),
        what=lambda: (
            f"{column} of {attempt_of(site, job_id, number)}; {site.job(job_id)}; {site.log()[-2000:]}"
        ),
    )
    return attempt_of(site, job_id, number)


def log_of(site: Installation, job_id: str, number: int = 1) -> list[str]:
    """The attempt's lines on the control host, ours and the holes among them, in order."""
    path = site.folder / "logs" / job_id / f"{number}.jsonl"
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return [_shown(json.loads(line)) for line in lines if line.endswith("}")]


def _shown(line: dict[str, Any]) -> str:
    if "missing" in line:
        return f"<{line['missing']} missing>"
    return f"<{line['log']}>" if line["source"] == "dstackd" else str(line["log"])


def sealed(site: Installation, job_id: str, number: int = 1) -> Manifest:
    """The attempt's sealed manifest; each of its files was read and is what the manifest says."""
    s3 = site.client("s3")
    body = s3.get_object(Bucket=BUCKET, Key=protocol.manifest_key(job_id, number))["Body"].read()
    manifest = artifact_manifest.decode(body)
    for file in manifest.files:
        key = manifest.key_of(file)
        content = s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        assert protocol.sha256_hex(content) == file.sha256, file
    return manifest


def has_object(site: Installation, key: str) -> bool:
    """Whether the bucket has it."""
    return "Contents" in site.client("s3").list_objects_v2(Bucket=BUCKET, Prefix=key)


def wait_until_gone(site: Installation) -> None:
    """Wait until EC2 would bill nothing."""
    wait_until(lambda: site.live_machines() == [], what=lambda: f"no machine; {machines(site)}")


def machines(site: Installation) -> list[tuple[str, str]]:
    """Ids and states."""
    return [(each["instance_id"], each["state"]) for each in site.cloud.control.machines()]


@contextmanager
def refusing(site: Installation, operations: tuple[str, ...], *, status: int) -> Iterator[None]:
    """AWS refuses these calls meanwhile, whoever makes them; with status 0 it hangs up."""
    fail = site.cloud.control.fail
    try:
        for operation in operations:
            fail(operation, code="SlowDown", status=status, times=EVER)
        yield
    finally:
        for operation in operations:
            fail(operation, times=0)


def operations_of(service: str) -> tuple[str, ...]:
    """What `s3` or `logs` are asked for by daemon and machines, as `service:Operation`."""
    names = {"s3": S3_OPERATIONS, "logs": LOG_OPERATIONS}[service]
    return tuple(f"{service}:{name}" for name in names)


@contextmanager
def small_disk(folder: Path, *, size: str) -> Iterator[None]:
    """A file system of this size at the folder, which is made; `size` as in `mount -o size=`."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={size},mode=755"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], check=True)
    try:
        yield
    finally:
        # Lazily: a process that ends just now may still be in it.
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with path.open("wb", buffering=0) as file:
        while True:
            try:
                file.write(bytes(4096))
            except OSError:
                return


@contextmanager
def impatient_installation() -> Iterator[Installation]:
    """A running installation that does not wait long for lines that will never come."""
    with installation() as made:
        with made.config.open("a") as config:
            config.write("\n[limits]\nlogs_wait_s = 3\n")
        made.start_daemon()
        yield made


def next_home(site: Installation, before: set[str]) -> Path:
    """The home of the first machine that is not one of these; its boot delay gives time to prepare it."""

    def fresh() -> list[str]:
        views = site.cloud.control.machines()
        return [view["instance_id"] for view in views if view["instance_id"] not in before]

    wait_until(lambda: bool(fresh()), what=lambda: f"a machine; {site.log()[-2000:]}")
    return Path(site.cloud.control.machine(fresh()[0])["directory"])
