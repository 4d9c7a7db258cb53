"""Whole jobs in real containers of Podman and of Docker, with real secrets of the local cloud's."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dstackd import protocol
from tests.end_to_end.installation import BUCKET, Installation, installation, wait_until
from tests.end_to_end.secret_search import findings
from tests.runner import engines
from tests.runner.container_bench import ENGINES, open_rig
from tests.runner.engines import BUSYBOX, BUSYBOX_LINKS, Rig

TOOLS = "localhost/tools:1"
TOKEN = 'tok/en+of "nobody" & 100% \u00e9'
KEY = "-----BEGIN-----\nMIIE+first/line==\nsecond line of it\n-----END-----"
_numbers = itertools.count(1)


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


def logged(site: Installation, job_id: str) -> tuple[str, str]:
    """Standard output and standard error, as the command line shows them."""
    done = subprocess.run(
        [sys.executable, "-m", "dstackd", "logs", "--config", str(site.config), job_id],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout, done.stderr


def test_a_whole_life_in_a_container(place: Place) -> None:
    """Exit code, both streams, masked secrets, artifacts; then neither container nor machine."""
    site = place.site
    job_id = place.insert(
        'echo "$LINES"',
        'echo "token $TOKEN; $AUTH"',
        'echo "$KEY" >&2',
        'printf "user:%s" "$TOKEN" | base64 -w 0; echo',
        "echo $(printf %s \"$TOKEN\" | wc -c) $ESCAPED",
        "pwd; grep /dev/shm /proc/mounts | grep -o 'size=.*k'",
        "echo $DSTACKD_JOB_DIR $HOME; echo kept > out.txt",
        "exit 7",
        env={
            "LINES": "one\ntwo",
            "TOKEN": "${{ secrets.TOKEN }}",
            "AUTH": "Bearer ${{ secrets.TOKEN }}",
            "KEY": "${{ secrets.KEY }}",
            "ESCAPED": "$${{ secrets.TOKEN }}",
        },
        working_dir="deep/work",
        resources={"shm_size": "48MB"},
        artifacts=["deep/work/out.txt"],
    )
    job = site.wait_for(job_id)

    out, err = logged(site, job_id)
    print(out, err)
    assert (job["phase"], job["exit_code"], job["attempt"]) == ("failed", 7, 1), job
    assert place.rig.containers() == []
    assert site.live_machines() == []
    assert 0
