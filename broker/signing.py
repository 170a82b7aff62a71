"""Signatures of managed wallets pass through here sealed: the broker asks for them and can read none."""

from dataclasses import dataclass, field

from agentkeys_core.bodies import request_hash
from agentkeys_core.captoken import UncosignedCap
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ops import Op
from agentkeys_core.signing_bodies import SiweBody, TypedDataBody
from agentkeys_runtime.web.vouching import vouching
from broker.cosign import Cosigner
from broker.ports import SealedSignature, WalletSigner


@dataclass(frozen=True, slots=True, kw_only=True)
class Relayed:
    """What goes back to the device: the cap digest that it asked with, the sealed answer, the row's canonical JSON."""

    cap_digest: bytes
    sealed: bytes = field(repr=False)
    row: bytes


class SigningRelay:
    """Co-signs a request and has the signer answer it. Whatever this broker does, it cannot open the answer."""

    def __init__(self, cosigner: Cosigner, signer: WalletSigner) -> None:
        self._cosigner = cosigner
        self._signer = signer

    def siwe(self, cap: UncosignedCap, body: bytes) -> Relayed:
        """A sign-in message signed by the device's wallet.

        Raises:
            KeyServiceError: invalid_cap for another op, invalid_body, as `Cosigner.cosign`, the signer's refusal.
        """
        _check(cap, Op.SIWE_SIGN, body)
        message = SiweBody.parse(body).message
        cosigned = self._cosigned(cap)
        with vouching():
            return _relayed(cap, self._signer.sign_siwe(cosigned, message=message))

    def typed_data(self, cap: UncosignedCap, body: bytes) -> Relayed:
        """Typed data signed by the device's wallet. Raises as `siwe`."""
        _check(cap, Op.TYPED_DATA_SIGN, body)
        TypedDataBody.parse(body)
        cosigned = self._cosigned(cap)
        with vouching():
            return _relayed(cap, self._signer.sign_typed_data(cosigned, body=body))

    def _cosigned(self, cap: UncosignedCap) -> bytes:
        made = self._cosigner.cosign(cap)
        return cap.cosigned(made.cosign, made.kid).encode()


def _check(cap: UncosignedCap, op: Op, body: bytes) -> None:
    if cap.request.op is not op:
        raise KeyServiceError(Reason.INVALID_CAP, f"{cap.request.op} is not asked for here")
    if request_hash(body) != cap.request.request_hash:
        raise KeyServiceError(Reason.INVALID_BODY, "the request commits to another body")


def _relayed(cap: UncosignedCap, signed: SealedSignature) -> Relayed:
    return Relayed(cap_digest=cap.digest, sealed=signed.sealed, row=signed.row)
