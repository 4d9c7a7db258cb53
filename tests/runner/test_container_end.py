"""How a job in a container ends: by itself, by a stop, for lack of memory, with its runner."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dstackd.runner import container_processes
from tests.runner import engines
from tests.runner.conftest import wait_until
from tests.runner.container_bench import ENGINES, Bench, open_bench, open_rig
from tests.runner.engines import BUSYBOX, FULL, Rig


@pytest.fixture(scope="module", params=ENGINES)
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    yield from open_rig(request.param, tmp_path_factory)


@pytest.fixture
def bench(rig: Rig, tmp_path: Path) -> Iterator[Bench]:
    yield from open_bench(rig, tmp_path)


@pytest.mark.usefixtures("sight")
@pytest.mark.parametrize("image", [BUSYBOX, FULL])
def test_everything_inside_has_its_grace(bench: Bench, image: str) -> None:
    """The stop reaches processes that the shell started, and they may save although the shell is gone."""
    save = "trap 'sleep 0.5; echo saved; exit 0' TERM; : > up; while :; do sleep 0.05; done"
    job = bench.job(f'sh -c "{save}"', "echo never", image=image)
    running = bench.start(job, bench.container(job))
    bench.wait_for_file("up")
    bench.switch.order("stopped", grace_s=20.0)
    outcome, lines = bench.end(running)
    assert (outcome.code, outcome.cause) == (143, "stopped")
    assert "saved" in lines
    assert "never" not in lines


@pytest.fixture(params=["seen", "unseen"])
def sight(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the machine sees a container's processes: not where its engine runs in a virtual machine, nor
    where the runner is not root.
    """
    if request.param == "unseen":
        monkeypatch.setattr(container_processes, "signal_inside", lambda *_, **__: False)


@pytest.mark.usefixtures("sight")
@pytest.mark.parametrize("image", [BUSYBOX, FULL])
@pytest.mark.parametrize("name", ["SIGINT", "SIGUSR1", "SIGQUIT"])
def test_the_stop_signal_is_the_specs(bench: Bench, name: str, image: str) -> None:
    """Also one that a shell keeps from what it starts in the background; once, to each process."""
    caught = f"trap 'echo caught; exit 9' {name.removeprefix('SIG')}"
    loop = "while :; do sleep 0.05; done"
    job = bench.job(caught, ": > up", loop, stop_signal=name, image=image)
    running = bench.start(job, bench.container(job))
    bench.wait_for_file("up")
    bench.switch.order("stopped", grace_s=20.0)
    outcome, lines = bench.end(running)
    assert (outcome.code, outcome.cause, lines.count("caught")) == (9, "stopped", 1), lines


@pytest.mark.usefixtures("sight")
@pytest.mark.parametrize("links", [engines.BUSYBOX_LINKS, ()], ids=["shell", "none"])
def test_an_images_own_program_hears_the_stop(bench: Bench, links: tuple[str, ...]) -> None:
    """Once; also in an image without a shell, where it is the first process's child that hears it."""
    program = "trap 'echo caught; exit 9' TERM; : > $DSTACKD_UP; while :; do /bin/busybox sleep 0.05; done"
    image = bench.rig.make_image(
        f"localhost/hears-{len(links)}:1",
        engines.busybox_tree(links=links),
        f"ENTRYPOINT {json.dumps(['/bin/busybox', 'ash', '-c', program])}",
    )
    job = bench.job(image=image, env={"DSTACKD_UP": str(bench.job_dir / "up")})
    running = bench.start(job, bench.container(job))
    bench.wait_for_file("up")
    bench.switch.order("stopped", grace_s=20.0)
    outcome, lines = bench.end(running)
    assert (outcome.code, outcome.cause, lines.count("caught")) == (9, "stopped", 1), lines


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_end_of_the_engines_process_is_no_success(bench: Bench, number: int) -> None:
    """Docker's ends with 0 when it is sent SIGTERM; the job has been killed then, or ends as it wants to."""
    image = bench.rig.make_image(
        f"localhost/goes-on-{number}:1",
        engines.busybox_tree(),
        f"ENTRYPOINT {json.dumps(['/bin/sh', '-c', f': > {bench.job_dir}/up; sleep 3; exit 4'])}",
    )
    job = bench.job(image=image)
    running = bench.start(job, bench.container(job))
    bench.wait_for_file("up")
    running._process.send_signal(number)
    outcome, _ = bench.end(running)
    assert outcome.code in {4, 137, 143}
    assert bench.rig.containers() == []


def test_what_ignores_the_stop_is_killed(bench: Bench) -> None:
    """SIGKILL after the grace, to all of it."""
    job = bench.job("trap '' TERM", "touch up", "while :; do sleep 0.05; done")
    running = bench.start(job, bench.container(job))
    bench.wait_for_file("up")
    bench.switch.order("stopped", grace_s=0.3)
    outcome, _ = bench.end(running)
    assert (outcome.code, outcome.cause) == (137, "stopped")
    assert bench.rig.containers() == []


@pytest.mark.parametrize("image", [BUSYBOX, FULL])
def test_processes_that_lost_their_parent_are_taken_care_of(bench: Bench, image: str) -> None:
    """They leave no zombies, which would use up the numbers of processes."""
    orphans = "for i in 1 2 3 4 5; do sh -c 'sleep 0.1 & exit 0'; done"
    look = 'until [ -z "$Z" ]; do sleep 0.05; Z=; for f in /proc/[0-9]*/stat; do'
    look += " case $(cat < $f) in *') Z '*) Z=1 ;; esac; done; done"
    read = 'cat() { IFS= read -r line; echo "$line"; }'
    outcome, lines = bench.run(read, orphans, "sleep 0.3", "Z=1", look, "echo none", image=image)
    assert (outcome.code, lines) == (0, ["none"])


def test_the_background_ends_with_the_script(bench: Bench) -> None:
    """Nothing that was left running keeps the container."""
    started_at = time.monotonic()
    outcome, lines = bench.run("sleep 60 & echo done")
    assert (outcome.code, lines) == (0, ["done"])
    assert time.monotonic() - started_at < 40


def test_memory_has_an_end(bench: Bench) -> None:
    """A job above the limit is killed, and that is told apart from a failure."""
    job = bench.job("x=0123456789", "while :; do x=$x$x; done")
    running = bench.start(job, bench.container(job, memory_max_bytes=32 * 1024 * 1024))
    outcome, _ = bench.end(running)
    assert (outcome.code, outcome.cause) == (137, "oom")


_RUNNER = """
import json, os, sys
sys.path[:0] = json.loads(sys.argv[1])
from tests.runner.container_bench import Bench
from tests.runner.engines import Rig
from dstackd.runner.spool import Spool
from pathlib import Path
name, folder, base, command = sys.argv[2:6]
bench = Bench(Rig(name, Path(folder), dict(os.environ)), Path(base), Spool(base + "/spool"))
job = bench.job(command, job_id=sys.argv[6])
bench.start(job, bench.container(job)).wait()
"""


@pytest.fixture
def runner(bench: Bench, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a runner of its own process, which the test may kill."""
    started: list[subprocess.Popen[bytes]] = []

    def start(command: str, job_id: str) -> subprocess.Popen[bytes]:
        paths = f'["{Path.cwd()}", "{Path.cwd()}/daemon"]'
        arguments = [sys.executable, "-c", _RUNNER, paths, bench.rig.name, str(bench.rig.folder)]
        process = subprocess.Popen(
            [*arguments, str(tmp_path), command, job_id], env=dict(bench.rig.environ)
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_killed_runner_leaves_nothing_that_runs(
    bench: Bench, runner: Callable[..., subprocess.Popen[bytes]]
) -> None:
    """A job ends with its runner, and the next start of that job removes the container."""
    process = runner("touch up; sleep 600", "killed")
    bench.wait_for_file("up")
    assert len(bench.rig.containers()) == 1
    process.send_signal(signal.SIGKILL)
    wait_until(
        lambda: "Exited" in bench.rig.containers()[0], seen=lambda: str(bench.rig.containers())
    )
    outcome, lines = bench.run("echo again", job_id="killed")
    assert (outcome.code, lines) == (0, ["again"])
    assert bench.rig.containers() == []


def test_closing_twice_is_no_error(bench: Bench) -> None:
    """Nothing is left after the first time, and signals go nowhere then."""
    job = bench.job("sleep 600")
    container = bench.container(job)
    running = bench.start(job, container)
    container.close()
    container.close()
    container.signal(signal.SIGTERM)
    assert not container.lives()
    assert bench.end(running)[0].code == 137
