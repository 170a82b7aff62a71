"""What the signatures of a change prove, whoever may do what. Slow, so it runs outside transactions."""

from collections.abc import Callable
from dataclasses import dataclass

from agentkeys_core.eip712 import Domain
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ids import device_key_hash
from agentkeys_core.keys import recover_address
from agentkeys_core.registry import K11Public
from agentkeys_core.signed_change import K11OfDevice, SignedChange
from agentkeys_core.webauthn_check import verify_assertion


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenK11:
    """A K11 assertion over the change's digest that verified under the key recorded for this device."""

    device_key_hash: bytes
    sign_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Proofs:
    """Who signed: key hash of the K10, devices of the K11s; addresses of wallet, new key and pairing device."""

    k10: bytes
    k11: tuple[ProvenK11, ...]
    wallet: bytes | None
    new_device: bytes | None
    pair: bytes | None


def prove(signed: SignedChange, *, domain: Domain, k11_of: Callable[[bytes], K11Public | None]) -> Proofs:
    """Verify every signature that is there, also one that the change does not need.

    Args:
        signed: the change and its signatures.
        domain: EIP-712 domain of this registry.
        k11_of: the K11 key recorded for a device key hash, None where there is none.

    Raises:
        KeyServiceError: `change_not_authorised` where one does not verify.
    """
    signatures, digest = signed.signatures, signed.change.digest(domain)
    k10 = device_key_hash(_signer(digest, signatures.k10, "K10"))
    wallet = None if signatures.wallet is None else _signer(digest, signatures.wallet, "wallet")
    new = None if signatures.new_device is None else _signer(digest, signatures.new_device, "new device's")
    pair = signatures.pair
    paired = None if pair is None else _signer(pair.message.digest(domain), pair.signature, "Pair")
    proven = tuple(
        ProvenK11(device_key_hash=entry.device, sign_count=_sign_count(entry, digest, k11_of(entry.device)))
        for entry in signatures.k11
    )
    if len({entry.device_key_hash for entry in proven}) != len(proven):
        raise KeyServiceError(Reason.CHANGE_NOT_AUTHORISED, "two K11 assertions of one device")
    return Proofs(k10=k10, k11=proven, wallet=wallet, new_device=new, pair=paired)


def _signer(digest: bytes, signature: bytes, what: str) -> bytes:
    address = recover_address(digest, signature)
    if address is None:
        raise KeyServiceError(Reason.CHANGE_NOT_AUTHORISED, f"the {what} signature is not valid")
    return address


def _sign_count(entry: K11OfDevice, digest: bytes, public: K11Public | None) -> int:
    if public is None:
        raise KeyServiceError(Reason.CHANGE_NOT_AUTHORISED, "no K11 key is registered for that device")
    try:
        return verify_assertion(entry.assertion, challenge=digest, public=public)
    except KeyServiceError as exc:
        # For changes one reason covers every bad signature (wire.md); the detail keeps the difference.
        raise KeyServiceError(Reason.CHANGE_NOT_AUTHORISED, f"K11: {exc.reason}") from exc
