"""What all ceremonies have in common: they begin with a device's proof, are moved on by a secret, and end in time.

A secret travels by mail or through a browser; only its hash is kept. Looking at what it would do moves nothing on, so
that a scanner which opens every link it sees confirms nothing.
"""

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

from agentkeys_core.encoding import b64u_decode, b64u_encode, canonical_json, strict_json
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.hashes import sha256
from broker.ceremonies.codes import is_code, new_code
from broker.ports import Ceremonies, Ceremony, CeremonyKind, CeremonyState
from broker.proofs import Claim, Proofs

LIFETIME_S: Final = 600
#: What is left of it at least once it is confirmed, for the device to do with it what it began it for.
CONFIRMED_S: Final = 300
_ID_BYTES: Final = 16
_SECRET_BYTES: Final = 32
_DETAIL_LIMIT: Final = 64 * 1024
#: How much of a device key hash people compare: as the device itself prints it.
_FINGERPRINT_BYTES: Final = 8
#: Of the code that somebody types: 30 bits, and how often they may, right or wrong, before the ceremony has ended.
CODE_LENGTH: Final = 6
TYPED_TRIES: Final = 5

Detail = dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A new ceremony, and the secret that moves it on."""

    ceremony: Ceremony
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """A new ceremony as its device is told of it, and nobody else.

    `page` is where the person goes on, empty where a mail says so; `code` what they type there, empty where nothing is.
    """

    ceremony: Ceremony
    page: str = field(default="", repr=False)
    code: str = field(default="", repr=False)


class OtherCodeError(KeyServiceError):
    """What somebody typed is not the ceremony's code: they may look again at what their own terminal shows."""

    def __init__(self) -> None:
        super().__init__(Reason.INVALID_BODY, "not the code of this ceremony")


class Steps:
    """Begins ceremonies and moves them on, each step once. Safe for threads and processes."""

    def __init__(self, *, proofs: Proofs, ceremonies: Ceremonies, clock: Callable[[], float]) -> None:
        self._proofs = proofs
        self._ceremonies = ceremonies
        self._clock = clock

    def begin(self, device: bytes, kind: CeremonyKind, detail: Detail, *, secret: bytes | None = None) -> Begun:
        """A pending ceremony of this device, which ends after 600 s; `secret` in place of 32 random bytes."""
        now = int(self._clock())
        secret = secrets.token_bytes(_SECRET_BYTES) if secret is None else secret
        ceremony = Ceremony(
            id=secrets.token_bytes(_ID_BYTES),
            kind=kind,
            state=CeremonyState.PENDING,
            device=device,
            secret=sha256(secret),
            created_at=now,
            expires_at=now + LIFETIME_S,
            detail=canonical_json(detail),
        )
        self._ceremonies.add(ceremony)
        return Begun(ceremony=ceremony, secret=b64u_encode(secret))

    def invite(self, device: bytes, kind: CeremonyKind, detail: Detail) -> tuple[Begun, str]:
        """As `begin`, and the code that `recognised` asks for."""
        code = new_code(CODE_LENGTH)
        return self.begin(device, kind, {**detail, "code": code}), code

    def shown(self, secret: str, kind: CeremonyKind, *states: CeremonyState) -> Ceremony:
        """The ceremony that this secret would move on; nothing is changed.

        Raises:
            KeyServiceError: `ceremony_ended`, alike for one that was used, is over, or never was.
        """
        try:
            return self.shown_raw(b64u_decode(secret, length=_SECRET_BYTES), kind, *states)
        except KeyServiceError as error:
            if error.reason is Reason.INVALID_ENCODING:
                raise _ended() from error
            raise

    def shown_raw(self, secret: bytes, kind: CeremonyKind, *states: CeremonyState) -> Ceremony:
        """As `shown`, for the bytes of a secret."""
        found = self._ceremonies.by_secret(sha256(secret))
        if found is None or found.kind is not kind or found.state not in states or self._is_over(found):
            raise _ended()
        return found

    def move(self, ceremony: Ceremony, to: CeremonyState, secret: bytes | None = None, /, **more: str) -> str:
        """Move a ceremony on, once: `more` joins its detail, and the secret returned here takes the old one's place.

        It is `secret`, 32 bytes that nobody can guess, or a random one.

        Raises:
            KeyServiceError: `ceremony_ended` where somebody else was faster.
        """
        secret = secrets.token_bytes(_SECRET_BYTES) if secret is None else secret
        expires_at = ceremony.expires_at
        if to is CeremonyState.CONFIRMED and ceremony.state is not to:
            expires_at = max(expires_at, int(self._clock()) + CONFIRMED_S)
        if self._replaced(ceremony, more, state=to, secret=sha256(secret), expires_at=expires_at) is None:
            raise _ended()
        return b64u_encode(secret)

    def note(self, ceremony: Ceremony, **more: str) -> Ceremony | None:
        """Add `more` to the detail. The ceremony as it is then, None where somebody else was faster."""
        return self._replaced(ceremony, more)

    def end(self, ceremony: Ceremony) -> None:
        """Let it be over, unless somebody moved it on meanwhile."""
        self._ceremonies.move(ceremony, replace(ceremony, expires_at=int(self._clock())))

    @contextmanager
    def one_try(self, ceremony: Ceremony, name: str, *, limit: int) -> Iterator[Ceremony]:
        """Count one more try in `name`, before it is made; a KeyServiceError of the last one ends the ceremony.

        Yields the ceremony as it is then: what is moved on.

        Raises:
            KeyServiceError: `ceremony_ended` where `limit` tries were made, or somebody else was faster.
        """
        tries = int(detail_of(ceremony).get(name, "0")) + 1
        counted = self.note(ceremony, **{name: str(tries)}) if tries <= limit else None
        if counted is None:
            raise _ended()
        try:
            yield counted
        except KeyServiceError:
            if tries == limit:
                self.end(counted)
            raise

    @contextmanager
    def recognised(self, ceremony: Ceremony, typed: str) -> Iterator[Ceremony]:
        """For somebody who typed the code that this ceremony's device alone was told, so that the device is their own.

        A link that a thief sent is of the thief's ceremony, whose code no terminal of the person shows. Else as
        `one_try`.

        Raises:
            KeyServiceError: `OtherCodeError`; `ceremony_ended` after 5 tries.
        """
        with self.one_try(ceremony, "typed", limit=TYPED_TRIES) as tried:
            code = detail_of(ceremony).get("code")
            if code is None:  # begun by a version that had none
                raise _ended()
            if not is_code(typed, code):
                raise OtherCodeError
            yield tried

    def _replaced(self, ceremony: Ceremony, more: Detail, **changed: Any) -> Ceremony | None:
        made = replace(ceremony, detail=canonical_json({**detail_of(ceremony), **more}), **changed)
        return made if self._ceremonies.move(ceremony, made) else None

    def mine(self, claim: Claim, ceremony_id: bytes) -> Ceremony:
        """The ceremony, for the very device that began it.

        Raises:
            KeyServiceError: `not_found`, also for another device's; as `Proofs.check` and `Proofs.use_up`;
                `ceremony_ended` where it is over and nobody confirmed it.
        """
        proof = self._proofs.check(claim, "request")
        found = self._ceremonies.find(ceremony_id)
        if found is None or found.device != proof.device:
            raise KeyServiceError(Reason.NOT_FOUND, "no such ceremony of this device")
        self._proofs.use_up(proof)  # not before: whoever asks about nothing has nothing written
        if self._is_over(found):
            raise _ended()
        return found

    def known(self, ceremony_id: bytes, kind: CeremonyKind) -> Ceremony:
        """The ceremony by its id, for whoever its caller knows to have a right to it.

        Raises:
            KeyServiceError: `not_found`, `ceremony_ended`.
        """
        found = self._ceremonies.find(ceremony_id)
        if found is None or found.kind is not kind:
            raise KeyServiceError(Reason.NOT_FOUND, "no such ceremony")
        if self._is_over(found):
            raise _ended()
        return found

    def _is_over(self, ceremony: Ceremony) -> bool:
        return self._clock() >= ceremony.expires_at


def detail_of(ceremony: Ceremony) -> Detail:
    """What a ceremony keeps of its own: texts by name."""
    found = strict_json(ceremony.detail, limit=_DETAIL_LIMIT, reason=Reason.INTERNAL)
    if not isinstance(found, dict):
        raise KeyServiceError(Reason.INTERNAL, "a ceremony's detail is no object")
    return {str(name): str(value) for name, value in found.items()}


def fingerprint(device: bytes) -> str:
    """What people compare of a device: 8 bytes of its key hash, in groups of four digits."""
    digits = device[:_FINGERPRINT_BYTES].hex()
    return " ".join(digits[start : start + 4] for start in range(0, len(digits), 4))


def _ended() -> KeyServiceError:
    return KeyServiceError(Reason.CEREMONY_ENDED, "it was used, is over, or never was")
