"""Between two jobs: nothing of the first is left, and where something is, there is no second."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dstackd.runner import ipc
from dstackd.runner.cleaning import Cleaner, end_user, owned_below, pids_of
from dstackd.runner.power import LOCAL_VARIABLE
from tests.runner.conftest import wait_until

UID = 61_234
"""Nobody has it."""
PLAYED = {LOCAL_VARIABLE: "http://127.0.0.1:1", "PATH": "/nowhere"}

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may be somebody else")


@pytest.fixture
def crowd() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes of the user, ended after the test."""
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def as_user(program: str) -> subprocess.Popen[bytes]:
    """The program in Python, with the user's rights."""
    # The interpreter itself may be where only root can read.
    change = "import ctypes, os, signal, time\n"
    change += f"os.setgroups([]); os.setgid({UID}); os.setuid({UID})\n"
    return subprocess.Popen([sys.executable, "-c", change + program], cwd="/")


def test_the_folder_is_as_it_was(tmp_path: Path) -> None:
    """What came after the runner's own goes, whatever it is called and however deep; what was there stays."""
    (tmp_path / "runner.pyz").write_bytes(b"")
    cleaner = Cleaner(str(tmp_path), environ=PLAYED, say=print)
    (tmp_path / "job" / "a" / "b").mkdir(parents=True)
    (tmp_path / "job" / "a" / "b" / "file").write_text("secret")
    (tmp_path / "job" / "link").symlink_to(tmp_path / "runner.pyz")
    (tmp_path / "home").mkdir(mode=0o500)
    (tmp_path / "commands.sh").write_text("echo")
    (tmp_path / "folder-link").symlink_to("/")
    assert cleaner.clean(had_container=False)
    assert [path.name for path in tmp_path.iterdir()] == ["runner.pyz"]


@needs_root
def test_what_cannot_be_removed_is_said(tmp_path: Path) -> None:
    """A mount point stays: the machine is not offered."""
    said: list[str] = []
    cleaner = Cleaner(str(tmp_path), environ=PLAYED, say=said.append)
    held = tmp_path / "job"
    held.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "none", str(held)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("root may not mount here: a container without that right")
    try:
        assert not cleaner.clean(had_container=False)
        assert said == [f"cleaning: left over: {held}"]
    finally:
        subprocess.run(["umount", str(held)], check=True)
    assert cleaner.clean(had_container=False)


@needs_root
def test_the_users_processes_end(crowd: list[subprocess.Popen[bytes]], tmp_path: Path) -> None:
    """Also one that has left its group, ignores signals, and forks all the time."""
    program = (
        "os.setsid()\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "for _ in range(200):\n"
        "    if os.fork() == 0: time.sleep(0.05)\n"
        "    else: os._exit(0)\n"
        "time.sleep(600)\n"
    )
    crowd += [as_user("time.sleep(600)"), as_user(program)]
    wait_until(lambda: len(pids_of(UID)) >= 2)
    assert list(end_user("nobody-has-this", UID, folders=(str(tmp_path),))) == []
    assert pids_of(UID) == []


@needs_root
def test_files_of_the_user_go_at_any_depth(tmp_path: Path) -> None:
    """In folders where everybody may write; those of others stay, and links are not followed."""
    deep = tmp_path / "shared" / "deep"
    deep.mkdir(parents=True)
    others = deep / "others"
    others.write_text("")
    own = deep / "own"
    own.write_text("secret")
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "file").write_text("secret")
    link = tmp_path / "link"
    link.symlink_to(others)
    for path in (own, folder, link):
        os.chown(path, UID, UID, follow_symlinks=False)
    assert sorted(owned_below((str(tmp_path),), UID)) == sorted(map(str, (own, folder, link)))
    assert list(end_user("nobody-has-this", UID, folders=(str(tmp_path),))) == []
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["deep", "others", "shared"]


@needs_root
def test_system_v_objects_of_the_user_go(crowd: list[subprocess.Popen[bytes]]) -> None:
    """Memory, queues and semaphores outlive their processes: they are removed by number."""
    program = (
        "c = ctypes.CDLL(None)\n"
        "assert c.shmget(0, 4096, 0o1600) >= 0 and c.msgget(0, 0o1600) >= 0 and c.semget(0, 1, 0o1600) >= 0"
    )
    others = ctypes.CDLL(None).shmget(0, 4096, 0o1600)
    process = as_user(program)
    crowd.append(process)
    assert process.wait() == 0
    assert all(ipc.ids_of(kind, UID) for kind in ("shm", "msg", "sem"))
    ipc.remove_ipc(UID)
    assert not any(ipc.ids_of(kind, UID) for kind in ("shm", "msg", "sem"))
    assert others in ipc.ids_of("shm", os.geteuid())
    ctypes.CDLL(None).shmctl(others, ipc.IPC_RMID, None)


def test_an_engine_that_does_not_answer_hides_nothing(tmp_path: Path) -> None:
    """The last job had a container, and nobody can say whether it is gone: the machine is not offered."""
    programs = tmp_path / "bin"
    programs.mkdir()
    podman = programs / "podman"
    podman.write_text('#!/bin/sh\n[ "$1" = --version ]\n')
    podman.chmod(0o755)
    base = tmp_path / "base"
    base.mkdir()
    said: list[str] = []
    environ = {**PLAYED, "PATH": f"{programs}:/usr/bin:/bin"}
    cleaner = Cleaner(str(base), environ=environ, say=said.append)
    assert cleaner.clean(had_container=False)
    assert not cleaner.clean(had_container=True)
    assert "podman" in said[0]
