"""The demo from the first word to the exit code. Law: the order of things, and nothing of how they are done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

from dstackd.demo.errors import DemoError
from dstackd.demo.evidence import Evidence, gather
from dstackd.demo.expectations import judge
from dstackd.demo.jobs import LINES, RESUMES, job_specs
from dstackd.demo.live import LiveScreen
from dstackd.demo.places import Places, make_places, remove
from dstackd.demo.plain import PlainScreen
from dstackd.demo.play import KillMoment, Play
from dstackd.demo.queue_view import QueueView
from dstackd.demo.report import tables, verdicts
from dstackd.demo.screen import Screen, Watch, is_live, make_console
from dstackd.demo.stage import Ended, Stage, ending_on_signals, set_up
from dstackd.demo.submit import INSERT, insert_jobs
from dstackd.local.cloud import LocalCloudError

_EVERY: Final = {LINES: 25, RESUMES: 5}
"""Which followed lines are shown where there is no terminal."""


def run_demo(
    keep: bool,  # noqa: FBT001 - the one thing that a caller has to decide
    directory: Path | None = None,
    *,
    kill_daemon_after_s: float | None = None,
    kill_daemon_after_events: int | None = None,
) -> int:
    """Run the demo and return the exit code: 0 when every expectation held, 128+n after signal n, else 1.

    Its folder is removed after a success, unless `keep` or a `directory` says otherwise. The two
    `kill_daemon_after`: kill -9 the daemon at that moment (`KillMoment`), and start it again.
    """
    console = make_console()
    try:
        places = make_places(directory)
    except DemoError as error:
        return _failed(console, str(error))
    kill = KillMoment(kill_daemon_after_s, kill_daemon_after_events)
    demo = _Demo(places, console, kill=kill)
    code = 1
    try:
        code = demo.run()
    finally:
        if code == 0 and directory is None and not keep:
            remove(places)
        else:
            _say_where(console, places)
    return code


class _Demo:
    """One demo, with what all of its steps need."""

    def __init__(self, places: Places, console: Console, *, kill: KillMoment) -> None:
        self._places = places
        self._console = console
        self._kill = kill
        self._watch = Watch()
        if is_live(console):
            self._screen: Screen = LiveScreen(console, self._watch)
        else:
            self._screen = PlainScreen(console, self._watch, every=_EVERY)

    def run(self) -> int:
        """Play, judge, clean up; the exit code."""
        try:
            with ending_on_signals(), self._shown():
                return self._conclude(self._play())
        except (DemoError, LocalCloudError) as error:
            return _failed(self._console, str(error))
        except Ended as ended:
            self._console.print(f"ended by {ended}; nothing is left running", soft_wrap=True)
            return ended.exit_code

    @contextmanager
    def _shown(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._screen.close()

    def _play(self) -> Evidence:
        with set_up(self._places, say=self._screen.say) as stage:
            return self._play_on(stage)

    def _play_on(self, stage: Stage) -> Evidence:
        specs = job_specs(self._places.texts)
        self._screen.say(f"another process inserts {len(specs)} rows (submit.py, sqlite3 alone):")
        self._screen.say(f"    {INSERT}")
        ids = insert_jobs(self._places, specs)
        names = {job_id: name for name, job_id in ids.items()}
        with closing(QueueView(self._places.database, names=names)) as queue:
            play = Play(
                self._places,
                ids=ids,
                queue=queue,
                daemon=stage.daemon,
                control=stage.cloud.control,
                screen=self._screen,
                watch=self._watch,
                kill=self._kill,
            )
            happened = play.run()
            stage.daemon.wait_ready()  # it may have been killed a moment ago
            self._screen.say("every job has ended; looking at what they left")
            return gather(
                self._places,
                stage.cloud,
                queue,
                calls_since=stage.calls_since,
                happened=happened,
            )

    def _conclude(self, seen: Evidence) -> int:
        self._screen.close()
        expectations = judge(seen)
        broken = sum(not one.held for one in expectations)
        self._console.print(tables(seen, width=self._console.width))
        for line in verdicts(expectations, encoding=self._console.encoding):
            self._console.print(line, soft_wrap=True)
        held = f"{len(expectations) - broken} of {len(expectations)} expectations held"
        seconds = f"after {self._watch.seconds():.1f} s"
        style = "bold red" if broken else "bold green"
        self._console.print(Text.assemble("\n", (f"{held} {seconds}", style)), soft_wrap=True)
        return 1 if broken else 0


def _failed(console: Console, message: str) -> int:
    console.print(Text(message, "bold red"), soft_wrap=True)
    return 1


def _say_where(console: Console, places: Places) -> None:
    console.print(Text(f"kept: {places.directory}"), soft_wrap=True)
    for what, path in (
        ("the daemon's log", places.daemon_log),
        ("the cloud's log", places.cloud / "cloud.log"),
        ("each machine's console", places.cloud / "machines"),
        ("the queue", places.database),
        ("what `dstackd artifacts pull` said", places.pull_log),
    ):
        if path.exists():
            console.print(Text(f"  {what}: {path}", "dim"), soft_wrap=True)
