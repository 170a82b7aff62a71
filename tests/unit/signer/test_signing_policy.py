"""What wallets may sign: read strictly, denied by default."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentkeys_core.ops import Service
from agentkeys_core.siwe import SiweMessage
from agentkeys_core.typed_data import TypedData
from agentkeys_runtime.config import ConfigError
from signer.signing_policy import SigningPolicy, Verdict
from tests.fakes.signing_policy import BOUND, HOST, NOW, PERMIT, POLICY, POLICY_ID, SPENDER, TOKEN, permit, siwe
from tests.unit.core.refusal import refused

OWNER = bytes(range(20))
SIGN_IN = Service.parse(f"siwe:{HOST}")
PERMITS = Service.parse(f"sign:{POLICY_ID}")


def loaded(tmp_path: Path, text: str = POLICY) -> SigningPolicy:
    file = tmp_path / "signing.toml"
    file.write_text(text)
    return SigningPolicy.load(file)


@pytest.fixture
def policy(tmp_path: Path) -> SigningPolicy:
    return loaded(tmp_path)


def sign_in(policy: SigningPolicy, *, service: Service = SIGN_IN, now: float = NOW, **changed: Any) -> None:
    policy.check_siwe(service, SiweMessage.parse(siwe(OWNER, **changed)), now=now)


def judge(policy: SigningPolicy, service: Service = PERMITS, *, now: float = NOW, **changed: Any) -> Verdict:
    return policy.judge_typed_data(service, TypedData.parse(permit(OWNER, **changed)), now=now)


def test_without_a_file_nothing_is_signed() -> None:
    nothing = SigningPolicy.load(None)
    with refused("policy_refused"):
        sign_in(nothing)
    assert judge(nothing).refusal is not None


# --- sign-ins


def test_a_sign_in_that_is_allowed(policy: SigningPolicy) -> None:
    sign_in(policy)
    sign_in(policy, chain_id=8453)


@pytest.mark.parametrize(
    "changed",
    [
        {"domain": "evil.example.com"},
        {"domain": f"{HOST}:443"},
        {"domain": f"user@{HOST}"},
        {"domain": HOST.upper()},
        {"chain_id": 5},
        {"expiration_time": "2025-11-24T15:59:59Z"},
        {"expiration_time": "2025-11-24T16:00:00Z"},
        {"expiration_time": "2025-11-24T16:10:01Z"},
        {"issued_at": "2025-11-24T16:01:01Z"},
        {"uri": "agentkeys:cred:openrouter"},
        {"uri": "AgentKeys://x"},
    ],
)
def test_refuses_another_sign_in(policy: SigningPolicy, changed: dict[str, Any]) -> None:
    with refused("policy_refused"):
        sign_in(policy, **changed)


def test_refuses_one_that_never_ends_or_has_not_begun(policy: SigningPolicy) -> None:
    endless = siwe(OWNER).replace("\nExpiration Time: 2025-11-24T16:05:00Z", "")
    early = siwe(OWNER) + "\nNot Before: 2025-11-24T16:00:01Z"
    for text in (endless, early):
        with refused("policy_refused"):
            policy.check_siwe(SIGN_IN, SiweMessage.parse(text), now=NOW)
    policy.check_siwe(SIGN_IN, SiweMessage.parse(early), now=NOW + 1)


@pytest.mark.parametrize("resource", ["agentkeys:scope", "AGENTKEYS://scope"])
def test_refuses_a_resource_of_our_own(policy: SigningPolicy, resource: str) -> None:
    text = f"{siwe(OWNER)}\nResources:\n- https://example.com/ok\n- {resource}"
    with refused("policy_refused"):
        policy.check_siwe(SIGN_IN, SiweMessage.parse(text), now=NOW)
    policy.check_siwe(SIGN_IN, SiweMessage.parse(text.rpartition("\n")[0]), now=NOW)


def test_refuses_a_host_that_is_not_named(policy: SigningPolicy) -> None:
    with refused("policy_refused"):
        sign_in(policy, service=Service.parse("siwe:other.example.com"), domain="other.example.com")


# --- typed data


def test_a_permit_within_its_bound_needs_no_k11_and_one_above_does(policy: SigningPolicy) -> None:
    assert judge(policy) == Verdict(k11=False)
    assert judge(policy, value=BOUND + 1) == Verdict(k11=True)
    assert judge(policy, value=str(2**256 - 1)) == Verdict(k11=True)


@pytest.mark.parametrize(
    "changed",
    [
        {"domain": {"chainId": 1}},
        {"domain": {"verifyingContract": SPENDER}},
        {"spender": TOKEN},
        {"deadline": NOW + 3601},
    ],
)
def test_refuses_what_no_rule_allows(policy: SigningPolicy, changed: dict[str, Any]) -> None:
    verdict = judge(policy, **changed)
    assert verdict.refusal is not None
    assert not verdict.k11


def test_refuses_another_policy_id(policy: SigningPolicy) -> None:
    assert judge(policy, Service.parse("sign:other")).refusal is not None
    assert judge(policy, Service.parse("sign:always-k11")).refusal is not None


def test_refuses_another_type_of_the_same_name(policy: SigningPolicy) -> None:
    obj = permit(OWNER)
    obj["types"]["Permit"].append({"name": "note", "type": "string"})
    obj["message"]["note"] = ""
    assert policy.judge_typed_data(PERMITS, TypedData.parse(obj), now=NOW).refusal is not None


@pytest.mark.parametrize("gone", ["chainId", "verifyingContract"])
def test_refuses_a_domain_that_leaves_open_where_it_counts(policy: SigningPolicy, gone: str) -> None:
    obj = permit(OWNER)
    obj["types"]["EIP712Domain"] = [member for member in obj["types"]["EIP712Domain"] if member["name"] != gone]
    del obj["domain"][gone]
    assert policy.judge_typed_data(PERMITS, TypedData.parse(obj), now=NOW).refusal is not None


def order(*prices: int) -> TypedData:
    return TypedData.parse(
        {
            "types": {
                "EIP712Domain": [
                    {"name": "chainId", "type": "uint256"},
                    {"name": "verifyingContract", "type": "address"},
                ],
                "Order": [{"name": "items", "type": "Item[]"}, {"name": "buyer", "type": "address"}],
                "Item": [{"name": "price", "type": "uint256"}, {"name": "name", "type": "string"}],
            },
            "primaryType": "Order",
            "domain": {"chainId": 1, "verifyingContract": "0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed"},
            "message": {"items": [{"price": price, "name": "x"} for price in prices], "buyer": SPENDER},
        }
    )


def test_without_a_bound_everything_needs_k11(policy: SigningPolicy) -> None:
    assert policy.judge_typed_data(Service.parse("sign:always-k11"), order(1), now=NOW) == Verdict(k11=True)


def test_every_item_of_an_array_is_held_to_the_bound_and_to_what_is_allowed(tmp_path: Path) -> None:
    policy = loaded(
        tmp_path, f'{POLICY}k11_above = {{ "items.[].price" = "9" }}\nonly = {{ "items.[].name" = ["x"] }}\n'
    )
    service = Service.parse("sign:always-k11")
    assert not policy.judge_typed_data(service, order(9, 9), now=NOW).k11
    assert policy.judge_typed_data(service, order(9, 10), now=NOW).k11
    policy = loaded(tmp_path, f'{POLICY}only = {{ "items.[].name" = ["y"] }}\n')
    assert policy.judge_typed_data(service, order(1), now=NOW).refusal is not None


def test_the_first_rule_that_fits_decides(tmp_path: Path) -> None:
    second = POLICY[POLICY.index("[[sign.usdc") : POLICY.index("[[sign.always")].replace(f'"{BOUND}"', '"5"')
    policy = loaded(tmp_path, second + POLICY)
    assert judge(policy, value=6).k11
    assert not judge(policy, value=5).k11


RULE = f"""\
[[sign.x.allow]]
type = "{PERMIT}"
chain_ids = [1]
verifying_contracts = ["{TOKEN}"]
"""


@pytest.mark.parametrize(
    "text",
    [
        "x = 1",
        "siwe = 1",
        '[siwe."example.com"]',
        '[siwe."example.com"]\nchain_ids = []',
        '[siwe."example.com"]\nchain_ids = [0]',
        '[siwe."example.com"]\nchain_ids = ["1"]',
        '[siwe."example.com"]\nchain_ids = [1]\nmax_lifetime_s = 0',
        '[siwe."example.com"]\nchain_ids = [1]\nmax_lifetime_s = 86401',
        '[siwe."example.com"]\nchain_ids = [1]\nmore = 1',
        '[siwe."Example.com"]\nchain_ids = [1]',
        '[siwe."example.com:80"]\nchain_ids = [1]',
        "[sign.x]",
        "[sign.x]\nallow = []",
        RULE.replace("sign.x", 'sign."X y"'),
        RULE.replace("Permit(address owner,", "Permit(address owner;"),
        RULE.replace("uint256 value", "uint value"),
        RULE.replace("chain_ids = [1]", "chain_ids = []"),
        RULE.replace("chain_ids = [1]", "chain_ids = [-1]"),
        RULE.replace(f'"{TOKEN}"', ""),
        RULE.replace(TOKEN, "0x00"),
        RULE.replace(TOKEN, "0x5aaeb6053F3E94C9b9A09f33669435E7Ef1BeAed"),
        RULE.replace("type = ", "typ = "),
        RULE + 'k11_above = { "amount" = "1" }',
        RULE + 'k11_above = { "spender" = "1" }',
        RULE + 'k11_above = { "value" = "01" }',
        RULE + 'k11_above = { "value" = "-1" }',
        RULE + 'k11_above = { "value" = "0x10" }',
        RULE + 'k11_above = { "value" = 1 }',
        RULE + 'ends_within_s = { "value.x" = 1 }',
        RULE + 'ends_within_s = { "deadline" = 0 }',
        RULE + 'only = { "spenders" = ["x"] }',
        RULE + 'only = { "spender" = [] }',
        RULE + "always = true",
    ],
)
def test_refuses_a_file_that_says_something_else(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError):
        loaded(tmp_path, text)


def test_reads_the_rule_that_those_are_bent_from(tmp_path: Path) -> None:
    loaded(tmp_path, RULE + 'k11_above = { "value" = "0" }\nonly = { "spender" = ["0xABcdef"], "value" = ["1"] }')


def test_refuses_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        SigningPolicy.load(tmp_path / "none.toml")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, len(POLICY)), gone=st.integers(0, 12), put=st.text(max_size=6) | st.sampled_from('"[]{}=,.01'))
def test_any_file_is_a_policy_or_a_named_error(tmp_path: Path, at: int, gone: int, put: str) -> None:
    file = tmp_path / "bent.toml"
    file.write_bytes((POLICY[:at] + put + POLICY[at + gone :]).encode("utf-8", "surrogatepass"))
    try:
        policy = SigningPolicy.load(file)
    except ConfigError:
        return
    assert isinstance(judge(policy), Verdict)
