"""The configuration: where it is found, what goes over what, and what is said when it is wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstackd.config import Settings, known_keys, load, load_settings
from dstackd.config_paths import client_config
from dstackd.config_sections import LimitsSection, listen_address
from dstackd.core.limits import Limits
from dstackd.errors import ConfigError

BACKEND = '[[backends]]\nregion = "eu-central-1"\nbucket = "a-bucket"\n'


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("DSTACKD_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def written(text: str, *, name: str = "dstackd.toml", backend: str = BACKEND) -> Path:
    """A file in the current folder."""
    path = Path.cwd() / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text + backend)
    return path


def problems(path: Path | None = None) -> list[str]:
    """What is wrong, a line each."""
    with pytest.raises(ConfigError) as raised:
        load_settings(path)
    return str(raised.value).splitlines()


def test_the_first_file_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """--config goes before $DSTACKD_CONFIG, and that before ./dstackd.toml."""
    here, named, given_one = (written("", name=name) for name in ("dstackd.toml", "b", "c"))
    assert load().source == here
    monkeypatch.setenv("DSTACKD_CONFIG", "b")
    assert load().source == named
    assert load(Path("c")).source == given_one


def test_a_file_that_was_named_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither --config nor $DSTACKD_CONFIG falls back to another file."""
    written("")
    assert problems(Path("x.toml")) == [
        f"{Path.cwd()}/x.toml: there is no such file; name a file that is there after --config"
    ]
    monkeypatch.setenv("DSTACKD_CONFIG", "/nonexistent/y")
    assert "$DSTACKD_CONFIG names it" in problems()[0]


def test_without_a_file_a_backend_is_missing() -> None:
    """The daemon needs one; migrate does not."""
    assert "looked for ./dstackd.toml" in problems()[0]
    assert load_settings(needs_backend=False).backends == ()
    with pytest.raises(ConfigError):
        _ = load_settings(needs_backend=False).backend


def test_the_environment_goes_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """One key at a time, lists as JSON, and empty text is text."""
    written('[http]\nlisten = "127.0.0.1:1"\n[loops]\ninbox_s = 3\nlogs_s = 4\n')
    monkeypatch.setenv("DSTACKD_HTTP__LISTEN", "")
    monkeypatch.setenv("DSTACKD_LOOPS__INBOX_S", "7")
    monkeypatch.setenv("DSTACKD_INPUTS__ALLOWED_ROOTS", '["/srv"]')
    settings = load_settings()
    assert (settings.http.address, settings.loops.inbox_s, settings.loops.logs_s) == (None, 7, 4)
    assert settings.inputs.allowed_roots == (Path("/srv"),)


def test_the_environment_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container needs no file."""
    monkeypatch.setenv("DSTACKD_BACKENDS", '[{"region": "us-east-1", "bucket": "abc"}]')
    assert load_settings().backend.bucket == "abc"


def test_unknown_variables_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A typing mistake in a variable does not pass unnoticed."""
    written("")
    for name in ("DSTACKD_STATE_DIR", "DSTACKD_LOOPS__INBOX", "DSTACKD_ZZZ", "DSTACKD_BACKENDS__X"):
        monkeypatch.setenv(name, "1")
    said = problems()
    assert len(said) == 4
    assert any("DSTACKD_STATE_DIR" in line and "STATE__DIRECTORY?" in line for line in said)
    assert any("DSTACKD_ZZZ: is not a variable of dstackd; unset it" in line for line in said)


def test_every_problem_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each as `where: key: what is wrong; the fix`."""
    path = written(
        '[http]\nlisten = "nowhere"\nlissten = 1\n[loops]\nmachines_s = true\nlogs_s = nan\n'
        '[limits]\nbatch_max = 1.5\n[loging]\nlevel = "x"\n[inputs]\nallowed_roots = ["data"]\n',
        backend='[[backends]]\nregoin = "x"\nbucket = "B"\n',
    )
    monkeypatch.setenv("DSTACKD_LOGGING__LEVEL", "loud")
    said = problems()
    expected = {
        f"{path}: http.listen",
        f"{path}: http.lissten",
        f"{path}: loops.machines_s",
        f"{path}: loops.logs_s",
        f"{path}: limits.batch_max",
        f"{path}: loging",
        f"{path}: inputs.allowed_roots[0]",
        f"{path}: backends[0].region",
        f"{path}: backends[0].regoin",
        f"{path}: backends[0].bucket",
        "environment: DSTACKD_LOGGING__LEVEL",
    }
    assert {
        line.rsplit(": ", 1)[0] if "JSON" in line else _place(line) for line in said
    } == expected
    assert all("; " in line for line in said)
    assert any("did you mean listen?" in line for line in said)


def _place(line: str) -> str:
    return ": ".join(line.split(": ")[:2])


def test_toml_errors_name_the_line() -> None:
    """The file, and the line of the mistake."""
    path = written("", backend="[http]\nlisten = \n")
    assert problems()[0].startswith(f"{path}: is not TOML: ")
    assert "line 2" in problems()[0]
    path.write_bytes(b"\xff")
    assert problems() == [f"{path}: is not UTF-8 text; save it as UTF-8"]


def test_a_second_backend_is_refused() -> None:
    """It is not ignored, and the message says what to do."""
    path = written("", backend=BACKEND + BACKEND)
    [said] = problems()
    assert said.startswith(
        f"{path}: backends: names 2 backends, and one daemon serves one so far; "
    )


def test_secrets_are_in_no_message() -> None:
    """Neither half of a key pair shows in what is said about it, nor in the settings' repr."""
    backend = BACKEND + 'access_key_id = "AKIAEXAMPLE"\nsecret_access_key = {seen}\n'
    path = written("", backend=backend.format(seen='"verysecret"'))
    assert "verysecret" not in repr(load_settings())
    path.write_text(backend.format(seen="[1, 'verysecret']").replace("'", '"'))
    assert "verysecret" not in "".join(problems())
    path.write_text(BACKEND + 'access_key_id = "AKIAEXAMPLE"\n')
    assert "secret_access_key is missing" in problems()[0]
    assert "AKIAEXAMPLE" not in problems()[0]


def test_relative_paths_begin_at_the_file() -> None:
    """The daemon and its clients come to the same socket and the same database."""
    path = written(
        '[database]\nurl = "sqlite:///q.db"\n[state]\ndirectory = "state"\n', name="etc/d.toml"
    )
    settings = load_settings(path)
    seen = client_config(path, environ={}, folder=Path("/elsewhere"))
    base = path.parent
    assert settings.state.directory == base / "state"
    assert settings.database.url == f"sqlite:///{base}/q.db"
    assert settings.socket == seen.socket == base / "state" / "dstackd.sock"
    assert seen.database == base / "q.db"


def test_clients_know_the_same_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable moves the socket for both."""
    written("")
    monkeypatch.setenv("DSTACKD_HTTP__SOCKET", "/run/dstackd/d.sock")
    monkeypatch.setenv("DSTACKD_STATE__DIRECTORY", "/srv/state")
    seen = client_config(None, environ=os.environ, folder=Path.cwd())
    assert load_settings().socket == seen.socket == Path("/run/dstackd/d.sock")


def test_a_socket_that_cannot_be_is_refused() -> None:
    """A path that is too long is found when the file is checked, not when the daemon starts."""
    written(f'[state]\ndirectory = "/{"x" * 120}"\n')
    assert "http.socket" in problems()[0]


def test_heartbeats_fit_their_timeout() -> None:
    """Machines that beat as they are told must not count as lost."""
    written("[runner]\nheartbeat_s = 200\n")
    assert "limits.heartbeat_timeout_s: is 300" in problems()[0]
    assert "write 430 or more" in problems()[0]


def test_the_settings_are_frozen() -> None:
    """Nobody changes a value once it is read."""
    written("")
    settings = load_settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.loops.inbox_s = 1
    with pytest.raises(ValueError, match="frozen"):
        settings.http = settings.http


def test_the_limits_are_those_of_the_core() -> None:
    """Every field of core.limits.Limits is a key with the same default, and nothing is lost on the way."""
    assert LimitsSection().for_decisions() == Limits()
    changed = LimitsSection(boot_timeout_s=1, boot_failures_max=9)
    assert changed.for_decisions() == Limits(boot_timeout_s=1, boot_failures_max=9)


@given(st.text(alphabet="ab1.:[]- ", max_size=20))
def test_listen_addresses(text: str) -> None:
    """Whatever is accepted has a host and a port that a socket takes."""
    try:
        address = listen_address(text)
    except ValueError:
        return
    if address is None:
        assert text == ""
    else:
        host, port = address
        assert text in {f"{host}:{port}", f"[{host}]:{port}"} or text.endswith(f"0{port}")
        assert 0 <= port <= 65_535


@pytest.mark.parametrize(
    "bucket", ["ab", "a" * 53, "Upper", "-a-", "a..b", "a_b", "", "bucket/", "ünder"]
)
def test_buckets_that_cannot_be(bucket: str) -> None:
    """Names that S3 or the machines' role could not have are refused before anything is asked."""
    written("", backend=f'[[backends]]\nregion = "eu-central-1"\nbucket = "{bucket}"\n')
    assert "backends[0].bucket" in problems()[0]


def test_known_keys_cover_the_settings() -> None:
    """Every section's keys can be set by a variable."""
    assert {key.split(".")[0] for key in known_keys()} == set(Settings.model_fields)
