"""Who signed a capability request: the first check of design §4 that trusts nobody, apart since devices make it too."""

from agentkeys_core.captoken import UncosignedCap
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ids import device_of
from agentkeys_core.keys import verify_secp256k1
from agentkeys_core.proof import k10_digest


def verify_device_signature(cap: UncosignedCap) -> None:
    """Prove that the device which the request names signed it; `device_signature_invalid` otherwise."""
    digest = k10_digest("cap", cap.request.raw)
    if not verify_secp256k1(cap.device_public_key, digest, cap.device_signature):
        raise KeyServiceError(Reason.DEVICE_SIGNATURE_INVALID)
    if device_of(cap.device_public_key) != cap.request.device:
        raise KeyServiceError(Reason.DEVICE_SIGNATURE_INVALID, "the key is another device's")
