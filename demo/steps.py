"""The main job on a world that stands: each step does what a user does, checks it, and says what came of it."""

import secrets
from pathlib import Path

from agentkeys_core.encoding import b64u_encode
from agentkeys_core.keys import eip191_digest, recover_address
from demo.people import Person, names_of, text_of
from demo.process import StackError
from demo.screen import size
from demo.world import GRANTED, HOST, WITHHELD, Step, World

_SLICE = 16
#: Shorter values occur in random bytes by chance.
_TELLING = 5
_SHOWN = 12


def _check(condition: bool, what: str) -> None:
    if not condition:
        raise StackError(what)


def _fetched(world: World, name: str = GRANTED) -> bytes:
    out = world.root / "fetched.bin"
    world.agent.must("cred", "get", name, "--out", str(out), "--force")
    return out.read_bytes()


def _refused(person: Person, *words: str, reason: str, code: int) -> str:
    outcome = person.agentkeys(*words)
    _check((outcome.reason, outcome.code) == (reason, code), f"expected {reason}, exit {code}; got {outcome}")
    return str(outcome)


def agent_fetches(world: World) -> str:
    """The agent gets the very bytes."""
    _check(_fetched(world) == world.value, "the agent got other bytes than the master stored")
    return f"{size(len(world.value))}, byte for byte what the master stored"


def object_at_rest(world: World) -> str:
    """What the worker keeps tells nothing."""
    data = world.object_file(GRANTED).read_bytes()
    seen = {data[at : at + _SLICE] for at in range(len(data) - _SLICE + 1)}
    for form in (world.value, b64u_encode(world.value).encode()):
        _check(len(form) < _TELLING or form not in data, "the object holds the value")
        slices = (form[at : at + _SLICE] for at in range(len(form) - _SLICE + 1))
        _check(not any(part in seen for part in slices), "the object holds a part of the value")
    searched = "neither the value nor any 16 bytes of it" if len(world.value) >= _SLICE else "the value is not in it"
    if len(world.value) < _TELLING:
        searched = f"a value of {size(len(world.value))} is too short to search for"
    return f"{size(len(data))} of ciphertext, {data[:_SHOWN].hex(' ')} …; {searched}"


def outside_scope(world: World) -> str:
    """The agent asks for what it was not granted."""
    got = _refused(world.agent, "cred", "get", WITHHELD, reason="service_not_in_scope", code=3)
    return f"agentkeys cred get {WITHHELD}: {got}"


def filtered_list(world: World) -> str:
    """The list shows an agent its scope alone."""
    own, all_names = (names_of(person.must("cred", "list")) for person in (world.agent, world.alice))
    _check(own == [GRANTED] and all_names == [GRANTED, WITHHELD], f"lists: {own} and {all_names}")
    return f"agent sees {', '.join(own)}; master sees {', '.join(all_names)}"


def overwrite(world: World) -> str:
    """The master replaces the value, which takes K11; the agent sees it at its next fetch."""
    value = secrets.token_bytes(48)
    replaced = world.alice.must("cred", "put", GRANTED, stdin=value)["replaced"]
    world.value = value
    _check(replaced is not None and _fetched(world) == value, "the agent does not see the new value")
    return "the master's K11 approved it; the agent's next fetch got the new value"


def sign_in(world: World) -> str:
    """The agent's wallet signs in, and nobody on the way can read the signature."""
    signed = world.agent.must("sign", "siwe", "--domain", HOST, "--uri", f"https://{HOST}/login")
    address, signature = text_of(signed, "address"), bytes.fromhex(text_of(signed, "signature")[2:])
    digest = eip191_digest(text_of(signed, "message").encode())
    _check(recover_address(digest, signature) == bytes.fromhex(address[2:]), "the signature is not the wallet's")
    _refused(
        world.agent,
        "sign",
        "siwe",
        "--domain",
        "evil.example.com",
        "--uri",
        "https://x",
        reason="service_not_in_scope",
        code=3,
    )
    return f"{HOST} as {address[:10]}…; any other host: service_not_in_scope"


def audit(world: World) -> str:
    """The trail is exported and verified without any server."""
    export = world.root / "audit.json"
    world.alice.must("audit", "export", "--out", str(export))
    verdict = world.alice.must("audit", "verify", str(export), "--jwks", str(_audit_keys(world)))
    _check(verdict["ok"] is True, "the export does not verify")
    return f"{verdict['rows']} rows: chain, sequence and signatures verified offline"


def _audit_keys(world: World) -> Path:
    return world.stack.root / "issuer" / ".well-known" / "agentkeys-audit-jwks.json"


def freeze(world: World) -> str:
    """Any master stops everything at once."""
    world.alice.must("freeze")
    got = _refused(world.agent, "cred", "get", GRANTED, reason="operator_frozen", code=3)
    return f"agentkeys cred get {GRANTED}: {got}"


def unfreeze(world: World) -> str:
    """A master with K11 ends it."""
    world.alice.must("unfreeze")
    _check(_fetched(world) == world.value, "the agent does not get the value again")
    return "the master's K11 approved it; the agent gets the value again"


MAIN_JOB: tuple[Step, ...] = (
    ("agent fetches", agent_fetches),
    ("object at rest", object_at_rest),
    ("outside the scope", outside_scope),
    ("list filtered", filtered_list),
    ("overwritten by master", overwrite),
    ("agent signs in", sign_in),
    ("audit trail", audit),
    ("frozen", freeze),
    ("unfrozen", unfreeze),
)
