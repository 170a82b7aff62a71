import json
from typing import Any

import pytest

from agentkeys_core.changes import Domain
from agentkeys_core.encoding import canonical_json
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.hashes import sha256
from agentkeys_core.ops import WorkerClass
from agentkeys_core.profile import ChainProfile, Profile, check_origin

CONTRACT = b"\x11" * 20


def profile(**changed: Any) -> Profile:
    members: dict[str, Any] = {
        "aud": "6f" * 32,
        "broker": "https://broker.example:8443",
        "ca": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "issuer": "https://issuer.example",
        "trust_domain": "keys.example",
        "workers": {worker: f"https://{worker}.example" for worker in WorkerClass},
        "chain": None,
    }
    return Profile(**(members | changed))


def on_chain() -> Profile:
    chain = ChainProfile(
        id=8453, contracts={"registry": CONTRACT}, endpoints=("https://rpc.example/v1", "http://127.0.0.1:8545")
    )
    return profile(aud=f"eip155:8453:0x{CONTRACT.hex()}", chain=chain)


@pytest.mark.parametrize("made", [profile(), on_chain()], ids=["embedded", "chain"])
def test_reads_what_it_writes(made: Any) -> None:
    assert Profile.parse(made.encode()) == made
    assert made.hash() == sha256(made.encode())


def test_is_the_canonical_json_of_the_specification() -> None:
    written = json.loads(profile().encode())
    assert sorted(written) == ["aud", "broker", "ca", "chain", "issuer", "trust_domain", "ver", "workers"]
    assert sorted(written["workers"]) == ["audit", "credentials", "memory"]
    assert written["ver"] == 1
    assert sorted(json.loads(on_chain().encode())["chain"]) == ["contracts", "endpoints", "id"]


def test_names_the_domain_of_its_registry() -> None:
    assert profile().domain == Domain.embedded(b"\x6f" * 32)
    assert on_chain().domain == Domain.chain(8453, CONTRACT)


def refused(changed: dict[str, object], reason: Reason = Reason.INVALID_ENCODING, of: Profile | None = None) -> None:
    document = {**json.loads((of or profile()).encode()), **changed}
    with pytest.raises(KeyServiceError) as caught:
        Profile.parse(canonical_json({name: value for name, value in document.items() if value is not ...}))
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "changed",
    [
        {"aud": "x"},
        {"aud": ""},
        {"aud": None},
        {"broker": ...},
        {"ca": "AAAA"},
        {"ca": 1},
        {"trust_domain": "Keys.example"},
        {"trust_domain": ""},
        {"ver": "1"},
        {"ver": True},
        {"workers": {}},
        {"workers": {"audit": "https://a.example", "credentials": "https://a.example"}},
        {"workers": []},
        {"chain": {}},
    ],
)
def test_refuses_malformed_profiles(changed: Any) -> None:
    refused(changed)


def test_refuses_unknown_names() -> None:
    refused({"more": 1}, Reason.UNKNOWN_FIELDS)
    refused(
        {"workers": {**json.loads(profile().encode())["workers"], "more": "https://a.example"}}, Reason.UNKNOWN_FIELDS
    )


def test_refuses_other_versions() -> None:
    refused({"ver": 2}, Reason.UNSUPPORTED_VERSION)


def test_refuses_a_registry_id_that_does_not_fit_the_chain() -> None:
    refused({"chain": json.loads(on_chain().encode())["chain"]})
    refused({"chain": None}, of=on_chain())
    refused({"aud": f"eip155:1:0x{CONTRACT.hex()}"}, of=on_chain())


@pytest.mark.parametrize(
    "chain",
    [
        {"contracts": {"registry": "0x11"}},
        {"contracts": {"a b": "0x" + "11" * 20}},
        {"contracts": []},
        {"endpoints": []},
        {"endpoints": ["ftp://rpc.example"]},
        {"endpoints": [1]},
        {"endpoints": "https://rpc.example"},
        {"id": 0},
        {"id": "8453"},
    ],
)
def test_refuses_malformed_chains(chain: Any) -> None:
    refused({"chain": {**json.loads(on_chain().encode())["chain"], **chain}}, of=on_chain())


def test_refuses_bytes_that_are_not_canonical() -> None:
    with pytest.raises(KeyServiceError) as caught:
        Profile.parse(json.dumps(json.loads(profile().encode())).encode())
    assert caught.value.reason == Reason.INVALID_ENCODING


def test_refuses_huge_files() -> None:
    with pytest.raises(KeyServiceError) as caught:
        Profile.parse(bytes(64 * 1024 + 1))
    assert caught.value.reason == Reason.TOO_LARGE


@pytest.mark.parametrize(
    "origin", ["https://a", "https://a.example", "https://a.example:1", "https://127.0.0.1:65535", "https://[::1]:443"]
)
def test_accepts_bare_origins(origin: Any) -> None:
    assert check_origin(origin, "broker") == origin


@pytest.mark.parametrize(
    "origin",
    [
        "http://a.example",
        "https://a.example/",
        "https://A.example",
        "https://user@a.example",
        "https://a.example:0",
        "https://a.example:65536",
        "https://a.example:080",
        "https://a.example?x",
        "https://a.example\n",
        "https://",
        "https://.example",
        "https://a_b.example",
        "a.example",
        "",
        None,
    ],
)
def test_refuses_other_origins(origin: Any) -> None:
    with pytest.raises(KeyServiceError) as caught:
        check_origin(origin, "broker")
    assert caught.value.reason == Reason.INVALID_ENCODING
