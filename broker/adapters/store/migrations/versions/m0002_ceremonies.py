"""Proofs of identity under way."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table of ceremonies."""
    op.create_table(
        "ceremonies",
        sa.Column("id", sa.LargeBinary, primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("device", sa.LargeBinary, nullable=False),
        sa.Column("secret", sa.LargeBinary, nullable=False, unique=True),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("detail", sa.LargeBinary, nullable=False),
    )
    op.create_index("ceremonies_by_expiry", "ceremonies", ["expires_at"])


def downgrade() -> None:
    """Give the table up."""
    op.drop_table("ceremonies")
