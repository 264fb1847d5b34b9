"""Find versions by where they come from. The index of licences also holds those without, which are asked for too."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

COLUMNS = ("git_commit", "run_id", "data_digest", "pushed_by")


def upgrade() -> None:
    for column in COLUMNS:
        said = sa.text(f"{column} IS NOT NULL")
        op.create_index(op.f(f"ix_versions_{column}"), "versions", [column], sqlite_where=said, postgresql_where=said)
    op.create_index(op.f("ix_versions_licence"), "versions", ["licence"])
    op.execute("UPDATE catalog_meta SET value = '3' WHERE key = 'schema'")


def downgrade() -> None:
    op.drop_index(op.f("ix_versions_licence"), table_name="versions")
    for column in reversed(COLUMNS):
        op.drop_index(op.f(f"ix_versions_{column}"), table_name="versions")
    op.execute("UPDATE catalog_meta SET value = '2' WHERE key = 'schema'")
