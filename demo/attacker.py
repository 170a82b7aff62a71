"""What a thief has: stolen certificates and keys, and the protocol's own formats to forge with."""

import secrets
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from agentkeys_core.bodies import EMPTY_BODY, request_hash
from agentkeys_core.caprequest import CapRequest
from agentkeys_core.captoken import Cap, UncosignedCap
from agentkeys_core.encoding import b64u_encode, canonical_json
from agentkeys_core.errors import KeyServiceError
from agentkeys_core.k11 import K11Assertion
from agentkeys_core.keys import DeviceKey, ES256PublicKey, es256_sign
from agentkeys_core.ops import Op, Service
from agentkeys_core.proof import k10_digest
from agentkeys_runtime.mtls import client_channel
from agentkeys_runtime.signer_client import SignerClient
from demo.people import Person, Who
from demo.stack import Stack
from device.client import Prepared, prepare
from device.errors import DeviceError
from device.learn import current_epoch

__all__ = ["LET_THROUGH", "Asked", "Who", "as_caller", "attempt", "compose", "cosign", "genuine", "https", "send"]

WINDOW_S = 300
LET_THROUGH = "LET THROUGH"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A composed request with its body and the key that opens the answer."""

    cap: UncosignedCap
    body: bytes
    reply_key: X25519PrivateKey

    def http(self, cap: Cap) -> bytes:
        """The HTTP body for a worker."""
        return canonical_json({"body": b64u_encode(self.body), "cap": cap.to_json()})


def compose(  # noqa: PLR0917  # in the order in which one says it
    stack: Stack,
    key: DeviceKey,
    who: Who,
    op: Op,
    service: str,
    body: bytes = EMPTY_BODY,
    *,
    approve: Callable[[CapRequest], K11Assertion] | None = None,
    age_s: int = 0,
    signer: DeviceKey | None = None,
) -> Asked:
    """Compose a request in the name of `key`'s device, signed by it or, forged, by `signer`; `age_s` seconds ago."""
    issued_at = int(time.time()) - age_s
    reply_key = X25519PrivateKey.generate()
    request = CapRequest.compose(
        actor_omni=who.actor,
        aud=stack.registry_id,
        device=key.key_hash,
        expires_at=issued_at + WINDOW_S,
        issued_at=issued_at,
        k3_epoch=1,
        nonce=secrets.token_bytes(16),
        op=op,
        operator_omni=who.operator,
        reply_key=reply_key.public_key().public_bytes_raw(),
        request_hash=request_hash(body),
        service=Service.parse(service, op),
    )
    signature = (signer or key).sign(k10_digest("cap", request.raw))
    cap = UncosignedCap(
        request=request,
        device_public_key=key.public_key,
        device_signature=signature,
        k11=approve(request) if approve else None,
    )
    return Asked(cap=cap, body=body, reply_key=reply_key)


def genuine(person: Person, op: Op, service: str, body: bytes = EMPTY_BODY, *, k11: bool = False) -> Prepared:
    """Make a request as that person's own device does, co-signed by the real broker: what a thief may capture."""
    with person.opened() as device:
        return prepare(device, op, Service.parse(service, op), body, epoch=current_epoch(device), k11=k11)


def stolen_k1(stack: Stack) -> ec.EllipticCurvePrivateKey:
    """Read the broker's signing key from its disk."""
    key = load_pem_private_key((stack.root / "broker" / "k1.pem").read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("K1 is no EC key")
    return key


def cosign(stack: Stack, cap: UncosignedCap) -> Cap:
    """Co-sign with the stolen K1: no policy and no quota stand in the way."""
    key = stolen_k1(stack)
    return cap.cosigned(es256_sign(key, cap.cosign_message()), ES256PublicKey.of(key.public_key()).kid)


@contextmanager
def as_caller(stack: Stack, certificate: str) -> Iterator[SignerClient]:
    """Talk to the signer with somebody's client certificate."""
    folder = stack.certificate(certificate)
    files = (folder / "cert.pem", folder / "key.pem", folder / "ca.pem")
    with client_channel(stack.signer_address, *files, stack.signer_name) as channel:
        yield SignerClient(channel, timeout_s=5.0)


def https(ca: Path) -> httpx.Client:
    """Return an HTTPS client that trusts the deployment's root."""
    return httpx.Client(verify=ssl.create_default_context(cafile=str(ca)), trust_env=False, timeout=15.0)


def send(
    stack: Stack, service: str, path: str, body: bytes, *, headers: Mapping[str, str] | None = None
) -> httpx.Response:
    """POST to one of the deployment's HTTPS services, past every detour."""
    given = {"content-type": "application/json", **(headers or {})}
    with https(stack.ca) as client:
        return client.post(stack.origin(service) + path, content=body, headers=given)


def refusal(response: httpx.Response) -> str:
    """Return the reason of a refusal, or that there was none."""
    return LET_THROUGH if response.is_success else str(response.json()["reason"])


def present(stack: Stack, prepared: Prepared) -> str:
    """Bring a captured cap to its worker; returns what came of it."""
    return refusal(send(stack, "credentials", prepared.path, prepared.encode()))


def present_forged(stack: Stack, asked: Asked) -> str:
    """Co-sign a forged request with the stolen K1 and bring it to its worker; returns what came of it."""
    verb = asked.cap.request.op.value.partition("-")[2]
    return refusal(send(stack, "credentials", f"/v1/credentials/{verb}", asked.http(cosign(stack, asked.cap))))


def attempt(call: Callable[[], object]) -> str:
    """Return the reason with which a call is refused, or that it was not."""
    try:
        call()
    except (KeyServiceError, DeviceError) as exc:
        return exc.reason.value
    return LET_THROUGH
