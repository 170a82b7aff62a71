"""`VerifyK10Sig` and `VerifyK11Assertion`: verdicts, which change nothing."""

import json
import secrets
from collections.abc import Callable
from typing import Any

from agentkeys.signer.v1 import signer_pb2
from agentkeys_core.errors import Reason
from agentkeys_core.keys import DeviceKey, eip191_digest
from agentkeys_core.proof import k10_digest
from tests.conformance.cases import Case, Steps, add, case, equal
from tests.conformance.groups.order import SECP256K1_ORDER
from tests.conformance.people import Master, master
from tests.conformance.site import BROKER, CREDENTIALS, Site

K10 = "VerifyK10Sig"
K11 = "VerifyK11Assertion"
K10_V2, EIP712, EIP191 = (
    signer_pb2.SIGNATURE_SCHEME_K10_V2,
    signer_pb2.SIGNATURE_SCHEME_EIP712,
    signer_pb2.SIGNATURE_SCHEME_EIP191,
)


def signed(
    key: DeviceKey, scheme: Any = K10_V2, payload: bytes | None = None, purpose: str | None = None
) -> signer_pb2.VerifyK10SigRequest:
    """A request that is valid."""
    payload = secrets.token_bytes(32) if payload is None else payload
    if scheme == K10_V2:
        purpose = purpose or "cap"
        signature = key.sign(k10_digest("session" if purpose == "session" else "cap", payload))
    else:
        digest = payload if scheme == EIP712 else eip191_digest(payload)
        signature = key.sign_recoverable(digest)
    return signer_pb2.VerifyK10SigRequest(
        public_key=key.public_key, payload=payload, signature=signature, scheme=scheme, purpose=purpose or ""
    )


def verdict(site: Site, request: signer_pb2.VerifyK10SigRequest, client: str = BROKER) -> Any:
    """(valid, reason, binding)."""
    found = site.signer(client).VerifyK10Sig(request)
    return found.valid, found.reason, found.binding


def invalid(site: Site, request: signer_pb2.VerifyK10SigRequest) -> None:
    """Fail unless the signature is found invalid, with its reason and without a binding."""
    equal(verdict(site, request), (False, Reason.DEVICE_SIGNATURE_INVALID.value, b""), "verdict")


@case(K10, "each scheme and purpose, for both callers")
def schemes(site: Site) -> None:
    key = DeviceKey.generate()
    for request in (
        signed(key),
        signed(key, purpose="session"),
        signed(key, payload=b""),
        signed(key, EIP712),
        signed(key, EIP191),
        signed(key, EIP191, payload=b"any text at all"),
    ):
        for client in (BROKER, CREDENTIALS):
            equal(verdict(site, request, client), (True, "", key.key_hash), "verdict")


@case(K10, "every spelling of v")
def spellings(site: Site) -> None:
    key = DeviceKey.generate()
    request = signed(key, EIP191)
    parity = request.signature[64] - 27
    for v, wanted in ((parity, True), (27 + parity, True), (28 - parity, False), (29, False), (35, False)):
        request.signature = request.signature[:64] + bytes((v,))
        equal(verdict(site, request)[0], wanted, f"valid with v {v}, parity {parity}")


@case(K10, "a high s is never valid")
def high_s(site: Site) -> None:
    key = DeviceKey.generate()
    for scheme in (K10_V2, EIP712, EIP191):
        request = signed(key, scheme)
        s = SECP256K1_ORDER - int.from_bytes(request.signature[32:64], "big")
        turned = bytes((55 - request.signature[64],)) if scheme != K10_V2 else b""
        request.signature = request.signature[:32] + s.to_bytes(32, "big") + turned
        invalid(site, request)


@case(K10, "another payload, key or purpose")
def others(site: Site) -> None:
    key, other = DeviceKey.generate(), DeviceKey.generate()
    for scheme in (K10_V2, EIP712, EIP191):
        request = signed(key, scheme)
        request.payload = secrets.token_bytes(32)
        invalid(site, request)
        request = signed(key, scheme)
        request.public_key = other.public_key
        invalid(site, request)
    request = signed(key, purpose="session")
    request.purpose = "cap"
    invalid(site, request)


@case(K10, "bytes that are no key or signature at all")
def no_key(site: Site) -> None:
    key = DeviceKey.generate()
    request = signed(key)
    request.public_key = b"\x02" + b"\xff" * 32
    invalid(site, request)
    for signature in (bytes(64), b"\xff" * 64):
        request = signed(key)
        request.signature = signature
        invalid(site, request)


@case(K10, "EIP-191 as deployed devices sign it is no cap")
def legacy(site: Site) -> None:
    key = DeviceKey.generate()
    request = signed(key, EIP191, payload=secrets.token_bytes(32))
    request.scheme, request.purpose, request.signature = K10_V2, "cap", request.signature[:64]
    invalid(site, request)


def _malformed(scheme: int, /, **fields: Any) -> Steps:
    def steps(site: Site) -> Callable[[], Any]:
        request = signed(DeviceKey.generate(), scheme)
        for name, value in fields.items():
            setattr(request, name, value)
        return lambda: site.signer(BROKER).VerifyK10Sig(request)

    return steps


for _title, _steps in {
    "a public key of 32 bytes": _malformed(K10_V2, public_key=bytes(32)),
    "an uncompressed public key": _malformed(K10_V2, public_key=b"\x04" + bytes(64)),
    "a signature of 65 bytes for K10_V2": _malformed(K10_V2, signature=bytes(65)),
    "a signature of 64 bytes for EIP712": _malformed(EIP712, signature=bytes(64)),
    "a signature of 64 bytes for EIP191": _malformed(EIP191, signature=bytes(64)),
    "no scheme": _malformed(EIP191, scheme=0),
    "an unknown scheme": _malformed(EIP191, scheme=9),
    "no purpose": _malformed(K10_V2, purpose=""),
    "an unknown purpose": _malformed(K10_V2, purpose="registry"),
    "a purpose with EIP712": _malformed(EIP712, purpose="cap"),
    "a purpose with EIP191": _malformed(EIP191, purpose="cap"),
    "a digest of 31 bytes": _malformed(EIP712, payload=bytes(31)),
}.items():
    add(Case(group=K10, title=_title, steps=_steps, gives=Reason.INVALID_ENCODING))
add(
    Case(
        group=K10,
        title="a payload over 1 MiB",
        steps=_malformed(K10_V2, payload=bytes(1024 * 1024 + 1)),
        gives=Reason.TOO_LARGE,
    )
)


def assertion(user: Master, challenge: bytes, **bent: Any) -> signer_pb2.VerifyK11AssertionRequest:
    """A request with this user's K11; `client` changes members of the client data, the rest is for the authenticator."""
    client = bent.pop("client", None)
    if client is not None:
        bent["client_data"] = user.k11.client_data(challenge, **client)
    made = user.k11.answer(challenge, **bent)
    return signer_pb2.VerifyK11AssertionRequest(
        credential_id=made.credential_id,
        expected_challenge=challenge,
        authenticator_data=made.authenticator_data,
        client_data_json=made.client_data_json,
        signature=made.signature,
    )


def k11_verdict(site: Site, request: signer_pb2.VerifyK11AssertionRequest, client: str = BROKER) -> Any:
    """(valid, reason)."""
    found = site.signer(client).VerifyK11Assertion(request)
    return found.valid, found.reason


@case(K11, "a registered K11, for both callers, with its counter")
def registered(site: Site) -> None:
    user = master(site)
    for client, count in ((BROKER, 7), (CREDENTIALS, 3)):
        request = assertion(user, secrets.token_bytes(32), count=count)
        found = site.signer(client).VerifyK11Assertion(request)
        equal((found.valid, found.reason, found.sign_count), (True, "", count), "verdict and counter")


@case(K11, "an unknown credential")
def unknown_credential(site: Site) -> None:
    user = Master(site)
    found = k11_verdict(site, assertion(user, bytes(32)))
    equal(found, (False, Reason.K11_INVALID.value), "verdict")


@case(K11, "whatever is wrong with it")
def bent_assertions(site: Site) -> None:
    user = master(site)
    challenge = secrets.token_bytes(32)
    wrong = assertion(user, challenge)
    wrong.expected_challenge = secrets.token_bytes(32)
    broken = assertion(user, challenge)
    broken.signature = b"\x30\x00"
    empty = assertion(user, challenge)
    empty.client_data_json = b""
    for name, request in {
        "challenge": wrong,
        "signature": broken,
        "no client data": empty,
        "origin": assertion(user, challenge, client={"origin": "https://broker.example.org"}),
        "origin with a slash": assertion(user, challenge, client={"origin": user.k11.origin + "/"}),
        "type": assertion(user, challenge, client={"type": "webauthn.create"}),
        "crossOrigin": assertion(user, challenge, client={"crossOrigin": True}),
        "user presence": assertion(user, challenge, flags=0x04),
        "user verification": assertion(user, challenge, flags=0x01),
        "relying party": assertion(user, challenge, rp_id_hash=bytes(32)),
    }.items():
        equal(k11_verdict(site, request), (False, Reason.K11_INVALID.value), f"verdict: {name}")


@case(K11, "an absent crossOrigin counts as false")
def no_cross_origin(site: Site) -> None:
    user = master(site)
    challenge = secrets.token_bytes(32)
    members = json.loads(user.k11.client_data(challenge))
    del members["crossOrigin"]
    request = assertion(user, challenge, client_data=json.dumps(members).encode())
    equal(k11_verdict(site, request), (True, ""), "verdict")


def _malformed_k11(reason: Reason, /, **fields: Any) -> tuple[Reason, Steps]:
    def steps(site: Site) -> Callable[[], Any]:
        request = assertion(Master(site), bytes(32))
        for name, value in fields.items():
            setattr(request, name, value)
        return lambda: site.signer(BROKER).VerifyK11Assertion(request)

    return reason, steps


for _title, (_reason, _steps) in {
    "a challenge of 31 bytes": _malformed_k11(Reason.INVALID_ENCODING, expected_challenge=bytes(31)),
    "no credential": _malformed_k11(Reason.INVALID_ENCODING, credential_id=b""),
    "a credential of 1024 bytes": _malformed_k11(Reason.INVALID_ENCODING, credential_id=bytes(1024)),
    "client data of 4097 bytes": _malformed_k11(Reason.TOO_LARGE, client_data_json=bytes(4097)),
    "authenticator data of 4097 bytes": _malformed_k11(Reason.TOO_LARGE, authenticator_data=bytes(4097)),
}.items():
    add(Case(group=K11, title=_title, steps=_steps, gives=_reason))
