"""The queue and its bookkeeping: job, backend, launch, machine, attempt, event."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_SQL = Path(__file__).resolve().parent.parent / "sql"


def upgrade() -> None:
    text = (_SQL / f"0001_queue.{op.get_bind().dialect.name}.sql").read_text(encoding="utf-8")
    for statement in text.split("\n--;\n"):
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    for table in ("event", "attempt", "machine", "launch", "backend", "job"):
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        for function in ("refuse", "log_submission", "wake_cancelled"):
            op.execute(f"DROP FUNCTION dstackd_{function}()")
