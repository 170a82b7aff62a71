"""Security keys that lie: nothing that one says is believed, as nothing that a browser says is."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from fido2 import cbor
from fido2.hid import CTAPHID

from agentkeys_core.errors import Reason
from agentkeys_core.k11 import K11Assertion
from device.errors import Trouble
from device.home import Home
from tests.fakes.security_key import PIN, SecurityKey, lying
from tests.unit.device.key_kit import Hands, Signed, made_on, refused, using

MAKE, GET, INFO = 0x01, 0x02, 0x04


def answering(command: int, change: Callable[[dict[int, Any]], object]) -> Callable[[int, bytes, bytes], bytes]:
    """A key that changes its answer to one command, and signs what it says only as far as it can."""

    def tamper(cmd: int, request: bytes, answer: bytes) -> bytes:
        if cmd != CTAPHID.CBOR or request[0] != command or answer[0]:
            return answer
        changed = change(cbor.decode(answer[1:]))  # type: ignore[arg-type]
        return answer[:1] + (changed if isinstance(changed, bytes) else cbor.encode(changed))  # type: ignore[arg-type]

    return tamper


def data(at: int, value: bytes, member: int = 2) -> Callable[[dict[int, Any]], object]:
    """Overwrite bytes of the authenticator data."""
    return lambda told: {**told, member: told[member][:at] + value + told[member][at + len(value) :]}


OTHER_RP = hashlib.sha256(b"example.org").digest()
JUNK = [b"", b"\xff", b"\x5b" + b"\xff" * 8, b"\xa1\x01", b"\x81" * 900, cbor.encode([1]), b"\xa1\x01\x02\x03"]
GIVEN: dict[str, Callable[[dict[int, Any]], object]] = {
    "other relying party": data(0, OTHER_RP),
    "nobody verified": data(32, b"\x01"),
    "nobody present": data(32, b"\x04"),
    "counter changed": data(33, b"\xff\xff\xff\xff"),
    "another credential": lambda told: {**told, 1: {**told[1], "id": bytes(32)}},
    "no credential id": lambda told: {**told, 1: {"type": "public-key"}},
    "id of another type": lambda told: {**told, 1: {**told[1], "id": 7}},
    "signature of nothing": lambda told: {**told, 3: b"\x30\x06\x02\x01\x01\x02\x01\x01"},
    "endless signature": lambda told: {**told, 3: bytes(5000)},
    "no data": lambda told: {**told, 2: b""},
    "bytes behind the data": lambda told: {**told, 2: told[2] + b"\0"},
    "a crowd of answers": lambda told: {**told, 5: 3},
    **{f"junk {number}": partial(lambda junk, _: junk, junk) for number, junk in enumerate(JUNK)},
}


@pytest.mark.parametrize("lie", GIVEN)
def test_a_lying_assertion_is_refused(home: Home, signed: Signed, key: SecurityKey, lie: str) -> None:
    record = made_on(home, key)
    tamper = answering(GET, GIVEN[lie])

    def after_the_question(cmd: int, request: bytes, answer: bytes) -> bytes:
        silent = cmd == CTAPHID.CBOR and request[0] == GET and b"\x62up\xf4" in request
        return answer if silent else tamper(cmd, request, answer)

    # It is asked for the rest of a crowd of answers, and has none.
    reason = Reason.K11_INVALID if lie != "a crowd of answers" else Trouble.DECLINED
    with refused(reason):
        using(Hands(PIN), lying(key, after_the_question)).approve(record, *signed)


def test_an_assertion_of_another_challenge_is_refused(home: Home, signed: Signed, key: SecurityKey) -> None:
    record = made_on(home, key)
    kept: list[bytes] = []

    def keep(cmd: int, request: bytes, answer: bytes) -> bytes:
        real = cmd == CTAPHID.CBOR and request[0] == GET and b"\x62up\xf4" not in request
        if real:
            kept.append(answer)
        return kept[0] if real else answer

    first = using(Hands(PIN), lying(key, keep)).approve(record, *signed)
    assert isinstance(first, K11Assertion)
    other = replace(signed[0], challenge=bytes(32))
    with refused(Reason.K11_INVALID):
        using(Hands(PIN), lying(key, keep)).approve(record, other, signed[1])


def _rsa(told: dict[int, Any]) -> dict[int, Any]:
    found = told[2]
    end = 55 + int.from_bytes(found[53:55], "big")
    return {**told, 2: found[:end] + cbor.encode({1: 3, 3: -257, -1: bytes(256), -2: b"\1\0\1"})}


def _off_the_curve(told: dict[int, Any]) -> dict[int, Any]:
    found = told[2]
    end = 55 + int.from_bytes(found[53:55], "big")
    return {**told, 2: found[:end] + cbor.encode({1: 2, 3: -7, -1: 1, -2: bytes(32), -3: bytes(32)})}


MADE: dict[str, Callable[[dict[int, Any]], object]] = {
    "other relying party": data(0, OTHER_RP),
    "nobody verified": data(32, b"\x41"),
    "nobody present": data(32, b"\x44"),
    "no key in it": lambda told: {**told, 2: told[2][:32] + b"\x05" + told[2][33:37]},
    "an rsa key": _rsa,
    "a point off the curve": _off_the_curve,
    "an endless id": data(53, b"\xff\xff"),
    "no data": lambda told: {**told, 2: b""},
    **{f"junk {number}": partial(lambda junk, _: junk, junk) for number, junk in enumerate(JUNK)},
}


@pytest.mark.parametrize("lie", MADE)
def test_a_lying_creation_is_refused(home: Home, key: SecurityKey, lie: str) -> None:
    with refused(Reason.K11_INVALID):
        using(Hands(PIN), lying(key, answering(MAKE, MADE[lie]))).create(home, device_key_hash=bytes(32))


ODD_INFO = [cbor.encode({1: versions, 3: bytes(16)}) for versions in ([7], [], ["FIDO_2_0", b"x"], "FIDO_2_1")]


@pytest.mark.parametrize("junk", [*JUNK, *ODD_INFO])
def test_a_key_that_says_nonsense_of_itself_is_refused(home: Home, key: SecurityKey, junk: bytes) -> None:
    with refused(Reason.K11_INVALID, Trouble.K11_KEY_UNSUITABLE):
        using(Hands(PIN), lying(key, answering(INFO, lambda _: junk))).create(home, device_key_hash=bytes(32))


def test_an_error_that_nobody_knows_is_named(home: Home, key: SecurityKey) -> None:
    def odd(cmd: int, request: bytes, answer: bytes) -> bytes:
        return b"\xf3" if cmd == CTAPHID.CBOR and request[0] == MAKE else answer

    with refused(Trouble.K11_KEY_UNSUITABLE):
        using(Hands(PIN), lying(key, odd)).create(home, device_key_hash=bytes(32))
