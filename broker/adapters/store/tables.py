"""The broker's tables, for SQLite and PostgreSQL alike. No key, no credential stands in them; times are Unix seconds.

`migrations/versions` makes them; a test holds the two against each other.
"""

from typing import Final

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, String, Table

metadata: Final = MetaData()

#: How often something was asked for in a window of time, by when that ends.
counts: Final = Table(
    "counts",
    metadata,
    Column("name", LargeBinary, primary_key=True),
    Column("until", BigInteger, primary_key=True),
    Column("n", Integer, nullable=False),
    Index("counts_by_end", "until"),
)

#: What may be used once and was: the key names what it was for. Kept until it would be refused for its age anyway.
redeemed: Final = Table(
    "redeemed",
    metadata,
    Column("value", LargeBinary, primary_key=True),
    Column("expires_at", BigInteger, nullable=False),
    Index("redeemed_by_expiry", "expires_at"),
)

#: Sessions of devices. A row is what makes a token worth something: tokens themselves are not kept.
sessions: Final = Table(
    "sessions",
    metadata,
    Column("id", LargeBinary, primary_key=True),
    Column("device", LargeBinary, nullable=False),
    Column("operator", LargeBinary, nullable=False),
    Column("actor", LargeBinary, nullable=False),
    Column("method", String(16), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("revoked_at", BigInteger),
    Index("sessions_by_operator", "operator", "created_at"),
    Index("sessions_by_expiry", "expires_at"),
)

#: Proofs of identity under way. `secret` is the SHA-256 of what the link, or OAuth's `state`, carries; `detail` is
#: JSON of the ceremony's own.
ceremonies: Final = Table(
    "ceremonies",
    metadata,
    Column("id", LargeBinary, primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("device", LargeBinary, nullable=False),
    Column("secret", LargeBinary, nullable=False, unique=True),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("detail", LargeBinary, nullable=False),
    Index("ceremonies_by_expiry", "expires_at"),
)

#: Public halves of passkeys that people made here, and the newest counter of each.
passkeys: Final = Table(
    "passkeys",
    metadata,
    Column("credential_id", LargeBinary, primary_key=True),
    Column("x", LargeBinary, nullable=False),
    Column("y", LargeBinary, nullable=False),
    Column("sign_count", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("used_at", BigInteger, nullable=False),
    Index("passkeys_by_use", "used_at"),
)

#: When the broker last co-signed for a device, to the minute. One row a device that the registry knows.
device_uses: Final = Table(
    "device_uses",
    metadata,
    Column("device", LargeBinary, primary_key=True),
    Column("operator", LargeBinary, nullable=False),
    Column("used_at", BigInteger, nullable=False),
    Index("device_uses_by_operator", "operator"),
)
