"""Signs audit rows as the signer does."""

import time
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import ec

from agentkeys_core.audit import NO_ROW, AuditEnvelope, AuditRow, OpBody, OpKind, OpResult, row_hash
from agentkeys_core.bodies import AuditAnswer, AuditListBody
from agentkeys_core.captoken import CapRequest
from agentkeys_core.hashes import keccak256
from agentkeys_core.keys import ES256PublicKey, es256_sign
from agentkeys_core.ops import AUDIT_TREE


@dataclass
class Ledger:
    """Signs rows as the signer does."""

    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    rows: dict[bytes, list[AuditRow]] = field(default_factory=dict)

    @property
    def public(self) -> ES256PublicKey:
        return ES256PublicKey.of(self.key.public_key())

    def append(self, envelope: AuditEnvelope) -> AuditRow:
        chain = self.rows.setdefault(envelope.actor_omni, [])
        prev = chain[-1].row_hash if chain else NO_ROW
        data = envelope.encode()
        digest = row_hash(envelope.actor_omni, prev, len(chain), keccak256(data))
        row = AuditRow(
            actor=envelope.actor_omni,
            envelope=data,
            epoch=1,
            kid=self.public.kid,
            prev=prev,
            row_hash=digest,
            seq=len(chain),
            sig=es256_sign(self.key, digest),
        )
        chain.append(row)
        return row

    def page(self, request: CapRequest, asked: AuditListBody) -> AuditAnswer:
        """A small page, so that paging is tried: of the actor's chain, or of all chains one after the other."""
        chain = self.rows.get(request.actor_omni, [])
        if request.service.text == AUDIT_TREE:
            found = list(enumerate(row for rows in self.rows.values() for row in rows))
        else:
            found = [(row.seq, row) for row in chain]
        rest = [(at, row) for at, row in found if at > (-1 if asked.after is None else asked.after)]
        shown = rest[:3]
        return AuditAnswer(rows=tuple(row for _, row in shown), next=shown[-1][0] if len(rest) > 3 else None)

    def of_request(
        self,
        request: CapRequest,
        kind: OpKind,
        *,
        svc: str = "",
        result: OpResult = OpResult.SUCCESS,
        epoch: int = 1,
        salt: bytes | None = None,
        intent: str | None = None,
        digest: bytes | None = None,
    ) -> AuditRow:
        body = OpBody(
            cap=request.digest, req=request.request_hash, svc=svc or request.service.text, epoch=epoch, salt=salt
        )
        return self.append(
            AuditEnvelope.compose(
                ts_unix=int(time.time()),
                actor_omni=request.actor_omni,
                operator_omni=request.operator_omni,
                op_kind=kind,
                op_body=body,
                result=result,
                intent_text=intent,
                payload_digest=digest,
            )
        )

    def of_change(self, operator: bytes, digest: bytes, kind: OpKind) -> AuditRow:
        return self.append(
            AuditEnvelope.compose(
                ts_unix=int(time.time()),
                actor_omni=operator,
                operator_omni=operator,
                op_kind=kind,
                op_body=OpBody(change=digest),
            )
        )
