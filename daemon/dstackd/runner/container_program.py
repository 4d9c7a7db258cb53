"""What runs first in a container: a shell that gets its program over its standard input. Law: pure text,
for any POSIX shell.

The environment comes this way, so that its secrets are in no argument, in no file and in nothing that
the engine keeps of a container. The shell stays until the commands have ended; after a stop, until all that
they started has ended, so that everything inside has its grace. The pipe stays open as long as the runner
lives: when it ends, everything inside is killed.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

STOP_SIGNALS = "TERM INT HUP QUIT USR1 USR2"
_KEPT_BY_SHELLS = frozenset(
    {"BASHOPTS", "BASH_VERSINFO", "EUID", "FUNCNAME", "GROUPS", "LINENO", "OPTIND", "PPID"}
    | {"RANDOM", "SECONDS", "SHELLOPTS", "UID", "_"}
)
"""A shell may refuse to set these, and would end."""


def script_command(script_path: str) -> str:
    """The script as `bash -eo pipefail` where the image has it, else as `sh -e`."""
    path = shlex.quote(script_path)
    return (
        f"if command -v bash >/dev/null 2>&1; then exec bash -eo pipefail {path}; fi\n"
        f"exec sh -e {path}"
    )


def words_command(words: Sequence[str]) -> str:
    """A program with its arguments."""
    return f"exec {' '.join(map(shlex.quote, words))}"


def program(command: str, environment: Mapping[str, str]) -> bytes:
    """Sets the environment and runs the command, which ends with an `exec`. Its own names begin with
    DSTACKD_, as no variable of a job does, and are not exported.
    """
    lines = [
        # In braces: a shell reads all of it before it does anything.
        "{",
        # What this shell says itself (Terminated, Killed) is not the job's.
        "exec 3<&0 </dev/null 4>&2 2>/dev/null",
        # All that follows is for a container, where this is the first process or its child.
        '[ "$PPID" -le 1 ] || exit 125',
        # The end of the runner is the end of its pipe.
        f"(read -r DSTACKD_LINE <&3; {_to_all('KILL')}) >/dev/null 4>&- &",
        "DSTACKD_WATCH=$!",
        "DSTACKD_STOP=",
        # A trap, not an ignored signal: what the shell starts gets the default back.
        f"trap 'DSTACKD_STOP=1' {STOP_SIGNALS}",
        *(_export(name, text) for name, text in environment.items()),
        # A shell of its own: one that waits under a redirection may say there how its child ended.
        "(exec 2>&4 3<&- 4>&-",
        f"{command})",
        "DSTACKD_CODE=$?",
        'if [ -n "$DSTACKD_STOP" ]',
        "then",
        'kill -s KILL "$DSTACKD_WATCH"',
        'wait "$DSTACKD_WATCH"',
        # Signal 0 fails when there is no other process.
        f"while {_to_all('0')}",
        "do sleep 0.1 || sleep 1",
        "done",
        "fi",
        'exit "$DSTACKD_CODE"',
        "}",
    ]
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape")


def signal_command(name: str, *, spare_first: bool) -> str:
    """For a shell beside the others: send the signal to all inside, `name` as SIGTERM. For a machine that
    does not see them. It fails only where there is no shell.
    """
    short = name.removeprefix("SIG")
    first = "" if spare_first else f"kill -s {short} 1; "
    return f"{first}{_to_all(short)} || :"


def _to_all(signal: str) -> str:
    """To all processes but the first one and the shell; dash wants the two dashes, busybox no dashes."""
    return f"{{ kill -s {signal} -- -1 || kill -s {signal} -1; }}"


def _export(name: str, text: str) -> str:
    export = f"export {name}={shlex.quote(text)}"
    return f"command {export} || :" if name in _KEPT_BY_SHELLS else export
