"""Whole jobs in real containers of Podman and of Docker, with real secrets of the local cloud's."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dstackd import protocol
from tests.end_to_end.hostility import machine_of
from tests.end_to_end.installation import BUCKET, Installation, installation, wait_until
from tests.end_to_end.secret_search import findings
from tests.runner import engines, small_registry
from tests.runner.container_bench import ENGINES, open_rig
from tests.runner.engines import BUSYBOX_LINKS, Rig

ROOT = Path(__file__).resolve().parents[2]
TOOLS = "localhost/tools:1"
TOKEN = 'tok/en+of "nobody" & 100% \u00e9'
KEY = "-----BEGIN-----\nMIIE+first/line==\nsecond line of it\n-----END-----"
_numbers = itertools.count(1)
pytestmark = pytest.mark.timeout(120)


@dataclass(frozen=True)
class Place:
    """An installation whose machines find a person's engine as it stands."""

    site: Installation
    rig: Rig

    def insert(self, *commands: str, image: str = TOOLS, **fields: Any) -> str:  # noqa: ANN401 - a spec's
        return self.site.insert({"image": image, "commands": list(commands), **fields})

    def log(self, job_id: str) -> str:
        return self.site.run("logs", job_id)

    def wait_for_line(self, job_id: str, line: str) -> None:
        wait_until(
            lambda: line in self.log(job_id).splitlines(),
            what=lambda: f"{line}; {self.site.job(job_id)}; {self.log(job_id)}",
        )


@pytest.fixture(scope="module", params=ENGINES)
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    for rig in open_rig(request.param, tmp_path_factory):
        tools = engines.busybox_tree(links=(*BUSYBOX_LINKS, "base64", "seq", "tr"))
        rig.make_image(TOOLS, tools)
        with pytest.MonkeyPatch.context() as patch:
            # What a person has in the environment, from which `dstackd dev` starts the cloud.
            for name in ("CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF", "DOCKER_HOST"):
                patch.delenv(name, raising=False)
            for name, text in rig.environ.items():
                if not name.startswith("AWS_"):
                    patch.setenv(name, text)
            with installation() as site:
                for name, value in (("TOKEN", TOKEN), ("KEY", KEY)):
                    store_secret(site, name, value)
                site.start_daemon()
                yield Place(site, rig)


def store_secret(site: Installation, name: str, value: str) -> None:
    site.client("secretsmanager").create_secret(
        Name=protocol.secret_name(BUCKET, name), SecretString=value
    )


def logged(site: Installation, job_id: str) -> tuple[list[str], list[str]]:
    """The lines of standard output and of standard error, as the command line shows them."""
    done = subprocess.run(
        [sys.executable, "-m", "dstackd", "logs", "--config", str(site.config), job_id],
        env={**os.environ, "PYTHONPATH": str(ROOT / "daemon")},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.splitlines(), done.stderr.splitlines()


def machines_gone(place: Place) -> bool:
    return place.rig.containers() == [] and place.site.live_machines() == []


def test_a_whole_life_in_a_container(place: Place) -> None:
    """Exit code, both streams, masked secrets, artifacts; then neither container nor machine."""
    site = place.site
    job_id = place.insert(
        'echo "$LINES"',
        'echo "token $TOKEN; $AUTH"',
        'echo "$KEY" >&2',
        'printf "user:%s" "$TOKEN" | base64 -w 0; echo',
        'echo $(printf %s "$TOKEN" | wc -c) "$ESCAPED"',
        "grep /dev/shm /proc/mounts | grep -o 'size=.*k'",
        "echo ${PWD#$DSTACKD_JOB_DIR/} $HOME",
        "echo kept > out.txt",
        "exit 7",
        env={
            "LINES": "one\ntwo",
            "TOKEN": "${{ secrets.TOKEN }}",
            "AUTH": "Bearer ${{ secrets.TOKEN }}",
            "KEY": "${{ secrets.KEY }}",
            "ESCAPED": "$${{ secrets.TOKEN }}",
        },
        working_dir="deep/inner",
        resources={"shm_size": "48MB"},
        artifacts=["deep/inner/out.txt"],
    )
    job = site.wait_for(job_id)

    assert (job["phase"], job["exit_code"], job["attempt"]) == ("failed", 7, 1), job
    out, err = logged(site, job_id)
    assert out[:3] == ["one", "two", "token ***; Bearer ***"]
    assert out[3].endswith("***")
    length = len(TOKEN.encode())
    assert out[4:] == [
        f"{length} ${{{{ secrets.TOKEN }}}}",
        "size=49152k",
        "deep/inner /root",
    ]
    assert err[:4] == ["***"] * 4
    site.run("artifacts", "pull", job_id, str(site.folder / f"pulled-{place.rig.name}"))
    kept = site.folder / f"pulled-{place.rig.name}" / "deep" / "inner" / "out.txt"
    assert kept.read_text() == "kept\n"
    assert machines_gone(place)


def test_three_at_once(place: Place) -> None:
    """Each job of an array has a container of its own beside the others, and its own folder."""
    site = place.site
    parent = place.insert(
        "echo $DSTACKD_ARRAY_INDEX > index", "until [ -e go ]; do sleep 0.05; done", array=3
    )

    def folders() -> list[Path]:
        return [path.parent for path in site.cloud.directory.glob("machines/*/dstackd/job/index")]

    before = set(folders())
    wait_until(lambda: len(place.rig.containers()) == 3, what=lambda: f"3; {site.job(parent)}")
    wait_until(lambda: len(set(folders()) - before) == 3, what=lambda: f"3 of {folders()}")
    ours = set(folders()) - before
    assert sorted((folder / "index").read_text() for folder in ours) == ["0\n", "1\n", "2\n"]
    for folder in ours:
        (folder / "go").touch()

    assert site.wait_for(parent)["phase"] == "succeeded"
    assert machines_gone(place)


@pytest.mark.parametrize(
    ("trap", "exit_code", "kept"),
    [("echo saved > state; exit 3", 3, ["state"]), ("", 137, [])],
    ids=["saves", "ignores"],
)
def test_a_cancel_reaches_the_container(
    place: Place, trap: str, exit_code: int, kept: list[str]
) -> None:
    """The spec's signal, the grace to save in, then SIGKILL; what was saved is sealed."""
    site = place.site
    job_id = place.insert(
        f"trap '{trap}' USR1",
        "echo up",
        "while :; do sleep 0.05; done",
        stop_signal="SIGUSR1",
        stop_grace="2s" if exit_code == 137 else "50s",
        artifacts=["state"],
    )
    place.wait_for_line(job_id, "up")
    site.run("stop", job_id)
    job = site.wait_for(job_id)

    assert (job["phase"], job["exit_code"]) == ("cancelled", exit_code), job
    listing = json.loads(site.run("artifacts", "ls", "--json", job_id))
    assert [entry["path"] for entry in listing["files"]] == kept
    assert machines_gone(place)


@pytest.mark.parametrize("killed", ["instance", "runner", "player"])
def test_a_machine_takes_its_container_along(place: Place, killed: str) -> None:
    """Also one whose runner was not asked, and whose image's own program would run on."""
    site = place.site
    image = place.rig.make_image(
        f"localhost/own-{next(_numbers)}:1",
        engines.busybox_tree(),
        'ENTRYPOINT ["/bin/sh", "-c", "echo up; sleep 600"]',
    )
    site.cloud.control.faults(terminate_grace_s=1.0)
    job_id = site.insert({"image": image, "retry": False})
    place.wait_for_line(job_id, "up")
    machine = machine_of(site, job_id)
    if killed == "instance":
        site.client("ec2").terminate_instances(InstanceIds=[machine.instance_id])
    else:
        os.kill(machine.player if killed == "player" else machine.runner, signal.SIGKILL)
    # Not for the job's end: its log is waited for.
    wait_until(
        lambda: machine.instance_id not in site.live_machines(),
        what=lambda: f"the machine's end; {site.cloud.control.machine(machine.instance_id)}",
    )
    assert place.rig.containers() == []


@pytest.mark.parametrize("secret", [False, True])
def test_an_image_without_commands(place: Place, secret: bool) -> None:
    """Its entry point runs, with the job's variables; a secret is nothing that the engine keeps."""
    image = place.rig.make_image(
        f"localhost/own-{next(_numbers)}:1",
        engines.busybox_tree(),
        'ENTRYPOINT ["/bin/sh", "-c"]',
        'CMD ["echo it is $A; exit 5"]',
    )
    value = "${{ secrets.TOKEN }}" if secret else "a word"
    job_id = place.site.insert({"image": image, "env": {"A": value}})
    job = place.site.wait_for(job_id)

    assert (job["phase"], job["exit_code"]) == ("failed", 5), job
    assert logged(place.site, job_id)[0] == ["it is ***" if secret else "it is a word"]


def test_a_registry_with_a_login(place: Place) -> None:
    """The password is a secret, the image comes from the registry; without the login the job says so, and no
    other machine tries it again.
    """
    site, logins = place.site, (("me", TOKEN),)
    with small_registry.registry(engines.busybox_tree(), logins=logins) as registry:
        place.rig.trust(registry.host)
        auth = {"username": "me", "password": "${{ secrets.TOKEN }}"}
        allowed = place.insert("echo in", image=registry.image, registry_auth=auth)
        refused = place.insert("echo in", image=registry.image)
        assert site.wait_for(allowed)["phase"] == "succeeded"
        job = site.wait_for(refused)

    assert logged(site, allowed)[0] == ["in"]
    assert (job["phase"], job["reason"], job["attempt"]) == ("failed", "machine_failed", 1)
    assert f"cannot pull {registry.image}" in job["message"]
    assert machines_gone(place)


def test_a_cancel_ends_a_pull(place: Place) -> None:
    """A registry in trouble is asked again and again; the job that waits for it is cancelled at once."""
    with small_registry.registry(engines.busybox_tree()) as registry:
        registry.refusals = [503] * 1000
        place.rig.trust(registry.host)
        job_id = place.insert("echo never", image=registry.image)
        wait_until(lambda: registry.asked != [], what=lambda: f"a pull; {place.site.job(job_id)}")
        place.site.run("stop", job_id)
        job = place.site.wait_for(job_id)

    assert (job["phase"], job["attempt"]) == ("cancelled", 1), job
    assert logged(place.site, job_id)[0] == []
    assert machines_gone(place)


def test_what_is_missing_is_named(place: Place) -> None:
    """An image and a secret that are not there: the words say which, and what to do; one machine each."""
    site = place.site
    no_image = place.insert("true", image="localhost/nothing:1")
    no_secret = place.insert("true", env={"A": "${{ secrets.NOWHERE }}"})
    jobs = [site.wait_for(job_id) for job_id in (no_image, no_secret)]

    assert [(job["phase"], job["reason"]) for job in jobs] == [("failed", "machine_failed")] * 2
    assert "localhost/nothing:1 is not on this machine" in jobs[0]["message"]
    assert "have the image on the machine, or name its registry" in jobs[0]["message"]
    assert "NOWHERE is not there: aws secretsmanager create-secret" in jobs[1]["message"]
    for job_id in (no_image, no_secret):
        attempts = site.sql("SELECT outcome FROM attempt WHERE job_id = ?", job_id)
        assert attempts == [("boot_failed",)]
    assert machines_gone(place)


def test_secrets_are_left_nowhere(place: Place) -> None:
    """While jobs hold them, in a container, in an image's own program and on the machine itself, and after."""
    site = place.site
    env = {"TOKEN": "${{ secrets.TOKEN }}", "KEY": "x${{ secrets.KEY }}"}
    program = (
        "echo $TOKEN; echo $KEY >&2; echo up; until [ -e $DSTACKD_JOB_DIR/go ]; do sleep 0.05; done"
    )
    own = place.rig.make_image(
        f"localhost/own-{next(_numbers)}:1",
        engines.busybox_tree(),
        f"ENTRYPOINT {json.dumps(['/bin/sh', '-c', program])}",
    )
    jobs = [
        place.insert(program, env=env, artifacts=["*"]),
        site.insert({"image": own, "env": env}),
        site.insert({"commands": [program], "env": env}),
    ]
    before = set(site.cloud.directory.glob("machines/*/dstackd/job"))
    for job_id in jobs:
        place.wait_for_line(job_id, "up")
    values, left = [TOKEN, KEY], [place.rig.folder]
    assert findings(site, values, *left) == []
    for folder in set(site.cloud.directory.glob("machines/*/dstackd/job")) - before:
        (folder / "go").touch()
    for job_id in jobs:
        assert site.wait_for(job_id)["phase"] == "succeeded"
    assert findings(site, values, *left) == []
    assert machines_gone(place)
