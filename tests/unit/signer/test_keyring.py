import copy
import hashlib
import hmac
import pickle
import threading
from typing import Any

import pytest

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.jwks import jwks_document
from agentkeys_core.ops import ObjectClass, Service
from agentkeys_core.secret import Secret
from signer import keyring as keyring_module
from signer.derivation import journal_mac_key, k3_check
from signer.keyring import Keyring

K3 = {1: bytes(range(32)), 2: bytes(range(32, 64))}
SERVICE = Service.parse("cred:openrouter")


@pytest.fixture
def keyring() -> Any:
    with Keyring({epoch: Secret.copy_of(k3) for epoch, k3 in K3.items()}) as made:
        yield made


def uses(ring: Any, epoch: Any = 1) -> Any:
    return {
        "address": lambda: ring.address(bytes(32), epoch),
        "object_key": lambda: ring.object_key(epoch, ObjectClass.CREDENTIALS, bytes(32), SERVICE, bytes(32)),
        "audit_sign": lambda: ring.audit_sign(epoch, b"m"),
        "oidc_sign": lambda: ring.oidc_sign(epoch, b"m"),
        "audit_kid": lambda: ring.audit_kid(epoch),
        "oidc_kid": lambda: ring.oidc_kid(epoch),
        "public_key": lambda: ring.public_key("audit", epoch),
        "k3_check": lambda: ring.k3_check(epoch),
        "journal_mac": lambda: ring.journal_mac(epoch, b"m"),
    }


def test_signs_with_the_key_that_it_publishes(keyring: Any) -> None:
    for epoch in keyring.epochs:
        assert keyring.public_key("audit", epoch).verify(b"m", keyring.audit_sign(epoch, b"m"))
        assert keyring.public_key("oidc", epoch).verify(b"m", keyring.oidc_sign(epoch, b"m"))
        assert not keyring.public_key("oidc", epoch).verify(b"m", keyring.audit_sign(epoch, b"m"))


def test_publishes_every_held_epoch(keyring: Any) -> None:
    kids = [key["kid"] for key in keyring.jwks("audit")["keys"]]
    assert kids == [keyring.audit_kid(1), keyring.audit_kid(2)]
    assert not set(kids) & {key["kid"] for key in keyring.jwks("oidc")["keys"]}
    assert b'"d"' not in jwks_document(keyring.public_key("oidc", epoch) for epoch in keyring.epochs)


def test_macs_and_checks_are_those_of_the_epoch(keyring: Any) -> None:
    assert keyring.journal_mac(2, b"head") == hmac.digest(bytes(journal_mac_key(K3[2])), b"head", hashlib.sha256)
    assert keyring.k3_check(2) == k3_check(K3[2])
    assert (keyring.holds(2), keyring.holds(3)) == (True, False)


@pytest.mark.parametrize("use", uses(None))
def test_refuses_an_epoch_that_is_not_held(keyring: Any, use: Any) -> None:
    with pytest.raises(KeyServiceError) as caught:
        uses(keyring, epoch=3)[use]()
    assert caught.value.reason is Reason.EPOCH_NOT_HELD


@pytest.mark.parametrize("use", [*uses(None), "epochs", "holds", "jwks"])
def test_serves_nothing_once_sealed(keyring: Any, use: Any) -> None:
    keyring.seal()
    keyring.seal()
    more = {"epochs": lambda: keyring.epochs, "holds": lambda: keyring.holds(1), "jwks": lambda: keyring.jwks("oidc")}
    with pytest.raises(KeyServiceError) as caught:
        {**uses(keyring), **more}[use]()
    assert caught.value.reason is Reason.SEALED
    assert keyring.sealed


def test_sealing_wipes_the_secrets_that_it_was_given() -> None:
    given = {epoch: bytearray(k3) for epoch, k3 in K3.items()}
    secrets = {
        epoch: Secret.take(buffer) for epoch, buffer in given.items()
    }  # held here, so that nothing collects them
    with Keyring(secrets):
        pass
    assert all(secret.wiped for secret in secrets.values())
    assert given == {1: bytearray(32), 2: bytearray(32)}


@pytest.mark.parametrize("name", ["wallet_address", "object_key"])
def test_a_key_derived_while_the_keyring_was_wiped_is_never_given_out(
    keyring: Any, monkeypatch: Any, name: Any
) -> None:
    derive = getattr(keyring_module, name)

    def derive_late(*args: Any, **kwargs: Any) -> Any:
        sealer = threading.Thread(target=keyring.seal)
        sealer.start()
        sealer.join()
        return derive(*args, **kwargs)  # over zeros

    monkeypatch.setattr(keyring_module, name, derive_late)
    with pytest.raises(KeyServiceError) as caught:
        uses(keyring)[{"wallet_address": "address"}.get(name, name)]()
    assert caught.value.reason is Reason.SEALED


def test_never_shows_copies_or_pickles_itself(keyring: Any) -> None:
    shown = repr(keyring) + repr(keyring.object_key(1, ObjectClass.MEMORY, bytes(32), SERVICE, bytes(32)))
    key = keyring.object_key(1, ObjectClass.MEMORY, bytes(32), SERVICE, bytes(32)).key
    assert K3[1].hex() not in shown
    assert repr(key) not in shown
    for make in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            make(keyring)


@pytest.mark.parametrize("secrets", [{}, {0: bytes(32)}, {1: bytes(31)}])
def test_takes_only_whole_secrets_of_real_epochs(secrets: Any) -> None:
    with pytest.raises(ValueError):
        Keyring({epoch: Secret.copy_of(k3) for epoch, k3 in secrets.items()})
