"""A user of a running signer: enrols, and makes the caps that its device would make."""

import json
import secrets
import time
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from grpc_health.v1 import health_pb2_grpc

from agentkeys.signer.v1 import registry_pb2, registry_pb2_grpc, signer_pb2, signer_pb2_grpc
from agentkeys_core.bodies import EMPTY_BODY, request_hash
from agentkeys_core.captoken import CapRequest, UncosignedCap
from agentkeys_core.eip712 import Domain
from agentkeys_core.k11 import cap_challenge
from agentkeys_core.keys import ES256PublicKey, es256_sign
from agentkeys_core.ops import OPS, Effect, Op, Service
from agentkeys_core.proof import k10_digest
from tests.fakes.registry_kit import Person


def stub(channel: Any) -> Any:
    return signer_pb2_grpc.SignerStub(channel)


def health_of(channel: Any) -> Any:
    return health_pb2_grpc.HealthStub(channel)  # whose stub file has no methods


class Deployed:
    """A user of a running signer."""

    def __init__(self, signer: Any) -> None:
        self.signer = signer
        self.registry_id = json.loads(signer.command("status", "--json", check=True).stdout)["registry_id"]
        self.person = Person(now=int(time.time()))

    def enrol(self) -> Any:
        change = self.person.enrol_change()
        domain = Domain.embedded(self.registry_id)
        wallet = self.person.wallet.sign_recoverable(change.digest(domain))
        signed = self.person.approved(change, domain=domain, wallet=wallet)
        with self.signer.channel("broker") as channel:
            request = registry_pb2.ApplyChangeRequest(change=signed.encode())
            return registry_pb2_grpc.RegistryStub(channel).ApplyChange(request, timeout=10).row

    def cap(
        self,
        op: Any,
        service: Any,
        *,
        touch: Any = False,
        body: Any = EMPTY_BODY,
        issued_at: int | None = None,
        epoch: int = 1,
    ) -> Any:
        now = int(time.time()) if issued_at is None else issued_at
        person = self.person
        body = secrets.token_bytes(9) if OPS[op].effect is Effect.WRITE else body
        request = CapRequest.compose(
            actor_omni=person.operator,
            aud=self.registry_id,
            device=person.device,
            expires_at=now + 300,
            issued_at=now,
            k3_epoch=epoch,
            nonce=secrets.token_bytes(16),
            op=op,
            operator_omni=person.operator,
            reply_key=X25519PrivateKey.generate().public_key().public_bytes_raw(),
            request_hash=request_hash(body),
            service=Service.parse(service, op),
        )
        cap = UncosignedCap(
            request=request,
            device_public_key=person.k10.public_key,
            device_signature=person.k10.sign(k10_digest("cap", request.raw)),
            k11=person.k11.answer(cap_challenge(request.digest)) if touch else None,
        )
        kid = ES256PublicKey.of(self.signer.k1.public_key()).kid
        return cap.cosigned(es256_sign(self.signer.k1, cap.cosign_message()), kid).encode()


def store(channel: Any, user: Any, service: Any = "cred:openrouter", *, epoch: int = 1) -> Any:
    cap = user.cap(Op.CRED_STORE, service, epoch=epoch)
    released = stub(channel).DeriveCredKek(signer_pb2.DeriveCredKekRequest(cap=cap), timeout=10)
    row = stub(channel).SignAuditRow(signer_pb2.SignAuditRowRequest(cap=cap, result=0), timeout=10).row
    return cap, released, row
