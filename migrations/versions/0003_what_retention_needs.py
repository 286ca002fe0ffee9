"""what retention needs

Which jobs still have a log, how much room it takes, and what has expired: each found by an index. On PostgreSQL the
index of the worker's to-do list gets the very condition that the queries have, without which it was never used.
"""

import sqlalchemy as sa
from alembic import op

BigId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Not in a batch: on SQLite that would copy the table and drop the old one, and all that hangs on its rows with it.
    op.add_column("jobs", sa.Column("log_bytes", BigId, server_default=sa.text("0"), nullable=False))
    op.add_column("jobs", sa.Column("log_gone", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.execute(
        "UPDATE jobs SET log_bytes = (SELECT coalesce(sum(length(log_chunks.data)), 0) FROM log_chunks "
        "JOIN attempts ON attempts.id = log_chunks.attempt_id WHERE attempts.job_id = jobs.id) "
        "WHERE settled AND attempt > 0"
    )
    with op.batch_alter_table("jobs") as batch_op:
        batch_op.create_index(
            "ix_jobs_retention",
            ["log_gone", "finished_at", "id", "log_bytes"],
            unique=False,
            sqlite_where=sa.text("settled IS 1"),
            postgresql_where=sa.text("settled IS true"),
        )
    if op.get_bind().dialect.name == "postgresql":
        op.drop_index("ix_jobs_unsettled", "jobs")
        op.create_index("ix_jobs_unsettled", "jobs", ["cluster_id", "id"], postgresql_where=sa.text("settled IS false"))
    with op.batch_alter_table("user_sessions") as batch_op:
        batch_op.create_index("ix_user_sessions_expires_at", ["expires_at"], unique=False)
    with op.batch_alter_table("sign_in_links") as batch_op:
        batch_op.create_index(batch_op.f("ix_sign_in_links_expires_at"), ["expires_at"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("sign_in_links") as batch_op:
        batch_op.drop_index(batch_op.f("ix_sign_in_links_expires_at"))
    with op.batch_alter_table("user_sessions") as batch_op:
        batch_op.drop_index("ix_user_sessions_expires_at")
    if op.get_bind().dialect.name == "postgresql":
        op.drop_index("ix_jobs_unsettled", "jobs")
        op.create_index("ix_jobs_unsettled", "jobs", ["cluster_id", "id"], postgresql_where=sa.text("NOT settled"))
    with op.batch_alter_table("jobs") as batch_op:
        batch_op.drop_index("ix_jobs_retention")
    op.drop_column("jobs", "log_gone")
    op.drop_column("jobs", "log_bytes")
