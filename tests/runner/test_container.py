"""Jobs in real containers, of Podman and of Docker where they are: what they find and leave."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dstackd.runner.errors import StageFailed
from dstackd.runner.job import Outcome
from dstackd.runner.secrets import Secrets
from tests.runner import engines
from tests.runner.container_bench import ENGINES, Bench, open_bench, open_rig
from tests.runner.engines import BUSYBOX, FULL, Rig

SECRET = "a secret that nobody may find"
_numbers = itertools.count(1)


@pytest.fixture(scope="module", params=ENGINES)
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    yield from open_rig(request.param, tmp_path_factory)


@pytest.fixture
def bench(rig: Rig, tmp_path: Path) -> Iterator[Bench]:
    yield from open_bench(rig, tmp_path)


@pytest.mark.parametrize(
    ("commands", "code", "output"),
    [
        (("echo a", "echo b"), 0, ["a", "b"]),
        (("echo a", "false", "echo never"), 1, ["a"]),
        (("exit 125",), 125, []),
        (("no-such-command 2>/dev/null",), 127, []),
        (("kill -9 $$",), 137, []),
        (("x=1", "cd /", "echo $x $PWD"), 0, ["1 /"]),
        (("read x || echo no input",), 0, ["no input"]),
        (("cat <<E", 'it\'s "here"', "E"), 0, ['it\'s "here"']),
        (("echo $PATH $HOME | grep -c /of/the || echo none",), 0, ["0", "none"]),
    ],
)
def test_commands_run_inside(
    bench: Bench, commands: tuple[str, ...], code: int, output: list[str]
) -> None:
    """One script; its exit code, also one that an engine uses for itself; the image's own PATH and HOME."""
    outcome, lines = bench.run(*commands)
    assert (outcome.code, outcome.cause, lines) == (code, "exit", output)


def test_bash_is_used_where_it_is(bench: Bench) -> None:
    """With -e and pipefail, and sh, which is dash there, starts it."""
    outcome, lines = bench.run(
        "echo ${BASH_VERSION:+bash}", "false | true", "echo never", image=FULL
    )
    assert (outcome.code, lines) == (1, ["bash"])


def test_both_streams_arrive_in_their_order(bench: Bench) -> None:
    """Standard output and error are two sources, and each is whole."""
    commands = "i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo o$i; echo e$i >&2; done"
    outcome, lines = bench.run(commands)
    assert outcome.code == 0
    for source in "oe":
        assert [one for one in lines if one[0] == source] == [f"{source}{n}" for n in range(1, 301)]


@pytest.mark.parametrize("image", [BUSYBOX, FULL])
def test_every_value_of_a_variable_arrives(bench: Bench, image: str) -> None:
    """Line ends, quotes, dollars, bytes that are no UTF-8, and names that mean something to a loader, a
    shell or an engine: all of it reaches the job, and nothing of it the engine.
    """
    wanted = {
        "LINES": "one\ntwo\n\n",
        "QUOTES": """'a' "b" `c` $HOME ${{x}} \\ \t'""",
        "BYTES": "\udcff\udcfe é \U0001f600",
        "EMPTY": "",
        "LONG": "x" * 60_000,
        "LD_PRELOAD": "",
        "LD_LIBRARY_PATH": "/nowhere",
        "DOCKER_HOST": "unix:///nowhere",
        "CONTAINERS_CONF": "/nowhere",
        "STORAGE_DRIVER": "none",
        "IFS": "x",
        "UID": "77",
        "PPID": "77",
        "OPTIND": "x",
        "s": "1",
        "c": "1",
    }
    outcome, lines = bench.run("env -0 > variables", image=image, env=wanted)
    assert outcome.code == 0, lines
    found = dict(
        pair.decode("utf-8", "surrogateescape").split("=", 1)
        for pair in (bench.job_dir / "variables").read_bytes().split(b"\0")[:-1]
    )
    kept_by_shells = {"UID", "PPID", "OPTIND", "IFS"}
    assert {key: found.get(key) for key in wanted if key not in kept_by_shells} == {
        key: text for key, text in wanted.items() if key not in kept_by_shells
    }
    assert not [key for key in found if key.startswith("DSTACKD_")]


def test_the_folder_is_the_machines(bench: Bench) -> None:
    """What a job finds and leaves is in the same place outside; its script cannot be changed."""
    bench.job_dir.mkdir()
    (bench.job_dir / "input").write_text("given\n")
    outcome, lines = bench.run(
        "cat input",
        "pwd",
        "mkdir out",
        "echo kept > out/artifact",
        f"exec 2>&1; echo bad > {bench.folder}/commands.sh || echo readonly",
        f"ls {bench.folder}",
        "grep /dev/shm /proc/mounts | grep -o size=.*k",
        shm_size_mib=48,
    )
    assert outcome.code == 0, lines
    assert lines[:2] == ["given", str(bench.job_dir)]
    assert lines[-4:] == ["readonly", "commands.sh", "job", "size=49152k"]
    assert (bench.job_dir / "out" / "artifact").read_text() == "kept\n"
    assert "readonly" not in (bench.folder / "commands.sh").read_text().splitlines()


@pytest.mark.parametrize("user", ["works", "1234", "1234:2345", "4321"])
def test_an_image_with_a_user_can_write(bench: Bench, user: str) -> None:
    """The folder belongs to the image's user, by name or number, with all that was there."""
    image = bench.rig.make_image(
        f"localhost/user-{next(_numbers)}:1", engines.busybox_tree(), f"USER {user}"
    )
    (bench.job_dir / "deep").mkdir(parents=True)
    (bench.job_dir / "deep" / "file").write_text("x")
    (bench.job_dir / "deep" / "file").chmod(0o600)
    outside = bench.folder / "outside"
    outside.write_text("x")
    (bench.job_dir / "link").symlink_to(outside)
    outcome, lines = bench.run("id -u", "cat deep/file >> deep/new", "touch top", image=image)
    assert (outcome.code, lines) == (0, ["4321" if user == "4321" else "1234"])
    assert outside.stat().st_uid == os.geteuid()


def test_permissions_machine_is_root(bench: Bench) -> None:
    """Whatever user the image has."""
    image = bench.rig.make_image(
        f"localhost/user-{next(_numbers)}:1", engines.busybox_tree(), "USER works"
    )
    outcome, lines = bench.run("id -u", image=image, permissions="machine")
    assert (outcome.code, lines) == (0, ["0"])


@pytest.mark.parametrize("is_secret", [False, True])
def test_an_image_without_commands_runs_its_own(bench: Bench, is_secret: bool) -> None:
    """Entry point and arguments of the image, with the job's variables, a secret or not."""
    image = bench.rig.make_image(
        f"localhost/own-{next(_numbers)}:1",
        engines.busybox_tree(),
        'ENTRYPOINT ["/bin/sh", "-c"]',
        'CMD ["echo it is $A; exit 5"]',
    )
    job = bench.job(image=image, env={"A": SECRET})
    secrets = Secrets({"A": SECRET} if is_secret else {})
    outcome, lines = bench.end(bench.start(job, bench.container(job, secrets=secrets)))
    assert (outcome.code, lines) == (5, [f"it is {SECRET}"])


def test_an_image_without_a_shell(bench: Bench) -> None:
    """Its own entry point runs; commands are refused with the reason, and nothing is left."""
    image = bench.rig.make_image(
        f"localhost/bare-{next(_numbers)}:1",
        engines.busybox_tree(links=()),
        'ENTRYPOINT ["/bin/busybox", "echo"]',
        'CMD ["hello"]',
    )
    job = bench.job("echo never", image=image)
    container = bench.container(job)
    with pytest.raises(StageFailed) as caught:
        bench.start(job, container)
    bench.running = None
    assert caught.value.stage == "start"
    assert "has sh" in caught.value.message
    assert bench.rig.containers() == []
    assert bench.run(image=image) == (Outcome(0, "exit"), ["hello"])


def test_an_image_that_is_not_there(bench: Bench) -> None:
    """A name without a registry is not asked for anywhere."""
    with pytest.raises(StageFailed) as caught:
        bench.container(bench.job("true", image="localhost/nothing:1"))
    assert caught.value.stage == "image"
    assert caught.value.message.startswith("localhost/nothing:1 is not on this machine, and ")


def test_a_secret_is_nowhere(bench: Bench) -> None:
    """While the job has it: in no argument, in no file of the runner and in none of the engine."""
    job = bench.job(
        "echo ${#A}", "touch up", "until [ -e go ]; do sleep 0.05; done", env={"A": SECRET}
    )
    secrets = Secrets({"A": SECRET})
    running = bench.start(job, bench.container(job, secrets=secrets))
    bench.wait_for_file("up")
    assert not [line for line in engines.command_lines() if SECRET.encode() in line]
    assert files_with(SECRET, bench.folder, bench.rig.folder) == []
    (bench.job_dir / "go").touch()
    assert bench.end(running)[1] == [str(len(SECRET))]


def files_with(text: str, *folders: Path) -> list[Path]:
    """Files below the folders that hold the text; what cannot be read, as sockets, is passed over."""
    found = []
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and path.stat().st_size < 50_000_000:
                try:
                    holds = text.encode() in path.read_bytes()
                except OSError:
                    continue
                found += [path] if holds else []
    return found
