"""What is seen of a demo in which all went well. Law: builders of evidence, no expectations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dstackd.artifact_manifest import Manifest, ManifestFile
from dstackd.demo import jobs as names
from dstackd.demo.evidence import Calls, Evidence, LaunchCall
from dstackd.demo.expectations import ARTIFACT_FOLDER
from dstackd.demo.queue_view import AttemptView, JobView, LaunchView
from dstackd.local.control import MachineView
from dstackd.protocol import sha256_hex

COUNTED = {"words.tsv": b"a\t2\n", "files.tsv": b"one.txt\t2\n"}
LAUNCHES = (("t-lines", 3), ("t-resumes", 1), ("t-again", 1), ("t-squares", names.ARRAY))
ELEMENTS = [f"{names.SQUARES}[{index}]" for index in range(names.ARRAY)]


def attempt(number: int = 1, *, lines: int = 1, **changes: Any) -> AttemptView:  # noqa: ANN401 - fields of AttemptView
    """An attempt that went well."""
    good = AttemptView(
        number=number,
        market="spot",
        instance_id=f"i-{number}",
        instance_type="m5.large",
        outcome="exited",
        started_at_ms=1_000,
        artifact_bytes=0,
        log_lines_sent=lines,
        log_lines_seen=lines,
    )
    return replace(good, **changes)


def job(name: str, *attempts: AttemptView, **changes: Any) -> JobView:  # noqa: ANN401 - fields of JobView
    """A job that succeeded; its id is its name."""
    good = JobView(
        id=name,
        name=name,
        array_parent=None,
        attempts=attempts,
        phase="succeeded",
        reason="exited",
        message="exit code 0",
        exit_code=0,
        cost_usd=0.001,
        submitted_at_ms=0,
        finished_at_ms=9_000,
    )
    return replace(good, **changes)


def machine(token: str, index: int) -> MachineView:
    """A machine that is gone."""
    return MachineView(
        instance_id=f"i-{token}-{index}",
        state="terminated",
        reason="",
        instance_type="m5.large",
        zone="a",
        market="spot",
        launch_index=index,
        client_token=token,
        tags={},
        access_key="",
        directory="",
        imds_port=None,
        pid=None,
        group=None,
        exit_code=0,
    )


def steps(first: int, last: int) -> list[str]:
    """Lines of the job that counts up."""
    return [f"step {step} of {names.STEPS}" for step in range(first, last + 1)]


def good_lines() -> dict[str, Mapping[int, Sequence[str]]]:
    """What the jobs write when all goes well."""
    going_on = f"going on from the checkpoint at step {names.HALF}"
    return {
        names.LINES: {1: names.expected_lines()},
        names.WORDS: {1: ["one.txt\t2"]},
        names.FAILS: {1: ["ending"]},
        names.RESUMES: {
            1: steps(1, names.HALF),
            2: [going_on, *steps(names.HALF + 1, names.STEPS)],
        },
        **{name: {1: names.expected_square(at)} for at, name in enumerate(ELEMENTS)},
    }


def good_jobs() -> tuple[JobView, ...]:
    """The jobs of a demo in which all went well."""
    first = attempt(1, lines=names.HALF, outcome="interrupted")
    second = attempt(2, lines=names.STEPS - names.HALF + 1)
    return (
        job(names.LINES, attempt(lines=names.LINE_COUNT)),
        job(names.WORDS, attempt(artifact_bytes=14)),
        job(names.FAILS, attempt(), phase="failed", exit_code=names.EXIT_CODE),
        job(names.RESUMES, first, second),
        job(names.SQUARES),
        job(names.BROKEN, phase="rejected", exit_code=None, message="resources.cpu: is wrong"),
        *(job(name, attempt(), array_parent=names.SQUARES) for name in ELEMENTS),
    )


def good() -> Evidence:
    """What is seen when all went well."""
    files = [
        ManifestFile(f"{ARTIFACT_FOLDER}/{name}", len(text), sha256_hex(text), 0o644)
        for name, text in sorted(COUNTED.items())
    ]
    return Evidence(
        jobs=good_jobs(),
        launches=tuple(LaunchView(token, count, "answered") for token, count in LAUNCHES),
        lines=good_lines(),
        followed={names.LINES: names.LINE_COUNT},
        machines=tuple(machine(token, at) for token, count in LAUNCHES for at in range(count)),
        calls=Calls({"ec2:RunInstances": 4}, {}, tuple(LaunchCall(*each) for each in LAUNCHES)),
        counted=COUNTED,
        pulled={f"{ARTIFACT_FOLDER}/{name}": text for name, text in COUNTED.items()},
        manifest=Manifest(names.WORDS, 1, "complete", tuple(files)),
        reclaimed=True,
        kill_wanted=False,
        killed_while_running=False,
    )
