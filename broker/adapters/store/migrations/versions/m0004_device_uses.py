"""When each device was last co-signed for."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table of uses. What was used before counts as never."""
    op.create_table(
        "device_uses",
        sa.Column("device", sa.LargeBinary, primary_key=True),
        sa.Column("operator", sa.LargeBinary, nullable=False),
        sa.Column("used_at", sa.BigInteger, nullable=False),
    )
    op.create_index("device_uses_by_operator", "device_uses", ["operator"])


def downgrade() -> None:
    """Give the table up."""
    op.drop_table("device_uses")
