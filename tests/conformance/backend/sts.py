"""Cloud sessions of the backend: a token, one POST, and an answer in XML (docs/spec/formats.md, Cloud sessions)."""

import json
import secrets
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from defusedxml.ElementTree import fromstring

from agentkeys.signer.v1 import signer_pb2 as pb
from agentkeys_core.encoding import b64u_encode
from agentkeys_core.errors import Reason
from agentkeys_core.ops import Effect, object_path
from tests.conformance.backend.checks import Asked
from tests.conformance.backend.keys import Keys
from tests.conformance.backend.refused import refuse

TTL_S: Final = 900
TOKEN_TTL_S: Final = 300
TAGS: Final = "https://aws.amazon.com/tags"
_VERBS: Final = {Effect.WRITE: "s3:PutObject", Effect.READ: "s3:GetObject", Effect.DELETE: "s3:DeleteObject"}
_NAMES: Final = "{https://sts.amazonaws.com/doc/2011-06-15/}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StsFacts:
    """Where tokens are exchanged, and for which roles of which class."""

    endpoint: str
    ca: str
    issuer: str
    audience: str
    bucket: str
    role_arns: Mapping[str, Sequence[str]]


class Sts:
    """Exchanges tokens; `facts` is None where the deployment has no cloud."""

    def __init__(self, keys: Keys, facts: StsFacts | None) -> None:
        self._keys = keys
        self._facts = facts

    def check_role(self, kind: str | None, role_arn: str) -> None:
        """Only a role on the list of the caller's class."""
        if self._facts is None or kind is None or role_arn not in self._facts.role_arns.get(kind, ()):
            refuse(Reason.ROLE_ARN_NOT_ALLOWED)

    def exchange(self, admitted: Asked, role_arn: str) -> pb.StsCredentialsResponse:
        """A session for exactly that object and verb."""
        facts = self._facts
        assert facts is not None
        form = {
            "Action": "AssumeRoleWithWebIdentity",
            "Version": "2011-06-15",
            "DurationSeconds": str(TTL_S),
            "RoleArn": role_arn,
            "RoleSessionName": admitted.request.digest.hex(),
            "WebIdentityToken": self._token(facts, admitted.owner),
            "Policy": self._policy(facts, admitted),
        }
        try:
            data = urllib.parse.urlencode(form).encode()
            context = ssl.create_default_context(cafile=facts.ca)
            with urllib.request.urlopen(facts.endpoint, data, timeout=10, context=context) as answer:
                return _session(answer.read(65_536))
        except (OSError, ValueError, KeyError, urllib.error.URLError):
            refuse(Reason.STS_UNREACHABLE)

    def _token(self, facts: StsFacts, owner: bytes) -> str:
        now, epoch = int(time.time()), self._keys.current
        header = {"alg": "ES256", "kid": self._keys.public(epoch, "oidc").kid, "typ": "JWT"}
        claims: dict[str, Any] = {
            "iss": facts.issuer,
            "sub": owner.hex(),
            "aud": facts.audience,
            "iat": now,
            "nbf": now,
            "exp": now + TOKEN_TTL_S,
            "jti": secrets.token_hex(16),
            TAGS: {"principal_tags": {"agentkeys_actor_omni": [owner.hex()]}},
        }
        signed = ".".join(b64u_encode(json.dumps(part).encode()) for part in (header, claims))
        return f"{signed}.{b64u_encode(self._keys.es256_sign(epoch, 'oidc', signed.encode()))}"

    def _policy(self, facts: StsFacts, admitted: Asked) -> str:
        request = admitted.request
        kind = request.rule.object_class
        assert kind is not None
        path = f"arn:aws:s3:::{facts.bucket}/{object_path(admitted.owner, request.service, kind)}"
        statement = {"Effect": "Allow", "Action": [_VERBS[request.rule.effect]], "Resource": [path]}
        return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def _session(xml: bytes) -> pb.StsCredentialsResponse:
    found = {part.tag.removeprefix(_NAMES): part.text or "" for part in fromstring(xml).iter()}
    return pb.StsCredentialsResponse(
        access_key_id=found["AccessKeyId"],
        secret_access_key=found["SecretAccessKey"],
        session_token=found["SessionToken"],
        expires_at=int(datetime.fromisoformat(found["Expiration"]).timestamp()),
    )
