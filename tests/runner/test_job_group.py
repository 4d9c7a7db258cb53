"""A control group for each job: limits that the kernel holds, and all of a job in one place."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstackd.runner import cgroup
from dstackd.runner.cgroup import Place, job_memory_bytes, own_places
from dstackd.runner.job_group import MemoryGroup, UnifiedGroup, divide, make_group

GIB = 1024**3


@given(machine_bytes=st.integers(64 * 1024**2, 64 * 1024 * GIB))
def test_a_job_has_most_of_the_memory_and_never_all(machine_bytes: int) -> None:
    """The reserve is between a quarter of a small machine and 1 GiB of a large one."""
    job_bytes = job_memory_bytes(machine_bytes)
    assert machine_bytes * 3 // 4 <= job_bytes < machine_bytes
    assert machine_bytes - job_bytes <= GIB


@given(first=st.integers(0, 1024 * GIB), second=st.integers(0, 1024 * GIB))
def test_more_memory_is_never_less_for_the_job(first: int, second: int) -> None:
    """A larger machine gives its job at least as much."""
    low, high = sorted((first, second))
    assert job_memory_bytes(low) <= job_memory_bytes(high) + 32


UNIFIED_MOUNT = "30 24 0:26 / {at} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"


def written(folder: Path, **files: str) -> dict[str, str]:
    """Files of /proc, by the names of `own_places`' parameters."""
    for name, text in files.items():
        (folder / name).write_text(text)
    return {name: str(folder / name) for name in files}


def test_the_unified_hierarchy_is_found(tmp_path: Path) -> None:
    """As Ubuntu and Amazon Linux 2023 have it."""
    files = written(
        tmp_path,
        cgroup="0::/system.slice/dstackd-runner.service\n",
        mounts=UNIFIED_MOUNT.format(at="/sys/fs/cgroup"),
    )
    assert list(own_places(**files)) == [
        Place(2, "/sys/fs/cgroup/system.slice/dstackd-runner.service")
    ]


def test_of_two_hierarchies_the_one_with_memory_comes_first(tmp_path: Path) -> None:
    """A hybrid system bounds memory in version 1 and can hold processes in both."""
    files = written(
        tmp_path,
        cgroup="4:memory:/a/b\n1:name=systemd:/\n0::/c\n",
        mounts="35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        "36 31 0:33 /a /other rw - cgroup cgroup rw,cpu\n"
        + UNIFIED_MOUNT.format(at="/sys/fs/cgroup/unified"),
    )
    assert list(own_places(**files)) == [
        Place(1, "/sys/fs/cgroup/memory/a/b"),
        Place(2, "/sys/fs/cgroup/unified/c"),
    ]


def test_a_part_of_a_hierarchy_may_be_mounted(tmp_path: Path) -> None:
    """As in a container: the mount's root is where the group is."""
    files = written(
        tmp_path,
        cgroup="0::/docker/abc/x\n",
        mounts="30 24 0:26 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
    )
    assert list(own_places(**files)) == [Place(2, "/sys/fs/cgroup/x")]


def test_a_system_without_control_groups(tmp_path: Path) -> None:
    """There is no place, and nothing is made."""
    missing = str(tmp_path / "none")
    assert list(own_places(cgroup=missing, mounts=missing)) == []
    assert make_group([], limit_bytes=1, divides=True, say=print) is None


def a_unit(folder: Path) -> Path:
    """What the kernel and systemd would have made, as plain files."""
    unit = folder / "dstackd-runner.service"
    unit.mkdir()
    for name in ("cgroup.procs", "cgroup.subtree_control"):
        (unit / name).write_text("")
    return unit


def test_the_runner_divides_its_unit(tmp_path: Path) -> None:
    """It moves itself into a part, then has memory and processes bounded; again changes nothing."""
    unit = a_unit(tmp_path)
    assert divide(str(unit)) == str(unit)
    assert (unit / "runner" / "cgroup.procs").read_text() == str(os.getpid())
    assert (unit / "cgroup.subtree_control").read_text() == "+pids"
    assert divide(str(unit / "runner")) == str(unit)
    assert not (unit / "runner" / "runner").exists()


def test_limits_are_written_before_anybody_is_inside(tmp_path: Path) -> None:
    """Memory, all or nothing when it runs out, and how many processes."""
    said: list[str] = []
    place = Place(2, str(a_unit(tmp_path)))
    group = make_group([place], limit_bytes=5 * GIB, divides=True, say=said.append)
    assert isinstance(group, UnifiedGroup)
    folder = Path(group.folder)
    limits = {path.name: path.read_text() for path in folder.iterdir()}
    pids = limits.pop("pids.max")
    assert limits.pop("cgroup.procs").strip().isdecimal(), "the entrance was tried"
    assert limits == {"memory.max": str(5 * GIB), "memory.oom.group": "1"}
    assert int(pids) > 1000
    assert (group.join, said) == ((f"{folder}/cgroup.procs",), [])


def test_the_kernels_count_of_killed_processes_is_read(tmp_path: Path) -> None:
    """`oom_kill` counts; `oom`, the number of times that memory ran short, does not."""
    group = UnifiedGroup(str(tmp_path / "job"), limit_bytes=None, pids_max=None)
    events = Path(group.folder) / "memory.events"
    assert not group.ran_out_of_memory()
    events.write_text("low 0\nhigh 0\nmax 9\noom 4\noom_kill 0\n")
    assert not group.ran_out_of_memory()
    events.write_text("low 0\nhigh 0\nmax 9\noom 4\noom_kill 2\n")
    assert group.ran_out_of_memory()


def test_a_place_that_does_not_take_the_limit_is_used_without(tmp_path: Path) -> None:
    """A lack of control groups is said, and is no reason not to run the job."""
    said: list[str] = []
    places = [Place(2, str(tmp_path / "none")), Place(2, str(tmp_path))]
    group = make_group(places, limit_bytes=None, divides=False, say=said.append)
    assert isinstance(group, UnifiedGroup)
    assert len(said) == 1
    assert "none" in said[0]


needs_unified = pytest.mark.skipif(
    not any(place.version == 2 and os.access(place.folder, os.W_OK) for place in own_places()),
    reason="no unified hierarchy that can be written",
)


@needs_unified
def test_a_real_group_that_lets_nobody_in_is_not_used() -> None:
    """Below a threaded group the kernel makes groups that no process may enter: none is left behind."""
    [mount] = [place.folder for place in own_places() if place.version == 2]
    threaded = Path(mount) / f"dstackd-test-{os.getpid()}"
    threaded.mkdir()
    said: list[str] = []
    try:
        (threaded / "cgroup.type").write_text("threaded")
        place = Place(2, str(threaded))
        assert make_group([place], limit_bytes=None, divides=False, say=said.append) is None
        assert [path for path in threaded.iterdir() if path.is_dir()] == []
    finally:
        cgroup.remove_below(str(threaded))
    assert "no process may enter" in said[-1]


def test_groups_of_runners_that_are_gone_are_removed(tmp_path: Path) -> None:
    """After kill -9 of a runner its empty group stays behind; the next one takes it away."""
    for name in ("dstackd-job-999999999-1", f"dstackd-job-{os.getpid()}-1", "somebody-else"):
        (tmp_path / name).mkdir()
    make_group([Place(2, str(tmp_path))], limit_bytes=None, divides=False, say=print)
    names = {path.name for path in tmp_path.iterdir()}
    assert "dstackd-job-999999999-1" not in names
    assert {f"dstackd-job-{os.getpid()}-1", "somebody-else"} < names


@pytest.mark.skipif(
    not any(place.version == 1 and os.access(place.folder, os.W_OK) for place in own_places()),
    reason="no memory cgroup of version 1 that can be written",
)
def test_a_real_group_has_its_limit(tmp_path: Path) -> None:
    """What the kernel says about it is what was asked, and it is gone afterwards."""
    group = make_group(list(own_places()), limit_bytes=GIB, divides=False, say=print)
    assert isinstance(group, MemoryGroup)
    assert (Path(group.folder) / "memory.limit_in_bytes").read_text().strip() == str(GIB)
    group.remove()
    assert not Path(group.folder).exists()


@needs_unified
def test_a_real_unit_is_divided(tmp_path: Path) -> None:
    """The kernel refuses to bound the parts of a group that has processes; after `divide` it does not,
    and the job in its part is killed at once. With a controller that this kernel has left for version 2.
    """
    [mount] = [place.folder for place in own_places() if place.version == 2]
    controllers = (Path(mount) / "cgroup.controllers").read_text().split()
    if not controllers:
        pytest.skip("every controller is in version 1")
    # As systemd does in the slices above a delegated unit.
    offered = Path(mount) / "cgroup.subtree_control"
    was_offered = controllers[0] in offered.read_text().split()
    offered.write_text(f"+{controllers[0]}")
    unit = Path(mount) / f"dstackd-test-{os.getpid()}"
    unit.mkdir()
    script = f"""
import os, subprocess, sys
from dstackd.runner import cgroup, job_group
unit, controller = {str(unit)!r}, {controllers[0]!r}
cgroup.write(unit + "/cgroup.procs", str(os.getpid()))
try:
    cgroup.write(unit + "/cgroup.subtree_control", "+" + controller)
    print("not refused")
except OSError as error:
    print(error.errno)
job_group.CONTROLLERS = (controller,)
assert job_group.divide(unit) == job_group.divide(unit + "/runner") == unit
print(open(unit + "/cgroup.subtree_control").read().strip())
job = job_group.UnifiedGroup(unit + "/job", limit_bytes=None, pids_max=None)
sleeper = subprocess.Popen(["sh", "-c", f"echo $$ > {{job.join[0]}}; setsid sleep 300 & sleep 300"])
while len(job.pids()) < 3: pass
job.kill()
print(sleeper.wait(), job.pids())
job.remove()
print(sorted(name for name in os.listdir(unit) if os.path.isdir(unit + "/" + name)))
"""
    try:
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        cgroup.remove_below(str(unit))
        if not was_offered:
            offered.write_text(f"-{controllers[0]}")
    assert done.stdout.splitlines() == [
        *(str(errno.EBUSY), controllers[0], "-9 []", "['runner']")
    ], done.stderr
    assert not unit.exists()
