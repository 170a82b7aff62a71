"""The credentials worker stolen: its certificate talks to the signer directly, and its object store is the thief's."""

import secrets
from collections.abc import Callable

from agentkeys_core.audit import AuditRow
from agentkeys_core.bodies import EMPTY_BODY, StoreBody
from agentkeys_core.envelope import Envelope, ObjectPlaintext, seal_envelope
from agentkeys_core.ops import ObjectClass, Op, Service
from agentkeys_core.secret import Secret
from agentkeys_runtime.signer_client import SignerClient
from demo.attacker import LET_THROUGH, as_caller, attempt, compose, cosign, genuine, refusal, send
from demo.drills.drill import Drill, Group
from demo.forgery import Thief
from demo.people import Outcome, Person
from demo.world import GRANTED, WITHHELD, World
from device import credentials
from device.client import Prepared

_SERVICE = f"cred:{GRANTED}"


def _read_version(world: World, cap: bytes, *, of: str, owner: Person | None = None) -> str:
    """Ask the signer, as the worker, for the key of the version that lies at rest under `of`."""
    envelope = Envelope.parse(world.object_file(of, owner).read_bytes())
    with as_caller(world.stack, "credentials") as signer:
        return attempt(lambda: signer.derive_cred_kek(cap, epoch=envelope.epoch, salt=envelope.salt))


def _another_service(world: World) -> str:
    return _read_version(world, genuine(world.agent, Op.CRED_FETCH, _SERVICE).cap.encode(), of=WITHHELD)


def _another_owner(world: World) -> str:
    cap = genuine(world.bob, Op.CRED_FETCH, _SERVICE, k11=True).cap.encode()
    return _read_version(world, cap, of=GRANTED)


def _renamed_owner(world: World) -> str:
    cap = genuine(world.agent, Op.CRED_FETCH, _SERVICE).cap
    forged = compose(world.stack, world.agent.key, world.bob.who, Op.CRED_FETCH, _SERVICE, signer=Thief().k10)
    with as_caller(world.stack, "credentials") as signer:
        altered = cosign(world.stack, forged.cap).encode()
        return attempt(lambda: signer.derive_cred_kek(altered, epoch=cap.request.k3_epoch, salt=bytes(32)))


def _another_class(call: Callable[[SignerClient, bytes], object], op: Op, service: str, world: World) -> str:
    asked = compose(world.stack, world.agent.key, world.agent.who, op, service)
    cap = cosign(world.stack, asked.cap).encode()
    with as_caller(world.stack, "credentials") as signer:
        return attempt(lambda: call(signer, cap))


def _store(world: World, name: str, value: bytes) -> Prepared:
    """Have Alice's device make a genuine store of a new credential; the thief in the worker holds it now."""
    body = StoreBody(blind=secrets.token_bytes(32), expect=None, value=value).encode()
    return genuine(world.alice, Op.CRED_STORE, f"cred:{name}", body)


def _replayed_store(world: World) -> str:
    captured = _store(world, world.fresh_name("replayed"), b"stored once")
    response = send(world.stack, "credentials", captured.path, captured.encode())
    if not response.is_success:
        return refusal(response)
    with as_caller(world.stack, "credentials") as signer:
        return attempt(lambda: signer.derive_cred_kek(captured.cap.encode()))


def _older_version(world: World) -> str:
    name = world.fresh_name("rotated")
    file = world.object_file(name)
    with world.alice.opened() as device:
        credentials.put(device, name, b"the old key, which leaked")
        backup = file.read_bytes()
        credentials.put(device, name, b"the new key")
        new = file.read_bytes()
        file.write_bytes(backup)
        try:
            return attempt(lambda: credentials.get(device, name))
        finally:
            file.write_bytes(new)


def _swapped_value(world: World) -> str:
    name = world.fresh_name("swapped")
    captured = _store(world, name, b"what Alice stored")
    other = StoreBody(blind=secrets.token_bytes(32), expect=None, value=b"what the thief wants her to use").encode()
    with as_caller(world.stack, "credentials") as signer:
        released = signer.derive_cred_kek(captured.cap.encode())
        plaintext = ObjectPlaintext(body=other, row=AuditRow.parse(released.row)).encode()
        with Secret.copy_of(released.key) as key:
            envelope = seal_envelope(
                key,
                epoch=released.epoch,
                object_class=ObjectClass.CREDENTIALS,
                salt=released.salt,
                commitment=released.commitment,
                owner=world.alice.who.operator,
                service=Service.parse(f"cred:{name}", Op.CRED_STORE),
                plaintext=plaintext,
            )
        file = world.object_file(name)
        file.touch(mode=0o600)
        file.write_bytes(envelope)
        signer.sign_audit_row(captured.cap.encode(), result=0)
    outcome: Outcome = world.alice.agentkeys("cred", "get", name)
    return str(outcome) if outcome.code else LET_THROUGH


def _together_forged(world: World) -> str:
    forged = compose(
        world.stack, world.agent.key, world.agent.who, Op.CRED_FETCH, _SERVICE, EMPTY_BODY, signer=Thief().k10
    )
    return _read_version(world, cosign(world.stack, forged.cap).encode(), of=GRANTED)


def _together_with_agent(world: World) -> str:
    forged = compose(world.stack, world.agent.key, world.agent.who, Op.CRED_FETCH, f"cred:{WITHHELD}")
    return _read_version(world, cosign(world.stack, forged.cap).encode(), of=WITHHELD)


GROUP = Group(
    title="the credentials worker stolen: its certificate and its object store",
    drills=(
        Drill(
            title="another service: a genuine cap with the salt of another object",
            expected="version_not_current",
            attempt=_another_service,
        ),
        Drill(
            title="another owner: Bob's genuine cap with the salt of Alice's object",
            expected="version_not_current",
            attempt=_another_owner,
        ),
        Drill(
            title="another owner: the operator's name in a cap replaced",
            expected="device_signature_invalid",
            attempt=_renamed_owner,
        ),
        Drill(
            title="another class: a memory-get cap",
            expected="class_mismatch",
            attempt=lambda world: _another_class(
                lambda signer, cap: signer.derive_cred_kek(cap, epoch=1, salt=bytes(32)),
                Op.MEMORY_GET,
                "memory:notes",
                world,
            ),
        ),
        Drill(
            title="another class: the user's audit rows",
            expected="class_mismatch",
            attempt=lambda world: _another_class(
                lambda signer, cap: signer.get_audit_rows(cap, after=None, limit=10),
                Op.AUDIT_LIST,
                "audit:own",
                world,
            ),
        ),
        Drill(title="a store replayed at the signer", expected="cap_replayed", attempt=_replayed_store),
        Drill(
            title="an older version: yesterday's object file put back from a backup",
            expected="version_not_current",
            attempt=_older_version,
        ),
        Drill(
            title="a swapped value under a genuine store: the reader's device sees it",
            expected="row_not_trusted, exit 6",
            attempt=_swapped_value,
        ),
        Drill(
            title="broker and worker together: a forged cap, straight to the signer",
            expected="device_signature_invalid",
            attempt=_together_forged,
        ),
        Drill(
            title="broker, worker and the agent's key together: outside that agent's scope",
            expected="service_not_in_scope",
            attempt=_together_with_agent,
        ),
    ),
)
