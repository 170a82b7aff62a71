"""When a device asks the issuer for audit keys again: for each key that it has not met, and for no junk twice."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from agentkeys_core.audit import NO_ROW, AuditEnvelope, AuditRow, OpBody, OpKind, OpResult, row_hash
from agentkeys_core.encoding import b64u_encode
from agentkeys_core.jwks import jwks_document
from agentkeys_core.keys import ES256PublicKey, es256_sign
from device.errors import DeviceError, Trouble
from device.home import Home
from device.trust import AuditKeys


class Origin:
    """The issuer, as far as audit keys go."""

    def __init__(self) -> None:
        self.keys = [ec.generate_private_key(ec.SECP256R1())]
        self.asked = 0

    def fetch(self) -> bytes:
        self.asked += 1
        return jwks_document(ES256PublicKey.of(key.public_key()) for key in self.keys)

    def row(self, key: ec.EllipticCurvePrivateKey | None = None) -> AuditRow:
        key = key or self.keys[-1]
        envelope = AuditEnvelope(
            ts_unix=1,
            actor_omni=bytes(32),
            operator_omni=bytes(32),
            op_kind=OpKind.CRED_LIST,
            op_body=OpBody(),
            result=OpResult.SUCCESS,
        )
        digest = row_hash(bytes(32), NO_ROW, 0, envelope.hash())
        return AuditRow(
            actor=bytes(32),
            envelope=envelope.encode(),
            epoch=1,
            kid=ES256PublicKey.of(key.public_key()).kid,
            prev=NO_ROW,
            row_hash=digest,
            seq=0,
            sig=es256_sign(key, digest),
        )


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with Home.open(tmp_path / "home", create=True) as made:
        yield made


def test_a_rotation_brings_a_key_that_is_fetched_in_the_same_run(home: Home) -> None:
    origin = Origin()
    keys = AuditKeys(home, origin.fetch)
    for rotations in range(1, 4):
        keys.verify(origin.row())
        keys.verify(origin.row())
        assert origin.asked == rotations
        origin.keys.append(ec.generate_private_key(ec.SECP256R1()))


def test_a_key_that_the_issuer_does_not_have_is_asked_for_once(home: Home) -> None:
    origin = Origin()
    keys = AuditKeys(home, origin.fetch)
    keys.verify(origin.row())
    junk = replace(origin.row(), kid=b64u_encode(bytes(32)))
    for _ in range(3):
        with pytest.raises(DeviceError) as caught:
            keys.verify(junk)
        assert caught.value.reason is Trouble.ROW_NOT_TRUSTED
    assert origin.asked == 2
    origin.keys.append(ec.generate_private_key(ec.SECP256R1()))
    keys.verify(origin.row())  # junk before it does not keep a real key out
