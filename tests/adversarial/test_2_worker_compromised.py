"""Promise 2: a worker gets the current version of what a device asked for, while that request is in its window."""

import secrets
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from agentkeys_core.audit import AuditRow
from agentkeys_core.bodies import StoreBody
from agentkeys_core.caprequest import CapRequest
from agentkeys_core.captoken import Cap
from agentkeys_core.envelope import Envelope, ObjectPlaintext, seal_envelope
from agentkeys_core.errors import KeyServiceError
from agentkeys_core.ids import child_omni
from agentkeys_core.keys import DeviceKey, ES256PublicKey
from agentkeys_core.ops import ObjectClass, Op, Service
from agentkeys_core.secret import Secret
from demo.attacker import Who, compose, cosign, stolen_k1
from device.credentials import get, put, remove
from device.errors import DeviceError, Trouble
from tests.adversarial.town import OPENROUTER, Member, Town, Version, reason, reason_of


@pytest.fixture(scope="module")
def master(town: Town) -> Member:
    return town.master()


@pytest.fixture(scope="module")
def other(town: Town) -> Member:
    """Another user."""
    return town.master()


@pytest.fixture(scope="module")
def agent(town: Town, master: Member) -> Member:
    return town.agent(master, OPENROUTER, "cred:second")


@pytest.fixture(scope="module")
def version(town: Town, master: Member) -> Version:
    return town.store(master, OPENROUTER, b"the first value")


def read(town: Town, cap: Cap, version: Version, worker: str = "credentials") -> str:
    """What a thief with that worker's certificate gets for a cap and the salt of some version."""
    return reason(lambda: town.signer(worker).derive_cred_kek(cap.encode(), **version.salt))


def test_the_object_asked_for_is_released(town: Town, agent: Member, version: Version) -> None:
    """What the refusals below are measured against."""
    cap = agent.cap(Op.CRED_FETCH, OPENROUTER)
    assert town.signer().derive_cred_kek(cap.encode(), **version.salt).key == version.released.key


def test_not_another_service(town: Town, master: Member, agent: Member, version: Version) -> None:
    second = town.store(master, "cred:second", b"the second")
    assert read(town, agent.cap(Op.CRED_FETCH, OPENROUTER), second) == "version_not_current"
    assert read(town, agent.cap(Op.CRED_FETCH, "cred:second"), version) == "version_not_current"


def test_not_another_owner(town: Town, agent: Member, other: Member) -> None:
    """The same name of another user is another object."""
    theirs = town.store(other, OPENROUTER, b"theirs")
    assert read(town, agent.cap(Op.CRED_FETCH, OPENROUTER), theirs) == "version_not_current"


def test_not_another_actor(town: Town, master: Member, agent: Member) -> None:
    """A request names its actor, and its device is that actor's: a sibling's name in it is refused."""
    sibling = Who(operator=master.who.operator, actor=child_omni(master.who.operator, "sibling", 1))
    cap = cosign(town.stack, compose(town.stack, agent.key, sibling, Op.CRED_FETCH, OPENROUTER).cap)
    assert reason(lambda: town.signer().derive_cred_kek(cap.encode(), epoch=1, salt=bytes(32))) == (
        "actor_binding_mismatch"
    )


@pytest.mark.parametrize(
    ("worker", "op", "service"),
    [
        ("audit", Op.CRED_FETCH, OPENROUTER),
        ("audit", Op.CRED_LIST, "cred:list"),
        ("credentials", Op.MEMORY_GET, "memory:notes"),
        ("credentials", Op.MEMORY_LIST, "memory:list"),
        ("credentials", Op.AUDIT_LIST, "audit:own"),
    ],
)
def test_not_another_class(town: Town, agent: Member, worker: str, op: Op, service: str) -> None:
    cap = agent.cap(op, service).encode()
    signer = town.signer(worker)
    assert reason(lambda: signer.derive_cred_kek(cap, epoch=1, salt=bytes(32))) == "class_mismatch"
    assert reason(lambda: signer.sign_audit_row(cap, result=1)) == "class_mismatch"
    assert reason(lambda: signer.list_objects(cap, after=None, limit=1)) == "class_mismatch"
    assert reason(lambda: signer.get_audit_rows(cap, after=None, limit=1)) == "class_mismatch"


def test_not_the_brokers_calls(town: Town) -> None:
    assert reason(lambda: town.signer().derive_address(bytes(32), epoch=1)) == "role_not_allowed"


def test_not_an_older_version(town: Town, master: Member, agent: Member) -> None:
    """Neither by asking, nor by putting the old object back."""
    old = town.store(master, "cred:second2", b"leaked long ago")
    new = town.store(master, "cred:second2", b"rotated", expect=old.cap.request.digest)
    fetch = master.cap(Op.CRED_FETCH, "cred:second2", k11=True)
    assert read(town, fetch, old) == "version_not_current"
    assert town.signer().derive_cred_kek(fetch.encode(), **new.salt).key == new.released.key
    assert new.released.key != old.released.key


def test_a_restored_bucket_brings_no_old_value_back(town: Town, master: Member) -> None:
    put(master.device, "restored", b"old")
    file = town.object_file(master, "cred:restored")
    backup = file.read_bytes()
    put(master.device, "restored", b"new")
    current = file.read_bytes()
    file.write_bytes(backup)
    with pytest.raises(KeyServiceError) as caught:
        get(master.device, "restored")
    assert caught.value.reason == "version_not_current"
    file.write_bytes(current)
    assert get(master.device, "restored").value == b"new"
    remove(master.device, "restored")
    file.write_bytes(current)
    with pytest.raises(KeyServiceError) as caught:
        get(master.device, "restored")
    assert caught.value.reason == "version_not_current"


def test_one_versions_key_opens_no_other(town: Town, master: Member) -> None:
    """A key that a worker kept opens what it opened then, and nothing that was stored since."""
    put(master.device, "kept", b"old")
    file = town.object_file(master, "cred:kept")
    old = Envelope.parse(file.read_bytes())
    cap = master.cap(Op.CRED_FETCH, "cred:kept", k11=True)
    kept = town.signer().derive_cred_kek(cap.encode(), epoch=old.epoch, salt=old.salt)
    put(master.device, "kept", b"new")
    new = Envelope.parse(file.read_bytes())
    where: dict[str, Any] = {"owner": master.who.operator, "service": Service.parse("cred:kept", Op.CRED_FETCH)}
    with Secret.copy_of(kept.key) as key:
        assert reason(partial(new.decrypt, key, kept.commitment, **where)) == "invalid_envelope"
        assert b"old" not in old.decrypt(key, kept.commitment, **where)[:3]


def test_a_request_out_of_its_window_is_worth_nothing(town: Town, agent: Member, version: Version) -> None:
    kept = agent.cap(Op.CRED_FETCH, OPENROUTER, age_s=361)
    assert read(town, kept, version) == "cap_expired"
    early = agent.cap(Op.CRED_FETCH, OPENROUTER, age_s=-120)
    assert read(town, early, version) == "cap_not_yet_valid"


def test_a_store_is_done_once(town: Town, master: Member, version: Version) -> None:
    """The same store again gets no second key, and its row shows that it was done."""
    signer = town.signer()
    with pytest.raises(KeyServiceError) as caught:
        signer.derive_cred_kek(version.cap.encode())
    assert caught.value.reason == "cap_replayed"
    assert caught.value.row == version.released.row
    assert reason(lambda: signer.sign_audit_row(version.cap.encode(), result=1)) == "cap_replayed"


def test_a_delete_is_done_once_and_a_store_kept_back_does_not_follow_it(town: Town, master: Member) -> None:
    stored = town.store(master, "cred:gone", b"x")
    delete = master.cap(Op.CRED_DELETE, "cred:gone", k11=True)
    row = town.signer().sign_audit_row(delete.encode(), result=0)
    assert town.signer().sign_audit_row(delete.encode(), result=0) == row
    fetch = master.cap(Op.CRED_FETCH, "cred:gone", k11=True)
    assert read(town, fetch, stored) == "version_not_current"
    assert reason(lambda: town.signer().derive_cred_kek(stored.cap.encode())) == "cap_replayed"


def test_a_lie_about_the_expected_version_is_refused(town: Town, master: Member) -> None:
    first = town.store(master, "cred:lied", b"x")
    body = StoreBody(blind=bytes(32), expect=None, value=b"y").encode()
    cap = master.cap(Op.CRED_STORE, "cred:lied", body, k11=True)
    assert reason(lambda: town.signer().derive_cred_kek(cap.encode())) == "version_not_current"
    wrong = secrets.token_bytes(32)
    assert reason(lambda: town.signer().derive_cred_kek(cap.encode(), expect=wrong)) == "version_not_current"
    assert town.signer().derive_cred_kek(cap.encode(), expect=first.cap.request.digest).key


def test_nothing_that_a_device_signed_can_be_changed(town: Town, master: Member, agent: Member) -> None:
    signer = town.signer()
    cap = agent.cap(Op.CRED_FETCH, OPENROUTER)
    raw = cap.request.raw.replace(b"cred:openrouter", b"cred:opensource")
    turned = replace(cap, request=CapRequest.parse(raw))
    assert reason(lambda: signer.derive_cred_kek(turned.encode(), epoch=1, salt=bytes(32))) == (
        "broker_signature_invalid"
    )
    again = cosign(town.stack, replace(agent.asked(Op.CRED_FETCH, OPENROUTER).cap, request=CapRequest.parse(raw)))
    assert reason(lambda: signer.derive_cred_kek(again.encode(), epoch=1, salt=bytes(32))) == (
        "device_signature_invalid"
    )
    bare = replace(master.cap(Op.CRED_FETCH, OPENROUTER, k11=True), k11=None)
    assert reason(lambda: signer.derive_cred_kek(bare.encode(), epoch=1, salt=bytes(32))) == "broker_signature_invalid"


def test_a_co_signature_of_its_own_is_none(town: Town, agent: Member) -> None:
    """A worker holds no K1: its caps lack the pinned kid, or the signature."""
    cap = agent.cap(Op.CRED_FETCH, OPENROUTER)
    for bad in (replace(cap, cosign=secrets.token_bytes(64)), replace(cap, kid="A" * 43)):
        call = partial(town.signer().derive_cred_kek, bad.encode(), epoch=1, salt=bytes(32))
        assert reason(call) == "broker_signature_invalid"


def sealed(town: Town, master: Member, version: Version, name: str, plaintext: ObjectPlaintext) -> None:
    """Put an object of the thief's making in place of a version, under that version's genuine key."""
    released = version.released
    with Secret.copy_of(released.key) as key:
        data = seal_envelope(
            key,
            epoch=released.epoch,
            object_class=ObjectClass.CREDENTIALS,
            salt=released.salt,
            commitment=released.commitment,
            owner=master.who.operator,
            service=Service.parse(f"cred:{name}", Op.CRED_STORE),
            plaintext=plaintext.encode(),
        )
    file = town.object_file(master, f"cred:{name}")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


def test_a_value_that_it_swaps_is_noticed_by_whoever_reads_it(town: Town, master: Member) -> None:
    """The store's row commits to the body; a worker encrypts another one under the genuine key, with the genuine row."""
    version = town.store(master, "cred:swapped", b"the user's")
    swapped = StoreBody(blind=secrets.token_bytes(32), expect=None, value=b"the worker's").encode()
    row = AuditRow.parse(version.released.row)
    sealed(town, master, version, "swapped", ObjectPlaintext(body=swapped, row=row))
    with pytest.raises(DeviceError) as caught:
        get(master.device, "swapped")
    assert caught.value.reason is Trouble.ROW_NOT_TRUSTED


def test_an_older_value_that_it_kept_is_noticed_by_whoever_reads_it(town: Town, master: Member) -> None:
    """Value and row are genuine, but of a store that another one replaced: not what the signer released the key of."""
    old = town.store(master, "cred:revived", b"leaked long ago")
    new = town.store(master, "cred:revived", b"rotated", expect=old.cap.request.digest)
    kept = ObjectPlaintext(body=old.body, row=AuditRow.parse(old.released.row))
    sealed(town, master, new, "revived", kept)
    with pytest.raises(DeviceError) as caught:
        get(master.device, "revived")
    assert caught.value.reason is Trouble.ROW_NOT_TRUSTED


def test_an_honest_worker_asks_the_signer_nothing_that_it_would_refuse_itself(town: Town, agent: Member) -> None:
    """Refusals of the worker leave no trace at the signer, which says each of its own refusals: no call was made."""
    caps = [
        agent.cap(Op.CRED_FETCH, "cred:not-granted"),
        agent.cap(Op.CRED_FETCH, OPENROUTER, age_s=400),
        agent.cap(Op.CRED_FETCH, OPENROUTER, signer=DeviceKey.generate()),
        replace(agent.cap(Op.CRED_FETCH, OPENROUTER), cosign=bytes(64)),
    ]
    log = town.stack.root / "logs" / "signer.log"
    before = log.read_text().count("/DeriveCredKek")
    asked = agent.asked(Op.CRED_FETCH, OPENROUTER)
    refused = [reason_of(town.ask_worker(asked, cap)) for cap in caps]
    assert refused == [
        "service_not_in_scope",
        "cap_expired",
        "device_signature_invalid",
        "broker_signature_invalid",
    ]
    assert log.read_text().count("/DeriveCredKek") == before
    assert reason(partial(town.signer().derive_cred_kek, caps[0].encode(), epoch=1, salt=bytes(32))) == refused[0]
    assert log.read_text().count("/DeriveCredKek") == before + 1


def test_it_does_not_hold_the_brokers_key(town: Town) -> None:
    """Nothing in a worker's folder or configuration is K1: it pins the public half."""
    text = town.stack.config("credentials").read_text()
    assert "k1.jwk.json" in text
    assert "k1.pem" not in text
    pinned = (town.stack.root / "broker" / "k1.jwk.json").read_text()
    assert '"d"' not in pinned
    assert ES256PublicKey.of(stolen_k1(town.stack).public_key()).kid
