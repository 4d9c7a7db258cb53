"""What `shutdown`, `poweroff`, `halt`, `reboot` and `systemd-run` do on a machine played here.

Law: standard library only, light to import. The commands are small shell scripts first on the
machine's PATH; they write one line into a named pipe that the machine player reads, so nothing
that runs on a machine reaches the real init of the computer below it.
"""

import os
import shlex
from dataclasses import dataclass
from enum import Enum

_TELL = """#!/bin/sh
printf '%s\\n' "{name} $*" > {pipe}
"""

_SYSTEMCTL = """#!/bin/sh
case "$1" in
  poweroff|halt|reboot) printf '%s\\n' "$1" > {pipe} ;;
  *) echo "systemctl $*: there is no systemd on a local machine" >&2; exit 1 ;;
esac
"""

# systemd-run(1): a transient service, in the background unless --wait, --pipe or --scope is given.
_SYSTEMD_RUN = """#!/bin/sh
wait=
while [ $# -gt 0 ]; do
  case "$1" in
    --) shift; break ;;
    --wait|--scope|--pipe|-P|-t|--pty) wait=yes; shift ;;
    -E|--setenv) export "$2"; shift 2 ;;
    --setenv=*) export "${1#--setenv=}"; shift ;;
    --working-directory) cd "$2" || exit 1; shift 2 ;;
    --working-directory=*) cd "${1#--working-directory=}" || exit 1; shift ;;
    -p|--property|-u|--unit|--uid|--gid|--slice|--description|--nice|--service-type) shift 2 ;;
    -*) shift ;;
    *) break ;;
  esac
done
[ $# -gt 0 ] || { echo "systemd-run: no command" >&2; exit 1; }
[ -n "$wait" ] && exec "$@"
"$@" < /dev/null &
"""


class Power(Enum):
    """What a machine was asked to do with itself."""

    OFF = "off"
    HALT = "halt"
    REBOOT = "reboot"
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True)
class PowerRequest:
    """`delay_s` seconds from now; only `shutdown +MINUTES` has a delay."""

    power: Power
    delay_s: float = 0.0


def install(directory: str, *, pipe: str) -> None:
    """Write the commands into `directory` and make the named pipe that they write into."""
    os.mkfifo(pipe, 0o600)
    quoted = shlex.quote(pipe)
    scripts = {
        name: _TELL.format(name=name, pipe=quoted)
        for name in ("shutdown", "poweroff", "halt", "reboot")
    }
    scripts["systemctl"] = _SYSTEMCTL.format(pipe=quoted)
    scripts["systemd-run"] = _SYSTEMD_RUN
    for name, text in scripts.items():
        path = f"{directory}/{name}"
        with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123  pathlib costs 10 ms
            file.write(text)
        os.chmod(path, 0o755)  # noqa: PTH101, S103  a command on the machine's PATH


def parse(line: str) -> PowerRequest | None:
    """Read one line of the pipe, `<command> <arguments>`, as shutdown(8) and halt(8) would."""
    command, *arguments = line.split() or [""]
    options = {word for word in arguments if word.startswith("-")}
    if command == "poweroff" or (command == "halt" and options & {"-p", "--poweroff"}):
        return PowerRequest(Power.OFF)
    if command == "halt":
        return PowerRequest(Power.HALT)
    if command == "reboot":
        return PowerRequest(Power.REBOOT)
    if command != "shutdown":
        return None
    return _parse_shutdown(arguments, options)


def _parse_shutdown(arguments: list[str], options: set[str]) -> PowerRequest:
    if "-c" in options:
        return PowerRequest(Power.CANCEL)
    power = Power.OFF
    if options & {"-r", "--reboot"}:
        power = Power.REBOOT
    elif options & {"-H", "--halt"}:
        power = Power.HALT
    when = next((word for word in arguments if not word.startswith("-")), "+1")
    minutes = when.removeprefix("+")
    return PowerRequest(power, delay_s=60.0 * int(minutes) if minutes.isdigit() else 0.0)
