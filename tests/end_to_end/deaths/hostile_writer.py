"""A neighbour that holds the write lock for 50 to 500 ms, again and again. Law: it changes nothing; it is ended from outside."""

from __future__ import annotations

import random
import sqlite3
import sys
import time


def main() -> None:
    """Path of the database, and a seed."""
    order = random.Random(int(sys.argv[2]))
    connection = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
            time.sleep(order.uniform(0.05, 0.5))
            connection.execute("ROLLBACK")
        except sqlite3.OperationalError:  # a full disk is not its affair
            time.sleep(0.05)
        time.sleep(order.uniform(0, 0.02))


main()
