"""Hostile text on its whole way: inserted by plain SQL, taken in, shown by the API, and written to a real terminal by every command.

What drives a terminal is ours alone: colours of phases, and of a job's own lines. The rest is shown as text.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dstackd import artifact_manifest, protocol
from dstackd.artifact_manifest import Manifest, ManifestFile
from dstackd.controllers.intake import Intake
from dstackd.log_files import StoredLine
from dstackd.protocol import sha256_hex
from dstackd.wake import Wakes
from tests.cli.program import ask
from tests.cli.test_terminal import see
from tests.fuzz.hostile import CONTROLS, ESCAPES, FLOODS, MARKS, MEGABYTE, QUOTES
from tests.http.world import World, running

POISON = "".join((*ESCAPES, *CONTROLS, *MARKS, *QUOTES))
SGR = re.compile("\x1b\\[[0-9;:]*m")
LINE_ENDS = "\n"


def drives(seen: str) -> list[str]:
    """What in the output is neither text, nor a line's end, nor a colour."""
    rest = SGR.sub("", seen)
    return [each for each in rest if not (each.isprintable() or each in LINE_ENDS)]


async def poisoned(world: World) -> str:
    """A job whose every text is hostile, of the columns that anybody may write and of those that come from machines."""
    spec = {"commands": [POISON], "name": POISON, "env": {"A": POISON}, "labels": {"a": POISON}}
    job_id = await world.insert_job(spec, project=f"p{POISON}"[:64].replace("\0", ""))
    await _take_in(world)
    phase, message = (await world.sql("SELECT phase, message FROM job WHERE id = ?", job_id))[0]
    assert phase == "rejected"
    assert POISON not in message
    await world.sql(
        "UPDATE job SET message = message || ?, name = ?, reason = ? WHERE id = ?",
        *(POISON, f"{POISON}{FLOODS[0]}", f"r{POISON}", job_id),
    )
    await world.insert_attempt(
        job_id,
        1,
        instance_id="i-1",
        started_at_ms=1,
        failed_stage=POISON,
        failed_message=POISON,
        exit_cause=POISON,
        exit_signal=POISON,
        seal_verdict=POISON,
        seal_message=POISON,
        artifact_files=1,
        artifact_bytes=1,
        sealed_at_ms=2,
    )
    await world.sql(
        "INSERT INTO event (at_ms, job_id, kind, reason, message, detail) VALUES (?, ?, ?, ?, ?, ?)",
        *(2**62, job_id, POISON, POISON, POISON, json.dumps({POISON: POISON})),
    )
    return job_id


async def _take_in(world: World) -> None:
    intake = Intake(
        world.context.database,
        admit=lambda _: None,
        clock=world.clock,
        wakes=Wakes(),
        interval_s=1.0,
    )
    await intake.step()


async def _poisoned_artifacts(world: World, job_id: str) -> None:
    safe = f"a{POISON}".replace("\0", "").replace("/", "_")
    file = ManifestFile(safe, 3, sha256_hex(b"abc"), 0o644)
    manifest = Manifest(job_id, 1, artifact_manifest.COMPLETE, (file,))
    world.bucket.objects |= {
        protocol.manifest_key(job_id, 1): artifact_manifest.encode(manifest),
        protocol.artifact_key(job_id, 1, safe): b"abd",
    }


async def test_no_command_lets_a_job_drive_the_terminal() -> None:
    """`ps`, `describe`, `artifacts ls` and `verify` show names, messages, paths and specs; none of it reaches the terminal as a control."""
    async with running() as world:
        job_id = await poisoned(world)
        await _poisoned_artifacts(world, job_id)
        for arguments in (
            ("ps", "-a"),
            ("describe", job_id),
            ("artifacts", "ls", job_id),
            ("artifacts", "verify", job_id),
            ("wait", job_id),
        ):
            seen = await see(world, *arguments)
            assert seen.strip(), arguments
            assert drives(seen) == [], arguments
            finished = await ask(world, *arguments)
            assert drives(finished.err) == [], arguments
            assert "Traceback" not in finished.err, finished.err


async def test_json_is_raw() -> None:
    """With --json a program gets every character as it is, in JSON's own escapes."""
    async with running() as world:
        job_id = await poisoned(world)
        listed = json.loads((await ask(world, "ps", "-a", "--json")).out)
        shown = json.loads((await ask(world, "describe", job_id, "--json")).out)
    assert listed[0]["name"].startswith(POISON)
    assert shown["job"]["spec"]["commands"] == [POISON]
    assert shown["attempts"][0]["failed_message"] == POISON


LINES: tuple[tuple[str, str], ...] = (
    ("\x1b[1;31mred\x1b[0m plain", "\x1b[1;31mred\x1b[0m plain"),
    ("\x1b[31mred", "\x1b[31mred\x1b[0m"),
    ("\x1b]52;c;cm0=\x07\x1b]0;title\x07", "\\x1b]52;c;cm0=\\x07\\x1b]0;title\\x07"),
    ("\x1b[2J\x1b[Hgone\b\b\r", "\\x1b[2J\\x1b[Hgone\\x08\\x08\\r"),
    ("a\tb\xa0c 👩‍👩‍👧", "a\tb\xa0c 👩‍👩‍👧"),
    ("\u202eevil", "\\u202eevil"),
    ("\x9b31m\x1bc\x1b", "\\x9b31m\\x1bc\\x1b"),
)


async def _with_lines(world: World, *texts: str) -> str:
    job_id = await world.insert_job()
    lines = [StoredLine(n, source="stdout", log=text) for n, text in enumerate(texts, start=1)]
    world.log_files.append(job_id, 1, lines)
    await world.insert_attempt(job_id, 1, started_at_ms=1)
    await world.end_attempt(job_id, 1, lines_sent=len(texts))
    await world.finish_job(job_id)
    return job_id


async def test_a_log_on_a_terminal_has_its_colours_and_nothing_else() -> None:
    """Colours are kept, and end with their line; what moves the cursor, sets a title, writes the clipboard or turns the writing
    round is shown as text.
    """
    async with running() as world:
        job_id = await _with_lines(world, *(written for written, _ in LINES))
        seen = await see(world, "logs", job_id)
    assert seen.splitlines() == [shown for _, shown in LINES]


async def test_a_log_in_a_pipe_is_as_it_was_written() -> None:
    """Byte for byte, whatever it is."""
    async with running() as world:
        job_id = await _with_lines(world, *(written for written, _ in LINES))
        piped = await ask(world, "logs", job_id)
    assert piped.out == "".join(f"{written}\n" for written, _ in LINES)


@pytest.mark.parametrize("text", ["x" * MEGABYTE, "\u0301" * MEGABYTE, "漢" * MEGABYTE])
async def test_a_megabyte_is_shown_in_time(text: str) -> None:
    """A name or a message of a megabyte costs no more than its reading; the time is that of the test's own bound."""
    async with running() as world:
        job_id = await world.insert_job()
        await world.sql("UPDATE job SET name = ?, message = ? WHERE id = ?", text, text, job_id)
        table = await see(world, "ps", "-a")
        described = await see(world, "describe", job_id)
    assert max(map(len, table.splitlines())) <= 70
    assert drives(table + described) == []


async def test_pull_writes_nothing_outside(tmp_path: Path) -> None:
    """Whatever paths a manifest lists, files appear below the folder that was asked for, or nowhere."""
    evil = (
        "../out",
        "/etc/x",
        "a/../../out",
        "a//b",
        ".",
        "..",
        "a/.",
        "\0",
        "a\0b",
        "a/b\n../c",
        "c\\..\\d",
    )
    async with running() as world:
        job_id = await world.insert_job()
        await world.insert_attempt(job_id, 1, started_at_ms=1)
        for path in evil:
            file = ManifestFile(path, 3, sha256_hex(b"abc"), 0o4777)
            manifest = Manifest(job_id, 1, artifact_manifest.COMPLETE, (file,))
            world.bucket.objects[protocol.partial_manifest_key(job_id, 1)] = (
                artifact_manifest.encode(manifest)
            )
            world.bucket.objects[protocol.artifact_key(job_id, 1, path)] = b"abc"
            folder = tmp_path / "in" / "to"
            finished = await ask(world, "artifacts", "pull", job_id, str(folder))
            assert "Traceback" not in finished.err
            assert drives(finished.err) == []
            world.clock.ahead_s += 60
    written = _files(tmp_path)
    assert all(path.is_relative_to(tmp_path / "in" / "to") for path in written)
    assert all(path.stat().st_mode & 0o7000 == 0 for path in written)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
