"""`DeriveAddress`: the address of K4, and of managed wallets."""

import secrets
from collections.abc import Callable
from typing import Any

from agentkeys.signer.v1 import signer_pb2
from agentkeys_core.errors import Reason
from tests.conformance import derived
from tests.conformance.cases import Case, Steps, add, case, equal, expect
from tests.conformance.people import master
from tests.conformance.site import BROKER, Site


def _address(site: Site, omni: bytes, epoch: int = 1) -> Callable[[], bytes]:
    request = signer_pb2.DeriveAddressRequest(omni=omni, epoch=epoch)
    return lambda: site.signer(BROKER).DeriveAddress(request).address


@case("DeriveAddress", "is stable and differs from omni to omni")
def stable_address(site: Site) -> None:
    first, second = secrets.token_bytes(32), secrets.token_bytes(32)
    found = _address(site, first)()
    equal(len(found), 20, "length of an address")
    equal(_address(site, first)(), found, "the same omni again")
    expect(_address(site, second)() != found, "two omnis have one address")


@case("DeriveAddress", "is that of K4", needs="k3")
def known_address(site: Site) -> None:
    for epoch, k3 in site.manifest.k3.items():
        omni = secrets.token_bytes(32)
        equal(_address(site, omni, epoch)(), derived.wallet(k3, omni).address, f"address at epoch {epoch}")


def _wallet(site: Site, omni: bytes) -> Callable[[], signer_pb2.DeriveAddressResponse]:
    request = signer_pb2.DeriveAddressRequest(omni=omni, wallet=True)
    return lambda: site.signer(BROKER).DeriveAddress(request)


@case("DeriveAddress", "tells its epoch")
def epoch_of_address(site: Site) -> None:
    request = signer_pb2.DeriveAddressRequest(omni=bytes(32), epoch=1)
    equal(site.signer(BROKER).DeriveAddress(request).epoch, 1, "epoch")


@case("DeriveAddress", "the managed wallet of an agent")
def managed_wallet(site: Site) -> None:
    agent = master(site).agent()
    found = _wallet(site, agent.actor)()
    equal((found.address, found.epoch), (_address(site, agent.actor, site.epoch)(), site.epoch), "address and epoch")


@case("DeriveAddress", "the managed wallet of a user who has one of their own", gives=Reason.POLICY_REFUSED)
def own_wallet(site: Site) -> Callable[[], Any]:
    return _wallet(site, master(site).operator)


@case("DeriveAddress", "the managed wallet of nobody", gives=Reason.ACTOR_BINDING_MISMATCH)
def wallet_of_nobody(site: Site) -> Callable[[], Any]:
    return _wallet(site, secrets.token_bytes(32))


@case("DeriveAddress", "the managed wallet of a short omni", gives=Reason.INVALID_OMNI)
def wallet_of_short(site: Site) -> Callable[[], Any]:
    return _wallet(site, bytes(31))


def _bad_omni(length: int) -> Steps:
    return lambda site: _address(site, bytes(length))


def _no_epoch(epoch: int) -> Steps:
    return lambda site: _address(site, bytes(32), epoch)


for _length in (0, 31, 33):
    add(
        Case(
            group="DeriveAddress",
            title=f"an omni of {_length} bytes",
            steps=_bad_omni(_length),
            gives=Reason.INVALID_OMNI,
        )
    )
for _epoch in (0, 4_000_000_000):
    add(
        Case(
            group="DeriveAddress",
            title=f"epoch {_epoch} is not held",
            steps=_no_epoch(_epoch),
            gives=Reason.EPOCH_NOT_HELD,
        )
    )
