"""Which engine is taken, what is installed where, and how a container is asked for."""

from __future__ import annotations

import csv
import itertools
import os
from pathlib import Path

import pytest

from dstackd.launch_document import ContainerDocument
from dstackd.local.machine_facts import environment
from dstackd.runner import engine_setup
from dstackd.runner.container_options import Entry, Place, Rights, create_arguments
from dstackd.runner.container_owner import _in_passwd
from dstackd.runner.container_processes import killed_for_memory, signal_inside
from dstackd.runner.engine import engine_environment
from dstackd.runner.engine_setup import find_engine, gpu_arguments
from dstackd.runner.errors import StageFailed
from dstackd.runner.power import LOCAL_VARIABLE
from tests.runner.conftest import a_job

DOCKER_THAT_ANSWERS = """case "$1" in
--version) echo Docker version 27.0 ;;
version) echo 27.0 ;;
esac"""
DOCKER_WITHOUT_DAEMON = """case "$1" in
--version) echo Docker version 27.0 ;;
version) echo "Cannot connect to the Docker daemon" >&2; exit 1 ;;
esac"""
PODMAN_AS_DOCKER = "echo podman version 5.0"
PLACE = Place("/base", "/base/job", "/base/job/work")


class Computer:
    """A folder of programs that stand in for those of a machine; each notes its calls."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes = folder / "notes"
        self.environ = {"PATH": str(folder), "HOME": "/of/the/machine"}

    def has(self, name: str, script: str) -> None:
        path = self.folder / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> {self.notes}\n{script}\n')
        path.chmod(0o755)

    def called(self) -> list[str]:
        return self.notes.read_text().splitlines() if self.notes.exists() else []


@pytest.fixture
def computer(tmp_path: Path) -> Computer:
    return Computer(tmp_path)


def no_words(_: str) -> None:
    """Nobody listens."""


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a machine's runner is root")


@pytest.mark.parametrize(
    ("docker", "podman", "name"),
    [
        (DOCKER_THAT_ANSWERS, "", "docker"),
        (DOCKER_THAT_ANSWERS, ":", "docker"),
        (DOCKER_WITHOUT_DAEMON, ":", "podman"),
        (PODMAN_AS_DOCKER, ":", "podman"),
        ("", ":", "podman"),
    ],
)
def test_docker_that_answers_else_podman(
    computer: Computer, docker: str, podman: str, name: str
) -> None:
    """A docker whose daemon is not there, or that is Podman's, is none."""
    for program, script in (("docker", docker), ("podman", podman)):
        if script:
            computer.has(program, script)
    computer.environ[LOCAL_VARIABLE] = "http://127.0.0.1:9"
    assert find_engine(computer.environ, say=no_words).name == name


@pytest.mark.parametrize("docker", ["", DOCKER_WITHOUT_DAEMON])
def test_nothing_is_installed_on_a_persons_computer(computer: Computer, docker: str) -> None:
    """The failure says what to do instead."""
    computer.has("apt-get", ":")
    computer.has("dockerd", ":")
    computer.has("systemctl", ":")
    if docker:
        computer.has("docker", docker)
    computer.environ[LOCAL_VARIABLE] = "http://127.0.0.1:9"
    with pytest.raises(StageFailed, match="install or start one"):
        find_engine(computer.environ, say=no_words)
    assert not [call for call in computer.called() if not call.startswith("docker ")]


@needs_root
@pytest.mark.parametrize("program", ["apt-get", "dnf", "yum"])
def test_a_machine_installs_docker(computer: Computer, program: str) -> None:
    """With the package program of its image; then the daemon is started."""
    docker = computer.folder / "docker"
    script = DOCKER_THAT_ANSWERS.replace('"', '\\"').replace("$", "\\$")
    installed = f'case "$*" in *install*) printf "%s\\n" "#!/bin/sh" "{script}" > {docker}; /bin/chmod 755 {docker} ;; esac'
    computer.has(program, installed)
    computer.has("systemctl", ":")
    assert find_engine(computer.environ, say=no_words).name == "docker"
    called = computer.called()
    assert [call for call in called if call.startswith(program) and " install " in call]
    assert "systemctl start docker" in called
    assert (program == "apt-get") == any(call.endswith(" update") for call in called)


@needs_root
def test_a_stopped_docker_is_started_on_a_machine(computer: Computer) -> None:
    """Nothing is installed where it is there."""
    up = computer.folder / "up"
    answers = DOCKER_THAT_ANSWERS.replace("echo 27.0", f"[ -e {up} ] && echo 27.0")
    computer.has("docker", answers)
    computer.has("dockerd", ":")
    computer.has("apt-get", ":")
    computer.has("systemctl", f": > {up}")
    assert find_engine(computer.environ, say=no_words).name == "docker"
    assert not [call for call in computer.called() if call.startswith("apt-get")]


@needs_root
def test_a_failed_installation_is_told(computer: Computer, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command and its last words."""
    monkeypatch.setattr(engine_setup, "STARTED_S", 0.2)
    computer.has("dnf", "echo 'no package docker' >&2; exit 1")
    with pytest.raises(StageFailed, match=r"dnf install .*no package docker") as caught:
        find_engine(computer.environ, say=no_words)
    assert caught.value.stage == "image"


@needs_root
def test_an_image_without_package_programs(computer: Computer) -> None:
    """The fix is another machine image."""
    with pytest.raises(StageFailed, match="use a machine image that has one"):
        find_engine(computer.environ, say=no_words)


def test_gpus_need_nvidias_toolkit(computer: Computer) -> None:
    """With it every GPU is given; without it the job fails before its image is pulled."""
    computer.has("docker", DOCKER_THAT_ANSWERS)
    computer.environ[LOCAL_VARIABLE] = "http://127.0.0.1:9"
    engine = find_engine(computer.environ, say=no_words)
    with pytest.raises(StageFailed, match="NVIDIA Container Toolkit"):
        gpu_arguments(engine, computer.environ)
    computer.has("nvidia-container-runtime", ":")
    assert gpu_arguments(engine, computer.environ) == ["--gpus", "all"]


def arguments(*, entry: Entry | None = None, **changes: object) -> list[str]:
    """`create` for a job, with some of the rights and the job's fields changed."""
    permissions = str(changes.pop("permissions", "job"))
    wanted: dict[str, object] = {
        "is_docker": True,
        "is_ours": True,
        "has_init": True,
        "memory_max_bytes": 1000,
        "gpu_arguments": ("--gpus", "all"),
    }
    return create_arguments(
        a_job("true", job_id="j", attempt=2, permissions=permissions),
        ContainerDocument("image", shm_size_mib=64),
        image="docker.io/library/image",
        place=PLACE,
        entry=entry or Entry(takes_input=True, script_path="/base/commands.sh"),
        rights=Rights(**{**wanted, **changes}),  # type: ignore[arg-type] # a test's words
    )


def pairs(words: list[str]) -> set[tuple[str, str]]:
    return set(itertools.pairwise(words))


def test_a_job_is_confined() -> None:
    """No new privileges and the engine's bridge; limits as asked; the image is the last word."""
    words = arguments()
    assert words[-1] == "docker.io/library/image"
    assert {
        ("--name", "dstackd-j-2"),
        ("--label", "dstackd.folder=/base"),
        ("--log-driver", "none"),
        ("--pull", "never"),
        ("--security-opt", "no-new-privileges"),
        ("--network", "bridge"),
        ("--memory", "1000b"),
        ("--shm-size", "64m"),
        ("--gpus", "all"),
        ("--entrypoint", "sh"),
        ("--workdir", "/base/job/work"),
    } <= pairs(words)
    assert "--init" in words
    assert not {"--privileged", "--user", "host"} & set(words)


def test_permissions_machine_is_the_machine() -> None:
    """Its network, from where its role is reached, and root; without more privileges than a container has."""
    words = arguments(permissions="machine")
    assert {("--network", "host"), ("--user", "0:0")} <= pairs(words)
    assert not {"--privileged", "no-new-privileges", "bridge"} & set(words)


def test_podman_is_made_to_be_as_docker() -> None:
    """Its own bounds on processes and its labels are taken off."""
    assert {
        ("--pids-limit", "-1"),
        ("--security-opt", "label=disable"),
        ("--oom-score-adj", "0"),
    } <= pairs(arguments(is_docker=False))


def test_the_network_is_the_persons_where_machines_are_played() -> None:
    """And the optional parts are left out when there is nothing to say."""
    words = arguments(is_ours=False, has_init=False, memory_max_bytes=None, gpu_arguments=())
    assert not {"--network", "--init", "--memory", "--gpus"} & set(words)


def test_the_images_own_entry_point() -> None:
    """It has the variables, no other entry point, and no input."""
    entry = Entry(takes_input=False, environment={"A": "x\ny", "B": ""})
    words = arguments(entry=entry)
    assert {("--env", "A=x\ny"), ("--env", "B=")} <= pairs(words)
    assert not {"--entrypoint", "--interactive"} & set(words)


def test_mounts_with_any_name() -> None:
    """Engines read a mount as a line of CSV."""
    job_dir = '/a,b "c" =d/job'
    words = create_arguments(
        a_job("true"),
        ContainerDocument("image"),
        image="image",
        place=Place("/base", job_dir, job_dir),
        entry=Entry(takes_input=True),
        rights=Rights(
            is_docker=True, is_ours=False, has_init=False, memory_max_bytes=None, gpu_arguments=()
        ),
    )
    [mount] = csv.reader([words[words.index("--mount") + 1]])
    assert mount == ["type=bind", f"source={job_dir}", f"target={job_dir}"]


def test_the_engine_sees_settings_of_engines_only() -> None:
    """Neither AWS's variables nor the machine's home, which is a folder where machines are played."""
    environ = {
        "PATH": "/bin",
        "HOME": "/of/the/machine",
        "DOCKER_HOST": "unix:///x",
        "STORAGE_DRIVER": "vfs",
        "AWS_SECRET_ACCESS_KEY": "x",
        "LD_PRELOAD": "/x",
        "NOTIFY_SOCKET": "/x",
    }
    seen = engine_environment(environ)
    assert set(seen) == {"PATH", "HOME", "DOCKER_HOST", "STORAGE_DRIVER"}
    assert seen["HOME"] != "/of/the/machine"


def test_a_played_machine_knows_the_persons_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Docker's context is below the person's home, which is not the machine's; the engine itself may be in a
    folder of the person's own.
    """
    (tmp_path / ".docker").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    monkeypatch.setenv("DOCKER_HOST", "unix:///x")
    monkeypatch.setenv("CONTAINERS_CONF", "/y")
    monkeypatch.setenv("SECRET_OF_MINE", "z")
    monkeypatch.setenv("XDG_DATA_HOME", "/d")
    monkeypatch.setenv("PATH", f"{tmp_path}/desktop")
    (tmp_path / "desktop").mkdir()
    Computer(tmp_path / "desktop").has("podman", "")
    seen = environment(tmp_path / "machine", endpoint_url="http://127.0.0.1:1")
    assert seen["DOCKER_CONFIG"] == str(tmp_path / ".docker")
    assert (seen["DOCKER_HOST"], seen["CONTAINERS_CONF"]) == ("unix:///x", "/y")
    assert "SECRET_OF_MINE" not in seen
    assert seen["XDG_DATA_HOME"] == "/d"
    assert seen["HOME"] == str(tmp_path / "machine")
    assert seen["PATH"].startswith(f"{tmp_path}/machine/bin:")
    assert seen["PATH"].split(":")[-1] == f"{tmp_path}/desktop"


PASSWD = "root:x:0:0::/:/bin/sh\nbad line\nworks:x:1234:2345::/:/bin/sh\nodd:x:a:b::/:\n"


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("works", (1234, 2345)),
        ("1234", (1234, 2345)),
        ("77", (77, 0)),
        ("odd", (None, 0)),
        ("x", (None, 0)),
    ],
)
def test_an_images_user_is_looked_up(name: str, owner: tuple[int | None, int]) -> None:
    """By name or by number; a number need not be in the file."""
    assert _in_passwd(PASSWD, name) == owner


def test_no_process_of_this_computer_is_signalled() -> None:
    """A number that an engine in another machine gave is not a process here."""
    assert not signal_inside(os.getpid(), "0" * 64, 0, spare_first=False)
    assert not signal_inside(2**22 + 1, "0" * 64, 0, spare_first=False)


def test_the_kernels_log_is_read_to_its_end(tmp_path: Path) -> None:
    """Only a killing within that container counts."""
    log = tmp_path / "kmsg"
    log.write_bytes(
        b"6,1,1,-;oom-kill:constraint=CONSTRAINT_MEMCG,task_memcg=/docker/abc,task=sh\n"
    )
    assert killed_for_memory("abc", kernel_log=str(log))
    assert not killed_for_memory("def", kernel_log=str(log))
    assert not killed_for_memory("abc", kernel_log=str(tmp_path / "none"))
