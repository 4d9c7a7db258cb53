"""The runner as one file: the same for everyone, small, and fit for the Python of old images."""

from __future__ import annotations

import ast
import io
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import dstackd
from dstackd import launch_document, protocol, runner
from dstackd.bootstrap import zipapp
from dstackd.bootstrap.zipapp import build_runner
from dstackd.launch_document import LaunchDocument
from tests.runner.conftest import REGION, Project, a_job, kinds
from tests.runner.loopback import metadata

RUNNER_BYTES_MAX = 4_000_000


def modules() -> dict[str, str]:
    with zipfile.ZipFile(io.BytesIO(build_runner().content)) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def old_pythons() -> Iterator[str]:
    """Python 3.9, the oldest that machines have, wherever one is; else the one that runs this."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    installed: list[str | Path | None] = [
        shutil.which("python3.9"),
        *root.glob("versions/3.9*/bin/python3.9"),
    ]
    for python in installed:
        if python is None:
            continue
        # A shim may stand for a version that is not there.
        if subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0:
            yield str(python)
    yield sys.executable


def test_the_same_sources_give_the_same_bytes() -> None:
    """Nothing of the moment or of this machine is in it, so that its digest can be its name."""
    bundle = build_runner()
    assert zipapp._pack(dict(reversed(zipapp._sources().items()))) == bundle.content
    assert bundle.sha256 == protocol.sha256_hex(bundle.content)
    with zipfile.ZipFile(io.BytesIO(bundle.content)) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_it_is_small() -> None:
    """Fetched by every machine, and read before its first line."""
    assert len(build_runner().content) < RUNNER_BYTES_MAX


def test_every_module_is_python_3_9() -> None:
    """Amazon Linux 2023 has Python 3.9."""
    for name, source in modules().items():
        ast.parse(source, filename=name, feature_version=(3, 9))


def test_all_that_is_imported_is_there(tmp_path: Path) -> None:
    """The oldest Python at hand imports every module of the zipapp, and nothing beside it."""
    packed = tmp_path / "runner.pyz"
    packed.write_bytes(build_runner().content)
    names = [name[:-3].replace("/", ".") for name in modules() if name.startswith("dstackd/")]
    program = f"import sys; sys.path.insert(0, {str(packed)!r})\n" + "\n".join(
        f"import {name.removesuffix('.__init__')}" for name in names
    )
    python = next(old_pythons())
    subprocess.run([python, "-I", "-S", "-W", "error", "-c", program], check=True)


def test_the_oldest_python_lives_a_whole_life(project: Project, tmp_path: Path) -> None:
    """From the document to the (stand-in's) shutdown, with nothing but the zipapp and Python."""
    job = a_job("echo hello > out", "cat out", artifacts=("out",))
    document = LaunchDocument(
        launch_id="by-hand", bucket=project.bucket, region=REGION, jobs=(job,)
    )
    project.put(protocol.launch_key("by-hand"), launch_document.encode(document))
    tags = {protocol.TAG_BUCKET: project.bucket, protocol.TAG_LAUNCH: "by-hand"}
    server, _ = metadata(tags=tags)
    (tmp_path / "runner.pyz").write_bytes(build_runner().content)
    stand_in = tmp_path / "shutdown"
    stand_in.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/down\n')
    stand_in.chmod(0o755)
    done = subprocess.run(
        [next(old_pythons()), "-I", "-X", "utf8", str(tmp_path / "runner.pyz")],
        env={
            "PATH": f"{tmp_path}:/usr/bin:/bin",
            "AWS_ENDPOINT_URL": project.cloud.endpoint_url,
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://127.0.0.1:{server.port}",
        },
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert (tmp_path / "down").read_text() == "-h now\n"
    told = kinds(project.inbox("i-0123456789abcdef0"))
    assert told == ["booted", "started", "exited", "sealed", "done"]
    assert [line.text for line in project.log(job)] == ["hello"]
    assert project.manifest(job).size_bytes == 6


def test_versions_are_equal() -> None:
    """`booted` tells the daemon's version."""
    assert dstackd.__version__ == runner.VERSION
