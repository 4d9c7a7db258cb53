"""Names and words in the bucket and in the log group, which anybody may have written: None, or a value that a database can hold."""

from __future__ import annotations

from contextlib import suppress

from dstackd import protocol
from dstackd.protocol import InboxEvent

_EVENT = InboxEvent("i-0123", 7, protocol.EXITED, "abc", 2, ("137", "oom", "SIGKILL"))
SAMPLES = (
    protocol.encode_inbox_key(_EVENT).encode(),
    b"dstackd/inbox/i-1/000001!failed!-!0!setup!a=20b=00c",
    b"abc-1/3",
    b'{"n":1,"source":"stdout","log":"text"}',
    protocol.reuse_claim("l-1", index=0),
    protocol.stop_word("cancelled", job_id="abc", attempt=1),
    protocol.REUSE_LEAVE,
)
BIGINT_MAX = 2**63 - 1


def run(content: bytes) -> None:
    """See the module."""
    text = content.decode(errors="surrogateescape")
    event = protocol.decode_inbox_key(text)
    if event is not None:
        _check_event(event)
    line = protocol.decode_log_line(text)
    assert line is None or 0 < line.n <= protocol.LOG_LINE_NUMBER_MAX
    claim = protocol.read_reuse_claim(content)
    assert claim is None or isinstance(claim[0], str)
    with suppress(ValueError):
        protocol.hears_stop(content, job_id="abc", attempt=1)


def _check_event(event: InboxEvent) -> None:
    words = (event.instance_id, event.kind, event.job_id, *event.fields)
    assert not any("\0" in word for word in words)
    assert max(event.seq, event.attempt) <= BIGINT_MAX
    again = protocol.decode_inbox_key(protocol.encode_inbox_key(event))
    assert again == event, (again, event)
