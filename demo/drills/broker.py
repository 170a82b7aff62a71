"""The whole broker stolen: K1, its certificate and its database are the thief's."""

import json
import secrets
import time
from dataclasses import replace
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from agentkeys_core.bodies import FetchAnswer, StoreBody
from agentkeys_core.encoding import b64u_decode, b64u_encode, canonical_json
from agentkeys_core.errors import KeyServiceError
from agentkeys_core.ops import Op
from agentkeys_core.sealing import open_sealed
from agentkeys_core.signing_bodies import SiweBody
from agentkeys_core.siwe import SiweMessage
from demo import forgery
from demo.attacker import (
    LET_THROUGH,
    WINDOW_S,
    Asked,
    as_caller,
    attempt,
    compose,
    cosign,
    genuine,
    present,
    present_forged,
    refusal,
    send,
)
from demo.drills.drill import Drill, Group
from demo.forgery import Thief
from demo.world import GRANTED, HOST, World
from device import agents

_SERVICE = f"cred:{GRANTED}"


def _unknown_device(world: World) -> str:
    return present_forged(world.stack, compose(world.stack, Thief().k10, world.alice.who, Op.CRED_FETCH, _SERVICE))


def _victims_device(world: World) -> str:
    # The victim's public key is no secret: it stands in every cap that the broker has seen.
    victim = world.agent
    forged = compose(world.stack, victim.key, victim.who, Op.CRED_FETCH, _SERVICE, signer=Thief().k10)
    return present_forged(world.stack, forged)


def _swapped_reply_key(world: World) -> str:
    captured, mine = genuine(world.agent, Op.CRED_FETCH, _SERVICE), X25519PrivateKey.generate()
    altered = json.loads(captured.request.raw)
    altered["reply_key"] = b64u_encode(mine.public_key().public_bytes_raw())
    request = type(captured.request).parse(canonical_json(altered))
    return present_forged(
        world.stack, Asked(cap=replace(captured.cap, request=request), body=captured.body, reply_key=mine)
    )


def _other_body(world: World) -> str:
    body = StoreBody(blind=secrets.token_bytes(32), expect=None, value=b"what Alice stores")
    captured = genuine(world.alice, Op.CRED_STORE, f"cred:{world.fresh_name('altered')}", body.encode())
    return present(world.stack, replace(captured, body=replace(body, value=b"what came instead").encode()))


def _own_certificate(world: World) -> str:
    cap = genuine(world.agent, Op.CRED_FETCH, _SERVICE).cap.encode()
    with as_caller(world.stack, "broker") as signer:
        calls = (
            lambda: signer.derive_cred_kek(cap, epoch=1, salt=bytes(32)),
            lambda: signer.sts_credentials(cap, role_arn="arn:aws:iam::1:role/any"),
            lambda: signer.sign_audit_row(cap, result=0),
            lambda: signer.list_objects(cap, after=None, limit=10),
            lambda: signer.get_audit_rows(cap, after=None, limit=10),
        )
        return ", ".join(sorted({attempt(call) for call in calls}))


def _captured_cap(world: World) -> str:
    captured = genuine(world.agent, Op.CRED_FETCH, _SERVICE)
    response = send(world.stack, "credentials", captured.path, captured.encode())
    if not response.is_success:
        return refusal(response)
    sealed = b64u_decode(response.json()["sealed"])
    opened = FetchAnswer.parse(open_sealed(captured.reply_key, captured.request.digest, sealed))
    value = StoreBody.parse(opened.body).value  # the device can open it, so this is the real answer
    if value in response.content or b64u_encode(value).encode() in response.content:
        return LET_THROUGH
    try:
        open_sealed(X25519PrivateKey.generate(), captured.request.digest, sealed)
    except KeyServiceError:
        return "sealed to the device"
    return LET_THROUGH


def _database(world: World) -> str:
    found = [
        path
        for path in (world.stack.root / "broker").rglob("*")
        if path.is_file() and any(secret in path.read_bytes() for secret in (world.value, world.withheld))
    ]
    return LET_THROUGH if found else "nothing there"


def _new_agent(world: World) -> str:
    return forgery.bring(world.stack, forgery.new_agent(world.stack, world.alice.who.operator, Thief()))


def _new_master(world: World) -> str:
    wallet = json.loads((world.alice.home / "identity.json").read_bytes())["wallet"]
    operator = world.alice.who.operator
    change = forgery.new_master(world.stack, operator, bytes.fromhex(wallet.removeprefix("0x")), Thief())
    return forgery.bring(world.stack, change, by="broker")


def _unfreeze(world: World) -> str:
    operator = world.bob.who.operator
    with world.bob.opened() as device:
        agents.freeze(device)
        try:
            got = forgery.bring(world.stack, forgery.unfreeze(world.stack, operator, Thief()))
            return got if agents.state_now(device).frozen else LET_THROUGH
        finally:
            agents.unfreeze(device)


def _sign_in(world: World) -> str:
    """The victim's wallet is no secret, nor is the message that it might sign."""
    victim, now = world.agent, int(time.time())
    with as_caller(world.stack, "broker") as signer:
        address, _ = signer.wallet_address(victim.who.actor)
        message = SiweMessage.compose(
            domain=HOST,
            address=address,
            uri=f"https://{HOST}/login",
            chain_id=1,
            nonce=secrets.token_hex(8),
            issued_at=_moment(now),
            expiration_time=_moment(now + WINDOW_S),
        ).encode()
        body = SiweBody(message=message).encode()
        forged = compose(world.stack, victim.key, victim.who, Op.SIWE_SIGN, f"siwe:{HOST}", body, signer=Thief().k10)
        return attempt(lambda: signer.sign_siwe(cosign(world.stack, forged.cap).encode(), message=message))


def _moment(unix: int) -> str:
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _old_request(world: World) -> str:
    # Kept from the database until nobody looks: a genuine signature, over a window that has closed.
    forged = compose(world.stack, world.agent.key, world.agent.who, Op.CRED_FETCH, _SERVICE, age_s=WINDOW_S + 61)
    return present_forged(world.stack, forged)


def _swallowed_revocation(world: World) -> str:
    spare = world.spare_agent()
    world.to_broker.refuse()
    try:
        with world.alice.opened() as device:
            agents.revoke_device(device, spare.key.key_hash)
        return present_forged(world.stack, compose(world.stack, spare.key, spare.who, Op.CRED_FETCH, _SERVICE))
    finally:
        world.to_broker.pass_on()


GROUP = Group(
    title="the whole broker stolen: its key K1, its certificate, its database",
    drills=(
        Drill(
            title="forged cap of a device that nobody registered, co-signed with K1",
            expected="device_unknown",
            attempt=_unknown_device,
        ),
        Drill(
            title="forged cap naming the victim's device, co-signed with K1",
            expected="device_signature_invalid",
            attempt=_victims_device,
        ),
        Drill(
            title="genuine cap with the thief's own reply key put in",
            expected="device_signature_invalid",
            attempt=_swapped_reply_key,
        ),
        Drill(title="genuine store presented with another value", expected="invalid_body", attempt=_other_body),
        Drill(
            title="genuine cap kept until its window has closed",
            expected="cap_expired",
            attempt=_old_request,
        ),
        Drill(
            title="genuine cap presented by the broker: it gets the device's sealed answer",
            expected="sealed to the device",
            attempt=_captured_cap,
        ),
        Drill(
            title="genuine cap taken to the signer with the broker's certificate (5 RPCs)",
            expected="role_not_allowed",
            attempt=_own_certificate,
        ),
        Drill(
            title="a sign-in with the agent's wallet (SignSiwe), co-signed with K1",
            expected="device_signature_invalid",
            attempt=_sign_in,
        ),
        Drill(
            title="searching K1's folder and the database for credentials", expected="nothing there", attempt=_database
        ),
        Drill(
            title="a new agent device for the victim (AddAgent)",
            expected="change_not_authorised",
            attempt=_new_agent,
        ),
        Drill(
            title="a new master device for the victim (Enrol)",
            expected="change_not_authorised",
            attempt=_new_master,
        ),
        Drill(title="ending a freeze (Unfreeze)", expected="change_not_authorised", attempt=_unfreeze),
        Drill(
            title="a revocation swallowed: it went by a worker; K1 co-signs for the revoked",
            expected="device_revoked",
            attempt=_swallowed_revocation,
        ),
    ),
)
