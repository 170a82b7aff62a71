"""The OpenID providers that the broker has: which one is meant, and as which client it is asked there."""

import re
from dataclasses import dataclass
from typing import Final, Self

from agentkeys_core.encoding import fields
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.shapes import sequence, text
from device.errors import DeviceError, Trouble
from device.problems import check_refusal
from device.registry import TIMEOUT_S
from device.session import Device

GOOGLE: Final = "https://accounts.google.com"
PROVIDERS_PATH: Final = "/v1/identity/oidc/issuers"
#: OpenID Connect Discovery 1.0, 2 and 3: an https address without query or fragment. It is read by people, so no blank
#: makes a sentence of it, and no name stands before its host.
_ISSUER: Final = re.compile(r"https://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?(?:/[!-~]*)?")
_MAX_ISSUER: Final = 255
_MAX_CLIENT_ID: Final = 1024
_MAX_PROVIDERS: Final = 64
_BAD: Final = Reason.INVALID_ENCODING


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """An OpenID provider and our client id there, as the broker tells them.

    A client id that is not the deployment's own costs the bind: the signer takes tokens for the one that it pins.
    """

    issuer: str
    client_id: str

    @classmethod
    def parse(cls, obj: object) -> Self:
        """Raises `invalid_encoding` or `unknown_fields`."""
        members = fields(obj, required=("client_id", "issuer"), reason=_BAD)
        found = {name: text(members[name], name, reason=_BAD) for name in ("client_id", "issuer")}
        client_id, issuer = found["client_id"], found["issuer"]
        if not (0 < len(client_id) <= _MAX_CLIENT_ID and client_id.isprintable()):
            raise KeyServiceError(_BAD, "no client id")
        if len(issuer) > _MAX_ISSUER or not _ISSUER.fullmatch(issuer) or set(issuer) & set("?#"):
            raise KeyServiceError(_BAD, "an issuer is named by its https address")
        return cls(**found)


def chosen_provider(device: Device, issuer: str | None) -> Provider:
    """Return the provider of that name, or the broker's only one where none is named.

    Raises:
        DeviceError: `identity_not_offered` where the broker has none, or not that one; `ambiguous` where it has several
            and none is named (both say which there are); `answer_not_trusted`, `unreachable`.
        KeyServiceError: the broker's refusal.
    """
    providers = _providers(device)
    names = ", ".join(sorted(providers))
    if not providers:
        raise DeviceError(Trouble.IDENTITY_NOT_OFFERED, "this deployment's broker has no OpenID provider")
    if issuer is None and len(providers) > 1:
        raise DeviceError(Trouble.AMBIGUOUS, f"name the provider by --issuer; this broker has {names}")
    found = next(iter(providers.values())) if issuer is None else providers.get(issuer)
    if found is None:
        raise DeviceError(Trouble.IDENTITY_NOT_OFFERED, f"this broker has no provider {issuer}; it has {names}")
    return found


def _providers(device: Device) -> dict[str, Provider]:
    try:
        answer = check_refusal(device.channel(None).get(PROVIDERS_PATH, timeout_s=TIMEOUT_S)).json()
    except KeyServiceError as exc:
        if exc.reason is not Reason.NOT_FOUND:
            raise
        return {}
    try:
        return {found.issuer: found for found in _listed(answer)}
    except KeyServiceError as exc:
        raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, "the broker tells no list of providers") from exc


def _listed(answer: object) -> list[Provider]:
    listed = sequence(fields(answer, required=("issuers",), reason=_BAD)["issuers"], "issuers", reason=_BAD)
    if len(listed) > _MAX_PROVIDERS:
        raise KeyServiceError(_BAD, "more providers than anybody has")
    return [Provider.parse(entry) for entry in listed]
