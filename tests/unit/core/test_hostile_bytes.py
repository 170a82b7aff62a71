"""Whatever bytes come: each parser gives a value or a named refusal, and what it accepts it writes again in the same way."""

import json
from collections.abc import Callable
from datetime import UTC
from functools import partial
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkeys_core.audit import AuditEnvelope, AuditRow
from agentkeys_core.changes import TYPES, ChangeSignatures, Domain, K11OfDevice, SignedChange, SignedPair, parse_change
from agentkeys_core.envelope import Envelope, ObjectPlaintext
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.evidence import EmailEvidence, OidcEvidence, PasskeyEvidence, parse_evidence
from agentkeys_core.k11 import K11Assertion
from agentkeys_core.legacy_envelope import LegacyEnvelope
from agentkeys_core.profile import Profile
from agentkeys_core.registry import OperatorState
from agentkeys_core.webauthn_check import verify_assertion
from tests.unit.core.material import AuditKey, add_agent, enrol, envelope, freeze, k11, pair, set_scope
from tests.unit.core.test_profile import on_chain, profile
from tests.unit.core.test_registry_state import state

ROW = AuditKey().row(envelope(intent_text="pay", payload_digest=bytes(32)))
SIGNED = SignedChange(
    change=add_agent(),
    signatures=ChangeSignatures(
        k10=bytes(65),
        k11=(K11OfDevice(device=bytes(32), assertion=k11().answer(bytes(32))),),
        pair=SignedPair(message=pair(), signature=bytes(65)),
    ),
)

CHALLENGE = bytes(32)
# Signed once: the tests below must draw from the same bytes in every run.
ANSWER = k11().answer(CHALLENGE)
ASSERTION = {
    name: getattr(ANSWER, name) for name in ("authenticator_data", "client_data_json", "credential_id", "signature")
}

PARSERS: dict[str, tuple[Callable[[bytes], Any], list[bytes]]] = {
    "audit envelope": (AuditEnvelope.parse, [ROW.envelope, envelope().encode()]),
    "audit row": (AuditRow.parse, [ROW.encode()]),
    "signed change": (SignedChange.parse, [SIGNED.encode()]),
    "oidc evidence": (parse_evidence, [OidcEvidence(id_token="a.b.c", blind=bytes(32)).encode()]),
    "passkey evidence": (parse_evidence, [PasskeyEvidence(x=bytes(32), y=bytes(32), assertion=ANSWER).encode()]),
    "email evidence": (parse_evidence, [EmailEvidence(address="alice@example.com").encode()]),
    "envelope": (Envelope.parse, [b"\x05" + bytes(120)]),
    "legacy envelope": (LegacyEnvelope.parse, [b"\x04" + bytes(40)]),
    "plaintext": (ObjectPlaintext.parse, [ObjectPlaintext(body=b"{}", row=ROW).encode()]),
    "profile": (Profile.parse, [profile().encode(), on_chain().encode()]),
}
EXACT = {"audit envelope", "audit row", "envelope", "plaintext", "profile"}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        data[start : start + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(data)


def judge(parse: Callable[[Any], Any], data: Any) -> Any:
    try:
        return parse(data)
    except KeyServiceError:
        return None


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_bytes_give_a_value_or_a_reason(name: Any, data: Any) -> None:
    parse, seeds = PARSERS[name]
    tried = data.draw(st.binary(max_size=200) | mutated(seeds))
    value = judge(parse, tried)
    if value is not None and name in EXACT:
        assert value.encode() == tried


@settings(max_examples=100, deadline=None)
@given(
    value=st.recursive(
        st.none() | st.integers() | st.binary() | st.text() | st.datetimes(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_cbor_gives_a_value_or_a_reason(value: Any) -> None:
    judge(AuditEnvelope.parse, cbor2.dumps(value, timezone=UTC))


def paths(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here, *(path for key, inner in items for path in paths(inner, (*here, key)))]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


OBJECTS: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "row": (AuditRow.from_json, ROW.to_json()),
    "k11": (K11Assertion.parse, k11().answer(bytes(32)).encode()),
    "state": (OperatorState.from_json, state().to_json()),
    "signed change": (
        lambda obj: SignedChange.parse(json.dumps(obj).encode("utf-8", "surrogatepass")),
        json.loads(SIGNED.encode()),
    ),
    **{
        change.type: (partial(parse_change, change.type), change.to_message())
        for change in (enrol(), add_agent(), set_scope(), freeze(), pair())
    },
}


@pytest.mark.parametrize("name", OBJECTS)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_objects_with_one_member_replaced_give_a_value_or_a_reason(name: Any, data: Any) -> None:
    parse, good = OBJECTS[name]
    path = data.draw(st.sampled_from(paths(good)))
    judge(parse, replaced(good, path, data.draw(JSON)))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_assertions_of_any_bytes_are_refused(data: Any) -> None:
    members = dict(ASSERTION)
    name = data.draw(st.sampled_from(sorted(members)))
    changed = data.draw(st.binary(max_size=200) | mutated([members[name]]))
    assertion = K11Assertion(**{**members, name: changed})
    if changed == members[name]:
        verify_assertion(assertion, challenge=CHALLENGE, public=k11().public)
    else:
        with pytest.raises(KeyServiceError) as caught:
            verify_assertion(assertion, challenge=CHALLENGE, public=k11().public)
        assert caught.value.reason == Reason.K11_INVALID


@settings(max_examples=100, deadline=None)
@given(aud=st.text(max_size=80), name=st.text(max_size=10) | st.sampled_from(sorted(TYPES)), message=JSON)
def test_names_and_registry_ids_give_a_value_or_a_reason(aud: Any, name: Any, message: Any) -> None:
    judge(Domain.of, aud)
    judge(lambda obj: parse_change(name, obj), message)
