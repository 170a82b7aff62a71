"""`SignTypedData`: what an actor's managed wallet signs under a policy, and when K11 is asked for."""

import copy
from collections.abc import Callable, Mapping
from typing import Any, Final

from eth_account.messages import encode_typed_data

from agentkeys.signer.v1 import signer_pb2
from agentkeys_core.audit import OpKind, intent_commitment
from agentkeys_core.encoding import b64u_decode, canonical_json
from agentkeys_core.errors import Reason
from agentkeys_core.hashes import keccak256
from agentkeys_core.keys import recover_address
from agentkeys_core.ops import Op
from agentkeys_core.sealing import open_sealed
from tests.conformance.cases import Case, Steps, add, case, equal, expect
from tests.conformance.groups.signing import agent_for, opened, wallet
from tests.conformance.people import Device, MadeCap, master
from tests.conformance.site import BROKER, Site

TYPED = "SignTypedData"


def document(site: Site, **message: Any) -> dict[str, Any]:
    """Typed data that policy allows without K11; `message` replaces members of the message."""
    facts = site.manifest.typed_data
    assert facts is not None
    made: dict[str, Any] = copy.deepcopy(dict(facts.document))
    made["message"] |= {facts.amount: facts.most, facts.ends: site.now + 300, **message}
    return made


def typed_cap(site: Site, agent: Device, typed: object, *, wallet_epoch: int | None = None, **how: Any) -> MadeCap:
    """The request that commits to that typed data; without K11 unless the case says otherwise."""
    facts = site.manifest.typed_data
    assert facts is not None
    body = canonical_json({"typed_data": typed, "wallet_epoch": wallet_epoch})
    service = how.pop("service", f"sign:{facts.policy}")
    return agent.cap(Op.TYPED_DATA_SIGN, service, body=body, **{"touch": False, **how})


def signed_typed(site: Site, cap: MadeCap, body: bytes | None = None, client: str = BROKER) -> Callable[[], Any]:
    """The call that has it signed."""
    request = signer_pb2.SignTypedDataRequest(cap=cap.data, typed_data=cap.body if body is None else body)
    return lambda: site.signer(client).SignTypedData(request)


def hashes(typed: Mapping[str, Any]) -> tuple[bytes, bytes, bytes]:
    """Digest, domain separator and type hash, by a library that the target need not know."""
    made = encode_typed_data(full_message=dict(typed))
    primary = typed["primaryType"]
    members = ",".join(f"{member['type']} {member['name']}" for member in typed["types"][primary])
    type_hash = keccak256(f"{primary}({members})".encode())  # of a type without structs inside
    return keccak256(b"\x19" + made.version + made.header + made.body), bytes(made.header), type_hash


@case(TYPED, "the wallet of the actor signs, and the answer opens for the device alone", needs="typed_data")
def typed_data(site: Site) -> None:
    agent = agent_for(site)
    address = wallet(site, agent)
    typed = document(site)
    cap = typed_cap(site, agent, typed)
    found = signed_typed(site, cap)()
    digest, separator, type_hash = hashes(typed)
    equal((found.digest, found.domain_separator, found.type_hash), (digest, separator, type_hash), "hashes")
    answer = opened(cap, found.sealed)
    members = {"address", "digest", "domain_separator", "intent", "signature", "type_hash"}
    equal(set(answer), members, "members of the answer")
    told = (answer["address"], answer["digest"], answer["domain_separator"], answer["type_hash"])
    equal(told, ("0x" + address.hex(), digest.hex(), separator.hex(), type_hash.hex()), "address and hashes")
    equal(recover_address(digest, b64u_decode(answer["signature"])), address, "signer")
    _, content = site.row(found.row)
    equal((content.op_kind, content.op_body.cap), (OpKind.SIGN_EIP712, cap.digest), "row")
    words = content.intent_text
    equal((answer["intent"], found.intent or None), (words, words), "words of answer and row")
    wanted = None if words is None else intent_commitment(words, digest)
    equal(content.intent_commitment, wanted, "commitment to the words")


@case(TYPED, "a spent cap", gives=Reason.CAP_REPLAYED, needs="typed_data")
def spent_typed(site: Site) -> Callable[[], Any]:
    agent = agent_for(site)
    call = signed_typed(site, typed_cap(site, agent, document(site)))
    call()
    return call


@case(TYPED, "a value above the bound needs K11", gives=Reason.K11_REQUIRED, needs="typed_data")
def above_bound(site: Site) -> Callable[[], Any]:
    facts = site.manifest.typed_data
    assert facts is not None
    typed = document(site, **{facts.amount: facts.most + 1})
    return signed_typed(site, typed_cap(site, agent_for(site), typed))


@case(TYPED, "a value above the bound with the K11 of the agent's master", needs="typed_data")
def approved(site: Site) -> None:
    facts = site.manifest.typed_data
    assert facts is not None
    agent = agent_for(site)
    typed = document(site, **{facts.amount: facts.most + 1})
    cap = typed_cap(site, agent, typed, touch=True)
    answer = opened(cap, signed_typed(site, cap)().sealed)
    signature = b64u_decode(answer["signature"])
    equal(recover_address(hashes(typed)[0], signature), wallet(site, agent), "signer")


@case(TYPED, "another body than the request commits to", gives=Reason.INVALID_BODY, needs="typed_data")
def other_body(site: Site) -> Callable[[], Any]:
    agent = agent_for(site)
    cap, other = typed_cap(site, agent, document(site)), typed_cap(site, agent, document(site, nonce=77))
    return signed_typed(site, cap, other.body)


def _bodied(body: bytes) -> Steps:
    def steps(site: Site) -> Callable[[], Any]:
        facts = site.manifest.typed_data
        assert facts is not None
        cap = agent_for(site).cap(Op.TYPED_DATA_SIGN, f"sign:{facts.policy}", body=body, touch=False)
        return signed_typed(site, cap)

    return steps


for _title, _body in {
    "a body that is no JSON": b"{",
    "a body that is not canonical": b'{"wallet_epoch": null,"typed_data":{}}',
    "a body with another member": b'{"also":1,"typed_data":{},"wallet_epoch":null}',
    "a body without wallet_epoch": b'{"typed_data":{}}',
}.items():
    add(Case(group=TYPED, title=_title, steps=_bodied(_body), gives=Reason.INVALID_BODY, needs="typed_data"))


def _bent(bend: Callable[[dict[str, Any]], object], **how: Any) -> Steps:
    def steps(site: Site) -> Callable[[], Any]:
        typed = document(site)
        bend(typed)
        return signed_typed(site, typed_cap(site, agent_for(site), typed, **how))

    return steps


def _put(*path: str, value: object) -> Callable[[dict[str, Any]], object]:
    def bend(typed: dict[str, Any]) -> None:
        *parents, name = path
        for parent in parents:
            typed = typed[parent]
        typed[name] = value

    return bend


INVALID_TYPED: Final[Mapping[str, Callable[[dict[str, Any]], object]]] = {
    "an empty object": lambda typed: typed.clear(),
    "an undeclared member": _put("message", "also", value=1),
    "an undeclared member of the domain": _put("domain", "also", value="x"),
    "a missing member": lambda typed: typed["message"].popitem(),
    "a member beside the four": _put("also", value=1),
    "a primary type that is not declared": _put("primaryType", value="Other"),
    "the domain as primary type": _put("primaryType", value="EIP712Domain"),
    "a number with a leading zero": _put("message", "nonce", value="01"),
    "a number below its type": _put("message", "nonce", value="-1"),
    "a fraction": _put("message", "nonce", value="1.5"),
    "an address with a wrong checksum": _put("message", "owner", value="0x" + "aB" * 20),
    "an address of 19 bytes": _put("message", "owner", value="0x" + "ab" * 19),
    "the domain of AgentKeys' own registry": _put("domain", "name", value="AgentKeys Registry"),
}
for _title, _bend in INVALID_TYPED.items():
    add(Case(group=TYPED, title=_title, steps=_bent(_bend), gives=Reason.INVALID_TYPED_DATA, needs="typed_data"))

REFUSED_TYPED: Final[Mapping[str, Callable[[dict[str, Any]], object]]] = {
    "another chain": _put("domain", "chainId", value=424242),
    "another contract": _put("domain", "verifyingContract", value="0x" + "99" * 20),
    "an end too far ahead": _put("message", "deadline", value=4_000_000_000),
    "a value that policy does not list": _put("message", "spender", value="0x" + "98" * 20),
}
for _title, _bend in REFUSED_TYPED.items():
    add(Case(group=TYPED, title=_title, steps=_bent(_bend), gives=Reason.POLICY_REFUSED, needs="typed_data"))


@case(TYPED, "a policy that nobody wrote", gives=Reason.POLICY_REFUSED, needs="typed_data")
def no_policy(site: Site) -> Callable[[], Any]:
    agent = agent_for(site, "sign:unwritten")
    return signed_typed(site, typed_cap(site, agent, document(site), service="sign:unwritten"))


@case(TYPED, "a policy that the scope does not grant", gives=Reason.SERVICE_NOT_IN_SCOPE, needs="typed_data")
def ungranted(site: Site) -> Callable[[], Any]:
    return signed_typed(site, typed_cap(site, master(site).agent(), document(site)))


@case(TYPED, "a wallet of an epoch that has not begun", gives=Reason.FUTURE_EPOCH, needs="typed_data")
def future_wallet(site: Site) -> Callable[[], Any]:
    cap = typed_cap(site, agent_for(site), document(site), wallet_epoch=site.epoch + 1)
    return signed_typed(site, cap)


@case(TYPED, "an op of a worker", gives=Reason.CLASS_MISMATCH)
def typed_store(site: Site) -> Callable[[], Any]:
    return signed_typed(site, master(site).cap(Op.CRED_STORE, "cred:kept"))


@case(TYPED, "the request of the other signing call", gives=Reason.INVALID_CAP)
def no_siwe(site: Site) -> Callable[[], Any]:
    return signed_typed(site, master(site).cap(Op.SIWE_SIGN, "siwe:app.example.org"))


@case(TYPED, "nobody else opens a sealed answer", needs="typed_data")
def sealed_to_one(site: Site) -> None:
    agent = agent_for(site)
    cap, other = typed_cap(site, agent, document(site)), typed_cap(site, agent, document(site))
    sealed = signed_typed(site, cap)().sealed
    for reply, digest in ((other.reply, cap.digest), (cap.reply, other.digest)):
        try:
            open_sealed(reply, digest, sealed)
        except Exception:  # whatever the library says of what it cannot open
            continue
        expect(False, "another key, or another request, opens it")
