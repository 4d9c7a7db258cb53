"""The text that every machine begins with: its size, its shell, its Python, and what it never does."""

from __future__ import annotations

import ast
import hashlib
import hmac
import os
import shutil
import subprocess
from pathlib import Path
from urllib.parse import unquote

import pytest
from botocore.auth import S3SigV4Auth  # type: ignore[import-untyped]
from botocore.awsrequest import AWSRequest  # type: ignore[import-untyped]
from botocore.credentials import Credentials  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st

from dstackd import protocol
from dstackd.bootstrap.zipapp import USER_DATA_BYTES_MAX, user_data
from tests.runner.loopback import Asked, metadata, metadata_facts, scripted

FUNCTIONS = user_data().partition("\ntrap ended EXIT\n")[0]
"""The script without what it does."""
PYTHONS = ("python3", *(f"python3.{minor}" for minor in range(9, 15)))


def test_it_is_small_and_static() -> None:
    """EC2 would take an eighth more, and its program is Python 3.9."""
    text = user_data()
    assert text.startswith("#!/bin/bash\n")
    assert len(text.encode()) <= USER_DATA_BYTES_MAX
    program = text.partition("<< 'PYTHON'\n")[2].partition("\nPYTHON\n")[0]
    assert program
    ast.parse(program, feature_version=(3, 9))


def test_the_shell_reads_it() -> None:
    """No syntax error waits in a branch that is rarely taken."""
    subprocess.run(["bash", "-n"], input=user_data(), text=True, check=True)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="there is no shellcheck")
def test_shellcheck_has_nothing_to_say() -> None:
    """No word is split and no variable forgotten by mistake."""
    done = subprocess.run(
        ["shellcheck", "-"], input=user_data(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def call(line: str, **environment: str) -> str:
    """Run a line of shell after the script's functions; what it prints."""
    done = subprocess.run(
        ["/bin/bash", "-c", f"{FUNCTIONS}\n{line}"],
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@settings(max_examples=15, deadline=None)
@given(st.binary(max_size=64), st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_the_shell_makes_hmacs(key: bytes, text: str) -> None:
    """With nothing but sha256sum: not every image has openssl."""
    expected = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    assert call('hmac "$KEY" "$TEXT"', KEY=key.hex(), TEXT=text) == expected


def signature_by_botocore(asked: Asked, secret: str) -> str:
    headers = {
        name: asked.headers[name]
        for name in ("host", "x-amz-content-sha256", "x-amz-date", "x-amz-security-token")
    }
    request = AWSRequest(
        asked.method, f"http://{headers['host']}{asked.target}", headers=headers, data=b""
    )
    request.context["timestamp"] = headers["x-amz-date"]
    credentials = Credentials("ASIAOFAMACHINE", secret, headers["x-amz-security-token"])
    auth = S3SigV4Auth(credentials, "s3", "us-east-1")
    to_sign = auth.string_to_sign(request, auth.canonical_request(request))
    auth._inject_signature_to_request(request, auth.signature(to_sign, request))
    return str(request.headers["Authorization"])


@pytest.mark.parametrize("secret", ["wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "short/+="])
@pytest.mark.parametrize(
    "message",
    ['exit code 1: E: it\'s "broken" (100 %)! a=b/c~d', "x" * 500, "b\u00e9ta\ttab\nline", ""],
)
@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_curl_reports_as_python_would(secret: str, message: str) -> None:
    """Signed as botocore signs, under a key that the daemon reads."""
    role = metadata_facts()["role"]
    role["credentials"] = {**role["credentials"], "SecretAccessKey": secret, "Token": "a/to+ken=="}
    server, _ = metadata(role=role)
    with scripted() as s3:
        call(
            'report_by_curl bootstrap "$MESSAGE"',
            MESSAGE=message,
            AWS_EC2_METADATA_SERVICE_ENDPOINT=f"http://127.0.0.1:{server.port}",
            AWS_ENDPOINT_URL_S3=s3.url,
        )
    [asked] = s3.asked
    assert asked.method == "PUT"
    assert asked.headers["authorization"] == signature_by_botocore(asked, secret)
    event = protocol.decode_inbox_key(unquote(asked.target.removeprefix("/a-bucket/")))
    assert event is not None
    assert (event.instance_id, event.seq, event.kind) == ("i-0123456789abcdef0", 999999, "failed")
    shown = "".join(letter for letter in message if " " <= letter <= "~")[:160]
    assert event.fields == ("bootstrap", shown)


FULL = "/dev/vda1 25G 25G 20K 100% /"


@pytest.mark.parametrize(
    ("error", "disk", "end", "message"),
    [
        ("first\nlast words\n", FULL, "exit 3", "exit code 3: last words"),
        ("", FULL, "exit 137", "exit code 137: the disk: " + FULL),
        (
            "",
            "/dev/vda1 25G 24G 500M 98% /",
            "exit 1",
            "exit code 1: the disk: /dev/vda1 25G 24G 500M 98% /",
        ),
        ("", "/dev/vda1 25G 7G 18G 29% /", "exit 137", "the runner was killed (137)"),
        ("MemoryError\n", "/dev/vda1 25G 7G 18G 29% /", "exit 137", "exit code 137: MemoryError"),
        ("", "/dev/vda1 25G 24G 1G 97% /", "exit 1", "exit code 1"),
        ("", "df: cannot be asked", "exit 1", "exit code 1"),
    ],
)
def test_the_last_words_are_of_what_went_wrong(
    tmp_path: Path, error: str, disk: str, end: str, message: str
) -> None:
    """What was written last, or that nothing could be written; a disk with room is not spoken of."""
    (tmp_path / "error").write_text(error)
    lines = (
        f"dir={tmp_path} stage=internal",
        'df() { echo header; echo "$DISK"; }',
        'bootstrap() { :; }; power_off() { :; }; report() { echo "$1|$2"; }',
        f"({end}) || (exit $?) || ended",
    )
    done = subprocess.run(
        ["/bin/bash", "-c", "\n".join((FUNCTIONS, "set +e", *lines))],
        env={"PATH": "/usr/bin:/bin", "DISK": disk},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stdout.strip() == f"internal|{message}"
    assert f"exit {done.returncode}" == end


@pytest.fixture
def stubs(tmp_path: Path) -> Path:
    """A folder for the PATH in which no Python works, nothing installs one, and nobody answers."""
    folder = tmp_path / "stubs"
    folder.mkdir()
    for name in (*PYTHONS, "curl"):
        write_script(folder / name, "exit 1")
    for name in ("apt-get", "dnf"):
        write_script(folder / name, f"echo {name} >> {tmp_path}/installed; exit 1")
    write_script(folder / "sleep", "exit 0")
    return folder


def write_script(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_a_machine_without_python_ends_and_a_computer_does_not(tmp_path: Path, stubs: Path) -> None:
    """The last act is the power-off. On a computer that only plays a machine it is a stand-in's or
    nobody's, and nothing is installed there.
    """
    text = user_data()
    assert text.count('"$off" -h now') == 1
    harmless = text.replace('"$off" -h now', 'echo "off: $off"')
    for old, new in (("/var/lib/", f"{tmp_path}/"), ("/run/systemd/system", f"{tmp_path}/none")):
        assert harmless.count(old) == 1
        harmless = harmless.replace(old, new)

    def run(path: str, **environment: str) -> str:
        done = subprocess.run(
            ["/bin/bash", "-c", harmless],
            env={"PATH": f"{stubs}:{path}:/usr/bin:/bin", **environment},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 1
        return done.stdout.strip()

    local = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:1"}
    stand_in = tmp_path / "shim" / "shutdown"
    write_script(stand_in, "exit 0")
    assert run("/usr/sbin:/sbin", **local) == ""
    assert run(str(stand_in.parent), **local) == f"off: {stand_in}"
    assert not (tmp_path / "installed").exists()
    assert run("/usr/sbin:/sbin").startswith("off: /")
    assert (tmp_path / "installed").exists() == (os.geteuid() == 0)


@pytest.mark.parametrize(
    "function", ["power_off", "force_off", "after_unit", "after_deadline old", "after_reboot"]
)
def test_a_computer_is_never_powered_off(tmp_path: Path, stubs: Path, function: str) -> None:
    """Whatever of the script runs where a machine is only played: no real shutdown, no systemctl."""
    called = tmp_path / "called"
    for name in ("systemctl", "systemd-run", "timeout"):
        write_script(stubs / name, f"echo {name} >> {called}")
    # The real ones are reached by their paths; these stand where they would be found.
    text = FUNCTIONS.replace("/usr/*)", f"/usr/* | *:{tmp_path}/sbin/*)")
    assert text != FUNCTIONS
    write_script(tmp_path / "sbin" / "shutdown", f"echo shutdown >> {called}")
    subprocess.run(
        ["/bin/bash", "-c", f"{text}\nset +e\n{function}"],
        env={
            "PATH": f"{stubs}:{tmp_path}/sbin:/usr/bin:/bin",
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:1",
            "EXIT_CODE": "killed",
            "EXIT_STATUS": "9",
            "SERVICE_RESULT": "signal",
            "identity": subprocess.run(
                ["/bin/bash", "-c", f"{FUNCTIONS}\nhardware"],
                capture_output=True,
                text=True,
                check=True,
            ).stdout.strip(),
        },
        cwd=tmp_path,
        capture_output=True,
        timeout=30,
        check=False,
    )
    said = called.read_text().split() if called.exists() else []
    assert not {"shutdown", "systemctl", "systemd-run"} & set(said)
