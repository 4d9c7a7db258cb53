"""What has to be true of the demo's jobs. Law: pure; each expectation is a line for a person and holds or does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import dropwhile
from typing import Final

from dstackd.artifact_manifest import COMPLETE
from dstackd.demo import jobs as told
from dstackd.demo.evidence import Evidence, left
from dstackd.demo.queue_view import JobView
from dstackd.protocol import sha256_hex

ARTIFACT_FOLDER: Final = "out"


@dataclass(frozen=True, slots=True)
class Expectation:
    """`text` says what was seen, whether it is what was expected or not."""

    held: bool
    about: str
    text: str


def judge(seen: Evidence) -> list[Expectation]:
    """Every expectation, in the order in which they are shown."""
    return [expectation for check in _CHECKS for expectation in check(seen)]


def _lines(seen: Evidence) -> Iterator[Expectation]:
    output = _output(seen, told.LINES)
    followed = seen.followed.get(told.LINES, 0)
    held = _ended(seen, told.LINES, "succeeded", 0) and output == told.expected_lines()
    text = f"{len(output)} of {told.LINE_COUNT} lines, in order; {followed} followed live"
    yield Expectation(held and followed == told.LINE_COUNT, told.LINES, text)


def _words(seen: Evidence) -> Iterator[Expectation]:
    expected = {f"{ARTIFACT_FOLDER}/{name}": text for name, text in seen.counted.items()}
    wrong = sorted(
        path
        for path in expected.keys() | seen.pulled.keys()
        if expected.get(path) != seen.pulled.get(path)
    )
    size = sum(map(len, seen.pulled.values()))
    same = f"{len(expected)} artifacts ({size:,} bytes) equal what was counted here"
    text = f"artifacts differ: {', '.join(wrong)}" if wrong else same
    yield Expectation(not wrong and _ended(seen, told.WORDS, "succeeded", 0), told.WORDS, text)
    yield _sealed(seen, expected)


def _sealed(seen: Evidence, expected: dict[str, bytes]) -> Expectation:
    if seen.manifest is None:
        return Expectation(held=False, about=told.WORDS, text="there is no manifest in the bucket")
    listed = {file.path: (file.size, file.sha256) for file in seen.manifest.files}
    wanted = {path: (len(text), sha256_hex(text)) for path, text in expected.items()}
    held = listed == wanted and seen.manifest.verdict == COMPLETE
    text = f"the manifest in the bucket is {seen.manifest.verdict} and lists {len(listed)} files"
    return Expectation(held, told.WORDS, f"{text} with their checksums")


def _fails(seen: Evidence) -> Iterator[Expectation]:
    job = seen.job(told.FAILS)
    held = _ended(seen, told.FAILS, "failed", told.EXIT_CODE) and len(job.attempts) == 1
    yield Expectation(held, told.FAILS, f"{job.phase} with exit code {_code(job)}, not tried again")


def _resumes(seen: Evidence) -> Iterator[Expectation]:
    job = seen.job(told.RESUMES)
    outcomes = [attempt.outcome for attempt in job.attempts]
    held = (
        seen.reclaimed
        and outcomes == ["interrupted", "exited"]
        and all(attempt.market == "spot" for attempt in job.attempts)
        and _ended(seen, told.RESUMES, "succeeded", 0)
    )
    text = f"spot machine reclaimed; attempts: {', '.join(map(str, outcomes)) or 'none'}"
    yield Expectation(held, told.RESUMES, text)
    yield _went_on(seen)


def _went_on(seen: Evidence) -> Expectation:
    """The second attempt begins where the checkpoint of the first one was, and goes to the end."""
    lines = seen.lines.get(told.RESUMES, {})
    first = [step for line in lines.get(1, ()) if (step := told.step_of(line)) is not None]
    # Before them the machine says which attempt it resumes.
    second = list(dropwhile(lambda line: told.checkpoint_of(line) is None, lines.get(2, ())))
    start = told.checkpoint_of(second[0]) if second else None
    if start is None or not first:
        return Expectation(
            held=False, about=told.RESUMES, text="attempt 2 did not begin from a checkpoint"
        )
    rest = [told.step_of(line) for line in second[1:]]
    held = (
        first == list(range(1, first[-1] + 1))
        # The checkpoint is written before the line, so a stop may fall between the two.
        and start in {first[-1], first[-1] + 1}
        and told.HALF <= start < told.STEPS
        and rest == list(range(start + 1, told.STEPS + 1))
    )
    text = f"attempt 1 reached step {first[-1]}; attempt 2 went on from step {start}"
    return Expectation(held, told.RESUMES, f"{text} to {rest[-1] if rest else start}")


def _squares(seen: Evidence) -> Iterator[Expectation]:
    names = [f"{told.SQUARES}[{index}]" for index in range(told.ARRAY)]
    elements = [job for job in seen.jobs if job.name in names]
    right = sum(_output(seen, name) == told.expected_square(at) for at, name in enumerate(names))
    held = right == told.ARRAY == sum(job.phase == "succeeded" for job in elements)
    text = f"{right} of {told.ARRAY} jobs gave the right result"
    yield Expectation(held and _ended(seen, told.SQUARES, "succeeded", 0), told.SQUARES, text)
    counts = {call.client_token: call.count for call in seen.calls.launches}
    of_array = sum(count == told.ARRAY for count in counts.values())
    text = f"{of_array} RunInstances for {told.ARRAY} machines"
    yield Expectation(of_array == 1, told.SQUARES, text)


def _broken(seen: Evidence) -> Iterator[Expectation]:
    job = seen.job(told.BROKEN)
    held = job.phase == "rejected" and told.BROKEN_FIELD in job.message and not job.attempts
    yield Expectation(held, told.BROKEN, f"{job.phase}: {job.message}")


def _logs(seen: Evidence) -> Iterator[Expectation]:
    ran = [
        (job.name, attempt)
        for job in seen.jobs
        for attempt in job.attempts
        if attempt.started_at_ms is not None
    ]
    short = [
        f"{name}/{attempt.number}"
        for name, attempt in ran
        if not attempt.log_lines_sent
        == attempt.log_lines_seen
        == _stored(seen, name, attempt.number)
    ]
    total = sum(attempt.log_lines_seen for _, attempt in ran)
    text = f"{total} lines of {len(ran)} attempts: every line that was sent was seen, and is stored"
    if short:
        text = f"lines are missing of {', '.join(short)}"
    yield Expectation(not short and bool(ran), "logs", text)


def _launches(seen: Evidence) -> Iterator[Expectation]:
    """No intent was called twice (a repetition carries the same token), and no machine came of it twice."""
    answered = [launch for launch in seen.launches if launch.state == "answered"]
    tokens = {call.client_token for call in seen.calls.launches}
    machines = {(one["client_token"], one["launch_index"]) for one in seen.machines}
    repeated = len(seen.calls.launches) - len(tokens)
    held = (
        tokens == {launch.client_token for launch in answered}
        and len(answered) == len(seen.launches)
        and len(seen.machines) == len(machines) == sum(launch.count for launch in answered)
        and (repeated == 0 or seen.killed_while_running)
    )
    text = f"{len(answered)} launches, {len(seen.machines)} machines: each once"
    text += f", by {len(seen.calls.launches)} RunInstances"
    if repeated:
        text += f" ({repeated} of them the same again, with the same token)"
    yield Expectation(held, "launches", text)


def _gone(seen: Evidence) -> Iterator[Expectation]:
    remaining = left(seen.machines)
    text = f"machines left: {len(remaining)}"
    yield Expectation(not remaining, "machines", f"{text} {' '.join(remaining)}".rstrip())


def _killed(seen: Evidence) -> Iterator[Expectation]:
    if seen.kill_wanted:
        held = seen.killed_while_running
        text = "killed with SIGKILL while jobs were unfinished, and started again"
        yield Expectation(held, "daemon", text if held else "the jobs were over before the kill")


_CHECKS: Final[tuple[Callable[[Evidence], Iterator[Expectation]], ...]] = (
    _lines,
    _words,
    _fails,
    _resumes,
    _squares,
    _broken,
    _logs,
    _launches,
    _killed,
    _gone,
)


def _ended(seen: Evidence, name: str, phase: str, exit_code: int) -> bool:
    job = seen.job(name)
    return (job.phase, job.exit_code) == (phase, exit_code)


def _output(seen: Evidence, name: str) -> list[str]:
    """Everything that the job wrote, over all attempts."""
    attempts = seen.lines.get(name, {})
    return [line for number in sorted(attempts) for line in attempts[number]]


def _stored(seen: Evidence, name: str, number: int) -> int:
    return len(seen.lines.get(name, {}).get(number, ()))


def _code(job: JobView) -> str:
    return "none" if job.exit_code is None else str(job.exit_code)
