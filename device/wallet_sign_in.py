"""Signing in at the broker with the user's own wallet (EIP-4361): composed here, for this device and this once.

It opens nothing that K10 alone does not: sessions serve pages and ceremonies. What the wallet signs begins with the
prefix of EIP-191, so it can be no registry change, which is EIP-712, and no capability request, which only K10 signs.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final

from agentkeys_core.checksum import checksum_encode
from agentkeys_core.encoding import b64u_encode, hex_encode
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ids import operator_omni
from agentkeys_core.keys import eip191_digest
from agentkeys_core.registry import OperatorState
from agentkeys_core.siwe import DEVICE_PAGE, SiweMessage, device_resource
from device.broker_session import BrokerSession
from device.errors import DeviceError, Trouble
from device.intent import Intent
from device.session import Device
from device.signed_in import SignedIn

#: As long as the broker's nonce.
_LIFE_S: Final = 300
_ANY_CHAIN: Final = 1
_STATEMENT: Final = "Sign in at the broker named below, from this device. This releases nothing and changes nothing."

Signer = Callable[[Intent, SiweMessage], bytes]


def own_wallet(state: OperatorState) -> bytes:
    """Return the wallet (20 address bytes) of an operator who has one of their own.

    Raises:
        KeyServiceError: `policy_refused` where the signer holds it: no page can reach such a wallet.
        DeviceError: `answer_not_trusted` for a state that names somebody else's.
    """
    if state.wallet_epoch != 0:
        detail = "your wallet is held by the signer, not in a browser; this device signs in by its own key instead"
        raise KeyServiceError(Reason.POLICY_REFUSED, detail)
    if operator_omni(state.wallet) != state.operator_omni:
        raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, "the wallet that is named is not the operator's")
    return state.wallet


def message_for(device: Device, wallet: bytes, nonce: str) -> SiweMessage:
    """Compose the one message that signs this device in: to its broker, with that nonce of it, within five minutes."""
    chain = device.profile.chain
    return SiweMessage.compose(
        domain=DEVICE_PAGE,
        address=wallet,
        uri=device.profile.broker,
        chain_id=_ANY_CHAIN if chain is None else chain.id,
        nonce=nonce,
        issued_at=_instant(device.now()),
        expiration_time=_instant(device.now() + _LIFE_S),
        statement=_STATEMENT,
        resources=(device_resource(device.k10.key_hash),),
    )


def sign_in(device: Device, session: BrokerSession, wallet: bytes, sign: Signer) -> SignedIn:
    """Begin a session that rests on the user's own wallet as well as on K10.

    Args:
        device: this machine's, registered.
        session: where the session and its token are kept, in memory alone.
        wallet: the operator's own, 20 address bytes.
        sign: has the wallet sign, and returns nothing but its signature over that very message.

    Raises:
        KeyServiceError: the broker's refusal.
        DeviceError: as `sign` and the request.
    """

    def word(nonce: str) -> Mapping[str, object]:
        message = message_for(device, wallet, nonce)
        intent = _intent(device, message)
        device.show.signing(intent)
        return {"message": message.encode(), "signature": b64u_encode(sign(intent, message))}

    return session.begin(word)


def _intent(device: Device, message: SiweMessage) -> Intent:
    lines = (
        ("at", message.uri),
        ("wallet", checksum_encode(message.address)),
        ("device", hex_encode(device.k10.key_hash)),
        ("allows", "the pages of this broker, for 12 hours; it releases nothing"),
    )
    digest = eip191_digest(message.encode().encode("ascii"))
    return Intent(title="Sign in with your wallet", lines=lines, digest=digest)


def _instant(unix: int) -> str:
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
