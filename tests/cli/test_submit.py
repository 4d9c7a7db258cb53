"""`dstackd submit`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dstackd.spec.parse import parse_spec
from tests.cli.double import Reply, as_json, playing
from tests.cli.program import Finished, ask, at, dstackd
from tests.http.world import World, running


def dry_run(*arguments: str, folder: Path | None = None, stdin: bytes = b"") -> list[Any]:
    """The specs that --dry-run prints."""
    done = dstackd("submit", "--dry-run", *arguments, folder=folder, stdin=stdin)
    assert (done.code, done.err) == (0, "")
    decoder, text, specs = json.JSONDecoder(), done.out.strip(), []
    while text:
        spec, end = decoder.raw_decode(text)
        specs.append(spec)
        text = text[end:].lstrip()
    return specs


async def specs_in(world: World) -> list[Any]:
    """The specs of all rows, oldest first."""
    return [json.loads(row[0]) for row in await world.sql("SELECT spec FROM job ORDER BY seq")]


def test_the_words_of_a_command_stay_as_they_are() -> None:
    """What stands behind -- reaches the machine's shell word for word, also what looks like an option."""
    command = ["echo", "a  b", "$HOME", "it's", "--name", "--", "-f"]
    [spec] = dry_run("--", *command)
    assert spec["commands"] == ["echo 'a  b' '$HOME' 'it'\"'\"'s' --name -- -f"]


def test_options_describe_the_job() -> None:
    """Each option becomes the field that it is named after."""
    [spec] = dry_run(
        *("--name", "n", "--cpu", "4..8", "--memory", "16GB..", "--gpu", "A10G:2"),
        *("--disk", "50GB", "--arch", "x86_64", "--instance-type", "g5.*", "--spot"),
        *(
            "--max-price",
            "1.5",
            "--budget",
            "9",
            "-e",
            "A=1",
            "-e",
            "B=x y",
            "-o",
            "out",
            "--working-dir",
            "w",
        ),
        *("--array", "3", "--max-duration", "2h", "--stop-grace", "10s", "--retry-on", "error"),
        *("--max-attempts", "2", "--retry-within", "1h", "--resume", "-l", "team=x", "--", "true"),
    )
    written = {
        "commands": ["true"],
        "name": "n",
        "resources": {
            "cpu": "4..8",
            "memory": "16GB..",
            "gpu": "A10G:2",
            "disk": "50GB",
            "arch": "x86_64",
        },
        "instance_types": ["g5.*"],
        "spot_policy": "spot",
        "max_price": 1.5,
        "budget": 9.0,
        "env": {"A": "1", "B": "x y"},
        "artifacts": ["out"],
        "working_dir": "w",
        "array": 3,
        "max_duration": "2h",
        "stop_grace": "10s",
        "retry": {"on": ["error"], "max_attempts": 2, "within": "1h"},
        "resume": True,
        "labels": {"team": "x"},
    }
    assert parse_spec(spec) == parse_spec(written)


def test_sources_begin_where_they_were_written(tmp_path: Path) -> None:
    """Relative sources begin in the file's folder, and in the current one for a command or stdin."""
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "job.yaml").write_text("commands: [ls]\ninputs: [../data:d, /abs]\n")
    [of_file] = dry_run("jobs/job.yaml", folder=tmp_path)
    [of_command] = dry_run("-i", "./data", "--", "ls", folder=tmp_path)
    [of_stdin] = dry_run("-", folder=tmp_path, stdin=b"{commands: [ls], inputs: [data]}")
    sources = [[each["source"] for each in spec["inputs"]] for spec in (of_file, of_command)]
    assert sources == [[str(tmp_path / "data"), "/abs"], [str(tmp_path / "data")]]
    assert of_stdin["inputs"] == [{"source": str(tmp_path / "data"), "target": "data"}]


def test_an_address_in_s3_stays_as_it_is(tmp_path: Path) -> None:
    """It begins neither in the file's folder nor in the current one; what stands beside it still does."""
    (tmp_path / "job.yaml").write_text("commands: [ls]\ninputs: [s3://data/train/, mine:d]\n")
    [of_file] = dry_run("job.yaml", folder=tmp_path)
    [of_command] = dry_run("-i", "s3://data/train/:t", "--", "ls", folder=tmp_path)
    sources = [each["source"] for each in of_file["inputs"]]
    assert sources == ["s3://data/train/", str(tmp_path / "mine")]
    assert of_command["inputs"] == [{"source": "s3://data/train/", "target": "t"}]


async def test_a_file_may_hold_several_jobs(tmp_path: Path) -> None:
    """Each job of each file becomes a row, in order; ids alone are on standard output."""
    (tmp_path / "a.yaml").write_text("commands: [one]\n---\ncommands: [two]\n")
    (tmp_path / "b.json").write_text('{"jobs": [{"commands": ["three"]}]}')
    async with running() as world:
        done = await ask(
            world,
            "submit",
            "--project",
            "p",
            "--priority",
            "7",
            "a.yaml",
            "b.json",
            folder=tmp_path,
        )
        rows = await world.sql("SELECT id, spec, project, priority FROM job ORDER BY seq")
    assert (done.code, done.err) == (0, "")
    assert done.out.split() == [row[0] for row in rows]
    assert [json.loads(row[1]) for row in rows] == [
        {"commands": ["one"]},
        {"commands": ["two"]},
        {"commands": ["three"]},
    ]
    assert {row[2:] for row in rows} == {("p", 7)}


async def test_a_key_and_a_time() -> None:
    """The same command again prints the same id, and says so; the job waits for its time."""
    words = ("submit", "--unique-key", "k", "--run-at", "2037-01-31T06:00:00+01:00", "--", "true")
    async with running() as world:
        first, second = await ask(world, *words), await ask(world, *words)
        rows = await world.sql("SELECT id, unique_key, run_at_ms FROM job")
        shown = await ask(world, "describe", str(rows[0][0]))
    assert rows == [(first.out.strip(), "k", 2_116_990_800_000)]
    assert (second.code, second.out) == (0, first.out)
    assert "has this key already" in second.err
    assert "2037-01-31T05:00:00.000Z" in shown.out


async def test_a_key_is_for_one_job(tmp_path: Path) -> None:
    """A file with two is refused before anything is sent."""
    (tmp_path / "jobs.yaml").write_text("commands: [one]\n---\ncommands: [two]\n")
    async with running() as world:
        done = await ask(world, "submit", "--unique-key", "k", "jobs.yaml", folder=tmp_path)
        assert await specs_in(world) == []
    assert done.code == 2
    assert "--unique-key is one job's" in done.err


async def test_all_is_checked_before_anything_is_sent(tmp_path: Path) -> None:
    """One wrong job in a file keeps all of it back, and every problem is said at once."""
    text = "commands: [ok]\n---\ncommands: [x]\nresources: {cpu: lots}\n---\nnmae: y\n"
    (tmp_path / "jobs.yaml").write_text(text)
    async with running() as world:
        done = await ask(world, "submit", "jobs.yaml", folder=tmp_path)
        assert await specs_in(world) == []
    assert (done.code, done.out) == (2, "")
    assert "jobs.yaml: job 2: resources.cpu: " in done.err
    assert "jobs.yaml: job 3: commands: is missing" in done.err
    assert "jobs.yaml: job 3: nmae: " in done.err


async def test_a_refusal_of_the_daemon_names_the_field() -> None:
    """What the daemon refuses is shown field by field, with the exit code of a wrong command line."""
    async with running() as world:
        done = await ask(world, "submit", "--priority", "5000", "--", "true")
    assert (done.code, done.out) == (2, "")
    assert "priority: is not a priority; write a whole number" in done.err


def test_jobs_that_went_through_are_printed() -> None:
    """When the daemon fails in the middle of a file, the ids that it gave are on standard output."""
    ids = iter(["first"])

    def answer(_path: str, _query: dict[str, str]) -> Reply:
        given = next(ids, None)
        error = {"error": {"code": "busy", "message": "the database is busy", "fields": []}}
        return as_json({"id": given}, status=201) if given else as_json(error, status=503)

    with playing(answer) as double:
        done = dstackd(
            "submit", "-", stdin=b"commands: [a]\n---\ncommands: [b]\n", variables=at(double.socket)
        )
    assert (done.code, done.out) == (69, "first\n")
    assert "1 of 2 jobs were submitted before this:" in done.err
    assert "the database is busy" in done.err


def usage(*arguments: str, stdin: bytes = b"") -> str:
    """The complaint about a command line."""
    done: Finished = dstackd("submit", *arguments, stdin=stdin)
    assert (done.code, done.out) == (2, "")
    return done.err


def test_wrong_command_lines() -> None:
    """A command line that cannot be meant is refused, and the message says what to write."""
    assert "nothing to submit" in usage()
    assert "not both" in usage("x.yaml", "--", "true")
    assert "behind --" in usage("--name", "x", "job.yaml")
    assert "to run a command, write it behind --" in usage("nosuch.yaml")
    assert "write KEY=VALUE" in usage("-l", "x", "--", "true")
    assert "stdin.yaml:1:" in usage("-", stdin=b"commands: [")


async def test_wait_ends_with_the_jobs_own_code() -> None:
    """`submit --wait` stays until the job is over and exits as the job did."""
    async with running() as world:
        await world.sql(
            "CREATE TRIGGER at_once AFTER INSERT ON job BEGIN UPDATE job SET phase = 'failed', "
            "finished_at_ms = 9, reason = 'exited', exit_code = 7 WHERE id = NEW.id; END"
        )
        done = await ask(world, "submit", "--wait", "--", "exit 7")
        [[job_id]] = await world.sql("SELECT id FROM job")
    assert (done.code, done.out) == (7, f"{job_id}\n{job_id} failed 7\n")
