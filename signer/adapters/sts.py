"""AssumeRoleWithWebIdentity over HTTPS, as AWS STS and what speaks its protocol answer it."""

import http.client
import re
import ssl
import xml.etree.ElementTree as ET  # names types only; defusedxml parses
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlencode, urlsplit

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_runtime.deadline import connected
from signer.ports import Clock, StsSession
from signer.tokens import SESSION_TTL_S

TIMEOUT_S: Final = 5.0  # for each step
EXCHANGE_S: Final = 8.0  # from the connection to the last byte; callers wait for 10
MAX_ANSWER: Final = 64 * 1024  # bytes
_VERSION: Final = "2011-06-15"
_NAMESPACE: Final = "{https://sts.amazonaws.com/doc/2011-06-15/}"
_SKEW_S: Final = 300  # between this clock and the endpoint's
_CODE: Final = re.compile(r"[A-Za-z]{1,64}")
_FIELDS: Final = ("AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration")


class StsClient:
    """Asks one endpoint. No redirect is followed, no answer over 64 KiB read, no more than 5 s waited for each step."""

    def __init__(self, *, endpoint: str, ca: Path | None, clock: Clock) -> None:
        parts = urlsplit(endpoint)
        self._host, self._port = parts.hostname or "", parts.port
        self._context = ssl.create_default_context(cafile=ca) if parts.scheme == "https" else None
        self._clock = clock

    def assume_role(self, *, role_arn: str, session_name: str, token: str, policy: str) -> StsSession:
        """A session of 900 s. Raises sts_unreachable, whatever went wrong; its detail names no secret."""
        form = {
            "Action": "AssumeRoleWithWebIdentity",
            "DurationSeconds": str(SESSION_TTL_S),
            "Policy": policy,
            "RoleArn": role_arn,
            "RoleSessionName": session_name,
            "Version": _VERSION,
            "WebIdentityToken": token,
        }
        try:
            status, answer = self._post(urlencode(form).encode())
        except (OSError, http.client.HTTPException) as exc:  # ssl.SSLError and timeouts are OSErrors
            raise KeyServiceError(Reason.STS_UNREACHABLE, type(exc).__name__) from exc
        if status != http.client.OK:
            raise KeyServiceError(Reason.STS_UNREACHABLE, f"HTTP status {status}, {_error_code(answer)}")
        return self._session(answer)

    def _post(self, body: bytes) -> tuple[int, bytes]:
        if self._context is None:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT_S)
        else:
            connection = http.client.HTTPSConnection(self._host, self._port, timeout=TIMEOUT_S, context=self._context)
        with connected(connection, EXCHANGE_S):
            headers = {"Accept": "application/xml", "Content-Type": "application/x-www-form-urlencoded"}
            connection.request("POST", "/", body=body, headers=headers)
            response = connection.getresponse()
            answer = response.read(MAX_ANSWER + 1)
        if len(answer) > MAX_ANSWER:
            raise KeyServiceError(Reason.STS_UNREACHABLE, "the answer is too large")
        return response.status, answer

    def _session(self, answer: bytes) -> StsSession:
        root = _parsed(answer)
        path = f"{_NAMESPACE}AssumeRoleWithWebIdentityResult/{_NAMESPACE}Credentials/{_NAMESPACE}"
        access_key_id, secret, session_token, expiration = (root.findtext(path + name, "") for name in _FIELDS)
        if not (access_key_id and secret and session_token):
            raise KeyServiceError(Reason.STS_UNREACHABLE, "the answer has no credentials")
        return StsSession(
            access_key_id=access_key_id,
            secret_access_key=secret,
            session_token=session_token,
            expires_at=self._expiry(expiration),
        )

    def _expiry(self, text: str) -> int:
        """Unix seconds; a session that is over already, or longer than the one asked for, is refused."""
        try:
            moment = datetime.fromisoformat(text)
        except ValueError as exc:
            raise KeyServiceError(Reason.STS_UNREACHABLE, "the answer has no expiration") from exc
        expires_at = int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp())
        if not 0 < expires_at - self._clock.now() <= SESSION_TTL_S + _SKEW_S:
            raise KeyServiceError(Reason.STS_UNREACHABLE, "the session has another length than asked for")
        return expires_at


def _parsed(answer: bytes) -> ET.Element:
    try:
        root: ET.Element = fromstring(answer, forbid_dtd=True)
    except (ET.ParseError, DefusedXmlException, ValueError, LookupError) as exc:  # LookupError: an unknown encoding
        raise KeyServiceError(Reason.STS_UNREACHABLE, "the answer is not XML") from exc
    return root


def _error_code(answer: bytes) -> str:
    """The endpoint's word for its refusal. Its message stays unread: it may quote the token."""
    try:
        code = _parsed(answer).findtext(f"{_NAMESPACE}Error/{_NAMESPACE}Code", "")
    except KeyServiceError:
        code = ""
    return code if _CODE.fullmatch(code) else "no code"
