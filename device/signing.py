"""Signatures by this actor's wallet: composed and shown here, made by the signer, verified here before use."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, TypeVar

from agentkeys_core.checksum import checksum_encode
from agentkeys_core.clear_signing import intent_of, sign_in_words
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.keys import eip191_digest, recover_address
from agentkeys_core.ops import Op, Service
from agentkeys_core.signing_bodies import SiweAnswer, SiweBody, TypedDataAnswer, TypedDataBody
from agentkeys_core.siwe import SiweMessage
from agentkeys_core.typed_data import TypedData
from device.client import Approve, Reply, ask
from device.errors import DeviceError, Trouble
from device.intent import Intent
from device.session import Device
from device.trust import check_signing_row
from device.wallet import prove, wallet_of

#: What relying parties need at most to see a sign-in.
DEFAULT_LIFETIME_S: Final = 300
_NONCE_BYTES: Final = 16
_TRIES: Final = 3

Lines = tuple[tuple[str, str], ...]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A verified signature (r||s||v, 65 bytes) by `address` over `digest`, and the hash of the row that records it."""

    address: bytes
    digest: bytes
    signature: bytes = field(repr=False)
    row_hash: bytes
    intent: str | None


def compose_siwe(
    device: Device,
    *,
    domain: str,
    uri: str,
    statement: str | None,
    chain_id: int,
    nonce: str | None,
    lifetime_s: int,
) -> SiweMessage:
    """A sign-in message of this actor's wallet, from now on for `lifetime_s` seconds. Raises `invalid_siwe`."""
    now = device.now()
    return SiweMessage.compose(
        domain=domain,
        address=wallet_of(device).address,
        uri=uri,
        chain_id=chain_id,
        nonce=nonce or secrets.token_hex(_NONCE_BYTES),
        issued_at=_moment(now),
        expiration_time=_moment(now + lifetime_s),
        statement=statement,
    )


def _moment(unix: int) -> str:
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def sign_siwe(device: Device, message: SiweMessage) -> Signed:
    """The message signed by this actor's wallet.

    Raises:
        KeyServiceError: `invalid_cap` for a domain that cannot be a service, the services' refusal.
        DeviceError: `answer_not_trusted`, `row_not_trusted`: nothing of the answer was used.
    """
    service = Service.parse(f"siwe:{message.domain}", Op.SIWE_SIGN)
    text = message.encode()
    digest, words = eip191_digest(text.encode("ascii")), sign_in_words(message)

    def attempt() -> Reply:
        return ask(device, Op.SIWE_SIGN, service, SiweBody(message=text).encode(), details=_siwe_lines(message))

    reply = _once_more(attempt)
    answer = _parsed(SiweAnswer.parse, reply)
    signed = _verified(device, reply, answer, digest=digest, intent=words)
    if answer.address != message.address:
        raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, "another wallet has signed than the message names")
    prove(device, message.address)
    return signed


def siwe_intent(message: SiweMessage) -> Intent:
    """What the wallet would sign: the message, and its EIP-191 digest."""
    digest = eip191_digest(message.encode().encode("ascii"))
    return Intent(title="Sign in with the wallet", lines=_siwe_lines(message), digest=digest)


def _siwe_lines(message: SiweMessage) -> Lines:
    lines = [("sign in to", message.domain), ("as", checksum_encode(message.address))]
    if message.statement is not None:
        lines.append(("statement", message.statement))
    lines += [("for", message.uri), ("chain", str(message.chain_id)), ("nonce", message.nonce)]
    if message.expiration_time is not None:
        lines.append(("sign-in ends", message.expiration_time.text))
    return (*lines, *(("resource", resource) for resource in message.resources or ()))


def sign_typed_data(
    device: Device,
    body: TypedDataBody,
    policy: str,
    *,
    expected: bytes | None = None,
    k11: bool,
    approve: Approve | None = None,
) -> Signed:
    """Typed data signed by this actor's wallet under a policy id.

    `expected` is the wallet's address where the body names another epoch. With `k11` this master approves, with
    `approve` another one. Raises as `sign_siwe`, and `invalid_typed_data`.
    """
    service = Service.parse(f"sign:{policy}", Op.TYPED_DATA_SIGN)
    typed = body.content()
    wallet = expected or wallet_of(device).address

    def attempt() -> Reply:
        details = typed_lines(typed)
        return ask(device, Op.TYPED_DATA_SIGN, service, body.encode(), k11=k11, details=details, approve=approve)

    reply = _once_more(attempt)
    answer = _parsed(TypedDataAnswer.parse, reply)
    own = (typed.digest, typed.domain_separator, typed.type_hash)
    if (answer.digest, answer.domain_separator, answer.type_hash) != own:
        raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, "the signer has hashed something else")
    signed = _verified(device, reply, answer, digest=typed.digest, intent=answer.intent)
    if answer.address != wallet:
        raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, "another wallet has signed than this actor's")
    return signed


def typed_intent(body: TypedDataBody) -> Intent:
    """What the wallet would sign: the typed data, and its EIP-712 digest. Raises `invalid_typed_data`."""
    typed = body.content()
    return Intent(title="Sign typed data with the wallet", lines=typed_lines(typed), digest=typed.digest)


def typed_lines(typed: TypedData) -> Lines:
    """What typed data says: in words where there are some, and always what it is."""
    words = intent_of(typed)
    contract = typed.domain.get("verifyingContract")
    lines = [
        ("meaning", words or "unknown to this program; read the file"),
        ("type", typed.types.primary),
        ("chain", str(typed.domain.get("chainId", "any"))),
        ("contract", checksum_encode(contract) if isinstance(contract, bytes) else "any"),
    ]
    return tuple(lines)


def _once_more(attempt: Callable[[], Reply]) -> Reply:
    """A signature is given once a request: whoever lost the answer makes a new request."""
    for left in reversed(range(_TRIES)):
        try:
            return attempt()
        except KeyServiceError as exc:
            if exc.reason is not Reason.CAP_REPLAYED or not left:
                raise
    raise DeviceError(Trouble.UNREACHABLE, "no answer")


def _parsed(parse: Callable[[bytes], T], reply: Reply) -> T:
    try:
        return parse(reply.plaintext or b"")
    except KeyServiceError as exc:
        raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, f"the signature: {exc}") from exc


def _verified(
    device: Device, reply: Reply, answer: SiweAnswer | TypedDataAnswer, *, digest: bytes, intent: str | None
) -> Signed:
    """The signature, once it is proven to be by that address over our own digest, and recorded as such."""
    if reply.row is None:
        raise DeviceError(Trouble.ROW_NOT_TRUSTED, "no row")
    if recover_address(digest, answer.signature) != answer.address:
        raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, "the signature is not of that wallet over what was asked for")
    check_signing_row(device.keys, reply.row, intent=intent, digest=digest)
    return Signed(
        address=answer.address,
        digest=digest,
        signature=answer.signature,
        row_hash=reply.row.row_hash,
        intent=intent,
    )
