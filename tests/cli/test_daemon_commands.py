"""`dstackd run`, `migrate`, `config`, `version`, and the whole way through `dev`."""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path

import pytest

from dstackd import __version__
from tests.cli.program import DEADLINE_S, dstackd, interrupt, start
from tests.http.world import short_folder


def test_version() -> None:
    """Both ways of asking."""
    assert dstackd("version").out == dstackd("--version").out == f"dstackd {__version__}\n"


def test_migrate_needs_a_database_only(tmp_path: Path) -> None:
    """The schema can be made before any backend is configured; a second time changes nothing."""
    variables = {"DSTACKD_DATABASE__URL": "sqlite:///queue.db"}
    first = dstackd("migrate", variables=variables, folder=tmp_path)
    second = dstackd("migrate", variables=variables, folder=tmp_path)
    assert (first.code, second.code) == (0, 0)
    assert "from nothing to " in first.err
    assert "already" in second.err
    with sqlite3.connect(tmp_path / "queue.db") as connection:
        assert connection.execute("SELECT count(*) FROM job").fetchone() == (0,)
    connection.close()


def test_config_check_says_everything(tmp_path: Path) -> None:
    """78 and a line for each problem; 0 when it is good."""
    config = tmp_path / "dstackd.toml"
    config.write_text('[[backends]]\nregion = "nowhere"\n')
    wrong = dstackd("config", "check", folder=tmp_path, variables={"DSTACKD_LOOPS__INBOX": "1"})
    config.write_text('[[backends]]\nregion = "eu-central-1"\nbucket = "a-bucket"\n')
    good = dstackd("config", "check", folder=tmp_path)
    assert (wrong.code, good.code) == (78, 0)
    assert wrong.err.count("\n") == 3
    assert "did you mean DSTACKD_LOOPS__INBOX_S?" in wrong.err
    assert good.err == f"{config}: good\n"


def test_config_show_says_where_values_come_from(tmp_path: Path) -> None:
    """Each value with its origin; a secret is covered."""
    config = tmp_path / "dstackd.toml"
    config.write_text(
        '[logging]\nlevel = "debug"\n[[backends]]\nregion = "eu-central-1"\nbucket = "a-bucket"\n'
        'access_key_id = "AKIAEXAMPLE"\nsecret_access_key = "verysecret"\n'
    )
    variables = {"DSTACKD_LOOPS__INBOX_S": "1.5"}
    done = dstackd("config", "show", folder=tmp_path, variables=variables)
    origins = {row.split()[0]: row.split()[-1] for row in done.out.splitlines()}
    assert origins["loops.inbox_s"] == "$DSTACKD_LOOPS__INBOX_S"
    assert origins["logging.level"] == origins["backends[0].region"] == str(config)
    assert origins["loops.logs_s"] == "default"
    as_json = dstackd("config", "show", "--json", folder=tmp_path, variables=variables)
    assert json.loads(as_json.out)["loops"]["inbox_s"] == 1.5
    for text in (done.out, as_json.out):
        assert "verysecret" not in text
        assert "AKIAEXAMPLE" not in text


def test_run_ends_with_78_for_the_operator(tmp_path: Path) -> None:
    """A configuration that cannot work ends the daemon in a way that systemd does not repeat."""
    none = dstackd("run", folder=tmp_path)
    config = tmp_path / "dstackd.toml"
    config.write_text(
        '[database]\nurl = "mysql://x/y"\n[state]\ndirectory = "."\n'
        '[[backends]]\nregion = "eu-central-1"\nbucket = "a-bucket"\n'
    )
    wrong = dstackd("run", "--config", str(config), folder=tmp_path)
    assert (none.code, wrong.code) == (78, 78)
    assert "add a table [[backends]]" in none.err
    assert "database.url: mysql is not supported" in wrong.err
    assert "Traceback" not in wrong.err


@pytest.mark.timeout(180)
def test_dev_is_a_whole_cloud() -> None:
    """From nothing to a job's exit code and artifacts; Ctrl-C leaves no process and no socket."""
    with short_folder() as folder:
        process = start("dev", variables={"DSTACKD_DEV_DIRECTORY": str(folder)})
        try:
            config = {"DSTACKD_CONFIG": str(folder / "dstackd.toml")}
            wait_until_healthy(config)
            command = ("--", "sh", "-c", "echo to-log; echo to-file > out; exit 4")
            done = dstackd(
                *("submit", "--wait", "-o", "out", *command), variables=config, deadline_s=100
            )
            job_id = done.out.split()[0]
            log = dstackd("logs", job_id, variables=config)
            pulled = dstackd("artifacts", "pull", job_id, variables=config, folder=folder)
        finally:
            ended = interrupt(process)
        assert (done.code, log.out, pulled.code) == (4, "to-log\n", 0), ended.err
        assert (folder / job_id / "out").read_text() == "to-file\n"
        assert ended.code == 0
        assert not (folder / "state" / "dstackd.sock").exists()
        assert "dstackd submit -- echo hello" in ended.err
        assert dstackd("ps", variables=config).code == 69


def wait_until_healthy(config: dict[str, str]) -> None:
    """The daemon answers, or the test fails with what it said instead."""
    deadline_s = time.monotonic() + DEADLINE_S
    while (asked := dstackd("healthcheck", variables=config)).code != 0:
        assert time.monotonic() < deadline_s, asked.err
        time.sleep(0.2)
