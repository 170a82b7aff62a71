"""The held epochs of K3 as the rest of the signer can use them: methods that derive and sign, none that shows K3."""

import hmac
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final, Never, Self, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.keys import ES256PublicKey, es256_sign
from agentkeys_core.ops import ObjectClass, Service
from agentkeys_core.secret import Secret
from signer.derivation import (
    K3_LENGTH,
    Es256Purpose,
    es256_key,
    journal_mac_key,
    k3_check,
    legacy_key,
    object_key,
    wallet_address,
    wallet_signature,
)
from signer.ports import ObjectKey

_T = TypeVar("_T")
_SEALED: Final = "the signer's secrets are sealed"
_REFUSAL: Final = "a Keyring is never serialised or copied"


class _Es256:
    """A private key beside its public half and kid; prints nothing."""

    __slots__ = ("kid", "private", "public")

    def __init__(self, private: ec.EllipticCurvePrivateKey) -> None:
        self.private = private
        self.public = ES256PublicKey.of(private.public_key())
        self.kid = self.public.kid

    def __repr__(self) -> str:
        return f"<ES256 {self.kid}>"


class _Epoch:
    """One epoch's secret and what is derived from it once: both ES256 keys and the journal MAC key."""

    __slots__ = ("check", "es256", "journal", "k3")

    def __init__(self, k3: Secret) -> None:
        view = k3.view()
        self.k3 = k3
        self.check = k3_check(view)
        self.journal = Secret.take(journal_mac_key(view))
        self.es256: dict[Es256Purpose, _Es256] = {
            "oidc": _Es256(es256_key(view, "oidc")),
            "audit": _Es256(es256_key(view, "audit")),
        }

    def wipe(self) -> None:
        self.es256.clear()
        self.journal.wipe()
        self.k3.wipe()

    def __repr__(self) -> str:
        return "<Epoch>"


class Keyring:
    """Owns the secrets of all held epochs until `seal` or the end of its `with` block.

    Afterwards every method raises `sealed`, also one that was already running: a wiped key is never used. An epoch that
    is not held is `epoch_not_held`. Wiping is best effort; the two P-256 keys of an epoch live in the library's memory
    and are only dropped.
    """

    __slots__ = ("_changing", "_epochs", "_forget", "_sealed")

    def __init__(self, secrets: Mapping[int, Secret]) -> None:
        """Take ownership of `secrets`, 32 bytes by epoch from 1."""
        if not secrets or any(epoch < 1 or len(secret) != K3_LENGTH for epoch, secret in secrets.items()):
            raise ValueError("a keyring holds at least one epoch, each a secret of 32 bytes")
        self._sealed = False
        self._changing = threading.Lock()
        self._forget: list[Callable[[], None]] = []
        self._epochs = {epoch: _Epoch(secrets[epoch]) for epoch in sorted(secrets)}

    @property
    def sealed(self) -> bool:
        """Whether the secrets are gone."""
        return self._sealed

    @property
    def epochs(self) -> tuple[int, ...]:
        """All held epochs, ascending."""
        self._still_open()
        return tuple(self._epochs)

    def holds(self, epoch: int) -> bool:
        """Whether this epoch can be derived from."""
        self._still_open()
        return epoch in self._epochs

    def hold(self, epoch: int, secret: Secret) -> None:
        """Hold one epoch more, newer than all others. Takes ownership of `secret`, also where this raises `sealed`.

        Raises:
            ValueError: the epoch is not the next one: none is ever replaced, and none is left out.
        """
        with self._changing:
            if self._sealed:
                secret.wipe()
            self._still_open()
            if epoch != max(self._epochs) + 1 or len(secret) != K3_LENGTH:
                raise ValueError("a keyring takes the next epoch alone, a secret of 32 bytes")
            self._epochs = {**self._epochs, epoch: _Epoch(secret)}  # readers go on with the mapping that they have

    def forget_too(self, forget: Callable[[], None]) -> None:
        """Have `forget` called when the keyring is sealed: what opens the vault goes with what was in it."""
        self._forget.append(forget)

    def address(self, omni: bytes, epoch: int) -> bytes:
        """The 20-byte address of K4(omni)."""
        return self._answer(wallet_address(self._view(self._epoch(epoch).k3), omni))

    def wallet_sign(self, omni: bytes, epoch: int, digest: bytes) -> bytes:
        """K4(omni) over a 32-byte digest: r||s||v, 65 bytes."""
        return self._answer(wallet_signature(self._view(self._epoch(epoch).k3), omni, digest))

    def object_key(
        self, epoch: int, object_class: ObjectClass, owner: bytes, service: Service, salt: bytes
    ) -> ObjectKey:
        """Key and commitment of one version of one object."""
        k3 = self._view(self._epoch(epoch).k3)
        key, commitment = object_key(k3, object_class=object_class, owner=owner, service=service, salt=salt)
        try:
            return self._answer(ObjectKey(key=bytes(key), commitment=commitment))
        finally:
            key[:] = bytes(len(key))

    def legacy_key(self, epoch: int, owner: bytes) -> Secret:
        """The key of an owner's 0x04 envelopes, to be used up here; whoever asks wipes it."""
        return self._answer(Secret.take(legacy_key(self._view(self._epoch(epoch).k3), owner)))

    def audit_sign(self, epoch: int, message: bytes) -> bytes:
        """ES256 over `message` by the audit key: 64 bytes r||s."""
        return es256_sign(self._es256(epoch, "audit").private, message)

    def oidc_sign(self, epoch: int, message: bytes) -> bytes:
        """ES256 over `message` by the OIDC key: 64 bytes r||s."""
        return es256_sign(self._es256(epoch, "oidc").private, message)

    def audit_kid(self, epoch: int) -> str:
        """RFC 7638 thumbprint of the audit key."""
        return self._es256(epoch, "audit").kid

    def oidc_kid(self, epoch: int) -> str:
        """RFC 7638 thumbprint of the OIDC key."""
        return self._es256(epoch, "oidc").kid

    def public_key(self, purpose: Es256Purpose, epoch: int) -> ES256PublicKey:
        """The public half of an epoch's OIDC or audit key."""
        return self._es256(epoch, purpose).public

    def jwks(self, purpose: Es256Purpose) -> dict[str, list[dict[str, str]]]:
        """The JWKS document of all held epochs."""
        return {"keys": [self._es256(epoch, purpose).public.jwk() for epoch in self.epochs]}

    def audit_keys(self) -> dict[str, ES256PublicKey]:
        """The public audit key of each held epoch, by kid."""
        return {key.kid: key for key in (self.public_key("audit", epoch) for epoch in self.epochs)}

    def k3_check(self, epoch: int) -> bytes:
        """32 bytes that name this epoch's K3 without revealing it."""
        return self._epoch(epoch).check

    def journal_mac(self, epoch: int, data: bytes) -> bytes:
        """HMAC-SHA256 of `data` under the journal MAC key: 32 bytes."""
        return self._answer(hmac.digest(self._view(self._epoch(epoch).journal), data, "sha256"))

    def seal(self) -> None:
        """Wipe every secret. A second call changes nothing."""
        with self._changing:
            self._sealed = True  # before the wipe: what was derived from half-wiped bytes is refused by _answer
            for epoch in self._epochs.values():
                epoch.wipe()
            self._epochs = {}
            for forget in self._forget:
                forget()

    def _still_open(self) -> None:
        if self._sealed:
            raise KeyServiceError(Reason.SEALED, _SEALED)

    def _answer(self, result: _T) -> _T:
        self._still_open()
        return result

    @staticmethod
    def _view(secret: Secret) -> memoryview:
        try:
            return secret.view()
        except ValueError as exc:  # wiped between two lines
            raise KeyServiceError(Reason.SEALED, _SEALED) from exc

    def _epoch(self, epoch: int) -> _Epoch:
        self._still_open()
        held = self._epochs.get(epoch)
        if held is None:
            raise KeyServiceError(Reason.EPOCH_NOT_HELD, f"epoch {epoch} is not held")
        return held

    def _es256(self, epoch: int, purpose: Es256Purpose) -> _Es256:
        key = self._epoch(epoch).es256.get(purpose)
        if key is None:  # sealed between two lines
            raise KeyServiceError(Reason.SEALED, _SEALED)
        return key

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seal()

    def __repr__(self) -> str:
        return "<Keyring sealed>" if self._sealed else f"<Keyring epochs {tuple(self._epochs)}>"

    def __copy__(self) -> Never:
        raise TypeError(_REFUSAL)

    def __deepcopy__(self, memo: object) -> Never:
        raise TypeError(_REFUSAL)

    def __reduce__(self) -> Never:
        raise TypeError(_REFUSAL)
