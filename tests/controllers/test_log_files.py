"""The files with the jobs' output: what a daemon that starts finds in them."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from dstackd.core.log_line import StoredLine
from dstackd.log_files import FileEnd, LogFiles

texts = st.text(st.characters(exclude_categories=()), max_size=30) | st.just('"missing": 7}')


@st.composite
def stored(draw: st.DrawFn) -> list[StoredLine]:
    """Lines and holes that follow each other."""
    lines, n = [], 1
    for text, missing in draw(st.lists(st.tuples(texts, st.integers(-3, 5)), max_size=8)):
        line = (
            StoredLine(n, missing=missing) if missing > 0 else StoredLine(n, n * 10, "stderr", text)
        )
        lines.append(line)
        n = line.last_n + 1
    return lines


@settings(deadline=None)
@given(stored(), st.binary(max_size=20).map(lambda torn: torn.replace(b"\n", b"")))
def test_a_file_says_how_far_it_goes(lines: list[StoredLine], torn: bytes) -> None:
    """Its last line, the lines that are named as missing, its size; what a crash tore is cut off, the rest reads back."""
    with tempfile.TemporaryDirectory() as folder:
        files = LogFiles(Path(folder))
        count, size_bytes = files.append("job", 1, lines)
        assert count == len(lines)
        with files.path("job", 1).open("ab") as file:
            file.write(torn)
        end = files.end("job", 1)
        if lines:
            missing = sum(line.missing for line in lines)
            assert end == FileEnd(lines[-1].last_n, lines[-1].at_ms, missing, size_bytes)
        else:
            assert end == FileEnd()
        assert files.read("job", 1) == (lines, size_bytes)


@settings(deadline=None)
@given(stored(), st.integers(0, 300))
def test_a_file_takes_what_there_is_room_for(lines: list[StoredLine], room_bytes: int) -> None:
    """The first lines, whole ones, as many as fit."""
    with tempfile.TemporaryDirectory() as folder:
        files = LogFiles(Path(folder))
        count, size_bytes = files.append("job", 1, lines, room_bytes=room_bytes)
        assert size_bytes <= room_bytes
        assert files.read("job", 1)[0] == lines[:count]
        if count < len(lines):
            assert size_bytes + files.append("job", 2, [lines[count]])[1] > room_bytes


def test_the_cursor_is_kept(tmp_path: Path) -> None:
    """What was written last is read; what cannot be read counts as nothing; it is no job."""
    files = LogFiles(tmp_path / "logs")
    assert files.read_cursor() is None
    files.write_cursor(5)
    files.write_cursor(7)
    assert LogFiles(tmp_path / "logs").read_cursor() == 7
    assert files.job_ids() == set()
    (tmp_path / "logs" / "swept.json").write_text("[")
    assert files.read_cursor() is None
