"""Bodies and answers of the two operations that sign with a wallet."""

import json
from typing import Any

import pytest

from agentkeys_core.bodies import MAX_BODY_BYTES
from agentkeys_core.encoding import canonical_json
from agentkeys_core.signing_bodies import SiweAnswer, SiweBody, TypedDataAnswer, TypedDataBody
from tests.unit.core.refusal import refused
from tests.unit.core.test_typed_data import lowered

ADDRESS, SIGNATURE = bytes(range(20)), bytes(range(65))


def test_bodies_are_read_as_they_are_written() -> None:
    for message in ('two\nlines, "€"', ""):
        assert SiweBody.parse(SiweBody(message=message).encode()) == SiweBody(message=message)
    for epoch in (None, 1, 2**32 - 1):
        body = TypedDataBody(typed_data=lowered(), wallet_epoch=epoch)
        assert TypedDataBody.parse(body.encode()) == body
        assert TypedDataBody.parse(body.encode()).content().types.primary == "Mail"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'{"message":1}',
        b'{"message":"x","more":1}',
        b'{ "message":"x"}',
        b"\xff",
        b'{"message":"\\ud800"}',
        b'{"message":"a","message":"b"}',
    ],
)
def test_refuses_another_siwe_body(data: bytes) -> None:
    with refused("invalid_body"):
        SiweBody.parse(data)


@pytest.mark.parametrize("epoch", [0, -1, 2**32, "1", True, 1.5, {}])
def test_refuses_an_epoch_that_is_none(epoch: Any) -> None:
    data = b'{"typed_data":{},"wallet_epoch":%b}' % json.dumps(epoch).encode()
    with refused("invalid_body"):
        TypedDataBody.parse(data)


def test_what_typed_data_says_is_judged_by_its_own_reason() -> None:
    with refused("invalid_typed_data"):
        TypedDataBody.parse(b'{"typed_data":9007199254740993,"wallet_epoch":null}').content()
    with refused("invalid_body"):
        TypedDataBody.parse(b'{"typed_data":1.5,"wallet_epoch":null}')
    with refused("invalid_body"):
        TypedDataBody.parse(b'{"typed_data":{}}')


def test_bodies_are_bounded_and_canonical() -> None:
    with refused("too_large"):
        SiweBody(message="x" * MAX_BODY_BYTES).encode()
    with refused("too_large"):
        SiweBody.parse(b'"' + bytes(MAX_BODY_BYTES))
    with refused("invalid_body"):
        SiweBody(message="\ud800").encode()
    with refused("invalid_body"):
        TypedDataBody(typed_data={"x": 1.5}).encode()


def test_answers_are_read_as_they_are_written() -> None:
    siwe = SiweAnswer(address=ADDRESS, signature=SIGNATURE)
    assert SiweAnswer.parse(siwe.encode()) == siwe
    for intent in (None, "Permit: 25 €"):
        typed = TypedDataAnswer(
            address=ADDRESS,
            digest=bytes(32),
            domain_separator=bytes(32),
            intent=intent,
            signature=SIGNATURE,
            type_hash=bytes(32),
        )
        assert TypedDataAnswer.parse(typed.encode()) == typed
    assert SIGNATURE.hex() not in repr(siwe) + repr(typed)


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        b'{"address":"0x00","signature":"AA"}',
        canonical_json({"address": "0x" + "00" * 20, "signature": "A" * 86}),
        canonical_json({"address": "0x" + "00" * 20, "signature": 1}),
    ],
)
def test_refuses_another_answer(data: bytes) -> None:
    with refused("invalid_encoding"):
        SiweAnswer.parse(data)
