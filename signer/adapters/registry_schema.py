"""Tables of the embedded registry, part of the signer's one state database.

Every name begins with `registry_`. All omnis, hashes and coordinates are 32 raw bytes, addresses 20, times Unix
seconds. A revoked device keeps its row, so that its key hash is never registered again; what is deleted are scopes,
rotations that are done or cancelled, and what was kept for an Enrol whose time has passed.
"""

from typing import Final

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS registry_operators (
    operator_omni BLOB PRIMARY KEY CHECK (length(operator_omni) = 32),
    identity_omni BLOB NOT NULL CHECK (length(identity_omni) = 32),
    wallet        BLOB NOT NULL CHECK (length(wallet) = 20),
    wallet_epoch  INTEGER NOT NULL,
    frozen        INTEGER NOT NULL DEFAULT 0,
    nonce         INTEGER NOT NULL,
    freeze_nonce  INTEGER NOT NULL DEFAULT 0,
    threshold     INTEGER NOT NULL DEFAULT 1,
    annulled      INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
-- One identity binds once; what the host annulled is no bind.
CREATE UNIQUE INDEX IF NOT EXISTS registry_operators_of_identity ON registry_operators (identity_omni)
    WHERE NOT annulled;

-- An actor omni belongs to one operator for ever. A master's actor is the operator itself. `wallet_epoch` is that of
-- K4 when the actor was first registered, so that its address never moves; 0 where the user has a wallet of their own.
CREATE TABLE IF NOT EXISTS registry_actors (
    actor_omni    BLOB PRIMARY KEY CHECK (length(actor_omni) = 32),
    operator_omni BLOB NOT NULL REFERENCES registry_operators (operator_omni),
    wallet_epoch  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- All devices of an operator lie side by side: they are read together. Label and generation: agents only.
CREATE TABLE IF NOT EXISTS registry_devices (
    device_key_hash    BLOB NOT NULL UNIQUE CHECK (length(device_key_hash) = 32),
    operator_omni      BLOB NOT NULL REFERENCES registry_operators (operator_omni),
    actor_omni         BLOB NOT NULL REFERENCES registry_actors (actor_omni),
    address            BLOB NOT NULL CHECK (length(address) = 20),
    label              TEXT,
    generation         INTEGER,
    tier               INTEGER NOT NULL,
    roles              INTEGER NOT NULL,
    revoked            INTEGER NOT NULL DEFAULT 0,
    registered_at      INTEGER NOT NULL,
    sequence           INTEGER NOT NULL,
    sign_count         INTEGER NOT NULL DEFAULT 0,
    counter_fell       INTEGER NOT NULL DEFAULT 0,
    evidence           TEXT NOT NULL,
    assurance          TEXT NOT NULL,
    credential_id_hash BLOB,
    k11_x              BLOB,
    k11_y              BLOB,
    rp_id_hash         BLOB,
    origin_hash        BLOB,
    PRIMARY KEY (operator_omni, device_key_hash)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS registry_devices_of_credential ON registry_devices (credential_id_hash, sequence)
    WHERE credential_id_hash IS NOT NULL;

CREATE TABLE IF NOT EXISTS registry_scopes (
    operator_omni BLOB NOT NULL,
    actor_omni    BLOB NOT NULL REFERENCES registry_actors (actor_omni),
    service       TEXT NOT NULL,
    PRIMARY KEY (operator_omni, actor_omni, service)
) STRICT, WITHOUT ROWID;

-- New K10 keys of masters that were asked for without the old ones. `digest` is that of the RotateKey.
CREATE TABLE IF NOT EXISTS registry_rotations (
    device_key_hash BLOB PRIMARY KEY CHECK (length(device_key_hash) = 32),
    operator_omni   BLOB NOT NULL REFERENCES registry_operators (operator_omni),
    new_key_hash    BLOB NOT NULL UNIQUE CHECK (length(new_key_hash) = 32),
    new_address     BLOB NOT NULL CHECK (length(new_address) = 20),
    due_at          INTEGER NOT NULL,
    digest          BLOB NOT NULL CHECK (length(digest) = 32)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS registry_rotations_due ON registry_rotations (due_at);
CREATE INDEX IF NOT EXISTS registry_rotations_of_operator ON registry_rotations (operator_omni);

-- Keys that are refused for ever: bits of object classes, by owner.
CREATE TABLE IF NOT EXISTS registry_teardowns (
    owner         BLOB PRIMARY KEY CHECK (length(owner) = 32),
    operator_omni BLOB NOT NULL REFERENCES registry_operators (operator_omni),
    classes       INTEGER NOT NULL CHECK (classes BETWEEN 1 AND 3)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS registry_teardowns_of_operator ON registry_teardowns (operator_omni);

-- What was attested for the Enrol with this digest, until its deadline has passed.
CREATE TABLE IF NOT EXISTS registry_attestations (
    digest     BLOB PRIMARY KEY CHECK (length(digest) = 32),
    evidence   TEXT NOT NULL,
    assurance  TEXT NOT NULL,
    keep_until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS registry_attestations_keep ON registry_attestations (keep_until);

-- Evidence that was used up, by hashes of what must not come twice, and the Enrol that it was used for.
CREATE TABLE IF NOT EXISTS registry_evidence_used (
    mark       BLOB PRIMARY KEY CHECK (length(mark) = 32),
    digest     BLOB NOT NULL CHECK (length(digest) = 32),
    keep_until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS registry_evidence_used_keep ON registry_evidence_used (keep_until);

-- Every applied change as it was signed, so that it can be replayed: it authenticates itself. What the signer did by
-- itself (a rotation that was due, an annulment by the host) stands here too, under a digest of its own.
-- `head` chains over all of them; `mac` covers head and `incarnation` under the journal MAC key of `epoch`.
CREATE TABLE IF NOT EXISTS registry_changes (
    sequence      INTEGER PRIMARY KEY,
    operator_omni BLOB NOT NULL,
    digest        BLOB NOT NULL UNIQUE CHECK (length(digest) = 32),
    type          TEXT NOT NULL,
    body          BLOB NOT NULL,
    row           BLOB NOT NULL,
    head          BLOB NOT NULL CHECK (length(head) = 32),
    mac           BLOB NOT NULL CHECK (length(mac) = 32),
    epoch         INTEGER NOT NULL,
    incarnation   INTEGER NOT NULL,
    applied_at    INTEGER NOT NULL
) STRICT;
"""
