"""What is read of browsers' answers: whatever comes is refused by name. And whose passkeys a broker asks for."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkeys_core.encoding import b64u_encode
from agentkeys_core.errors import KeyServiceError, Reason
from broker.ceremonies.passkey import PasskeyAsked
from broker.passkeys import RelyingParty, assertion_of, registered
from tests.fakes.services_kit import BROKER_ORIGIN

PARTY = RelyingParty(id="service.test", origin=BROKER_ORIGIN)


@pytest.mark.parametrize(
    "origin",
    ["https://localhost", "https://localhost:8443", "https://a.localhost", "https://127.0.0.1", "https://[::1]:1"],
)
def test_where_k11_lives_and_at_bare_addresses_there_are_no_passkeys(origin: str) -> None:
    assert RelyingParty.of(origin) is None


def test_the_relying_party_is_the_brokers_host() -> None:
    assert RelyingParty.of("https://keys.people.test:8443") == RelyingParty(
        id="keys.people.test", origin="https://keys.people.test:8443"
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.binary(max_size=80).map(b64u_encode),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "id",
                    "rawId",
                    "type",
                    "response",
                    "clientDataJSON",
                    "attestationObject",
                    "authenticatorData",
                    "signature",
                ]
            ),
            inner,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_whatever_a_browser_answers_is_refused_by_name(obj: object) -> None:
    with pytest.raises(KeyServiceError) as caught:
        registered(PARTY, json.dumps(obj), challenge=bytes(32), now=1)
    assert caught.value.reason is Reason.INVALID_EVIDENCE
    with suppress(KeyServiceError):
        assertion_of(json.dumps(obj))  # may be well-formed; nothing in it is believed yet


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_hostile_bytes_in_a_registration_are_refused_by_name(attestation: bytes, client: bytes) -> None:
    named = b64u_encode(b"id")
    response = {"attestationObject": b64u_encode(attestation), "clientDataJSON": b64u_encode(client)}
    right = json.dumps({"type": "webauthn.create", "challenge": b64u_encode(bytes(32)), "origin": BROKER_ORIGIN})
    for data in (response, {**response, "clientDataJSON": b64u_encode(right.encode())}):
        answer = json.dumps({"id": named, "rawId": named, "type": "public-key", "response": data})
        with pytest.raises(KeyServiceError) as caught:
            registered(PARTY, answer, challenge=bytes(32), now=1)
        assert caught.value.reason is Reason.INVALID_EVIDENCE


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=9),
        lambda i: st.dictionaries(st.sampled_from(["action", "change", "credential_id", "type", "message"]), i),
    )
)
def test_whatever_a_device_asks_is_refused_by_name(obj: object) -> None:
    with pytest.raises(KeyServiceError) as caught:
        PasskeyAsked.from_json(obj)
    assert caught.value.reason in {Reason.INVALID_BODY, Reason.INVALID_CHANGE, Reason.UNKNOWN_FIELDS}
