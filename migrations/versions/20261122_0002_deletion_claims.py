"""Who deletes a blob, and until when: several hosts collect one store. Rows of older clients have neither."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("blobs", sa.Column("deleting_by", sa.String(length=256), nullable=True))
    op.add_column("blobs", sa.Column("deleting_until", sa.DateTime(timezone=True), nullable=True))
    op.execute("UPDATE catalog_meta SET value = '2' WHERE key = 'schema'")


def downgrade() -> None:
    op.drop_column("blobs", "deleting_until")
    op.drop_column("blobs", "deleting_by")
    op.execute("UPDATE catalog_meta SET value = '1' WHERE key = 'schema'")
