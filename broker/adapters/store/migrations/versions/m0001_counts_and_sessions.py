"""Counts, what was redeemed, sessions."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the first tables. A file of the time before migrations held the counts of one minute: they are given up."""
    op.execute("DROP TABLE IF EXISTS counts")
    op.create_table(
        "counts",
        sa.Column("name", sa.LargeBinary, primary_key=True),
        sa.Column("until", sa.BigInteger, primary_key=True),
        sa.Column("n", sa.Integer, nullable=False),
    )
    op.create_index("counts_by_end", "counts", ["until"])
    op.create_table(
        "redeemed",
        sa.Column("value", sa.LargeBinary, primary_key=True),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
    )
    op.create_index("redeemed_by_expiry", "redeemed", ["expires_at"])
    op.create_table(
        "sessions",
        sa.Column("id", sa.LargeBinary, primary_key=True),
        sa.Column("device", sa.LargeBinary, nullable=False),
        sa.Column("operator", sa.LargeBinary, nullable=False),
        sa.Column("actor", sa.LargeBinary, nullable=False),
        sa.Column("method", sa.String(16), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("revoked_at", sa.BigInteger),
    )
    op.create_index("sessions_by_operator", "sessions", ["operator", "created_at"])
    op.create_index("sessions_by_expiry", "sessions", ["expires_at"])


def downgrade() -> None:
    """Give the tables up."""
    for table in ("sessions", "redeemed", "counts"):
        op.drop_table(table)
