"""What jobs may have at a time, as the configuration says it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dstackd.config import load_settings
from dstackd.core.bounds import Bounds, ProjectBounds
from dstackd.errors import ConfigError

BACKEND = '[[backends]]\nregion = "eu-central-1"\nbucket = "a-bucket"\n'


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("DSTACKD_")]:
        monkeypatch.delenv(name)


def written(folder: Path, text: str) -> Path:
    """A file with a backend."""
    path = folder / "dstackd.toml"
    path.write_text(text + BACKEND)
    return path


def test_by_default_there_is_no_bound(tmp_path: Path) -> None:
    """Nothing written, nothing bounded."""
    assert load_settings(written(tmp_path, "")).bounds == Bounds(projects={})


def test_every_bound_arrives(tmp_path: Path) -> None:
    """Those of all jobs and those of projects, whose names are as free as in a job's row."""
    text = (
        "[scheduling]\nmax_machines = 5\nmax_vcpus = 40\nlaunches_per_minute = 30\n"
        "budget_per_day_usd = 12.5\n[projects.lab]\nmax_machines = 2\nmax_vcpus = 8\n"
        'budget_per_day_usd = 3\nweight = 2\n[projects."Web & co"]\nmax_machines = 1\n'
    )
    projects = {"lab": ProjectBounds(2, 8, 3.0, 2.0), "Web & co": ProjectBounds(1)}
    assert load_settings(written(tmp_path, text)).bounds == Bounds(5, 40, 30, 12.5, projects)


def test_projects_come_from_the_environment_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container needs no file for them."""
    monkeypatch.setenv("DSTACKD_PROJECTS", '{"lab": {"weight": 3}}')
    monkeypatch.setenv("DSTACKD_SCHEDULING__MAX_VCPUS", "64")
    bounds = load_settings(written(tmp_path, "")).bounds
    assert (bounds.weights, bounds.max_vcpus) == ({"lab": 3.0}, 64)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[scheduling]\nmax_machines = -1\n", "scheduling.max_machines: is -1; write 0 or more"),
        ("[scheduling]\nmax_cpus = 1\n", "did you mean max_vcpus?"),
        ("[projects.lab]\nweigth = 1\n", "projects.lab.weigth: is not a key; did you mean weight?"),
        ("[projects.lab]\nweight = 0\n", "projects.lab.weight: is 0; write 0.001 or more"),
        ("[projects]\nlab = 3\n", "projects.lab: is 3, not a table"),
        (f"[projects.{'x' * 65}]\n", "which no job can have; use 1 to 64 characters"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, said: str) -> None:
    """With the key, and what to write instead."""
    with pytest.raises(ConfigError) as raised:
        load_settings(written(tmp_path, text))
    [line] = str(raised.value).splitlines()
    assert said in line
    assert "; " in line


def test_silence_is_longer_than_the_pauses_of_a_machine(tmp_path: Path) -> None:
    """A machine that is told to end itself after less than two heartbeats would end for one lost call."""
    with pytest.raises(ConfigError, match="silence_timeout_s"):
        load_settings(written(tmp_path, "[runner]\nheartbeat_s = 60\nsilence_timeout_s = 119\n"))
    told = load_settings(written(tmp_path, "[runner]\nheartbeat_s = 60\nsilence_timeout_s = 120\n"))
    assert told.runner.silence_timeout_s == 120
