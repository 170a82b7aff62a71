"""Capability requests: composed and signed here, co-signed by the broker, answered by a worker or by the broker."""

import hmac
import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from agentkeys_core.audit import AuditRow, OpResult
from agentkeys_core.bodies import request_hash
from agentkeys_core.captoken import Cap, CapRequest, UncosignedCap
from agentkeys_core.encoding import b64u_decode, b64u_encode, canonical_json, fields, hex_decode
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.k11 import K11Assertion
from agentkeys_core.ops import OPS, Effect, Op, Service
from agentkeys_core.sealing import open_sealed
from agentkeys_core.shapes import text
from device.errors import DeviceError, Trouble
from device.identity import remember
from device.intent import request_intent
from device.learn import actor_of, current_epoch
from device.problems import check_refusal, metadata_integer
from device.session import Device
from device.transport import Answer
from device.trust import check_request_row

SEND_TRIES: Final = 3
EPOCH_TRIES: Final = 3
_PAUSE_S: Final = 0.5
_BAD: Final = Reason.INVALID_ENCODING
_EPOCH_REASONS: Final = frozenset({Reason.STALE_EPOCH, Reason.FUTURE_EPOCH})

#: Gets K11 of somebody else for a request and its body.
Approve = Callable[[UncosignedCap, bytes], K11Assertion]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A cap with its body and the key that opens the answer. It is co-signed, unless the broker does that on the way.

    It can be sent again and again inside its window.
    """

    cap: UncosignedCap
    body: bytes = field(repr=False)
    path: str
    reply_key: X25519PrivateKey = field(repr=False)

    @property
    def request(self) -> CapRequest:
        """What was signed."""
        return self.cap.request

    def encode(self) -> bytes:
        """The HTTP body for the worker, or for the broker."""
        return canonical_json({"body": b64u_encode(self.body), "cap": self.cap.to_json()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A verified answer.

    `row` is None where the operation writes none; `plaintext` is None where only the row came (a repeated store).
    """

    request: CapRequest
    row: AuditRow | None
    plaintext: bytes | None = field(repr=False)


def prepare(
    device: Device,
    op: Op,
    service: Service,
    body: bytes,
    *,
    epoch: int,
    k11: bool,
    replaces: bytes | None = None,
    details: Sequence[tuple[str, str]] = (),
    approve: Approve | None = None,
) -> Prepared:
    """Compose a request, have it approved where `k11` or `approve` says so, and get the broker's co-signature.

    What a wallet would sign is shown always; `details` are the lines for it.

    Raises:
        KeyServiceError: the broker's refusal.
        DeviceError: `unreachable`, `peer_not_trusted`, `answer_not_trusted`, or as the authenticator.
    """
    now = device.now()
    rule = OPS[op]
    reply_key = X25519PrivateKey.generate()
    request = CapRequest.compose(
        actor_omni=actor_of(device),
        aud=device.profile.aud,
        device=device.k10.key_hash,
        expires_at=now + rule.window_s,
        issued_at=now,
        k3_epoch=epoch,
        nonce=secrets.token_bytes(16),
        op=op,
        operator_omni=device.identity().operator_omni,
        reply_key=reply_key.public_key().public_bytes_raw(),
        request_hash=request_hash(body),
        service=service,
    )
    signed = device.k10.sign_request(request)
    intent = request_intent(request, replaces=replaces, details=details)
    assertion = None
    if k11 or rule.effect is Effect.SIGN:
        device.show.signing(intent)
    if k11:
        authenticator, record = device.k11()
        assertion = authenticator.approve(record, signed, intent)
    uncosigned = UncosignedCap(
        request=request, device_public_key=device.k10.public_key, device_signature=signed.signature, k11=assertion
    )
    if approve is not None:
        uncosigned = replace(uncosigned, k11=approve(uncosigned, body))
    worker = rule.worker_class
    if worker is None:  # the broker co-signs what it passes on
        return Prepared(cap=uncosigned, body=body, path=f"/v1/sign/{op.removesuffix('-sign')}", reply_key=reply_key)
    path = f"/v1/{worker.value}/{op.value.partition('-')[2]}"
    return Prepared(cap=_cosigned(device, uncosigned), body=body, path=path, reply_key=reply_key)


def _cosigned(device: Device, cap: UncosignedCap) -> Cap:
    answer = _persistent(device, lambda: device.channel(None).post("/v1/caps", cap.encode()))
    try:
        members = fields(answer.json(), required=("cosign", "kid"), reason=_BAD)
        kid = text(members["kid"], "kid", reason=_BAD)
        return cap.cosigned(b64u_decode(members["cosign"], length=64), kid)
    except KeyServiceError as exc:
        raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, f"the broker's co-signature: {exc}") from exc


def _persistent(device: Device, send: Callable[[], Answer]) -> Answer:
    """Send until there is an answer, at most three times: what was lost is asked for again with the very same bytes."""
    for left in reversed(range(SEND_TRIES)):
        try:
            return check_refusal(send())
        except DeviceError as exc:
            if exc.reason is not Trouble.UNREACHABLE or not left:
                raise
            device.show.note(f"{exc.detail}: asking again")
        except KeyServiceError as exc:
            # Right after a rotation one part may be a moment behind another: the very same bytes will do then.
            if exc.reason not in {Reason.SIGNER_UNREACHABLE, Reason.FUTURE_EPOCH} or not left:
                raise
        time.sleep(_PAUSE_S * (SEND_TRIES - left))
    raise DeviceError(Trouble.UNREACHABLE, "no answer")


def send(device: Device, prepared: Prepared) -> Reply:
    """Send a cap to its worker, or to the broker, and return the verified answer.

    May be called again with the same cap, inside its window.

    Raises:
        KeyServiceError: the worker's refusal; `cap_replayed` only where it came without the row of an acknowledged
            store.
        DeviceError: `unreachable` (what was asked may have happened), `peer_not_trusted`, `answer_not_trusted`,
            `row_not_trusted`.
    """
    worker = prepared.request.rule.worker_class
    encoded = prepared.encode()
    try:
        answer = _persistent(device, lambda: device.channel(worker).post(prepared.path, encoded))
    except KeyServiceError as exc:
        if exc.row is None:
            raise
        return _refused_with_row(device, prepared.request, exc)
    return _verified(device, prepared, answer)


def _row(value: object) -> AuditRow:
    try:
        return AuditRow.from_json(value)
    except KeyServiceError as exc:
        raise DeviceError(Trouble.ROW_NOT_TRUSTED, f"no signed row in the answer: {exc}") from exc


def _refused_with_row(device: Device, request: CapRequest, refusal: KeyServiceError) -> Reply:
    """Take a replayed request whose row proves that it was done as success; any other row must be of a failure."""
    row = _row(json.loads(refusal.row or b"null"))
    done = refusal.reason is Reason.CAP_REPLAYED
    check_request_row(device.keys, row, request, result=OpResult.SUCCESS if done else OpResult.FAILURE)
    remember(device.home, row, epoch=request.k3_epoch)
    if done:
        return Reply(request=request, row=row, plaintext=None)
    raise refusal


def _verified(device: Device, prepared: Prepared, answer: Answer) -> Reply:
    request = prepared.request
    try:
        members = fields(answer.json(), required=("cap_digest", "row", "sealed"), reason=_BAD)
        answered = hex_decode(members["cap_digest"], length=32)
        plaintext = open_sealed(prepared.reply_key, request.digest, b64u_decode(members["sealed"]))
    except KeyServiceError as exc:
        raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, str(exc)) from exc
    if not hmac.compare_digest(answered, request.digest):
        raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, "the answer is to another request")
    if request.rule.kind is None:
        return Reply(request=request, row=None, plaintext=plaintext)
    row = _row(members["row"])
    check_request_row(device.keys, row, request)
    remember(device.home, row, epoch=request.k3_epoch)
    return Reply(request=request, row=row, plaintext=plaintext)


def at_current_epoch(device: Device, attempt: Callable[[int], Reply]) -> Reply:
    """Run `attempt` with the epoch to name, and again where the services say that another one is current.

    The epoch never goes below one that a signed row has proven; what a broker merely says is tried, and not remembered.
    A lie costs a few requests and nothing else: a request for an epoch that is not current opens nothing, and one for
    an epoch that comes inside its window of 300 s opens what was asked for (docs/adr/0019).
    """
    epoch = current_epoch(device)
    tried: set[int] = set()
    while True:
        tried.add(epoch)
        try:
            return attempt(epoch)
        except KeyServiceError as exc:
            told = metadata_integer(exc, "current_epoch")
            hopeless = exc.reason not in _EPOCH_REASONS or told is None or told in tried
            if told is None or hopeless or told < device.memory.epoch or len(tried) == EPOCH_TRIES:
                raise
            device.show.note(f"the key epoch is {told} now: signing anew")
            epoch = told


def ask(
    device: Device,
    op: Op,
    service: Service,
    body: bytes,
    *,
    k11: bool = False,
    details: Sequence[tuple[str, str]] = (),
    approve: Approve | None = None,
) -> Reply:
    """Prepare and send one request at the current epoch; raises as `prepare` and `send`."""

    def attempt(epoch: int) -> Reply:
        return send(device, prepare(device, op, service, body, epoch=epoch, k11=k11, details=details, approve=approve))

    return at_current_epoch(device, attempt)
