"""names in the indexes of lists

A search inside a state, or among one's own jobs, reads the index alone until it has found something.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

INDEXES = {
    "ix_jobs_org_id_state_id": ["org_id", "state", "id"],
    "ix_jobs_org_id_user_id_id": ["org_id", "user_id", "id"],
    "ix_jobs_org_id_user_id_state_id": ["org_id", "user_id", "state", "id"],
}


def upgrade() -> None:
    for name, columns in INDEXES.items():
        op.drop_index(name, "jobs")
        op.create_index(name, "jobs", [*columns, "name"], unique=False)


def downgrade() -> None:
    for name, columns in INDEXES.items():
        op.drop_index(name, "jobs")
        op.create_index(name, "jobs", columns, unique=False)
