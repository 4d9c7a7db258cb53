"""Run the local cloud: `python -m dstackd.local --port 4566 --directory DIR`.

Law: reads arguments and calls `server.serve`; nothing else.
"""

import argparse
import json
from pathlib import Path

from dstackd.local.faults import Faults


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dstackd.local", description="The cloud on this machine."
    )
    parser.add_argument("--port", type=int, default=0, help="on 127.0.0.1; 0 = any free port")
    parser.add_argument("--directory", type=Path, required=True, help="machines and cloud.log")
    parser.add_argument("--faults", type=json.loads, default={}, help="JSON: knobs, see faults.py")
    parser.add_argument(
        "--prices", type=Path, help="JSON file: instance type -> on-demand US dollars an hour"
    )
    parser.add_argument(
        "--until-input-ends", action="store_true", help="stop when standard input is closed"
    )
    arguments = parser.parse_args()
    try:
        faults = Faults().merged(arguments.faults)
        prices = json.loads(arguments.prices.read_text()) if arguments.prices else {}
    except (OSError, ValueError) as error:
        parser.error(str(error))
    # Imported late: moto takes a second, and --help should not.
    from dstackd.local.server import serve  # noqa: PLC0415

    serve(
        arguments.directory.resolve(),
        port=arguments.port,
        faults=faults,
        prices=prices,
        until_input_ends=arguments.until_input_ends,
    )


if __name__ == "__main__":
    main()
