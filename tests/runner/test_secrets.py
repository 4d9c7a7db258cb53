"""Secrets: read once on the machine, put where they are asked for, and told to nobody."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstackd import protocol
from dstackd.launch_document import ContainerDocument, JobDocument, RegistryAuthDocument
from dstackd.runner import secrets as secrets_module
from dstackd.runner.aws import AwsApi
from dstackd.runner.errors import StageFailed
from dstackd.runner.job import RunningJob
from dstackd.runner.job_log import JobLog
from dstackd.runner.secrets import Secrets, read_secrets, secrets_api
from dstackd.runner.spool import Spool
from dstackd.runner.stopping import StopSwitch
from tests.runner.conftest import REGION, Project, a_job
from tests.runner.enclosures import DESCENDANTS, direct
from tests.runner.engines import spooled_texts
from tests.runner.loopback import credentials

TOKEN = "a token that nobody may find"


@dataclass
class Store:
    """The secrets of one bucket, as a machine reads them."""

    project: Project
    api: AwsApi

    def put(self, name: str, text: str) -> None:
        self._create(name, SecretString=text)

    def put_bytes(self, name: str, content: bytes) -> None:
        self._create(name, SecretBinary=content)

    def _create(self, name: str, **content: Any) -> None:  # noqa: ANN401 - as boto3 has it
        full_name = protocol.secret_name(self.project.bucket, name)
        self.project.client("secretsmanager").create_secret(Name=full_name, **content)

    def read(self, job: JobDocument) -> Secrets:
        return read_secrets(job, bucket=self.project.bucket, region=REGION, api=self.api)

    def calls(self) -> int:
        """How often a secret was asked for since the cloud began."""
        counts: dict[str, int] = self.project.cloud.control.counts()["client"]
        return counts.get("secretsmanager:GetSecretValue", 0)


@pytest.fixture
def store(project: Project) -> Iterator[Store]:
    environ = {"AWS_ENDPOINT_URL_SECRETS_MANAGER": project.cloud.endpoint_url}
    api = secrets_api(region=REGION, credentials=credentials(), environ=environ)
    yield Store(project, api)
    api.close()


def test_every_reference_is_read_once(store: Store) -> None:
    """In variables and in the registry's login, several in one text, several times the same."""
    store.put("TOKEN", TOKEN)
    store.put("team/user", "me")
    job = a_job(
        "true",
        env={
            "A": "Bearer ${{ secrets.TOKEN }}",
            "B": "${{secrets.team/user}}:${{ secrets.TOKEN }}",
            "C": "plain $${{ x }}",
        },
        container=ContainerDocument(
            "image", RegistryAuthDocument("${{ secrets.team/user }}", "${{ secrets.TOKEN }}")
        ),
    )
    before = store.calls()
    secrets = store.read(job)
    assert store.calls() == before + 2
    assert secrets.resolve(job.env) == {
        "A": f"Bearer {TOKEN}",
        "B": f"me:{TOKEN}",
        "C": "plain ${{ x }}",
    }
    assert secrets.are_in(["x", f"y{TOKEN}"])
    assert not secrets.are_in(["x", "y"])


def test_a_job_without_references_asks_nobody(store: Store) -> None:
    """No call, and nothing is hidden."""
    before = store.calls()
    secrets = store.read(a_job("true", env={"A": "$${{ secrets.X }}", "B": "2"}))
    assert store.calls() == before
    assert secrets.resolve({"A": "$${{ secrets.X }}"}) == {"A": "${{ secrets.X }}"}
    assert secrets.masker.mask("anything") == "anything"


def test_what_is_missing_is_named_with_what_to_do(store: Store) -> None:
    """All of it at once, so that a person repairs it in one go."""
    store.put("THERE", TOKEN)
    store.put_bytes("BINARY", b"\xff\x00")
    names = ("GONE", "THERE", "BINARY", "AWAY")
    job = a_job("true", env={name: f"${{{{ secrets.{name} }}}}" for name in names})
    with pytest.raises(StageFailed) as caught:
        store.read(job)
    failed = caught.value
    assert failed.stage == "secrets"
    for name in ("GONE", "AWAY"):
        full_name = protocol.secret_name(store.project.bucket, name)
        assert f"create-secret --region {REGION} --name {full_name} " in failed.message
    assert "BINARY: it is binary" in failed.message
    assert "THERE" not in failed.message
    assert TOKEN not in failed.message
    assert failed.final


def test_what_is_denied_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """After waiting for a new role; the name of the secret is told. By the next machine it may be allowed."""
    monkeypatch.setattr(secrets_module, "PATIENCE_S", 0.1)
    store.put("TOKEN", TOKEN)
    store.project.cloud.control.fail(
        "secretsmanager:GetSecretValue", code="AccessDeniedException", status=400, times=1
    )
    with pytest.raises(StageFailed, match=r"role may not read /dstack/.*/secrets/TOKEN") as caught:
        store.read(a_job("true", env={"A": "${{ secrets.TOKEN }}"}))
    assert not caught.value.final


def test_a_short_refusal_is_waited_out(store: Store) -> None:
    """A throttled call, and one that the role's newness refuses, are tried again."""
    store.put("TOKEN", TOKEN)
    store.project.cloud.control.fail(
        "secretsmanager:GetSecretValue", code="ThrottlingException", status=400, times=2
    )
    assert store.read(a_job("true", env={"A": "${{ secrets.TOKEN }}"})).are_in([TOKEN])


def test_what_no_variable_can_hold_is_refused(store: Store) -> None:
    """Without showing it."""
    store.put("ODD", "nul\0inside")
    with pytest.raises(StageFailed) as caught:
        store.read(a_job("true", env={"A": "${{ secrets.ODD }}"}))
    assert "inside" not in "".join(traceback.format_exception(caught.value))


PIECES = st.one_of(
    st.sampled_from(["${{ secrets.A }}", "${{secrets.B}}", "$${{"]),
    st.text(alphabet="ab $\n}'\\é", max_size=5),
)


@given(st.lists(PIECES, max_size=8))
def test_references_are_replaced_and_the_rest_stays(pieces: list[str]) -> None:
    """Also where a value itself looks like a reference: it is not looked at again."""
    values = {"A": "${{ secrets.B }}", "B": "b\n$${{"}
    meanings = {"${{ secrets.A }}": values["A"], "${{secrets.B}}": values["B"], "$${{": "${{"}
    # A `$` before a piece would make an escape of what is none.
    text = "".join(piece + " " for piece in pieces)
    if "$$" in text.replace("$${{", ""):
        return
    wanted = "".join(meanings.get(piece, piece) + " " for piece in pieces)
    assert Secrets(values).resolve_text(text) == wanted


def test_nothing_shows_a_value() -> None:
    """Neither a repr nor a format nor a traceback of what holds them."""
    secrets = Secrets({"A": TOKEN})
    for shown in (repr(secrets), str(secrets), f"{secrets}", repr(secrets.masker)):
        assert TOKEN not in shown
    with pytest.raises(KeyError) as caught:
        secrets.resolve_text(f"{TOKEN} ${{{{ secrets.B }}}}")
    assert TOKEN not in "".join(traceback.format_exception(caught.value))


def test_a_run_writes_no_secret(store: Store, spool: Spool, tmp_path: Path) -> None:
    """A job that prints its secret, whole, in pieces and in base64: no file has it, and no argument."""
    store.put("TOKEN", TOKEN)
    commands = (
        'echo "it is $A"',
        'echo "$A" >&2',
        'printf %s "user:$A" | base64',
        'for i in 1 2 3 4 5 6; do printf "%s" "$A"; done; echo',
        "tr '\\0' '\\n' < /proc/$$/cmdline",
    )
    job = a_job(*commands, env={"A": "${{ secrets.TOKEN }}"})
    secrets = store.read(job)
    running = RunningJob(
        job,
        enclosure=direct(DESCENDANTS),
        script_path=str(tmp_path / "commands.sh"),
        working_dir=str(tmp_path),
        environment=secrets.resolve({"PATH": os.environ["PATH"], **job.env}),
        log=JobLog(spool, mask=secrets.masker.mask),
        switch=StopSwitch(),
    )
    assert running.wait().code == 0
    running.drain()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]
    lines = spooled_texts(spool)
    assert "it is ***" in lines
    assert "*" * 18 in lines
    assert not [line for line in lines if TOKEN in line or "b2tlbiB0" in line]
