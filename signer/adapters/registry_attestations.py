"""The SQL of attested first binds: what was attested for which Enrol, and which evidence is used up."""

import sqlite3
from collections.abc import Iterable

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.evidence import Assurance, Evidence
from signer.registry_effects import Attested


def read_attested(conn: sqlite3.Connection, digest: bytes) -> Attested | None:
    """What was attested for the Enrol with this digest."""
    found: tuple[str, str] | None = conn.execute(
        "SELECT evidence, assurance FROM registry_attestations WHERE digest = ?", (digest,)
    ).fetchone()
    return None if found is None else Attested(evidence=Evidence(found[0]), assurance=Assurance(found[1]))


def use_up(conn: sqlite3.Connection, marks: Iterable[bytes], *, digest: bytes, keep_until: int) -> None:
    """Use evidence for one Enrol. The same one may ask again: its answer may have been lost.

    Raises:
        KeyServiceError: invalid_evidence where a mark was used for another Enrol.
    """
    for mark in marks:
        found: tuple[bytes] = conn.execute(
            "INSERT INTO registry_evidence_used (mark, digest, keep_until) VALUES (?1, ?2, ?3)"
            " ON CONFLICT (mark) DO UPDATE SET keep_until = max(keep_until, ?3) RETURNING digest",
            (mark, digest, keep_until),
        ).fetchone()
        if found[0] != digest:
            raise KeyServiceError(Reason.INVALID_EVIDENCE, "that evidence was used before")


def write_attested(conn: sqlite3.Connection, digest: bytes, attested: Attested, *, keep_until: int, now: int) -> None:
    """Remember what was attested, and forget what nothing can rest on any more."""
    for table in ("registry_attestations", "registry_evidence_used"):
        conn.execute(f"DELETE FROM {table} WHERE keep_until < ?", (now,))  # noqa: S608  # one of two names
    conn.execute(
        "INSERT OR REPLACE INTO registry_attestations (digest, evidence, assurance, keep_until) VALUES (?,?,?,?)",
        (digest, attested.evidence.value, attested.assurance.value, keep_until),
    )
