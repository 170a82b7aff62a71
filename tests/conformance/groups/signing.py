"""Steps that both signing calls share: who signs, and how the sealed answer is read."""

import json
from collections.abc import Mapping
from typing import Any

from agentkeys.signer.v1 import signer_pb2
from agentkeys_core.encoding import canonical_json
from agentkeys_core.sealing import open_sealed
from tests.conformance.cases import equal
from tests.conformance.people import Device, MadeCap, master
from tests.conformance.site import BROKER, Site


def wallet(site: Site, agent: Device) -> bytes:
    """The address of an actor's managed wallet."""
    request = signer_pb2.DeriveAddressRequest(omni=agent.actor, epoch=site.epoch)
    address: bytes = site.signer(BROKER).DeriveAddress(request).address
    return address


def agent_for(site: Site, *more: str) -> Device:
    """An agent that may sign in and sign typed data."""
    facts = site.manifest
    granted = [*more]
    if facts.siwe is not None:
        granted.append(f"siwe:{facts.siwe.domain}")
    if facts.typed_data is not None:
        granted.append(f"sign:{facts.typed_data.policy}")
    return master(site).agent(*granted)


def opened(cap: MadeCap, sealed: bytes) -> Mapping[str, Any]:
    """The answer, as the device alone can read it."""
    plain = open_sealed(cap.reply, cap.digest, sealed)
    members = json.loads(plain)
    equal(canonical_json(members), plain, "canonical form of the sealed answer")
    return dict(members)
