"""The words for what is signed: right ones, or none."""

import json
from importlib import resources
from typing import Any

import pytest

from agentkeys_core.clear_signing import MAX_INTENT, Descriptor, bundled, intent_of
from agentkeys_core.typed_data import TypedData, kind_at

OWNER, SPENDER, TOKEN = "0x" + "11" * 20, "0x" + "22" * 20, "0x" + "33" * 20
PERMIT2 = "0x000000000022d473030f116ddee9f6b43ac78ba3"
FILES = sorted(file.name for file in (resources.files("agentkeys_core") / "descriptors").iterdir())


def file(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((resources.files("agentkeys_core") / "descriptors" / name).read_text("utf-8"))
    return found


def typed(name: str, domain: dict[str, Any], message: dict[str, Any]) -> dict[str, Any]:
    """Typed data of the schema in a descriptor file."""
    (schema,) = file(name)["context"]["eip712"]["schemas"]
    return {"types": schema["types"], "primaryType": schema["primaryType"], "domain": domain, "message": message}


def erc20(value: str = "25", deadline: str = "1764000300") -> dict[str, Any]:
    domain = {"name": "USD Coin", "version": "2", "chainId": 8453, "verifyingContract": TOKEN}
    message = {"owner": OWNER, "spender": SPENDER, "value": value, "nonce": 0, "deadline": deadline}
    return typed("erc20-permit.json", domain, message)


def single() -> dict[str, Any]:
    domain = {"name": "Permit2", "chainId": 1, "verifyingContract": PERMIT2}
    details = {"token": TOKEN, "amount": "7", "expiration": 1764000300, "nonce": 0}
    message = {"details": details, "spender": SPENDER, "sigDeadline": "1764000000"}
    return typed("permit2-permit-single.json", domain, message)


def transfer() -> dict[str, Any]:
    domain = {"name": "Permit2", "chainId": 1, "verifyingContract": PERMIT2}
    message = {"permitted": {"token": TOKEN, "amount": 9}, "spender": SPENDER, "nonce": 1, "deadline": 1764000000}
    return typed("permit2-transfer-from.json", domain, message)


def words(obj: dict[str, Any]) -> str | None:
    return intent_of(TypedData.parse(obj))


def test_says_a_permit_of_a_token() -> None:
    assert words(erc20()) == (
        f"Let another account spend tokens, on chain 8453: Owner {OWNER}; Spender {SPENDER}; "
        f"At most 25 base units of token {TOKEN}; Usable until 2025-11-24 16:05:00 UTC"
    )


def test_says_what_has_no_end() -> None:
    said = words(erc20(value=str(2**256 - 1), deadline=str(2**256 - 1)))
    assert said is not None
    assert f"At most Unlimited (token {TOKEN}); Usable until without end" in said


def test_says_permit2() -> None:
    assert words(single()) == (
        f"Let another account spend tokens through Permit2, on chain 1: Spender {SPENDER}; "
        f"At most 7 base units of token {TOKEN}; Allowed until 2025-11-24 16:05:00 UTC; "
        "Usable until 2025-11-24 16:00:00 UTC"
    )
    assert words(transfer()) == (
        f"Let another account take tokens once through Permit2, on chain 1: Spender {SPENDER}; "
        f"At most 9 base units of token {TOKEN}; Usable until 2025-11-24 16:00:00 UTC"
    )


@pytest.mark.parametrize(
    ("place", "name", "value"),
    [("domain", "name", "Permit3"), ("domain", "verifyingContract", TOKEN), ("domain", "chainId", 5)],
)
def test_a_look_alike_gets_no_words(place: str, name: str, value: Any) -> None:
    obj = single()
    obj[place][name] = value
    assert words(obj) is None


def test_another_type_of_the_same_name_gets_no_words() -> None:
    obj = erc20()
    obj["types"] = {**obj["types"], "Permit": [*obj["types"]["Permit"], {"name": "note", "type": "string"}]}
    obj["message"] = {**obj["message"], "note": "x"}
    assert words(obj) is None


def test_another_domain_type_gets_no_words() -> None:
    obj = erc20()
    obj["types"] = {**obj["types"], "EIP712Domain": obj["types"]["EIP712Domain"][1:]}
    del obj["domain"]["name"]
    assert words(obj) is None


@pytest.mark.parametrize("name", FILES)
def test_every_bundled_file_is_complete(name: str) -> None:
    """Each field stands in the types, and each member is either shown or excluded by name."""
    obj = file(name)
    for descriptor in Descriptor.parse(obj):
        shown = {field.path for field in descriptor.fields}
        format_ = obj["display"]["formats"][descriptor.types.primary]
        tokens = {field.token_path for field in descriptor.fields if field.token_path not in (None, "@.to")}
        assert set(format_["required"]) <= shown
        paths = [str(path) for path in shown | set(format_["excluded"]) | tokens]
        assert all(kind_at(descriptor.types, path) is not None for path in paths)
        told = {path.split(".")[0] for path in paths}
        assert told == {member.name for member in descriptor.types.structs[descriptor.types.primary]}


def test_words_that_nobody_would_read_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(bundled()) == len(FILES)
    monkeypatch.setattr("agentkeys_core.clear_signing.MAX_INTENT", 50)
    assert MAX_INTENT > 50
    assert words(erc20()) is None
