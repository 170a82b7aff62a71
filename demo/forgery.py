"""Registry changes as a thief forges them: every format right, every nonce right, and keys that are not the user's."""

import time
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from agentkeys_core.changes import (
    AddAgent,
    Change,
    ChangeSignatures,
    Enrol,
    K11OfDevice,
    Pair,
    SignedChange,
    SignedPair,
    Unfreeze,
)
from agentkeys_core.eip712 import Domain
from agentkeys_core.encoding import b64u_encode, canonical_json
from agentkeys_core.hashes import sha256
from agentkeys_core.ids import child_omni
from agentkeys_core.k11 import RP_ID_HASH, SOFTWARE_ORIGIN, K11Assertion, credential_id_hash, origin_hash
from agentkeys_core.keys import DeviceKey
from agentkeys_core.registry import ALL_ROLES, OperatorState
from demo.attacker import https, refusal, send
from demo.stack import Stack

LIFE_S = 300
_TOUCHED = b"\x05\x00\x00\x00\x01"  # user present and verified, counter 1


@dataclass(frozen=True, slots=True)
class Thief:
    """Somebody with keys of his own: a K10, a K11 and a wallet that nobody has registered."""

    k10: DeviceKey = field(default_factory=DeviceKey.generate)
    wallet: DeviceKey = field(default_factory=DeviceKey.generate)
    k11: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()), repr=False)

    def touch(self, challenge: bytes, *, credential_id: bytes) -> K11Assertion:
        """A well-formed assertion by the thief's K11, under any credential id that he likes to claim."""
        claims = {"challenge": b64u_encode(challenge), "crossOrigin": False, "origin": SOFTWARE_ORIGIN}
        client_data = canonical_json({**claims, "type": "webauthn.get"})
        data = RP_ID_HASH + _TOUCHED
        signature = self.k11.sign(data + sha256(client_data), ec.ECDSA(SHA256()))
        return K11Assertion(
            authenticator_data=data, client_data_json=client_data, credential_id=credential_id, signature=signature
        )

    def signed(self, stack: Stack, change: Change, *, as_device: bytes, **rest: SignedPair | bytes) -> bytes:
        """The change with the thief's K10 and K11, the latter claiming to be that of `as_device`."""
        digest = change.digest(Domain.embedded(stack.registry_id))
        k11 = (K11OfDevice(device=as_device, assertion=self.touch(digest, credential_id=b"thief")),)
        members = {"k10": self.k10.sign_recoverable(digest), "k11": k11, **rest}
        return SignedChange(change=change, signatures=ChangeSignatures(**members)).encode()  # type: ignore[arg-type]

    def paired(self, stack: Stack, operator: bytes) -> SignedPair:
        """The word of the thief's own device that it joins this operator: true, and worth nothing alone."""
        message = Pair(
            operator_omni=operator,
            device=self.k10.address,
            k11_cred_id=bytes(32),
            profile_hash=bytes.fromhex(stack.profile_hash),
            expires_at=int(time.time()) + LIFE_S,
        )
        return SignedPair(
            message=message, signature=self.k10.sign_recoverable(message.digest(Domain.embedded(stack.registry_id)))
        )


def state_of(stack: Stack, operator: bytes) -> OperatorState:
    """What anybody may read of an operator at a worker."""
    with https(stack.ca) as client:
        answer = client.get(f"{stack.origin('credentials')}/v1/registry/operators/{operator.hex()}")
        return OperatorState.from_json(answer.raise_for_status().json())


def bring(stack: Stack, change: bytes, *, by: str = "credentials") -> str:
    """Send a change; returns what came of it."""
    return refusal(send(stack, by, "/v1/registry/changes", change))


def new_agent(stack: Stack, operator: bytes, thief: Thief) -> bytes:
    """AddAgent: the thief's device joins a user's tree with a wide scope."""
    state = state_of(stack, operator)
    change = AddAgent(
        operator_omni=operator,
        actor_omni=child_omni(operator, "helper", 0),
        label="helper",
        generation=0,
        device=thief.k10.address,
        services=("cred:openrouter", "cred:stripe"),
        incarnation=state.incarnation,
        nonce=state.nonce,
        deadline=int(time.time()) + LIFE_S,
    )
    master = next(record.device_key_hash for record in state.devices.values() if record.is_master)
    return thief.signed(stack, change, as_device=master, pair=thief.paired(stack, operator))


def new_master(stack: Stack, operator: bytes, wallet: bytes, thief: Thief) -> bytes:
    """Enrol: the thief's device becomes a first master of the user's wallet, for which his own wallet signs."""
    numbers = thief.k11.public_key().public_numbers()
    change = Enrol(
        identity_omni=operator,
        operator_omni=operator,
        wallet=wallet,
        wallet_epoch=0,
        device=thief.k10.address,
        k11_cred_id=credential_id_hash(b"thief"),
        k11_x=numbers.x,
        k11_y=numbers.y,
        k11_rp_id_hash=RP_ID_HASH,
        k11_origin_hash=origin_hash(SOFTWARE_ORIGIN),
        roles=int(ALL_ROLES),
        incarnation=state_of(stack, operator).incarnation,
        nonce=0,
        deadline=int(time.time()) + LIFE_S,
    )
    signature = thief.wallet.sign_recoverable(change.digest(Domain.embedded(stack.registry_id)))
    return thief.signed(stack, change, as_device=thief.k10.key_hash, wallet=signature)


def unfreeze(stack: Stack, operator: bytes, thief: Thief) -> bytes:
    """Unfreeze: the thief ends a freeze that stands in his way."""
    state = state_of(stack, operator)
    change = Unfreeze(
        operator_omni=operator,
        incarnation=state.incarnation,
        nonce=state.nonce,
        deadline=int(time.time()) + LIFE_S,
    )
    master = next(record.device_key_hash for record in state.devices.values() if record.is_master)
    return thief.signed(stack, change, as_device=master)
