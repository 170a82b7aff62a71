"""The registry's stream: beats, changes as they happen, heads under a MAC, and what a newer head brings about."""

import secrets
from collections.abc import Callable
from typing import Any

from agentkeys.signer.v1 import registry_pb2, signer_pb2
from agentkeys_core.errors import Reason
from tests.conformance import derived
from tests.conformance.cases import case, equal, expect
from tests.conformance.groups.objects import store
from tests.conformance.people import master, stranger
from tests.conformance.site import BROKER, PATIENCE_S, Site

WATCH = "WatchChanges"


def watched(site: Site, count: int, *, client: str = BROKER, **fields: Any) -> list[registry_pb2.ChangeEvent]:
    """The first `count` events of a stream."""
    request = registry_pb2.WatchChangesRequest(**fields)
    stream = site.registry(client).WatchChanges(request, timeout=PATIENCE_S)
    try:
        return [next(stream) for _ in range(count)]
    finally:
        stream.cancel()


@case(WATCH, "beats at once, then replays and follows")
def beats(site: Site) -> None:
    (beat,) = watched(site, 1, after=2**62)
    expect(not beat.HasField("change"), "a beat holds a change")
    expect(abs(beat.server_time - site.now) <= 5, "server time")
    equal((beat.k3_epoch, beat.incarnation), (site.epoch, site.status.incarnation), "epoch and incarnation")
    user = stranger(site)
    signed = user.enrolment()
    stream = site.registry().WatchChanges(registry_pb2.WatchChangesRequest(after=beat.head.sequence))
    next(stream)
    user.apply(signed)
    change = next(event for event in stream if event.HasField("change")).change
    stream.cancel()
    found = (change.sequence, change.operator_omni, change.digest, change.type)
    wanted = (beat.head.sequence + 1, user.operator, signed.digest(site.domain), "Enrol")
    equal(found, wanted, "sequence, operator, digest and type")


@case(WATCH, "heads chain every change, and are MACed", needs="k3_current")
def heads(site: Site) -> None:
    user = master(site)
    before = site.registry().GetStatus(registry_pb2.GetStatusRequest()).head
    user.agent("cred:a")
    (event,) = watched(site, 1, after=before.sequence)
    change, head = event.change, event.head
    chained = derived.chained(
        before.hash, sequence=change.sequence, operator=change.operator_omni, digest=change.digest
    )
    equal((head.sequence, head.hash), (change.sequence, chained), "sequence and hash of the head")
    mac = derived.head_mac(
        site.manifest.k3[head.epoch],
        site.registry_id,
        incarnation=site.status.incarnation,
        sequence=head.sequence,
        head=head.hash,
    )
    equal(head.mac, mac, "MAC")


@case(WATCH, "events carry the journal's head, which grows with every release, under a MAC", needs="k3")
def journal_heads(site: Site) -> None:
    user = master(site)
    seen = []
    for _ in range(2):
        (beat,) = watched(site, 1, after=2**62)
        head = beat.journal
        mac = derived.journal_mac(
            site.manifest.k3[head.epoch],
            site.registry_id,
            incarnation=beat.incarnation,
            sequence=head.sequence,
            head=head.hash,
        )
        equal(head.mac, mac, "MAC")
        seen.append(head)
        store(site, user, f"cred:journal-{len(seen)}")
    expect(seen[0].sequence < seen[1].sequence and seen[0].hash != seen[1].hash, "the head did not move")


@case(WATCH, "a journal head that the target knows, or that carries another MAC, is taken")
def known_journals(site: Site) -> None:
    (beat,) = watched(site, 1, after=2**62)
    watched(site, 1, after=2**62, known_journal=beat.journal)
    forged = registry_pb2.JournalHead(
        sequence=beat.journal.sequence + 9, hash=bytes(32), mac=bytes(32), epoch=beat.journal.epoch
    )
    watched(site, 1, after=2**62, known_journal=forged)


@case(WATCH, "a head that the target knows, or that carries another MAC, is taken")
def known_heads(site: Site) -> None:
    master(site)
    head = site.registry().GetStatus(registry_pb2.GetStatusRequest()).head
    watched(site, 1, after=head.sequence, known=head)
    forged = registry_pb2.RegistryHead(sequence=head.sequence + 9, hash=bytes(32), mac=bytes(32), epoch=head.epoch)
    watched(site, 1, after=head.sequence, known=forged)


@case(WATCH, "one caller cannot take every stream", gives=Reason.OVERLOADED, needs="streams_per_caller")
def too_many_streams(site: Site) -> Callable[[], Any]:
    stub = site.registry("streams")
    streams = [
        stub.WatchChanges(registry_pb2.WatchChangesRequest()) for _ in range(site.manifest.streams_per_caller or 0)
    ]
    for stream in streams:
        next(stream)

    def one_more() -> None:
        try:
            next(stub.WatchChanges(registry_pb2.WatchChangesRequest()))
        finally:
            for stream in streams:
                stream.cancel()

    return one_more


def _newer_head(site: Site) -> registry_pb2.RegistryHead:
    head = site.registry().GetStatus(registry_pb2.GetStatusRequest()).head
    sequence, chain = head.sequence + 1, secrets.token_bytes(32)
    epoch = min(site.manifest.k3)  # a head of any held epoch counts
    mac = derived.head_mac(
        site.manifest.k3[epoch],
        site.registry_id,
        incarnation=site.status.incarnation,
        sequence=sequence,
        head=chain,
    )
    return registry_pb2.RegistryHead(sequence=sequence, hash=chain, mac=mac, epoch=epoch)


@case(WATCH, "a client that has seen a newer head", gives=Reason.REGISTRY_ROLLED_BACK, needs="may_seal", last=True)
def newer_head(site: Site) -> Callable[[], Any]:
    known = _newer_head(site)
    return lambda: watched(site, 1, known=known)


@case(WATCH, "after that the target releases nothing", gives=Reason.SEALED, needs="may_seal", last=True)
def sealed(site: Site) -> Callable[[], Any]:
    request = signer_pb2.DeriveAddressRequest(omni=bytes(32), epoch=1)
    return lambda: site.signer(BROKER).DeriveAddress(request)
