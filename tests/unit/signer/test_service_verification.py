"""The RPCs that only answer: addresses, and what signatures are worth."""

from dataclasses import replace

import pytest

from agentkeys_core.errors import Reason
from agentkeys_core.keys import DeviceKey, eip191_digest
from agentkeys_core.proof import k10_digest
from tests.unit.core.refusal import refused
from tests.unit.signer.world import CREDENTIALS, broker, world_in

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
CHALLENGE = b"\x42" * 32
K10_V2, EIP712, EIP191 = 1, 2, 3


@pytest.fixture
def world(tmp_path):
    with world_in(tmp_path) as made:
        yield made


@pytest.fixture
def key():
    return DeviceKey.generate()


def verify(world, key, **given):
    members = {"public_key": key.public_key, "payload": b"{}", "scheme": K10_V2, "purpose": "cap", **given}
    return world.service.verify_k10_sig(CREDENTIALS, **members)


def high_s(signature: bytes) -> bytes:
    s = ORDER - int.from_bytes(signature[32:64], "big")
    tail = bytes([signature[64] ^ 1 if signature[64] < 27 else 55 - signature[64]]) if len(signature) == 65 else b""
    return signature[:32] + s.to_bytes(32, "big") + tail


def test_addresses_are_the_keyrings(world):
    with refused("epoch_not_held"):  # held, and not current yet: only prepared
        world.service.derive_address(broker(), b"\x01" * 32, 2)
    world.registry.set_epoch(2)
    assert world.service.derive_address(broker(), b"\x01" * 32, 2) == world.keyring.address(b"\x01" * 32, 2)


@pytest.mark.parametrize(
    ("omni", "epoch", "reason"),
    [
        (b"", 1, "invalid_omni"),
        (bytes(31), 1, "invalid_omni"),
        (bytes(33), 1, "invalid_omni"),
        (bytes(32), 9, "epoch_not_held"),
    ],
)
def test_addresses_that_are_refused(world, omni, epoch, reason):
    with refused(reason):
        world.service.derive_address(broker(), omni, epoch)


@pytest.mark.parametrize("purpose", ["cap", "session"])
def test_a_v2_signature_counts_for_its_purpose(world, key, purpose):
    signature = key.sign(k10_digest(purpose, b"{}"))
    verdict = verify(world, key, signature=signature, purpose=purpose)
    assert (verdict.valid, verdict.reason, verdict.binding) == (True, "", key.key_hash)
    other = "session" if purpose == "cap" else "cap"
    verdict = verify(world, key, signature=signature, purpose=other)
    assert (verdict.valid, verdict.reason, verdict.binding) == (False, "device_signature_invalid", b"")


def test_recoverable_schemes(world, key):
    for scheme, payload, digest in ((EIP712, CHALLENGE, CHALLENGE), (EIP191, b"hello", eip191_digest(b"hello"))):
        signature = key.sign_recoverable(digest)
        forms = (signature, signature[:64] + bytes([signature[64] - 27]))
        for form in forms:
            given = {"scheme": scheme, "payload": payload, "purpose": ""}
            assert verify(world, key, signature=form, **given).binding == key.key_hash
            assert not verify(world, key, signature=high_s(form), **given).valid
            assert not verify(world, DeviceKey.generate(), signature=form, **given).valid
        wrong_parity = signature[:64] + bytes([55 - signature[64]])
        assert not verify(world, key, signature=wrong_parity, scheme=scheme, payload=payload, purpose="").valid
    assert not verify(world, key, signature=high_s(key.sign(k10_digest("cap", b"{}")))).valid


def test_a_key_off_the_curve_is_no_key(world, key):
    signature = key.sign(k10_digest("cap", b"{}"))
    for bad in (bytes(33), b"\x04" + key.public_key[1:], b"\x02" + b"\xff" * 32):
        assert not verify(world, key, public_key=bad, signature=signature).valid


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"scheme": 0}, "invalid_encoding"),
        ({"scheme": 4}, "invalid_encoding"),
        ({"purpose": ""}, "invalid_encoding"),
        ({"purpose": "other"}, "invalid_encoding"),
        ({"public_key": bytes(32)}, "invalid_encoding"),
        ({"signature": bytes(65)}, "invalid_encoding"),
        ({"signature": bytes(64), "scheme": EIP191, "purpose": ""}, "invalid_encoding"),
        ({"signature": bytes(65), "scheme": EIP191, "purpose": "cap"}, "invalid_encoding"),
        ({"signature": bytes(65), "scheme": EIP712, "purpose": "", "payload": b"x"}, "invalid_encoding"),
        ({"payload": bytes(1024 * 1024 + 1)}, "too_large"),
    ],
)
def test_what_no_signature_can_be(world, key, given, reason):
    with refused(reason):
        verify(world, key, **{"signature": bytes(64), **given})


def check(world, assertion, challenge=CHALLENGE):
    return world.service.verify_k11_assertion(broker(), assertion, expected_challenge=challenge)


def test_an_assertion_of_a_registered_k11(world):
    verdict = check(world, world.user.k11.answer(CHALLENGE, count=7))
    assert (verdict.valid, verdict.reason, verdict.sign_count) == (True, "", 7)


def test_assertions_that_count_for_nothing(world):
    answer = world.user.k11.answer(CHALLENGE)
    for bad in (
        world.user.k11.answer(bytes(32)),
        replace(answer, signature=b"x"),
        replace(answer, credential_id=b"stranger"),
        replace(answer, credential_id=world.user.second_k11.credential_id),
        world.user.k11.answer(CHALLENGE, flags=0x01),
    ):
        verdict = check(world, bad)
        assert (verdict.valid, verdict.reason, verdict.sign_count) == (False, "k11_invalid", 0)


def test_the_k11_of_a_revoked_device(world):
    world.registry.bend_device(world.user.master.key_hash, revoked=True)
    verdict = check(world, world.user.k11.answer(CHALLENGE))
    assert (verdict.valid, verdict.reason) == (False, "device_revoked")


def test_assertions_of_impossible_sizes(world):
    answer = world.user.k11.answer(CHALLENGE)
    with refused("invalid_encoding"):
        check(world, answer, challenge=bytes(31))
    with refused("invalid_encoding"):
        check(world, replace(answer, credential_id=b""))
    with refused("invalid_encoding"):
        check(world, replace(answer, credential_id=bytes(1024)))
    with refused("too_large"):
        check(world, replace(answer, signature=bytes(4097)))


def test_an_unreachable_registry_verifies_nothing(world):
    world.registry.failing = Reason.REGISTRY_UNREACHABLE
    with refused("registry_unreachable"):
        check(world, world.user.k11.answer(CHALLENGE))


def test_verification_changes_nothing(world, key):
    before = world.dump()
    verify(world, key, signature=bytes(64))
    check(world, world.user.k11.answer(CHALLENGE))
    world.service.derive_address(broker(), bytes(32), 1)
    assert world.dump() == before
