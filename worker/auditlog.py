"""Serves an actor's own audit rows (a master's whole tree) as the signer signed them. Nothing is kept here yet."""

from agentkeys_core.bodies import AuditAnswer
from worker.admission import Admitted
from worker.credentials import Outcome
from worker.ports import Signer


class AuditLog:
    """Answers audit-list. It writes no row itself; the signer's journal holds the line."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer

    def list(self, admitted: Admitted) -> Outcome:
        """The page of rows that the request commits to. Raises the signer's refusal."""
        page = self._signer.audit_rows(admitted)
        return Outcome(row=None, plaintext=AuditAnswer(rows=page.rows, next=page.next).encode())
