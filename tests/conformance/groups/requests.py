"""The shape of caps and requests: each fault by itself, in the order in which formats.md decides them."""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from agentkeys.signer.v1 import signer_pb2
from agentkeys_core.encoding import b64u_encode, canonical_json
from agentkeys_core.errors import Reason
from agentkeys_core.ops import Op
from tests.conformance.cases import Case, Steps, add
from tests.conformance.people import stranger
from tests.conformance.site import CREDENTIALS, MEMORY, Site

R = Reason


def _sent(site: Site, cap: bytes, client: str = CREDENTIALS) -> Callable[[], Any]:
    return lambda: site.signer(client).DeriveCredKek(signer_pb2.DeriveCredKekRequest(cap=cap))


def _request(bent: Mapping[str, Any], op: Op = Op.CRED_STORE, service: str = "cred:shape") -> Steps:
    return lambda site: _sent(site, stranger(site).cap(op, service, request=bent).data)


def _rewritten(change: Callable[[bytes], bytes]) -> Steps:
    return lambda site: _sent(site, stranger(site).cap(Op.CRED_STORE, "cred:shape", rewrite=change).data)


def _cap(bent: Mapping[str, Any]) -> Steps:
    return lambda site: _sent(site, stranger(site).cap(Op.CRED_STORE, "cred:shape", cap=bent).data)


def _bytes(change: Callable[[bytes], bytes]) -> Steps:
    return lambda site: _sent(site, change(stranger(site).cap(Op.CRED_STORE, "cred:shape").data))


def _for(op: Op, service: str, client: str = CREDENTIALS) -> Steps:
    def steps(site: Site) -> Callable[[], Any]:
        made = stranger(site).cap(op, service)
        if client == MEMORY:
            return _sent(site, made.data, MEMORY)
        return _sent(site, made.data)

    return steps


def _k11(change: Callable[[dict[str, str]], object]) -> Steps:
    """A cap whose assertion is replaced by what `change` makes of one that is right."""

    def steps(site: Site) -> Callable[[], Any]:
        user = stranger(site)
        return _sent(
            site, user.cap(Op.CRED_STORE, "cred:shape", cap={"k11": change(user.k11.answer(bytes(32)).encode())}).data
        )

    return steps


def _respelled(name: str, make: Callable[[Any], Any]) -> Callable[[bytes], bytes]:
    """Rewrites canonical bytes so that `name` has another spelling of its value."""

    def change(raw: bytes) -> bytes:
        members = json.loads(raw)
        members[name] = make(members[name])
        return canonical_json(members)

    return change


SMALL_ORDER: Final = b64u_encode(bytes(32))
_LONG: Final = "a" * 4096

REQUESTS: Final[Mapping[str, tuple[Reason, Steps]]] = {
    # size, text and canonical form
    "over 4096 bytes": (R.TOO_LARGE, _request({"aud": _LONG})),
    "not UTF-8": (R.INVALID_ENCODING, _rewritten(lambda raw: raw[:-1] + b"\xff}")),
    "not JSON": (R.NON_CANONICAL_CAP, _rewritten(lambda raw: raw[:-1])),
    "nothing at all": (R.NON_CANONICAL_CAP, _rewritten(lambda _: b"")),
    "33 levels deep": (R.NON_CANONICAL_CAP, _rewritten(lambda _: b"[" * 33 + b"]" * 33)),
    "a list instead of an object": (R.INVALID_CAP, _rewritten(lambda _: b"[]")),
    "a space between members": (R.NON_CANONICAL_CAP, _rewritten(lambda raw: raw.replace(b",", b", ", 1))),
    "a trailing newline": (R.NON_CANONICAL_CAP, _rewritten(lambda raw: raw + b"\n")),
    "a byte order mark": (R.NON_CANONICAL_CAP, _rewritten(lambda raw: b"\xef\xbb\xbf" + raw)),
    "members out of order": (
        R.NON_CANONICAL_CAP,
        _rewritten(lambda raw: b'{"ver":2,' + raw[1:].replace(b',"ver":2', b"")),
    ),
    "a name that stands twice": (R.NON_CANONICAL_CAP, _rewritten(lambda raw: raw[:-1] + b',"ver":2}')),
    "an escape that is not needed": (
        R.NON_CANONICAL_CAP,
        _rewritten(lambda raw: raw.replace(b"cred:", b"\\u0063red:")),
    ),
    "a fraction for an integer": (R.NON_CANONICAL_CAP, _rewritten(lambda raw: raw.replace(b'"ver":2', b'"ver":2.0'))),
    "an exponent": (R.NON_CANONICAL_CAP, _rewritten(lambda raw: raw.replace(b'"ver":2', b'"ver":2e0'))),
    "NaN": (R.NON_CANONICAL_CAP, _rewritten(lambda raw: raw.replace(b'"ver":2', b'"ver":NaN'))),
    "minus zero": (R.NON_CANONICAL_CAP, _rewritten(lambda raw: raw.replace(b'"ver":2', b'"ver":-0'))),
    "a lone surrogate": (R.NON_CANONICAL_CAP, _rewritten(lambda raw: raw.replace(b"cred:shape", b"cred:\\ud800"))),
    # names, types, ranges
    "an unknown name": (R.UNKNOWN_FIELDS, _request({"also": "this"})),
    "a missing name": (R.INVALID_CAP, _request({"nonce": None})),
    "a number for a text": (R.INVALID_CAP, _request({"aud": 5})),
    "a text for a number": (R.INVALID_CAP, _request({"issued_at": "5"})),
    "true for a number": (R.INVALID_CAP, _request({"ver": True})),
    "a time beyond 2^53-1": (
        R.INVALID_CAP,
        _rewritten(lambda raw: raw.replace(b'"ver":2', b'"ver":9007199254740992')),
    ),
    "a negative time": (R.INVALID_CAP, _request({"issued_at": -1})),
    "epoch 0": (R.INVALID_CAP, _request({"k3_epoch": 0})),
    "an epoch beyond 2^32-1": (R.INVALID_CAP, _request({"k3_epoch": 2**32})),
    "a text that is not ASCII": (R.INVALID_ENCODING, _request({"aud": "ä"})),
    "version 1": (R.UNSUPPORTED_VERSION, _request({"ver": 1})),
    "version 3": (R.UNSUPPORTED_VERSION, _request({"ver": 3})),
    # values
    "an actor in capitals": (R.INVALID_OMNI, _rewritten(_respelled("actor_omni", lambda value: "AB" + value[2:]))),
    "a short operator": (R.INVALID_OMNI, _request({"operator_omni": "ab" * 31})),
    "an omni with 0x": (R.INVALID_OMNI, _request({"actor_omni": "0x" + "ab" * 31})),
    "a short device": (R.INVALID_ENCODING, _request({"device": "ab" * 31})),
    "a padded nonce": (R.INVALID_ENCODING, _rewritten(_respelled("nonce", lambda value: value + "=="))),
    "a nonce with loose last bits": (R.INVALID_ENCODING, _request({"nonce": "A" * 21 + "B"})),
    "a nonce in the standard alphabet": (R.INVALID_ENCODING, _request({"nonce": "+" + "A" * 21})),
    "a nonce of 15 bytes": (R.INVALID_ENCODING, _request({"nonce": b64u_encode(bytes(15))})),
    "a request hash of 31 bytes": (R.INVALID_ENCODING, _request({"request_hash": b64u_encode(bytes(31))})),
    "a reply key of 31 bytes": (R.INVALID_ENCODING, _request({"reply_key": b64u_encode(bytes(31))})),
    "a reply key of small order": (R.INVALID_ENCODING, _request({"reply_key": SMALL_ORDER})),
    "a reply key of order 8": (
        R.INVALID_ENCODING,
        _request(
            {
                "reply_key": b64u_encode(
                    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800")
                )
            }
        ),
    ),
    # op and service
    "an unknown op": (R.INVALID_CAP, _request({"op": "cred-steal"})),
    "a service in capitals": (R.INVALID_CAP, _request({"service": "cred:Open"})),
    "a service with a trailing newline": (R.INVALID_CAP, _request({"service": "cred:open\n"})),
    "a service of 65 letters": (R.INVALID_CAP, _request({"service": "cred:" + "a" * 65})),
    "a service without a name": (R.INVALID_CAP, _request({"service": "cred:"})),
    "a path for a service": (R.INVALID_CAP, _request({"service": "cred:../other"})),
    "a prefix that does not fit the op": (R.INVALID_CAP, _request({"service": "memory:open"})),
    "a reserved name": (R.INVALID_CAP, _for(Op.CRED_STORE, "cred:list")),
    "a reserved name of memory": (R.INVALID_CAP, _for(Op.MEMORY_PUT, "memory:list", MEMORY)),
    "a list of another name": (R.INVALID_CAP, _for(Op.CRED_LIST, "cred:open")),
    # window
    "an end before the beginning": (R.INVALID_CAP, _request({"expires_at": 5, "issued_at": 6})),
    "an end at the beginning": (R.INVALID_CAP, _request({"expires_at": 6, "issued_at": 6})),
    "a window of 301 seconds": (R.WINDOW_TOO_LONG, _request({"expires_at": 307, "issued_at": 6})),
}

CAPS: Final[Mapping[str, tuple[Reason, Steps]]] = {
    "over 16 KiB": (R.TOO_LARGE, _cap({"kid": "a" * 16_384})),
    "nothing at all": (R.NON_CANONICAL_CAP, _bytes(lambda _: b"")),
    "not UTF-8": (R.INVALID_ENCODING, _bytes(lambda cap: cap[:-1] + b"\xff}")),
    "not JSON": (R.NON_CANONICAL_CAP, _bytes(lambda cap: cap[:-1])),
    "a trailing newline": (R.NON_CANONICAL_CAP, _bytes(lambda cap: cap + b"\n")),
    "a list": (R.INVALID_CAP, _bytes(lambda _: b"[]")),
    "an unknown name": (R.UNKNOWN_FIELDS, _cap({"also": "this"})),
    "a missing name": (R.INVALID_CAP, _bytes(lambda cap: b'{"cosign":"",' + cap[cap.index(b'"device_signature"') :])),
    "a number for a text": (R.INVALID_CAP, _cap({"kid": 5})),
    "a kid that is not ASCII": (R.INVALID_ENCODING, _cap({"kid": "ä"})),
    "a loose signature": (R.INVALID_ENCODING, _cap({"device_signature": "A" * 85 + "B"})),
    "a padded request": (R.INVALID_ENCODING, _cap({"request": "e30="})),
    "an assertion that is a text": (R.INVALID_CAP, _k11(lambda _: "yes")),
    "an assertion with an unknown name": (R.UNKNOWN_FIELDS, _k11(lambda k11: {**k11, "user_handle": ""})),
    "an assertion without a signature": (
        R.INVALID_CAP,
        _k11(lambda k11: {name: value for name, value in k11.items() if name != "signature"}),
    ),
    "an assertion in loose base64": (R.INVALID_ENCODING, _k11(lambda k11: {**k11, "signature": "A="})),
}

for _group, _table in (("Requests", REQUESTS), ("Caps", CAPS)):
    for _title, (_reason, _steps) in _table.items():
        add(Case(group=_group, title=_title, steps=_steps, gives=_reason))
