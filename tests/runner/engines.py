"""Real container engines that belong to the tests alone, and images that need no registry.

Law: everything an engine keeps is below a temporary folder. Nothing of a person's engine is used.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import platform
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from dstackd.runner import records
from dstackd.runner.power import LOCAL_VARIABLE
from dstackd.runner.spool import Spool

PODMAN, DOCKER = "podman", "docker"
BUSYBOX, FULL = "localhost/busybox:1", "localhost/full:1"
BUSYBOX_LINKS = ("cat", "env", "grep", "id", "ls", "ps", "sh", "sleep", "touch", "true")
_PASSWD = b"root:x:0:0::/root:/bin/sh\nworks:x:1234:2345::/home:/bin/sh\n"
_CONTAINERS_CONF = """[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
netns = "host"
[engine]
cgroup_manager = "cgroupfs"
"""


@dataclass(frozen=True)
class Rig:
    """One engine; `environ` is what a machine's runner sees of it."""

    name: str
    folder: Path
    environ: Mapping[str, str]

    def run(self, *arguments: str, given: bytes = b"") -> str:
        """What the engine wrote; a failure is the test's."""
        done = subprocess.run(
            [self.name, *arguments],
            env=dict(self.environ),
            input=given,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, (arguments, done.stderr)
        return done.stdout.decode()

    def make_image(self, name: str, tree: bytes, *changes: str) -> str:
        """An image of one layer; `changes` are lines of a Dockerfile."""
        options = [word for change in changes for word in ("--change", change)]
        self.run("import", *options, "-", name, given=tree)
        return name

    def trust(self, host: str) -> None:
        """Let the engine ask this registry without TLS."""
        settings = f'[[registry]]\nlocation = "{host}"\ninsecure = true\n'
        (self.folder / "registries.conf").write_text(settings)

    def containers(self) -> list[str]:
        return self.run("ps", "--all", "--format", "{{.Names}} {{.Status}}").splitlines()


def missing(name: str) -> str:
    """Why there can be no such engine here; empty where there can."""
    if platform.system() != "Linux" or os.geteuid() != 0:
        return "needs root on Linux"
    needed = ("podman",) if name == PODMAN else ("dockerd", "containerd", "docker")
    absent = [program for program in (*needed, "busybox") if shutil.which(program) is None]
    return f"needs {', '.join(absent)}" if absent else ""


def opened(name: str, folder: Path) -> contextlib.AbstractContextManager[Rig]:
    """The engine of this name, with all it has in the folder; skips the test where there can be none."""
    if why := missing(name):
        pytest.skip(why)
    return {PODMAN: podman, DOCKER: docker}[name](folder)


@contextlib.contextmanager
def podman(folder: Path) -> Iterator[Rig]:
    """A Podman with its storage in the folder; the options are for computers without systemd."""
    settings = _CONTAINERS_CONF + ('runtime = "runc"\n' if shutil.which("runc") else "")
    (folder / "containers.conf").write_text(settings)
    (folder / "storage.conf").write_text(
        f'[storage]\ndriver = "vfs"\ngraphroot = "{folder}/graph"\nrunroot = "{folder}/run"\n'
    )
    environ = {
        **_common(folder),
        "CONTAINERS_CONF": str(folder / "containers.conf"),
        "CONTAINERS_REGISTRIES_CONF": str(folder / "registries.conf"),
        "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        "STORAGE_DRIVER": "vfs",
    }
    (folder / "registries.conf").write_text("")
    rig = Rig(PODMAN, folder, environ)
    try:
        yield rig
    finally:
        rig.run("rm", "--force", "--all")
        _unmount(folder)


@contextlib.contextmanager
def docker(folder: Path) -> Iterator[Rig]:
    """A Docker daemon with all it has in the folder, without networks of its own."""
    address = f"unix://{folder}/socket"
    # It ends with the tests' process, also when that is killed.
    command = ["setpriv", "--pdeathsig", "TERM"]
    command += ["dockerd", "--host", address, "--storage-driver", "vfs"]
    command += ["--data-root", f"{folder}/kept", "--exec-root", f"{folder}/exec"]
    command += ["--pidfile", f"{folder}/pid", "--bridge", "none"]
    command += ["--iptables=false", "--ip6tables=false"]
    command += ["--default-ulimit", "nofile=1024:1024", "--default-ulimit", "nproc=1024:1024"]
    command += ["--exec-opt", "native.cgroupdriver=cgroupfs"]
    rig = Rig(DOCKER, folder, {**_common(folder), "DOCKER_HOST": address})
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_for_docker(rig, process)
        yield rig
        left = rig.run("ps", "--all", "--quiet").split()
        if left:
            rig.run("rm", "--force", *left)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _unmount(folder)


def _unmount(folder: Path) -> None:
    """What engines leave mounted keeps pytest from removing the folder."""
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    for mounted_at in sorted((line.split()[1] for line in mounts), reverse=True):
        if mounted_at.startswith(f"{folder}/"):
            subprocess.run(["umount", mounted_at], check=True)


def _wait_for_docker(rig: Rig, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline and process.poll() is None:
        asked = ["docker", "version", "--format", "{{.Server.Version}}"]
        done = subprocess.run(asked, env=dict(rig.environ), capture_output=True, check=False)
        if done.returncode == 0:
            return
        time.sleep(0.05)
    pytest.fail((rig.folder / "log").read_text()[-2000:])


def _common(folder: Path) -> dict[str, str]:
    # As on a computer that plays machines: nothing is installed, no network is chosen.
    return {"PATH": os.environ["PATH"], "TMPDIR": str(folder), LOCAL_VARIABLE: "http://127.0.0.1:9"}


def busybox_tree(*, links: Sequence[str] = BUSYBOX_LINKS) -> bytes:
    """A root folder with busybox under these names, and a user."""
    busybox = Path(shutil.which("busybox") or "").resolve().read_bytes()
    files = {"bin/busybox": busybox, "etc/passwd": _PASSWD}
    return tree(files, links={f"bin/{name}": "busybox" for name in links})


def full_tree() -> bytes:
    """As Debian has it: dash is sh, and there is bash."""
    files = {"etc/passwd": _PASSWD}
    for program in ("bash", "dash", "sleep", "env"):
        path = shutil.which(program) or pytest.skip(f"needs {program}")
        files[f"bin/{program}"] = Path(path).read_bytes()
        listed = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
        for word in listed.split():
            if word.startswith("/"):
                files[word.lstrip("/")] = Path(word).read_bytes()
    return tree(files, links={"bin/sh": "dash"})


def tree(files: Mapping[str, bytes], *, links: Mapping[str, str]) -> bytes:
    """A root folder as a tar; every file is a program."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for folder in ("tmp", "proc", "dev", "bin", "etc", "home"):
            _add(tar, folder, kind=tarfile.DIRTYPE)
        for name, content in files.items():
            _add(tar, name, content=content)
        for name, target in links.items():
            _add(tar, name, kind=tarfile.SYMTYPE, target=target)
    return packed.getvalue()


def _add(
    tar: tarfile.TarFile,
    name: str,
    *,
    kind: bytes = tarfile.REGTYPE,
    content: bytes = b"",
    target: str = "",
) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.size, member.linkname, member.mode = kind, len(content), target, 0o755
    tar.addfile(member, io.BytesIO(content))


def spooled_texts(spool: Spool) -> list[str]:
    """The texts of the lines that wait to be sent."""
    texts = []
    while (record := spool.read()) is not None:
        events = json.loads(b"[%s]" % records.decode(record).body)
        texts += [json.loads(event["message"])["log"] for event in events]
    return texts


def command_lines() -> Sequence[bytes]:
    """The arguments of every process that this user may see."""
    lines = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                lines.append((entry / "cmdline").read_bytes())
    return lines
