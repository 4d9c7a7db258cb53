"""The queue and its bookkeeping: job, job_dependency, schedule, backend, launch, machine, attempt, event; the views of the contract."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_SQL = Path(__file__).resolve().parent.parent / "sql"

# In the order in which they go. The role stays: other databases of the server may use it.
_VIEWS = ("job_costs", "job_events", "job_status", "contract")
_TABLES = (
    *("event", "attempt", "machine", "launch", "backend"),
    *("schedule", "job_dependency", "job"),
)
_FUNCTIONS = (
    *("refuse", "log_submission", "wake_cancelled", "hold"),
    *("wake_dependents", "wake_schedule", "notify"),
)


def upgrade() -> None:
    text = (_SQL / f"0001_queue.{op.get_bind().dialect.name}.sql").read_text(encoding="utf-8")
    for statement in text.split("\n--;\n"):
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    for view in _VIEWS:
        op.execute(f"DROP VIEW {view}")
    for table in _TABLES:
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        for function in _FUNCTIONS:
            op.execute(f"DROP FUNCTION dstackd_{function}()")
