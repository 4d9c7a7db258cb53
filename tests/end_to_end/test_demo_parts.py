"""The pure parts of the demo: how it tells, what it computes itself, and what it shows."""

from __future__ import annotations

import subprocess
import tomllib
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from dstackd.config import load_settings
from dstackd.demo import jobs as names
from dstackd.demo.config_file import config_text
from dstackd.demo.errors import DemoError
from dstackd.demo.expectations import judge
from dstackd.demo.live import live_rows
from dstackd.demo.places import Places, make_places
from dstackd.demo.play import KillMoment
from dstackd.demo.queue_view import EventView
from dstackd.demo.report import marks, tables, verdicts
from dstackd.demo.story import WAITS, blend, spans, tell, together
from dstackd.demo.submit import SCRIPT
from dstackd.demo.texts import COUNTING, count_words, write_texts
from dstackd.spec.errors import SpecError
from dstackd.spec.parse import parse_spec
from tests.end_to_end.demo_evidence import good


def test_the_machine_counts_as_the_demo_does(tmp_path: Path) -> None:
    """The job's shell commands and the demo's Python agree on every byte."""
    write_texts(tmp_path / "texts")
    script = "\n".join(COUNTING)
    subprocess.run(["sh", "-e", "-c", script], cwd=tmp_path, check=True, capture_output=True)
    made = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert made == count_words(tmp_path / "texts")


def test_only_the_broken_spec_is_refused(tmp_path: Path) -> None:
    """Five specs are valid, and the sixth is refused for the field that the demo says."""
    specs = names.job_specs(tmp_path)
    for name, spec in specs.items():
        if name != names.BROKEN:
            parse_spec(dict(spec))
    with pytest.raises(SpecError, match=names.BROKEN_FIELD):
        parse_spec(dict(specs[names.BROKEN]))


def test_the_configuration_is_valid(tmp_path: Path) -> None:
    """The daemon accepts the file, and finds in it what the demo looks at itself."""
    places = Places(tmp_path)
    places.config.write_text(config_text(places, endpoint_url="http://127.0.0.1:1"))
    settings = load_settings(places.config)
    assert settings.socket == places.socket
    assert settings.database.url == f"sqlite:///{places.database}"
    assert settings.inputs.allowed_roots == (places.texts,)
    assert tomllib.loads(places.config.read_text())["http"]["listen"] == ""


def test_the_submitter_needs_sqlite3_alone() -> None:
    """The script imports the standard library's sqlite3 and sys, and compiles."""
    compile(SCRIPT, "submit.py", "exec")
    imported = [line for line in SCRIPT.splitlines() if line.startswith(("import", "from"))]
    assert imported == ["import sqlite3", "import sys"]


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    """The demo never writes among a person's files."""
    (tmp_path / "mine").touch()
    with pytest.raises(DemoError, match="not empty"):
        make_places(tmp_path)


def test_a_folder_too_deep_for_a_socket_is_refused(tmp_path: Path) -> None:
    """The demo says so, instead of the daemon when it listens."""
    with pytest.raises(DemoError, match="too long"):
        make_places(tmp_path / ("d" * 120))


def test_a_kill_is_due_by_time_or_by_history() -> None:
    """Either of the two is enough, and none of them means never."""
    assert KillMoment(after_s=2).is_due(seconds=2, events=0)
    assert KillMoment(after_events=5).is_due(seconds=0, events=5)
    assert not KillMoment(after_s=2, after_events=5).is_due(seconds=1, events=4)
    assert not KillMoment().is_due(seconds=1e9, events=10**9)


def event(number: int, job_id: str, phase: str | None, message: str = "m") -> EventView:
    """One line of the history."""
    return EventView(number, number * 1000, job_id, phase, 1, message)


def test_elements_share_a_line() -> None:
    """Elements that did the same are told together; a message keeps what they have in common."""
    told = tell(
        [
            event(1, "a[0]", "running", "started on i-1"),
            event(2, "b", "running", "started on i-2"),
            event(3, "a[1]", "running", "started on i-3"),
            event(4, "c", None, "uploading"),
        ],
        name=str,
    )
    assert [(one.who, one.phase, one.text) for one in told] == [
        ("a[0-1]", "running", "started on …"),
        ("b", "running", "started on i-2"),
        ("c", WAITS, "uploading"),
    ]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a[0]", "a[1]", "a[2]", "b"]), st.sampled_from(["x", "y", None])
        ),
        max_size=30,
    )
)
def test_no_job_is_told_out_of_order(history: list[tuple[str, str | None]]) -> None:
    """Whatever is put into one line, each job's phases stand in their order and none is left out."""
    told = tell([event(at, *each) for at, each in enumerate(history)], name=str)
    for one in {name for name, _ in history}:
        expected = [phase or WAITS for name, phase in history if name == one]
        assert [line.phase for line in told if one in expand(line.who)] == expected


def expand(who: str) -> set[str]:
    """The names that `together` put into one."""
    array, bracket, inside = who.partition("[")
    if not bracket:
        return {who}
    numbers: set[str] = set()
    for run in inside.rstrip("]").split(","):
        low, _, high = run.partition("-")
        numbers |= {f"{array}[{number}]" for number in range(int(low), int(high or low) + 1)}
    return numbers


@given(st.sets(st.integers(0, 40), min_size=1))
def test_spans_name_each_number_once(numbers: set[int]) -> None:
    """What is written short can be read back."""
    assert expand(f"a[{spans(numbers)}]") == {f"a[{number}]" for number in numbers}
    assert expand(together([f"a[{number}]" for number in numbers])) == expand(
        f"a[{spans(numbers)}]"
    )


def test_messages_of_unlike_shape_are_not_blended() -> None:
    """Where there is nothing in common, no common text is made up."""
    assert blend(["one two", "three"]) == "2 jobs, each with its own reason"


def test_an_array_is_one_live_row() -> None:
    """The live table counts an array's elements in one row; every other job has its own."""
    rows = {row[0]: row for row in live_rows(good().jobs)}
    assert len(rows) == 6
    squares = rows[f"{names.SQUARES} of {names.ARRAY}"]
    assert squares[3:6] == ("spot", "8 machines", "8")
    assert squares[6] == "8 succeeded"


@pytest.mark.parametrize("width", [80, 120])
def test_the_tables_fit(width: int) -> None:
    """On the narrowest usual terminal and without one, no figure of the last tables is cut off."""
    written = StringIO()
    console = Console(file=written, width=width, color_system=None)
    console.print(tables(good(), width=width))
    lines = written.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in written.getvalue()
    assert sum(line.lstrip().startswith(f"{names.SQUARES}[") for line in lines) == names.ARRAY


def test_marks_need_no_unicode() -> None:
    """A terminal that knows ASCII alone sees which expectation held."""
    assert marks(encoding="utf-8") == ("✓", "✗")
    assert marks(encoding="ascii") == ("ok  ", "FAIL")
    written = StringIO()
    for line in verdicts(judge(good()), encoding="ascii"):
        print(line, file=written)
    assert written.getvalue().isascii()
