"""The web identity token and the inline session policy of one cloud session (design, section 8). Pure."""

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from agentkeys_core.encoding import b64u_encode, canonical_json
from agentkeys_core.ops import Effect, ObjectClass, Service, object_path

TOKEN_TTL_S: Final = 300
#: Object stores compare without tolerance: a clock behind ours would find a token of this very moment not valid yet.
BACKDATED_S: Final = 30
SESSION_TTL_S: Final = 900
TAGS_CLAIM: Final = "https://aws.amazon.com/tags"
PRINCIPAL_TAG: Final = "agentkeys_actor_omni"

#: The verbs of each effect. Lists and audit reads open no object: the signer's own inventory answers them.
VERBS: Final[Mapping[Effect, str]] = MappingProxyType(
    {Effect.WRITE: "s3:PutObject", Effect.READ: "s3:GetObject", Effect.DELETE: "s3:DeleteObject"}
)
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


def web_identity_token(
    *, issuer: str, audience: str, owner: bytes, token_id: str, now: int, kid: str, sign: Callable[[bytes], bytes]
) -> str:
    """A JWT (ES256) that says `owner` (32 bytes) is the subject, valid for 300 s from `now` (Unix seconds).

    `token_id` becomes `jti`; `sign` gives 64 bytes r||s over the signing input with the OIDC key named by `kid`.
    """
    header = {"alg": "ES256", "kid": kid, "typ": "JWT"}
    claims = {
        "iss": issuer,
        "sub": owner.hex(),
        "aud": audience,
        "iat": now,
        "nbf": now,
        "exp": now + TOKEN_TTL_S,
        "jti": token_id,
        TAGS_CLAIM: {"principal_tags": {PRINCIPAL_TAG: [owner.hex()]}},
    }
    signing_input = f"{b64u_encode(canonical_json(header))}.{b64u_encode(canonical_json(claims))}"
    return f"{signing_input}.{b64u_encode(sign(signing_input.encode()))}"


def is_bucket_name(text: str) -> bool:
    """Whether `text` is a bucket name without anything that a policy would read as a wildcard or variable."""
    return _BUCKET.fullmatch(text) is not None


def session_policy(*, bucket: str, effect: Effect, owner: bytes, service: Service, object_class: ObjectClass) -> str:
    """The inline policy that opens one object of `bucket` for the one verb of `effect`, and nothing else.

    Raises:
        ValueError: an effect that opens no object, or a bucket name that is none.
    """
    verb = VERBS.get(effect)
    if verb is None or not is_bucket_name(bucket):
        raise ValueError("no object session for this effect or bucket")
    # Owner is hex and the service name matches [a-z0-9._-]: neither can carry a policy wildcard.
    resource = f"arn:aws:s3:::{bucket}/{object_path(owner, service, object_class)}"
    statement = {"Action": [verb], "Effect": "Allow", "Resource": [resource]}
    return canonical_json({"Statement": [statement], "Version": "2012-10-17"}).decode()
