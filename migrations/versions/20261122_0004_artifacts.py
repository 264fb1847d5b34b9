"""One artifact per recipe, who made it, and the lease that keeps its tensors in the store."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("artifacts", sa.Column("actor", sa.String(256), nullable=True))
    # A lease without end is what the gc of every older client heeds too. No foreign key: SQLite would copy the table.
    op.add_column("artifacts", sa.Column("lease_id", sa.String(32), nullable=True))
    op.create_index(op.f("ix_artifacts_lease_id"), "artifacts", ["lease_id"])
    op.drop_index(op.f("ix_artifacts_recipe_id"), table_name="artifacts")
    op.create_index(op.f("ix_artifacts_recipe_id"), "artifacts", ["recipe_id"], unique=True)
    op.execute("UPDATE catalog_meta SET value = '4' WHERE key = 'schema'")


def downgrade() -> None:
    op.drop_index(op.f("ix_artifacts_recipe_id"), table_name="artifacts")
    op.create_index(op.f("ix_artifacts_recipe_id"), "artifacts", ["recipe_id"])
    op.drop_index(op.f("ix_artifacts_lease_id"), table_name="artifacts")
    op.drop_column("artifacts", "lease_id")
    op.drop_column("artifacts", "actor")
    op.execute("UPDATE catalog_meta SET value = '3' WHERE key = 'schema'")
