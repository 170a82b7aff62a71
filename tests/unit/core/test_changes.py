import dataclasses
from typing import Any

import pytest
from eth_account.messages import _hash_eip191_message, encode_typed_data
from hypothesis import given as given_by
from hypothesis import settings
from hypothesis import strategies as st

from agentkeys_core.changes import CHANGES, TYPES, AddMaster, Domain, Enrol, Pair, RevokeDevice, parse_change
from agentkeys_core.encoding import address_decode, b64u_encode
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ids import child_omni, operator_omni
from agentkeys_core.keys import recover_address
from tests.unit.core.material import OPERATOR, WALLET, add_agent, enrol, freeze, pair, set_scope
from tests.unit.core.vectors import cases

EMBEDDED = Domain.embedded(bytes(range(32)))
ON_CHAIN = Domain.chain(8453, bytes(range(20)))
MAX = 2**53 - 1


def domain_of(given: dict[str, Any]) -> Domain:
    if "salt" in given:
        return Domain.embedded(given["salt"][2:])
    return Domain.chain(given["chainId"], address_decode(given["verifyingContract"]))


@pytest.mark.parametrize(("given", "expect"), cases("registry_change"))
def test_vectors_of_changes(given: Any, expect: Any) -> None:
    domain = domain_of(given["domain"])
    # The case of the largest numbers names an actor omni that does not follow from them: it fixes the encoding only.
    change = TYPES[given["type"]].read_message(given["message"])
    if given["message"].get("label") != "last":
        assert parse_change(given["type"], given["message"]) == change
    assert change.struct.text == expect["type"]
    assert change.struct.type_hash.hex() == expect["type_hash"]
    assert domain.struct.text == expect["domain_type"]
    assert domain.separator.hex() == expect["domain_separator"]
    assert domain.to_json() == given["domain"]
    assert change.struct.hash(change._read).hex() == expect["struct_hash"]
    assert change.digest(domain).hex() == expect["digest"]
    assert b64u_encode(change.digest(domain)) == expect["k11_challenge"]
    assert change.to_message() == given["message"]
    for signer in expect["signatures"].values():
        recovered = recover_address(change.digest(domain), bytes.fromhex(signer["signature"]))
        assert recovered == address_decode(signer["address"])


@pytest.mark.parametrize(("given", "expect"), cases("negative", "eip712"))
def test_vectors_of_refused_signatures(given: Any, expect: Any) -> None:
    recovered = recover_address(bytes.fromhex(given["digest"]), bytes.fromhex(given["signature"]))
    assert (recovered == address_decode(given["address"])) == (expect["reason"] == "ok")


def oracle(change: Any, domain: Domain) -> bytes:
    return bytes(_hash_eip191_message(encode_typed_data(full_message=change.typed_data(domain))))


KINDS = {
    "bytes32": st.binary(min_size=32, max_size=32),
    "address": st.binary(min_size=20, max_size=20),
    "uint8": st.integers(0, 2**8 - 1),
    "uint64": st.integers(0, 2**64 - 1),
    "uint256": st.integers(0, 2**256 - 1),
    "string": st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    "string[]": st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=5).map(tuple),
}


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("domain", [EMBEDDED, ON_CHAIN], ids=["embedded", "chain"])
@settings(max_examples=20, deadline=None)
@given_by(data=st.data())
def test_agrees_with_another_eip712_encoder(name: Any, domain: Any, data: Any) -> None:
    kind = TYPES[name]
    values = {member.attribute: data.draw(KINDS[member.kind], label=member.name) for member in kind.struct.members}
    change = kind(**values)
    assert change.digest(domain) == oracle(change, domain)


def test_the_set_of_changes_is_the_table_of_the_specification() -> None:
    assert set(TYPES) - set(CHANGES) == {"Pair"}
    assert len(CHANGES) == 11


def test_a_domain_follows_from_the_registry_id() -> None:
    assert Domain.of("00" * 32) == Domain.embedded(bytes(32))
    assert Domain.of("eip155:31337:0x" + "11" * 20) == Domain.chain(31337, b"\x11" * 20)
    assert Domain.of("eip155:1:0x" + "11" * 20).is_chain
    assert not EMBEDDED.is_chain


@pytest.mark.parametrize(
    "aud",
    [
        "",
        "00" * 31,
        "AA" * 32,
        "00" * 32 + "\n",
        "eip155:01:0x" + "11" * 20,
        "eip155:1:" + "11" * 20,
        "eip155:1:0x" + "AA" * 20,
        "eip155:" + "9" * 78 + ":0x" + "11" * 20,
        "eip155:1:0x" + "11" * 20 + "\n",
    ],
)
def test_other_registry_ids_have_no_domain(aud: Any) -> None:
    with pytest.raises(KeyServiceError) as caught:
        Domain.of(aud)
    assert caught.value.reason == Reason.INVALID_CHANGE


def read(change: Any, name: str) -> object:
    return getattr(change, name)


def refused(name: object, message: object, reason: Reason = Reason.INVALID_CHANGE) -> None:
    with pytest.raises(KeyServiceError) as caught:
        parse_change(name, message)
    assert caught.value.reason == reason


GOOD = [enrol(), add_agent(), set_scope(), freeze(), pair()]


@pytest.mark.parametrize("change", GOOD, ids=lambda change: change.type)
def test_reads_what_it_writes(change: Any) -> None:
    assert parse_change(change.type, change.to_message()) == change


@pytest.mark.parametrize("change", GOOD, ids=lambda change: change.type)
def test_refuses_missing_and_unknown_members(change: Any) -> None:
    message = change.to_message()
    refused(change.type, {**message, "more": 1}, Reason.UNKNOWN_FIELDS)
    for name in message:
        refused(change.type, {other: value for other, value in message.items() if other != name})
        refused(change.type, {**message, name: None})
        refused(change.type, {**message, name: 1.5})
        refused(change.type, {**message, name: True})


@pytest.mark.parametrize("name", ["", "enrol", "EIP712Domain", "Enrol\n", None, 1, []])
def test_refuses_unknown_types(name: Any) -> None:
    refused(name, enrol().to_message())


@pytest.mark.parametrize("message", [None, [], "x", 1])
def test_refuses_messages_that_are_no_objects(message: Any) -> None:
    refused("Freeze", message)


@pytest.mark.parametrize(
    "value",
    ["00" * 32, "0x" + "00" * 31, "0x" + "00" * 33, "0x" + "AA" * 32, "0X" + "00" * 32, "0x" + "0 " * 32, "", "0x", 0],
)
def test_refuses_loose_hashes(value: Any) -> None:
    refused("Freeze", {**freeze().to_message(), "operatorOmni": value})


@pytest.mark.parametrize("value", ["0x" + "00" * 32, "0x" + "AA" * 20, "0x" + "00" * 19])
def test_refuses_loose_addresses(value: Any) -> None:
    refused("Pair", {**pair().to_message(), "device": value})


@pytest.mark.parametrize(
    "value",
    [
        -1,
        MAX + 1,
        2**64,
        "1",
        "0",
        str(MAX),
        str(2**64),
        "0" + str(2**60),
        "+" + str(2**60),
        " " + str(2**60),
        hex(2**60),
        "",
        str(2**60) + "\n",
        "\u0661" * 18,
        "9" * 5000,
    ],
)
def test_each_integer_has_one_form(value: Any) -> None:
    refused("Freeze", {**freeze().to_message(), "freezeNonce": value})


@pytest.mark.parametrize(
    ("value", "number"), [(0, 0), (MAX, MAX), (str(MAX + 1), MAX + 1), (str(2**64 - 1), 2**64 - 1)]
)
def test_reads_integers_up_to_64_bits(value: Any, number: Any) -> None:
    assert read(parse_change("Freeze", {**freeze().to_message(), "freezeNonce": value}), "freeze_nonce") == number


@pytest.mark.parametrize("roles", [0, 8, 255, 256])
def test_refuses_roles_beyond_the_three_bits(roles: Any) -> None:
    refused("Enrol", {**enrol().to_message(), "roles": roles})
    header = {"incarnation": 1, "nonce": 1, "deadline": 1}
    message = {"operatorOmni": "0x" + "00" * 32, "deviceKeyHash": "0x" + "00" * 32, "roles": roles, **header}
    refused("SetRoles", message)
    assert read(parse_change("SetRoles", {**message, "roles": 7}), "roles") == 7


def test_refuses_a_threshold_of_none() -> None:
    message = {"operatorOmni": "0x" + "00" * 32, "threshold": 0, "incarnation": 1, "nonce": 1, "deadline": 1}
    refused("SetThreshold", message)
    assert read(parse_change("SetThreshold", {**message, "threshold": 1}), "threshold") == 1


@pytest.mark.parametrize("classes", [0, 4, 255])
def test_refuses_classes_that_do_not_exist(classes: Any) -> None:
    omni = "0x" + "00" * 32
    message = {"operatorOmni": omni, "actorOmni": omni, "classes": classes, "incarnation": 1, "nonce": 1, "deadline": 1}
    refused("Teardown", message)
    assert read(parse_change("Teardown", {**message, "classes": 3}), "classes") == 3


def test_refuses_an_operator_omni_that_is_not_the_wallets() -> None:
    refused("Enrol", enrol(operator_omni=operator_omni(bytes(20)), wallet_epoch=1).to_message())


@pytest.mark.parametrize(("identity", "epoch"), [(OPERATOR, 1), (bytes(32), 0), (bytes(32), 2**32)])
def test_refuses_a_wallet_epoch_that_does_not_fit_the_identity(identity: Any, epoch: Any) -> None:
    refused("Enrol", enrol(identity_omni=identity, wallet_epoch=epoch).to_message())


def test_accepts_identities_beside_the_wallet() -> None:
    change = enrol(identity_omni=bytes(32), wallet_epoch=1)
    assert parse_change("Enrol", change.to_message()) == change
    assert not change.is_evm
    assert enrol().is_evm


def test_refuses_a_relying_party_beside_localhost() -> None:
    refused("Enrol", enrol(k11_rp_id_hash=bytes(32)).to_message())


def test_refuses_a_k11_key_off_the_curve() -> None:
    refused("Enrol", enrol(k11_y=1).to_message())
    refused("Enrol", enrol(k11_x=2**256 - 1).to_message())


def test_add_master_is_checked_like_enrol() -> None:
    names = {field.name for field in dataclasses.fields(AddMaster)}
    values = {name: getattr(enrol(), name) for name in names}
    master = AddMaster(**values)
    assert parse_change("AddMaster", master.to_message()) == master
    assert master.k11 == enrol().k11
    refused("AddMaster", dataclasses.replace(master, k11_rp_id_hash=bytes(32)).to_message())


@pytest.mark.parametrize(
    "changed",
    [
        {"actor_omni": bytes(32)},
        {"label": "agent-b"},
        {"generation": 1},
        {"operator_omni": bytes(32)},
        {"label": "Agent"},
        {"label": ""},
        {"label": "a" * 33},
        {"label": "agent-a\n"},
        {"generation": 2**53},
    ],
)
def test_refuses_an_actor_omni_that_does_not_fit(changed: Any) -> None:
    refused("AddAgent", add_agent(**changed).to_message())


def test_the_generation_reaches_2_to_53_less_one() -> None:
    change = add_agent(generation=MAX, actor_omni=child_omni(OPERATOR, "agent-a", MAX))
    assert parse_change("AddAgent", change.to_message()) == change


BAD_SERVICES = [
    "",
    "openrouter",
    "cred:",
    "cred:Open",
    "cred:a/b",
    "cred:../x",
    "CRED:x",
    "cred:x\n",
    "cred:" + "a" * 65,
    "audit:all",
]


@pytest.mark.parametrize("service", BAD_SERVICES)
def test_refuses_malformed_services(service: Any) -> None:
    refused("AddAgent", add_agent(services=(service,)).to_message())
    refused("SetScope", set_scope(grant=(service,)).to_message())
    refused("SetScope", set_scope(revoke=(service,)).to_message())


@pytest.mark.parametrize("services", ["cred:x", {"cred:x": 1}, [1], [["cred:x"]], [None]])
def test_refuses_services_that_are_no_list_of_texts(services: Any) -> None:
    refused("AddAgent", {**add_agent().to_message(), "services": services})


def test_refuses_services_named_twice() -> None:
    refused("AddAgent", add_agent(services=("cred:x", "cred:x")).to_message())
    refused("SetScope", set_scope(grant=("cred:x",), revoke=("cred:x",)).to_message())
    refused("SetScope", set_scope(grant=(), revoke=("cred:x", "cred:x")).to_message())


def test_services_need_no_order() -> None:
    change = add_agent(services=("memory:b", "cred:a"))
    assert read(parse_change("AddAgent", change.to_message()), "services") == ("memory:b", "cred:a")


def test_a_digest_depends_on_registry_and_every_member() -> None:
    base = set_scope()
    names = [field.name for field in dataclasses.fields(base)]
    variants = [set_scope(**{name: _other(getattr(base, name))}) for name in names]
    digests = {change.digest(EMBEDDED) for change in [base, *variants]} | {base.digest(ON_CHAIN)}
    assert len(digests) == len(variants) + 2


def _other(value: bytes | int | tuple[str, ...]) -> bytes | int | tuple[str, ...]:
    if isinstance(value, tuple):
        return ("cred:z",)
    return value + 1 if isinstance(value, int) else bytes([value[0] ^ 1]) + value[1:]


def test_values_out_of_range_have_no_digest() -> None:
    with pytest.raises(KeyServiceError):
        dataclasses.replace(freeze(), freeze_nonce=2**64).digest(EMBEDDED)
    with pytest.raises(KeyServiceError):
        dataclasses.replace(freeze(), operator_omni=bytes(31)).digest(EMBEDDED)


def test_types_are_what_their_names_say() -> None:
    assert parse_change("Enrol", enrol().to_message()).type == "Enrol"
    assert (Enrol.struct.name, Pair.struct.name, RevokeDevice.struct.name) == ("Enrol", "Pair", "RevokeDevice")
    assert enrol().wallet == WALLET
