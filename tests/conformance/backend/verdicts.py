"""`VerifyK10Sig` and `VerifyK11Assertion` of the backend."""

from typing import Final

from agentkeys.signer.v1 import signer_pb2 as pb
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ids import address_of, device_key_hash
from agentkeys_core.k11 import K11Assertion, credential_id_hash
from agentkeys_core.keys import eip191_digest, verify_recoverable, verify_secp256k1
from agentkeys_core.proof import k10_digest
from agentkeys_core.webauthn_check import verify_assertion
from tests.conformance.backend.breakages import Broken
from tests.conformance.backend.checks import low_s
from tests.conformance.backend.operators import Operators
from tests.conformance.backend.peers import Peer
from tests.conformance.backend.refused import refusal, refuse

MAX_PAYLOAD: Final = 1024 * 1024
MAX_PART: Final = 4096
_COMPACT, _RECOVERABLE = 64, 65


class Verdicts:
    """Says what signatures are worth."""

    def __init__(self, operators: Operators, broken: Broken) -> None:
        self._operators = operators
        self._broken = broken

    def k10(self, asked: pb.VerifyK10SigRequest, _peer: Peer) -> pb.VerifyK10SigResponse:
        """Whether the key signed the payload."""
        if len(asked.payload) > MAX_PAYLOAD:
            refuse(Reason.TOO_LARGE)
        compact = asked.scheme == pb.SIGNATURE_SCHEME_K10_V2
        length = _COMPACT if compact else _RECOVERABLE
        if len(asked.public_key) != 33 or len(asked.signature) != length:
            refuse(Reason.INVALID_ENCODING)
        if asked.purpose not in ({"cap", "session"} if compact else {""}):
            refuse(Reason.INVALID_ENCODING)
        digest = self._digest(asked)
        if self._good(asked, digest, compact=compact):
            return pb.VerifyK10SigResponse(valid=True, binding=device_key_hash(address_of(asked.public_key)))
        return pb.VerifyK10SigResponse(valid=False, reason=Reason.DEVICE_SIGNATURE_INVALID.value)

    def _digest(self, asked: pb.VerifyK10SigRequest) -> bytes:
        match asked.scheme:
            case pb.SIGNATURE_SCHEME_K10_V2:
                return k10_digest("cap" if asked.purpose == "cap" else "session", asked.payload)
            case pb.SIGNATURE_SCHEME_EIP712 if len(asked.payload) == 32:
                return asked.payload
            case pb.SIGNATURE_SCHEME_EIP191:
                return eip191_digest(asked.payload)
            case _:
                raise refusal(Reason.INVALID_ENCODING)

    def _good(self, asked: pb.VerifyK10SigRequest, digest: bytes, *, compact: bool) -> bool:
        if "high-s" in self._broken:
            return verify_secp256k1(asked.public_key, digest, low_s(asked.signature))
        check = verify_secp256k1 if compact else verify_recoverable
        return check(asked.public_key, digest, asked.signature)

    def k11(self, asked: pb.VerifyK11AssertionRequest, _peer: Peer) -> pb.VerifyK11AssertionResponse:
        """Whether a registered K11 approved the challenge."""
        if len(asked.expected_challenge) != 32 or not 1 <= len(asked.credential_id) <= 1023:
            refuse(Reason.INVALID_ENCODING)
        parts = (asked.authenticator_data, asked.client_data_json, asked.signature)
        if max(map(len, parts)) > MAX_PART:
            refuse(Reason.TOO_LARGE)
        device = self._operators.of_credential(credential_id_hash(asked.credential_id))
        if device is None or device.k11 is None:
            return pb.VerifyK11AssertionResponse(valid=False, reason=Reason.K11_INVALID.value)
        assertion = K11Assertion(
            authenticator_data=asked.authenticator_data,
            client_data_json=asked.client_data_json,
            credential_id=asked.credential_id,
            signature=asked.signature,
        )
        try:
            count = verify_assertion(assertion, challenge=asked.expected_challenge, public=device.k11)
        except KeyServiceError as error:
            return pb.VerifyK11AssertionResponse(valid=False, reason=error.reason.value)
        return pb.VerifyK11AssertionResponse(valid=True, sign_count=count)
