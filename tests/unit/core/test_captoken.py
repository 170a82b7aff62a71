import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkeys_core.authorisation import check_context, verify_cosign
from agentkeys_core.captoken import MAX_CAP_BYTES, Cap, CapRequest, UncosignedCap, cosign_message
from agentkeys_core.device_signature import verify_device_signature
from agentkeys_core.encoding import b64u_encode, canonical_json
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.hashes import sha256
from agentkeys_core.k11 import cap_challenge
from agentkeys_core.keys import DeviceKey, ES256PublicKey
from agentkeys_core.ops import Op, Service
from agentkeys_core.proof import k10_digest
from tests.unit.core.refusal import refused
from tests.unit.core.vectors import cases, document


def valid(number: Any = 0) -> Any:
    return document()["groups"]["cap"]["cases"][number]["expect"]


@pytest.mark.parametrize(("given_", "expect"), cases("cap"))
def test_caps_of_the_vectors(given_: Any, expect: Any) -> None:
    raw = canonical_json(json.loads(given_["shuffled_json"]))
    assert raw == bytes.fromhex(expect["canonical_hex"])
    request = CapRequest.parse(raw)
    assert request.digest.hex() == expect["cap_digest"]
    assert request.raw == raw
    cap = Cap.parse(expect["cap"].encode())
    assert cap.encode() == expect["cap"].encode()
    assert cap.request == request
    assert cap.digest == request.digest
    assert cap.device_public_key.hex() == expect["device_public_key"]
    assert cap.device_signature.hex() == expect["device_signature"]
    assert (None if cap.k11 is None else cap.k11.canonical().decode()) == expect["k11_canonical"]
    assert cap_challenge(cap.digest).hex() == expect["k11_challenge"]
    assert cap.cosign_message().hex() == expect["cosign_preimage"]
    assert sha256(cap.cosign_message()).hex() == expect["cosign_es256_digest"]
    verify_device_signature(cap)


@pytest.mark.parametrize(("given_", "expect"), cases("cap"))
def test_requests_are_composed_to_the_same_bytes(given_: Any, expect: Any) -> None:
    request = CapRequest.parse(bytes.fromhex(expect["canonical_hex"]))
    members = {
        name: getattr(request, name) for name in CapRequest.__dataclass_fields__ if name not in ("raw", "digest")
    }
    assert CapRequest.compose(**members) == request


@pytest.mark.parametrize(("given_", "expect"), cases("negative", "cap_bytes"))
def test_requests_are_judged_in_the_order_of_the_spec(given_: Any, expect: Any) -> None:
    with refused(expect["reason"]):
        CapRequest.parse(bytes.fromhex(given_["bytes"]))


@pytest.mark.parametrize(("given_", "expect"), cases("negative", "cap_context"))
def test_requests_in_context(given_: Any, expect: Any) -> None:
    with refused(expect["reason"]):
        request = CapRequest.parse(bytes.fromhex(given_["bytes"]))
        check_context(request, aud=given_["registry_id"], now=given_["now"], current_epoch=given_["current_epoch"])


def test_a_refusal_by_context_tells_time_and_epoch() -> None:
    request = CapRequest.parse(valid()["canonical"].encode())
    with pytest.raises(KeyServiceError) as caught:
        check_context(request, aud=request.aud, now=request.issued_at + 0.9, current_epoch=9)
    assert caught.value.reason is Reason.STALE_EPOCH
    assert dict(caught.value.metadata) == {"server_time": str(request.issued_at), "current_epoch": "9"}


@pytest.mark.parametrize(("given_", "expect"), cases("negative", "cosign"))
def test_co_signatures_that_differ_in_one_thing(given_: Any, expect: Any) -> None:
    key = ES256PublicKey.from_xy(bytes.fromhex(given_["x"]), bytes.fromhex(given_["y"]))
    with refused(expect["reason"]):
        cap = Cap.parse(canonical_json(given_["cap"]))
        verify_cosign(cap, {cap.kid: key})


def test_a_co_signature_by_a_key_not_pinned_is_refused() -> None:
    with refused("broker_signature_invalid"):
        verify_cosign(Cap.parse(valid()["cap"].encode()), {})


def test_a_request_that_the_device_did_not_sign_is_refused() -> None:
    cap, other = Cap.parse(valid()["cap"].encode()), Cap.parse(valid(2)["cap"].encode())
    assert cap.device_public_key == other.device_public_key
    verify_device_signature(other)
    with refused("device_signature_invalid"):
        verify_device_signature(dataclasses.replace(cap, device_signature=other.device_signature))


def test_a_good_signature_by_another_key_than_the_named_device_is_refused() -> None:
    cap, stranger = Cap.parse(valid()["cap"].encode()), DeviceKey.generate()
    forged = stranger.sign(k10_digest("cap", cap.request.raw))
    with refused("device_signature_invalid"):
        verify_device_signature(
            UncosignedCap(request=cap.request, device_public_key=stranger.public_key, device_signature=forged, k11=None)
        )


def test_a_cap_without_co_signature_has_its_own_form() -> None:
    cap = Cap.parse(valid(1)["cap"].encode())
    members = {name: value for name, value in json.loads(valid(1)["cap"]).items() if name not in ("cosign", "kid")}
    bare = UncosignedCap.parse(canonical_json(members))
    assert bare.encode() == canonical_json(members)
    assert bare.cosigned(cap.cosign, cap.kid) == cap
    assert bare.cosign_message() == cosign_message(bare.digest, bare.device_public_key, bare.device_signature, bare.k11)
    with refused("unknown_fields"):
        UncosignedCap.parse(cap.encode())
    with refused("invalid_cap"):
        Cap.parse(bare.encode())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"zz": 1}, "unknown_fields"),
        ({"kid": None}, "invalid_cap"),
        ({"kid": "é"}, "invalid_encoding"),
        ({"cosign": 1}, "invalid_cap"),
        ({"cosign": "A="}, "invalid_encoding"),
        ({"device_signature": "A\n"}, "invalid_encoding"),
        ({"device_public_key": {}}, "invalid_cap"),
        ({"k11": []}, "invalid_cap"),
        ({"k11": {"zz": ""}}, "unknown_fields"),
        ({"request": "e30"}, "invalid_cap"),
        ({"request": "W10"}, "invalid_cap"),
        ({"request": ""}, "non_canonical_cap"),
        ({"request": True}, "invalid_cap"),
    ],
)
def test_malformed_caps_are_refused_by_name(change: Any, reason: Any) -> None:
    with refused(reason):
        Cap.parse(canonical_json(json.loads(valid()["cap"]) | change))


@pytest.mark.parametrize("name", ["cosign", "device_public_key", "device_signature", "k11", "kid", "request"])
def test_every_member_of_a_cap_is_needed(name: Any) -> None:
    members = json.loads(valid()["cap"])
    del members[name]
    with refused("invalid_cap"):
        Cap.parse(canonical_json(members))


def test_cap_bytes_are_canonical_and_small() -> None:
    with refused("non_canonical_cap"):
        Cap.parse(valid()["cap"].encode() + b" ")
    with refused("too_large"):
        Cap.parse(b" " * (MAX_CAP_BYTES + 1))
    with refused("invalid_encoding"):
        Cap.parse(b"\xff")
    with refused("invalid_cap"):
        Cap.parse(b"[]")


def test_a_request_that_is_right_but_for_its_size_is_too_large() -> None:
    members = json.loads(valid()["canonical"])
    spare = 4096 - len(canonical_json(members | {"aud": ""}))
    assert CapRequest.parse(canonical_json(members | {"aud": "a" * spare})).aud == "a" * spare
    with refused("too_large"):
        CapRequest.parse(canonical_json(members | {"aud": "a" * (spare + 1)}))


def test_the_request_of_a_cap_is_judged_like_any_other() -> None:
    large = json.loads(valid()["cap"]) | {"request": b64u_encode(b" " * 4097)}
    with refused("too_large"):
        Cap.parse(canonical_json(large))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_refused(data: Any) -> None:
    with pytest.raises(KeyServiceError):
        CapRequest.parse(data)
    with pytest.raises(KeyServiceError):
        Cap.parse(data)


MUTATIONS = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4)


@given(MUTATIONS, st.integers(0, 3))
def test_mutated_caps_are_refused_by_name_or_say_something_else(mutations: Any, kind: Any) -> None:
    original = valid(1)["cap"].encode() if kind % 2 else valid(1)["canonical"].encode()
    data = bytearray(original)
    for position, byte in mutations:
        place = position % len(data)
        if kind < 2:
            data[place] = byte
        else:
            data[place:place] = bytes([byte])
    parser = Cap.parse if kind % 2 else CapRequest.parse
    try:
        parsed = parser(bytes(data))
    except KeyServiceError as exc:
        assert isinstance(exc.reason, Reason)  # noqa: PT017
        return
    assert (parsed.encode() if isinstance(parsed, Cap) else parsed.raw) == bytes(data)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**54), 2**54) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
REQUEST_NAMES = sorted(json.loads(document()["groups"]["cap"]["cases"][0]["expect"]["canonical"]))


@given(st.sampled_from(REQUEST_NAMES), JSON_VALUES)
def test_a_member_of_any_value_gives_a_reason_or_a_request(name: Any, value: Any) -> None:
    members = json.loads(valid()["canonical"]) | {name: value}
    data = json.dumps(members, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(
        "utf-8", "surrogatepass"
    )
    try:
        request = CapRequest.parse(data)
    except KeyServiceError as exc:
        assert isinstance(exc.reason, Reason)  # noqa: PT017
    else:
        assert request.raw == data


@pytest.mark.parametrize("change", [{"op": Op.CRED_LIST}, {"expires_at": 0}, {"nonce": b""}, {"service": Service("x")}])
def test_nothing_malformed_is_ever_composed(change: Any) -> None:
    request = CapRequest.parse(valid()["canonical"].encode())
    members = {
        name: getattr(request, name) for name in CapRequest.__dataclass_fields__ if name not in ("raw", "digest")
    }
    with pytest.raises(KeyServiceError):
        CapRequest.compose(**(members | change))
