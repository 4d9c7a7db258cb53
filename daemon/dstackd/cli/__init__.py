"""The command line: `dstackd run` and its kind start the daemon, the rest speak with it.

Law: nothing heavy is imported before a command needs it. Client commands use the standard library
and click; they know the daemon by its socket alone. What is asked for goes to standard output, all
else to standard error.

To change X, open Y:
  an exit code                 exit_codes.py
  what the daemon is asked     api.py
  how tables and ages look     text.py
  a command                    the file of its name
"""

from __future__ import annotations

import contextlib
import io
import sys


def main() -> None:
    """Entry point of the `dstackd` script."""
    from dstackd.cli.program import program

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with contextlib.suppress(BrokenPipeError):
        program(prog_name="dstackd")
