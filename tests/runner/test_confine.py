"""How a job is kept apart: its user and its folder."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dstackd.launch_document import PERMISSIONS_MACHINE
from dstackd.runner.account import existing_account
from dstackd.runner.confine import LOCAL_USER_VARIABLE, Confinement, confine
from dstackd.runner.errors import StageFailed
from dstackd.runner.journal import Journal
from dstackd.runner.ownership import give
from dstackd.runner.power import LOCAL_VARIABLE
from tests.runner.conftest import a_job

LOCAL = {LOCAL_VARIABLE: "http://127.0.0.1:1", "HOME": "/home/me"}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives things away")
NOBODY = 65_534


def a_confinement(folder: Path, environ: dict[str, str], **fields: Any) -> Confinement:  # noqa: ANN401 - as JobDocument
    return confine(
        a_job("true", **fields), base_dir=str(folder), environ=environ, journal=Journal()
    )


# ------------------------------------------------------------------------------ who


def test_a_computer_that_plays_machines_keeps_its_users(tmp_path: Path) -> None:
    """Without the variable the commands run as whoever plays, in their own home."""
    confined = a_confinement(tmp_path, LOCAL)
    assert confined.account.uid == os.geteuid()
    assert (confined.account.is_other, confined.account.home) == (False, "/home/me")
    assert confined.no_new_privs
    assert list(tmp_path.iterdir()) == []


@needs_root
def test_a_local_user_stands_for_the_jobs_user(tmp_path: Path) -> None:
    """The whole path without making a user: another uid, a home of its own, fresh for each job."""
    old = tmp_path / "home"
    old.mkdir()
    (old / "left.txt").write_text("of the job before")
    tmp_path.chmod(0o700)
    confined = a_confinement(tmp_path, {**LOCAL, LOCAL_USER_VARIABLE: "nobody"})
    assert (confined.account.name, confined.account.is_other) == ("nobody", True)
    home = Path(confined.account.home)
    assert (home, home.stat().st_uid, home.stat().st_mode & 0o777) == (
        *(tmp_path / "home", pwd.getpwnam("nobody").pw_uid, 0o700),
    )
    assert list(home.iterdir()) == []
    assert tmp_path.stat().st_mode & 0o777 == 0o711, "the way to it is open"


@needs_root
def test_a_job_with_the_machines_permissions_is_root(tmp_path: Path) -> None:
    """Whatever else is configured: it is the runner's own user, and may have more rights."""
    environ = {**LOCAL, LOCAL_USER_VARIABLE: "nobody"}
    confined = a_confinement(tmp_path, environ, permissions=PERMISSIONS_MACHINE)
    assert (confined.account.uid, confined.no_new_privs) == (0, False)


@pytest.mark.parametrize(("name", "why"), [("no-such-user", "no user"), ("root", "is root")])
def test_a_user_that_cannot_be_the_jobs(name: str, why: str) -> None:
    """A name that is nobody's, and root's, fail the stage."""
    with pytest.raises(StageFailed, match=why) as failed:
        existing_account(name, home="/")
    assert failed.value.stage == "confine"


def test_a_machine_whose_runner_is_not_root_confines_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There the job does not start, rather than run unconfined."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(StageFailed, match="not root"):
        a_confinement(tmp_path, {})


@needs_root
def test_the_jobs_user_is_made_once(tmp_path: Path) -> None:
    """With the real useradd, on a password file of its own: no password, no login group, twice is once."""
    # A root of its own, so that this computer's users stay what they are.
    script = f"""
set -e
mount -t tmpfs none {tmp_path}
for name in passwd group shadow gshadow login.defs; do cp /etc/$name {tmp_path}/ 2>/dev/null || true; done
mkdir {tmp_path}/empty
mount --bind {tmp_path} /etc
cd /
{sys.executable} - <<'PYTHON'
import pwd
from dstackd.runner.account import job_account
first, second = job_account(home="/var/lib/x/home"), job_account(home="/var/lib/x/home")
entry = pwd.getpwnam("dstackd-job")
shadow = [line for line in open("/etc/shadow") if line.startswith("dstackd-job:")]
assert first == second and 0 < first.uid < 1000, first
print(entry.pw_dir, entry.pw_shell, shadow[0].split(":")[1][:1])
PYTHON
"""
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", script],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.split()) == (
        *(0, ["/var/lib/x/home", "/bin/bash", "!"]),
    ), done.stderr


# ------------------------------------------------------------------------------ folders


@needs_root
def test_the_folder_is_given_and_links_are_not_followed(tmp_path: Path) -> None:
    """Files, folders and links themselves change hands; what a link points at does not."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("x")
    folder = tmp_path / "job"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "f\udcff\n").write_text("x")
    (folder / "to_file").symlink_to(outside / "file")
    (folder / "to_folder").symlink_to(outside)
    (folder / "to_nothing").symlink_to("/nowhere")
    os.mkfifo(folder / "pipe")
    give(str(folder), uid=NOBODY, gid=NOBODY)
    inside = [folder, *folder.rglob("*")]
    assert len(inside) == 8
    assert {path.lstat().st_uid for path in inside} == {NOBODY}
    assert {path.stat().st_uid for path in (outside, outside / "file")} == {0}


@needs_root
def test_a_link_in_the_place_of_the_folder_gives_nothing(tmp_path: Path) -> None:
    """Even then what it points at stays whose it is."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "job").symlink_to("outside")
    give(str(tmp_path / "job"), uid=NOBODY, gid=NOBODY)
    assert (tmp_path / "outside").stat().st_uid == 0
