"""`SignSiwe` and `SignTypedData`: what an actor's managed wallet signs, sealed to the device that asked.

K4 signs two things only: a sign-in message that was parsed to its last byte, and typed data that two implementations
hash alike. Burn, audit row and journal line are on disk before the answer leaves.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from agentkeys_core.bodies import request_hash
from agentkeys_core.captoken import Cap, CapRequest
from agentkeys_core.clear_signing import intent_of, sign_in_words
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ids import OMNI_BYTES
from agentkeys_core.keys import eip191_digest
from agentkeys_core.ops import Effect, Op
from agentkeys_core.sealing import seal
from agentkeys_core.signing_bodies import SiweAnswer, SiweBody, TypedDataAnswer, TypedDataBody
from agentkeys_core.siwe import SiweMessage
from signer.admission import Admission, Admitted, Attempt, recheck
from signer.eip712_library import TypedDigest, agreed_digest
from signer.keyring import Keyring
from signer.ledger import Burn, CapRecord, Journalist, Transaction
from signer.ports import Clock, RegistryReader, WalletRef
from signer.releases import KEEP_BURN_S, check_unburned, record
from signer.signing_policy import SigningPolicy

_SIGN: Final = frozenset({Effect.SIGN})


@dataclass(frozen=True, slots=True, kw_only=True)
class WalletAddress:
    """A managed wallet: 20 address bytes, and the epoch of its K4."""

    address: bytes
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedSiwe:
    """The sealed signature of a sign-in and the row that records it."""

    sealed: bytes = field(repr=False)
    row: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedTypedData:
    """The sealed signature of typed data, its hashes, the words for it (None: no descriptor fits) and the row."""

    sealed: bytes = field(repr=False)
    hashes: TypedDigest
    intent: str | None
    row: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Payload:
    """What is to be signed: by which wallet, over which digest, and how the row says it."""

    wallet: WalletRef
    digest: bytes
    intent: str | None
    burn: Burn
    answer: Callable[[bytes], bytes] = field(repr=False)
    """The plaintext of the answer with that signature."""


class Signing:
    """Signs for devices that asked themselves. Safe for many threads."""

    def __init__(
        self,
        *,
        keyring: Keyring,
        journalist: Journalist,
        registry: RegistryReader,
        clock: Clock,
        admission: Admission,
        policy: SigningPolicy,
    ) -> None:
        self._keyring = keyring
        self._journalist = journalist
        self._registry = registry
        self._clock = clock
        self._admission = admission
        self._policy = policy

    def address(self, actor_omni: bytes) -> WalletAddress:
        """The wallet of an actor. It releases no secret and needs no cap.

        Raises:
            KeyServiceError: invalid_omni, actor_binding_mismatch for an actor that is not registered, policy_refused
                for one with a wallet of its own, epoch_not_held, sealed.
        """
        if len(actor_omni) != OMNI_BYTES:
            raise KeyServiceError(Reason.INVALID_OMNI, f"an omni has {OMNI_BYTES} bytes")
        wallet = self._wallet(actor_omni)
        return WalletAddress(address=self._keyring.address(wallet.omni, wallet.epoch), epoch=wallet.epoch)

    def siwe(self, attempt: Attempt, cap: bytes, message: str) -> SignedSiwe:
        """EIP-191 over a sign-in message, by the actor's wallet.

        Raises:
            KeyServiceError: invalid_body where the request commits to another text, invalid_siwe, policy_refused,
                cap_replayed, else see design sections 4 and 5.
        """
        parsed = self._parse(attempt, cap, Op.SIWE_SIGN)
        request = parsed.request
        _check_body(request, SiweBody(message=message).encode())
        siwe = SiweMessage.parse(message)
        admitted = self._admission.admit(attempt, parsed)
        self._policy.check_siwe(request.service, siwe, now=self._clock.now())
        wallet = self._wallet(request.actor_omni)
        address = self._keyring.address(wallet.omni, wallet.epoch)
        if siwe.address != address:
            raise KeyServiceError(Reason.POLICY_REFUSED, "the message names another wallet than the actor's")
        payload = _Payload(
            wallet=wallet,
            digest=eip191_digest(message.encode("ascii")),
            intent=sign_in_words(siwe),
            burn=Burn.SIGN_SIWE,
            answer=lambda signature: SiweAnswer(address=address, signature=signature).encode(),
        )
        sealed, row = self._release(attempt, admitted, payload)
        return SignedSiwe(sealed=sealed, row=row)

    def typed_data(self, attempt: Attempt, cap: bytes, body: bytes) -> SignedTypedData:
        """EIP-712 over typed data that the policy allows, by the actor's wallet; `body` is the request's body.

        Raises:
            KeyServiceError: invalid_body, invalid_typed_data, k11_required, policy_refused, epoch_not_held,
                future_epoch, cap_replayed, else see design sections 4 and 5.
        """
        parsed = self._parse(attempt, cap, Op.TYPED_DATA_SIGN)
        request = parsed.request
        _check_body(request, body)
        asked = TypedDataBody.parse(body)
        typed = asked.content()
        verdict = self._policy.judge_typed_data(request.service, typed, now=self._clock.now())
        admitted = self._admission.admit(attempt, parsed, policy_asks=verdict.k11)
        if verdict.refusal is not None:
            raise verdict.refusal
        wallet = self._wallet_at(request, asked.wallet_epoch)
        address = self._keyring.address(wallet.omni, wallet.epoch)
        hashes = agreed_digest(asked.typed_data, typed)
        intent = intent_of(typed)
        # Large data, or the library's first import, takes its time: whatever was revoked meanwhile must hold.
        admitted = self._admission.admit(attempt, parsed, policy_asks=verdict.k11)
        payload = _Payload(
            wallet=wallet,
            digest=hashes.digest,
            intent=intent,
            burn=Burn.SIGN_TYPED_DATA,
            answer=lambda signature: TypedDataAnswer(
                address=address,
                digest=hashes.digest,
                domain_separator=hashes.domain_separator,
                intent=intent,
                signature=signature,
                type_hash=hashes.type_hash,
            ).encode(),
        )
        sealed, row = self._release(attempt, admitted, payload)
        return SignedTypedData(sealed=sealed, hashes=hashes, intent=intent, row=row)

    def _parse(self, attempt: Attempt, cap: bytes, op: Op) -> Cap:
        parsed = self._admission.parse(attempt, cap, _SIGN)
        if parsed.request.op is not op:
            raise KeyServiceError(Reason.INVALID_CAP, f"{parsed.request.op} is not for this call")
        return parsed

    def _wallet(self, actor_omni: bytes) -> WalletRef:
        wallet = self._registry.wallet(actor_omni)
        if wallet is None:
            raise KeyServiceError(Reason.POLICY_REFUSED, "the user has a wallet of their own; it alone signs for them")
        return wallet

    def _wallet_at(self, request: CapRequest, epoch: int | None) -> WalletRef:
        """The actor's wallet, or that of the older epoch which the signed body names."""
        wallet = self._wallet(request.actor_omni)
        if epoch is None:
            return wallet
        current = request.k3_epoch  # admitted, so it is: a prepared epoch signs nothing yet
        if epoch > current:
            told = {"current_epoch": str(current)}
            raise KeyServiceError(Reason.FUTURE_EPOCH, "that epoch has not begun", metadata=told)
        return WalletRef(omni=wallet.omni, epoch=epoch)

    def _release(self, attempt: Attempt, admitted: Admitted, payload: _Payload) -> tuple[bytes, bytes]:
        """The sealed answer and the row, once everything is on disk."""
        signature, row = self._journalist.run(lambda tx: self._sign(tx, attempt, admitted, payload))
        return seal(admitted.request.reply_key, admitted.digest, payload.answer(signature)), row

    def _sign(self, tx: Transaction, attempt: Attempt, admitted: Admitted, payload: _Payload) -> tuple[bytes, bytes]:
        """Burn, row, line and signature: all of it, or none.

        Raises:
            KeyServiceError: cap_replayed, stale_epoch, journal_unavailable, sealed, epoch_not_held.
        """
        request = admitted.request
        check_unburned(tx.ledger, request.digest, payload.burn, final=False)
        recheck(tx, admitted)
        row = record(
            tx,
            attempt,
            request,
            epoch=payload.wallet.epoch,
            intent=payload.intent,
            payload_digest=payload.digest,
        )
        tx.ledger.put_cap(
            CapRecord(
                digest=request.digest,
                burned=payload.burn,
                keep_until=request.expires_at + KEEP_BURN_S,
                row_id=tx.last_row_id,
            )
        )
        signature = self._keyring.wallet_sign(payload.wallet.omni, payload.wallet.epoch, payload.digest)
        return signature, row.encode()


def _check_body(request: CapRequest, body: bytes) -> None:
    if request_hash(body) != request.request_hash:
        raise KeyServiceError(Reason.INVALID_BODY, "the request commits to another body")
