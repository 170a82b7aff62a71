"""`SignSiwe`: what an actor's managed wallet signs to sign in somewhere, and nothing else."""

import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from eth_utils.address import to_checksum_address

from agentkeys.signer.v1 import signer_pb2
from agentkeys_core.audit import OpKind, intent_commitment
from agentkeys_core.encoding import b64u_decode, canonical_json
from agentkeys_core.errors import Reason
from agentkeys_core.hashes import sha256
from agentkeys_core.keys import eip191_digest, recover_address
from agentkeys_core.ops import Op
from tests.conformance import derived
from tests.conformance.cases import Case, Steps, add, case, equal, expect
from tests.conformance.groups.signing import agent_for, opened, wallet
from tests.conformance.people import Device, MadeCap, master
from tests.conformance.site import BROKER, CREDENTIALS, Site

SIWE = "SignSiwe"


def at(unix: int) -> str:
    """RFC 3339."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix))


#: The lines of a sign-in, by name; a case replaces some, None leaves one out.
Lines = dict[str, str | None]


def sign_in(site: Site, wallet_address: bytes, /, **bent: str | None) -> str:
    """A sign-in message that policy allows, but for the lines that are bent."""
    facts = site.manifest.siwe
    assert facts is not None
    now = site.now
    lines: Lines = {
        "first": f"{facts.domain} wants you to sign in with your Ethereum account:",
        "address": to_checksum_address(wallet_address),
        "gap": "",
        "statement": "Sign in to the conformance suite.",
        "gap2": "",
        "uri": f"URI: https://{facts.domain}/login",
        "version": "Version: 1",
        "chain": f"Chain ID: {facts.chain_id}",
        "nonce": f"Nonce: {secrets.token_hex(8)}",
        "issued": f"Issued At: {at(now)}",
        "expires": f"Expiration Time: {at(now + facts.max_lifetime_s // 2)}",
    }
    return "\n".join(line for line in (lines | bent).values() if line is not None)


def siwe_cap(site: Site, agent: Device, message: str, **how: Any) -> MadeCap:
    """The request that commits to that message."""
    facts = site.manifest.siwe
    assert facts is not None
    body = canonical_json({"message": message})
    return agent.cap(Op.SIWE_SIGN, how.pop("service", f"siwe:{facts.domain}"), body=body, **how)


def signed_siwe(site: Site, cap: MadeCap, message: str, client: str = BROKER) -> Callable[[], Any]:
    """The call that has it signed."""
    request = signer_pb2.SignSiweRequest(cap=cap.data, message=message)
    return lambda: site.signer(client).SignSiwe(request)


@case(SIWE, "the wallet of the actor signs, and the answer opens for the device alone", needs="siwe")
def a_sign_in(site: Site) -> None:
    agent = agent_for(site)
    address = wallet(site, agent)
    message = sign_in(site, address)
    cap = siwe_cap(site, agent, message)
    found = signed_siwe(site, cap, message)()
    answer = opened(cap, found.sealed)
    equal(set(answer), {"address", "signature"}, "members of the answer")
    digest = eip191_digest(message.encode())
    equal(answer["address"], "0x" + address.hex(), "address")
    signature = b64u_decode(answer["signature"])
    equal((recover_address(digest, signature), signature[64] in {27, 28}), (address, True), "signer and v")
    _, content = site.row(found.row)
    body = content.op_body
    equal((content.op_kind, body.cap, body.req), (OpKind.SIGN_EIP191, cap.digest, sha256(cap.body)), "row")
    expect(content.intent_text is not None, "the row has no words")
    words = content.intent_text or ""
    equal(content.intent_commitment, intent_commitment(words, digest), "commitment to the words")


@case(SIWE, "the wallet is K4 of the actor", needs="siwe_and_k3")
def wallet_of_actor(site: Site) -> None:
    agent = agent_for(site)
    equal(wallet(site, agent), derived.wallet(site.manifest.k3[site.epoch], agent.actor).address, "address")


@case(SIWE, "a spent cap", gives=Reason.CAP_REPLAYED, needs="siwe")
def spent_siwe(site: Site) -> Callable[[], Any]:
    agent = agent_for(site)
    message = sign_in(site, wallet(site, agent))
    call = signed_siwe(site, siwe_cap(site, agent, message), message)
    call()
    return call


@case(SIWE, "another text than the request commits to", gives=Reason.INVALID_BODY, needs="siwe")
def other_text(site: Site) -> Callable[[], Any]:
    agent = agent_for(site)
    address = wallet(site, agent)
    cap = siwe_cap(site, agent, sign_in(site, address))
    return signed_siwe(site, cap, sign_in(site, address))


def _siwe(make: Callable[[Site, Device, bytes], str], **how: Any) -> Steps:
    def steps(site: Site) -> Callable[[], Any]:
        agent = agent_for(site)
        message = make(site, agent, wallet(site, agent))
        return signed_siwe(site, siwe_cap(site, agent, message, **how), message)

    return steps


def _line(**bent: str | None) -> Callable[[Site, Device, bytes], str]:
    return lambda site, _agent, address: sign_in(site, address, **bent)


INVALID_SIWE: Final[Mapping[str, Callable[[Site, Device, bytes], str]]] = {
    "free text": lambda site, agent, address: "Please sign this.",
    "nothing": lambda site, agent, address: "",
    "a trailing newline": lambda site, agent, address: sign_in(site, address) + "\n",
    "carriage returns": lambda site, agent, address: sign_in(site, address).replace("\n", "\r\n"),
    "an address in lower case": lambda site, agent, address: sign_in(site, address, address="0x" + address.hex()),
    "a statement that is not ASCII": _line(statement="Bitte anmelden für alles."),
    "a statement of two lines": _line(statement="One.\nTwo."),
    "a missing empty line": _line(gap2=None),
    "a missing URI": _line(uri=None),
    "version 2": _line(version="Version: 2"),
    "a chain id with a leading zero": _line(chain="Chain ID: 01"),
    "a short nonce": _line(nonce="Nonce: abc"),
    "a time that is none": _line(issued="Issued At: yesterday"),
    "a member out of order": lambda site, agent, address: sign_in(
        site, address, chain="Version: 1", version=f"Chain ID: {site.manifest.siwe and site.manifest.siwe.chain_id}"
    ),
    "a line that is not part of it": lambda site, agent, address: sign_in(site, address) + "\nAlso: this",
}
for _title, _make in INVALID_SIWE.items():
    add(Case(group=SIWE, title=_title, steps=_siwe(_make), gives=Reason.INVALID_SIWE, needs="siwe"))

REFUSED_SIWE: Final[Mapping[str, Callable[[Site, Device, bytes], str]]] = {
    "another wallet": lambda site, agent, address: sign_in(site, bytes(range(20))),
    "another domain than the service": _line(
        first="other.example.org wants you to sign in with your Ethereum account:"
    ),
    "another chain": _line(chain="Chain ID: 424242"),
    "a sign-in without an end": _line(expires=None),
    "a sign-in that has expired": lambda site, agent, address: sign_in(
        site, address, expires=f"Expiration Time: {at(site.now - 30)}"
    ),
    "a sign-in that lasts too long": lambda site, agent, address: sign_in(
        site, address, expires=f"Expiration Time: {at(site.now + 2 * 86_400)}"
    ),
    "a sign-in for later": lambda site, agent, address: sign_in(site, address) + f"\nNot Before: {at(site.now + 120)}",
    "a resource of AgentKeys": lambda site, agent, address: (
        sign_in(site, address) + "\nResources:\n- agentkeys:cred:openrouter"
    ),
}
for _title, _make in REFUSED_SIWE.items():
    add(Case(group=SIWE, title=_title, steps=_siwe(_make), gives=Reason.POLICY_REFUSED, needs="siwe"))


@case(SIWE, "a host that is not on the list", gives=Reason.POLICY_REFUSED, needs="siwe")
def other_host(site: Site) -> Callable[[], Any]:
    agent = agent_for(site, "siwe:other.example.org")
    first = "other.example.org wants you to sign in with your Ethereum account:"
    message = sign_in(site, wallet(site, agent), first=first)
    return signed_siwe(site, siwe_cap(site, agent, message, service="siwe:other.example.org"), message)


@case(SIWE, "a host that the scope does not grant", gives=Reason.SERVICE_NOT_IN_SCOPE, needs="siwe")
def ungranted_host(site: Site) -> Callable[[], Any]:
    agent = master(site).agent()
    message = sign_in(site, wallet(site, agent))
    return signed_siwe(site, siwe_cap(site, agent, message), message)


@case(SIWE, "a user with a wallet of their own", gives=Reason.POLICY_REFUSED, needs="siwe")
def own_wallet(site: Site) -> Callable[[], Any]:
    user = master(site)
    message = sign_in(site, user.wallet.address)
    return signed_siwe(site, siwe_cap(site, user, message), message)


@case(SIWE, "an op of a worker", gives=Reason.CLASS_MISMATCH)
def no_store(site: Site) -> Callable[[], Any]:
    return signed_siwe(site, master(site).cap(Op.CRED_STORE, "cred:kept"), "")


@case(SIWE, "the request of the other signing call", gives=Reason.INVALID_CAP)
def no_typed_data(site: Site) -> Callable[[], Any]:
    return signed_siwe(site, master(site).cap(Op.TYPED_DATA_SIGN, "sign:policy"), "")


@case(SIWE, "a device that was revoked", gives=Reason.DEVICE_REVOKED, needs="siwe")
def revoked_signer(site: Site) -> Callable[[], Any]:
    user = master(site)
    facts = site.manifest.siwe
    assert facts is not None
    agent = user.agent(f"siwe:{facts.domain}")
    message = sign_in(site, wallet(site, agent))
    user.changed(user.revocation(agent.k10.key_hash))
    return signed_siwe(site, siwe_cap(site, agent, message), message)


@case(SIWE, "is not for a worker's cap of another broker call", gives=Reason.ROLE_NOT_ALLOWED)
def worker_calls(site: Site) -> Callable[[], Any]:
    return signed_siwe(site, master(site).cap(Op.SIWE_SIGN, "siwe:app.example.org"), "", CREDENTIALS)
