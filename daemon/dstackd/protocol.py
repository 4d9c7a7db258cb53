"""What the daemon and the machines have agreed on: names in the bucket, tags, log events, inbox events.

Law: standard library only, Python 3.9 syntax (it travels inside the runner zipapp), no I/O.
Changing anything here is a protocol change: old machines are still running when a new daemon starts.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

VERSION = 1
"""Version of the launch document; a runner refuses one that is newer than its own."""

PREFIX = "dstackd/"
"""Every key of ours in the bucket begins with this; the bucket may hold other things."""

TAG_BUCKET = "dstack_bucket"
"""The IAM policy lets us terminate only what carries this tag with the bucket's name."""
TAG_OWNER = "dstackd:owner"
"""Installation id: two databases may share a bucket, each touches only its own machines."""
TAG_LAUNCH = "dstackd:launch"
TAG_RUNNER = "dstackd:runner"
"""sha256 of the runner zipapp that the machine has to fetch."""

TAG_LIFETIME = "dstackd:lifetime"
"""Seconds after its first minute at which the machine ends itself, whatever runs (`core.lifetime`)."""

TAG_KEEP_DAYS = "dstackd:keep-days"
"""On an object below `ARTIFACT_PREFIX`: days after its upload until the bucket's lifecycle rule for
that number removes it. Whoever takes the tag off keeps the object."""

LOG_EVENT_OVERHEAD_BYTES = 26
"""CloudWatch Logs adds this to each event when it counts a batch (PutLogEvents documentation)."""
LOG_BATCH_BYTES_MAX = 1_048_576
LOG_BATCH_EVENTS_MAX = 10_000
LOG_LINE_BYTES_MAX = 200_000
"""A longer line is split; the whole event stays under CloudWatch's 256 KB of older accounts."""

_WHOLE_DIGITS_MAX = 9

LOG_LINE_NUMBER_MAX = 2**53
"""No job writes as many lines."""

MESSAGE_BYTES_MAX = 500
"""Free text inside an inbox key; S3 keys end at 1,024 bytes."""


LAUNCH_PREFIX = f"{PREFIX}launches/"


def launch_key(launch_id: str) -> str:
    """Key of the document that tells each machine of a launch its job, by launch index."""
    return f"{LAUNCH_PREFIX}{launch_id}.json"


def runner_key(sha256: str) -> str:
    """Key of the runner zipapp with this digest."""
    return f"{PREFIX}runner/{sha256}.pyz"


INPUT_PREFIX = f"{PREFIX}inputs/"


def input_key(sha256: str) -> str:
    """Key of a packed input folder, content-addressed."""
    return f"{INPUT_PREFIX}{sha256}.tar"


ARTIFACT_PREFIX = f"{PREFIX}artifacts/"


def artifact_prefix(job_id: str, attempt: int) -> str:
    """Prefix of one attempt's artifacts."""
    return f"{ARTIFACT_PREFIX}{job_id}/{attempt}/"


def keep_tagging(days: int) -> str:
    """The `x-amz-tagging` header of an object that may go `days` after its upload."""
    return f"{quote(TAG_KEEP_DAYS, safe='')}={days}"


def artifact_key(job_id: str, attempt: int, path: str) -> str:
    """Key of one artifact file; `path` is relative to the job's folder, with `/`."""
    return f"{artifact_prefix(job_id, attempt)}files/{path}"


def manifest_key(job_id: str, attempt: int) -> str:
    """Key of the sealed manifest; written once, last."""
    return f"{artifact_prefix(job_id, attempt)}manifest.json"


def partial_manifest_key(job_id: str, attempt: int) -> str:
    """Key of the manifest of what was uploaded while the commands ran; overwritten each time."""
    return f"{artifact_prefix(job_id, attempt)}partial.json"


ARCHIVE_PREFIX = "dstackd-archive/"
"""Finished jobs that have left the database. Not below `PREFIX`: machines may read and write there."""

REUSE_PREFIX = f"{PREFIX}reuse/"


def reuse_key(instance_id: str, number: int) -> str:
    """Key of the `number`-th (from 1) decision about an idle machine. Whoever creates it first
    (If-None-Match) decides: the daemon with a next job, or the machine that it leaves.
    """
    return f"{REUSE_PREFIX}{instance_id}/{number}.json"


def secret_name(bucket: str, name: str) -> str:
    """Secrets Manager's name of the secret that a spec calls `${{ secrets.NAME }}`."""
    return f"/dstack/{bucket}/secrets/{name}"


EXPRESSION = re.compile(
    r"\$\$\{\{|\$\{\{(?:[ \t]*secrets\.([A-Za-z0-9_][A-Za-z0-9/_+=.@-]{0,254})[ \t]*\}\})?"
)
"""In a text of a spec: `${{ secrets.NAME }}` (group 1 is NAME: Secrets Manager's characters), `$${{`, which
stands for `${{` itself, or a `${{` that is neither and that a spec may not have."""
EXPRESSION_ESCAPED = "$${{"


CONTROL_PREFIX = f"{PREFIX}control/"


def control_key(instance_id: str) -> str:
    """Key of the daemon's word to one machine (`stop_word`)."""
    return f"{CONTROL_PREFIX}{instance_id}.json"


def stop_word(reason: str, *, job_id: str, attempt: int) -> bytes:
    """The daemon's word that one attempt has to stop; a machine that runs another one by now passes it over."""
    return canonical_json({"stop": {"reason": reason, "job_id": job_id, "attempt": attempt}})


def hears_stop(content: bytes, *, job_id: str, attempt: int) -> bool:
    """Whether the word (see `stop_word`) is for this attempt; one without a name is for whoever hears it.
    Raises ValueError when it is no word of ours.
    """
    word = load_json(content)
    stop = word.get("stop") if isinstance(word, dict) else None
    if not isinstance(stop, dict):
        return False
    return (stop.get("job_id", job_id), stop.get("attempt", attempt)) == (job_id, attempt)


def reuse_claim(launch_id: str, *, index: int) -> bytes:
    """What the daemon writes to `reuse_key`: the machine takes the job of this launch with this index."""
    return canonical_json({"launch": launch_id, "index": index})


REUSE_LEAVE = b'{"leave":true}'
"""What a machine writes to `reuse_key`: it takes no job any more."""


def read_reuse_claim(content: bytes) -> tuple[str, int] | None:
    """(launch id, index) of a claim; None when the machine leaves, or the object makes no sense."""
    try:
        value = load_json(content)
        launch_id, index = value["launch"], value["index"]
    except (ValueError, TypeError, KeyError):
        return None
    return (launch_id, index) if isinstance(launch_id, str) and type(index) is int else None


HEARTBEAT_PREFIX = f"{PREFIX}heartbeats/"


def heartbeat_key(instance_id: str) -> str:
    """Key that a machine overwrites; its LastModified is the heartbeat."""
    return f"{HEARTBEAT_PREFIX}{instance_id}"


def job_log_group(bucket: str) -> str:
    """CloudWatch group of the jobs' output."""
    return f"/dstack/jobs/{bucket}"


def runner_log_group(bucket: str) -> str:
    """CloudWatch group of the runners' own output; the stream is the instance id."""
    return f"/dstack/runners/{bucket}"


def log_stream(job_id: str, attempt: int) -> str:
    """CloudWatch stream of one attempt."""
    return f"{job_id}/{attempt}"


def _is_plain(text: str) -> bool:
    """Whether a database can hold it: no NUL, and no half of a surrogate pair."""
    return "\0" not in text and not any("\ud800" <= each <= "\udfff" for each in text)


def _whole(written: str) -> int | None:
    """A count or a place in an order; None for what is none, or larger than any of ours."""
    is_one = written.isascii() and written.isdecimal() and len(written) <= _WHOLE_DIGITS_MAX
    return int(written) if is_one else None


@dataclass(frozen=True)
class LogLine:
    """One line of a job's output. `n` counts from 1 over all sources (`stdout`, `stderr`, and `dstackd` for
    words of the runner's), without gaps.
    """

    n: int
    source: str
    text: str


def encode_log_line(line: LogLine) -> str:
    """The CloudWatch message: one JSON object, so that Logs Insights finds its fields."""
    return json.dumps(
        {"n": line.n, "source": line.source, "log": line.text},
        ensure_ascii=False,
        separators=(",", ":"),
    )


def decode_log_line(message: str) -> LogLine | None:
    """The line in a CloudWatch message, or None when something else wrote the event."""
    try:
        value = load_json(message)
        line = LogLine(n=value["n"], source=str(value["source"]), text=str(value["log"]))
    except (ValueError, TypeError, KeyError):
        return None
    # Anything that may write to the group may write anything: a number that is none must not get further.
    return line if type(line.n) is int and 0 < line.n <= LOG_LINE_NUMBER_MAX else None


INBOX_PREFIX = f"{PREFIX}inbox/"

BOOTED = "booted"
"""The runner is up and knows its job. Fields: runner version."""
STARTED = "started"
"""The job's commands begin. No fields."""
NOTICE = "notice"
"""EC2 announced the reclaim. Fields: action, time (ISO 8601)."""
REBALANCE = "rebalance"
"""EC2 expects to reclaim the machine. Fields: time (ISO 8601)."""
EXITED = "exited"
"""The commands ended. Fields: exit code (128+n for signal n), cause (`exit`, `stopped`, `timed_out`, `interrupted`, `oom`,
`silence`), signal name or empty."""
SEALED = "sealed"
"""Artifacts are in the bucket. Fields: verdict (`complete`, `partial`, `failed`), files, bytes, message."""
DONE = "done"
"""The runner's last word about the job. Fields: log lines that have a number (the last `n`), bytes of text
that the job wrote, lines that were left out because of the quota and lines that the machine's disk did not
take (neither has a number; a line of source `dstackd` stands in their place), and `idle` when the machine waits for
another job now (then its number of the decision, see `reuse_key`, and for how many seconds)."""
IDLE = "idle"
"""DONE's fifth field, when the machine waits for another job."""
FAILED = "failed"
"""The machine could not run the job. Fields: stage, message, and `final` when no other machine could either."""
FINAL = "final"
"""FAILED's third field, when another machine would fail as this one did."""


@dataclass(frozen=True)
class InboxEvent:
    """A machine's word to the daemon; all of it is in the key, so the daemon needs LIST only.

    `seq` counts from 1 per machine; `job_id` is `-` and `attempt` 0 when the machine does not know its job.
    """

    instance_id: str
    seq: int
    kind: str
    job_id: str
    attempt: int
    fields: tuple[str, ...] = ()


def _pack(field: str) -> str:
    # `=` takes the place of `%`, which some S3 tools decode once too often; `!` then never occurs inside.
    # A machine may have names of files that are no UTF-8; a report of them must not fail.
    return quote(field, safe="", errors="replace").replace("%", "=")


def _unpack(field: str) -> str:
    # No database has a place for NUL; what no UTF-8 is, `unquote` has replaced already.
    text = unquote(field.replace("=", "%"))
    return (
        text if _is_plain(text) else text.encode(errors="replace").decode().replace("\0", "\ufffd")
    )


def encode_inbox_key(event: InboxEvent) -> str:
    """The object key that carries the event."""
    words = (f"{event.seq:06d}", event.kind, event.job_id, str(event.attempt), *event.fields)
    return f"{INBOX_PREFIX}{event.instance_id}/" + "!".join(_pack(word) for word in words)


def decode_inbox_key(key: str) -> InboxEvent | None:
    """The event in a key, or None when the key is not one of ours (anybody may write into a bucket)."""
    if not key.startswith(INBOX_PREFIX):
        return None
    instance_id, slash, packed = key[len(INBOX_PREFIX) :].partition("/")
    words = [_unpack(word) for word in packed.split("!")]
    if not slash or not _is_plain(instance_id) or len(words) < 4:  # noqa: PLR2004 - seq, kind, job, attempt
        return None
    seq, kind, job_id, attempt = _whole(words[0]), words[1], words[2], _whole(words[3])
    if seq is None or attempt is None:
        return None
    return InboxEvent(instance_id, seq, kind, job_id, attempt, tuple(words[4:]))


def short_message(text: str) -> str:
    """`text` cut so that its packed form fits into an inbox key."""
    flat = " ".join(text.split())
    while len(_pack(flat)) > MESSAGE_BYTES_MAX:
        flat = flat[: len(flat) * 9 // 10]
    return flat


def sha256_hex(content: bytes) -> str:
    """Digest as the tags and keys carry it."""
    return hashlib.sha256(content).hexdigest()


def load_json(content: str | bytes) -> Any:  # noqa: ANN401 - JSON from outside
    """The value. Raises ValueError for anything that is none, also for what is nested too deeply for us."""
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def canonical_json(value: object) -> bytes:
    """JSON whose bytes depend on the value only: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
