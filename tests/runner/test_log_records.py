"""From lines to batches by way of the disk: numbered without gaps, within CloudWatch's limits."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from dstackd import protocol
from dstackd.protocol import LogLine, decode_log_line, encode_log_line
from dstackd.runner import records
from dstackd.runner.batches import Batcher
from dstackd.runner.records import Encoder
from dstackd.runner.spool import Spool

texts_of_a_job = st.lists(st.text(max_size=30).map(lambda one: one.replace("\n", "")), max_size=20)


@given(texts_of_a_job, st.none() | st.integers(0, 1500))
def test_a_record_is_what_put_log_events_takes(texts: list[str], room_bytes: int | None) -> None:
    """Each text within the room is an event with the next number; sizes are those that CloudWatch counts."""
    encoder = Encoder()
    encoder.last_n = 7
    made, taken, size_bytes = encoder.records(
        texts, source="stderr", at_ms=5, room_bytes=room_bytes
    )
    found = [records.decode(record) for record in made]
    events = [event for one in found for event in json.loads(b"[%s]" % one.body)]
    lines = [decode_log_line(event["message"]) for event in events]
    assert lines == [LogLine(8 + at, "stderr", text) for at, text in enumerate(texts[:taken])]
    assert all(event["timestamp"] == 5 for event in events)
    sizes = [
        len(encode_log_line(LogLine(8 + at, "stderr", text)).encode()) + 26
        for at, text in enumerate(texts)
    ]
    assert size_bytes == sum(sizes[:taken]) == sum(one.size_bytes for one in found)
    assert encoder.last_n == 7 + taken
    assert all(b"\n" not in record for record in made)
    if room_bytes is None:
        assert taken == len(texts)
    else:
        assert size_bytes <= room_bytes
        assert taken == len(texts) or size_bytes + sizes[taken] > room_bytes


@given(texts=st.text(), n=st.integers(1, protocol.LOG_LINE_NUMBER_MAX))
def test_a_line_survives_its_encoding(texts: str, n: int) -> None:
    """What the daemon decodes is what the job wrote."""
    line = LogLine(n=n, source="stderr", text=texts)
    assert decode_log_line(encode_log_line(line)) == line


@settings(deadline=None)
@given(
    st.lists(
        st.lists(st.binary(max_size=30).map(lambda one: one.replace(b"\n", b"")), max_size=5)
        | st.just("read")
    )
)
def test_the_spool_is_a_queue(steps: list[list[bytes] | str]) -> None:
    """Whatever the order of writes and reads, records come out as they went in; read segments go."""
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(folder, segment_bytes=40)
        written: list[bytes] = []
        read: list[bytes] = []
        for step in [*steps, "read"]:
            if isinstance(step, list):
                assert spool.append(step)
                written += step
            else:
                read += iter(spool.read, None)
        assert read == written
        spool.close()
        assert len(list(Path(folder).iterdir())) <= 2


some_records = st.lists(
    st.tuples(st.integers(0, 50), st.integers(1, 1000), st.sampled_from([100, 130_000, 262_144])),
    min_size=1,
    max_size=30,
)


@settings(deadline=None)
@given(some_records)
def test_batches_keep_to_the_limits(sizes: list[tuple[int, int, int]]) -> None:
    """Bytes, events, span and order are as PutLogEvents wants them, no record is left out, and none would have
    fitted into the batch before.
    """
    hours = sorted(hour for hour, _, _ in sizes)
    made = [
        (hour * 3_600_000, events, size)
        for hour, (_, events, size) in zip(hours, sizes, strict=True)
    ]
    waiting = iter(b"%d %d %d %d" % (*one, number) for number, one in enumerate(made))
    batcher = Batcher(lambda: next(waiting, None))
    batches = list(iter(batcher.take, (0, b"")))
    parts = [[int(number) for number in batch.body.split(b",")] for batch in batches]
    assert [number for part in parts for number in part] == list(range(len(made)))
    for at, part in enumerate(parts):
        assert batches[at].events == sum(made[number][1] for number in part)
        assert _fits([made[number] for number in part])
        if at:
            assert not _fits([made[number] for number in (*parts[at - 1], part[0])])


def _fits(batch: list[tuple[int, int, int]]) -> bool:
    return (
        sum(size for _, _, size in batch) <= protocol.LOG_BATCH_BYTES_MAX
        and sum(events for _, events, _ in batch) <= protocol.LOG_BATCH_EVENTS_MAX
        and batch[-1][0] - batch[0][0] < 24 * 3_600_000
    )


def test_batches_are_as_full_as_they_can_be() -> None:
    """25,000 short lines need three calls."""
    made, _, _ = Encoder().records(["x"] * 25_000, source="stdout", at_ms=1, room_bytes=None)
    waiting = iter(made)
    batcher = Batcher(lambda: next(waiting, None))
    sizes = [batch.events for batch in iter(batcher.take, (0, b""))]
    assert sizes == [10_000, 10_000, 5_000]
