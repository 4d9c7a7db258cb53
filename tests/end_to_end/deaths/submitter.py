"""A foreign application: plain sqlite3, orders as JSON lines on its input. Law: it knows the table's contract and nothing of dstackd.

An insert names its own id, so that one which is repeated after a full disk or a lock is one row.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from contextlib import closing


def carry_out(path: str, order: dict[str, str]) -> None:
    """Repeat until the database takes it."""
    while True:
        try:
            with closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as connection:
                if "spec" in order:
                    connection.execute(
                        "INSERT INTO job (id, spec) VALUES (?, ?) ON CONFLICT (id) DO NOTHING",
                        (order["id"], order["spec"]),
                    )
                else:
                    connection.execute(
                        "UPDATE job SET cancel_requested = 1 WHERE id = ?", (order["id"],)
                    )
        except sqlite3.OperationalError:
            time.sleep(0.1)
        else:
            return


def main() -> None:
    """An order a line; each is answered with its id."""
    for line in sys.stdin:
        order = json.loads(line)
        carry_out(sys.argv[1], order)
        sys.stdout.write(f"{order['id']}\n")
        sys.stdout.flush()


main()
