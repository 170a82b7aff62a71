import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from agentkeys_core.keys import ES256PublicKey, es256_sign
from agentkeys_core.ops import Effect, ObjectClass, Service
from signer.tokens import SESSION_TTL_S, TOKEN_TTL_S, session_policy, web_identity_token

OWNER = bytes(range(32))
NOW = 1_764_000_000
KEY = ec.generate_private_key(ec.SECP256R1())


def token(**changes: Any) -> Any:
    return web_identity_token(
        **{
            "issuer": "https://issuer.example.org",
            "audience": "sts.amazonaws.com",
            "owner": OWNER,
            "token_id": "ab",
            "now": NOW,
            "kid": ES256PublicKey.of(KEY.public_key()).kid,
            "sign": lambda message: es256_sign(KEY, message),
            **changes,
        }
    )


def test_a_second_library_verifies_the_token() -> None:
    text = token()
    claims = jwt.decode(
        text,
        KEY.public_key(),
        algorithms=["ES256"],
        audience="sts.amazonaws.com",
        issuer="https://issuer.example.org",
        options={
            "verify_exp": False,
            "verify_nbf": False,
            "verify_iat": False,
            "require": ["exp", "iat", "nbf", "sub", "jti"],
        },
    )
    assert claims["sub"] == OWNER.hex()
    assert claims["exp"] - claims["iat"] == TOKEN_TTL_S == 300
    assert claims["https://aws.amazon.com/tags"] == {"principal_tags": {"agentkeys_actor_omni": [OWNER.hex()]}}
    assert jwt.get_unverified_header(text)["kid"] == ES256PublicKey.of(KEY.public_key()).kid


def policy(
    effect: Any = Effect.READ,
    bucket: Any = "bucket",
    service: Any = "cred:openrouter",
    object_class: Any = ObjectClass.CREDENTIALS,
) -> Any:
    text = session_policy(
        bucket=bucket, effect=effect, owner=OWNER, service=Service.parse(service), object_class=object_class
    )
    return json.loads(text)


@pytest.mark.parametrize(
    ("effect", "verb"),
    [(Effect.READ, "s3:GetObject"), (Effect.WRITE, "s3:PutObject"), (Effect.DELETE, "s3:DeleteObject")],
)
def test_a_session_opens_one_object_for_one_verb(effect: Any, verb: Any) -> None:
    assert policy(effect) == {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": [verb],
                "Resource": [f"arn:aws:s3:::bucket/bots/{OWNER.hex()}/credentials/openrouter.enc"],
            }
        ],
    }


def test_classes_have_their_own_folder() -> None:
    found = policy(service="memory:travel", object_class=ObjectClass.MEMORY)
    assert found["Statement"][0]["Resource"] == [f"arn:aws:s3:::bucket/bots/{OWNER.hex()}/memory/travel.enc"]


@pytest.mark.parametrize("effect", [Effect.LIST, Effect.AUDIT, Effect.SIGN])
def test_other_effects_open_no_object(effect: Any) -> None:
    with pytest.raises(ValueError):
        policy(effect)


@pytest.mark.parametrize("bucket", ["b*", "a?c", "${aws:x}", "", "ab", "a/b", "Bucket"])
def test_a_bucket_is_never_a_pattern(bucket: Any) -> None:
    with pytest.raises(ValueError):
        policy(bucket=bucket)


def test_sessions_last_as_long_as_the_protocol_says() -> None:
    assert SESSION_TTL_S == 900
