"""What the suite is told of the deployment that it judges: manifest.json of the folder that `--certs` names.

docs/spec/conformance.md describes the folder. Whatever is absent or null is a feature that this deployment does not have:
the cases that need it are reported as skipped.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Self

MANIFEST: Final = "manifest.json"
VERSION: Final = 1


class ManifestError(Exception):
    """The folder cannot be used; the text says which file and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sts:
    """Cloud sessions: a role that the credentials worker may take, one on its list that the endpoint refuses."""

    role_arn: str
    refused_role_arn: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Siwe:
    """A host to which managed wallets may sign in: on which chain, and for how many seconds at most."""

    domain: str
    chain_id: int
    max_lifetime_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TypedData:
    """One policy for typed data: its id (service `sign:<id>`) and what it lets sign.

    `document` is an ERC-2612 `Permit` of the one spender that the policy lists; K11 is asked for where the member named
    `amount` is above `most`, and the member named `ends` may be an hour ahead at most.
    """

    policy: str
    document: Mapping[str, Any]
    amount: str
    most: int
    ends: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Oidc:
    """An issuer that is pinned for first binds, our client id there, and the file with its private key (PEM)."""

    issuer: str
    client_id: str
    kid: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OlderObject:
    """A credential that was stored under an epoch before the current one, and an agent's device that may read it.

    All but `service` in hex: the omnis of the user and of the agent, the device's secret K10, the envelope. A run uses
    it up: its last reader has it re-wrapped.
    """

    operator: str
    actor: str
    k10: str = field(repr=False)
    service: str
    envelope: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Facts of one deployment. `folder` holds the files that are named relative to it."""

    folder: Path
    server_name: str
    trust_domain: str
    k1: str = "k1.pem"
    audit_jwks: str = "audit-jwks.json"
    k3: Mapping[int, bytes] = field(default_factory=dict, repr=False)
    held_epochs: tuple[int, ...] = (1,)
    device_burst: int | None = None
    streams_per_caller: int | None = None
    sts: Sts | None = None
    siwe: Siwe | None = None
    typed_data: TypedData | None = None
    oidc: Oidc | None = None
    older_object: OlderObject | None = None
    rewrap_open: bool = False
    software_k11: bool = False
    may_seal: bool = False

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the folder's manifest.

        Raises:
            ManifestError: missing, unreadable, of another version, or with a name that this suite does not know.
        """
        path = folder / MANIFEST
        try:
            members = json.loads(path.read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise ManifestError(f"{path}: {error}") from error
        if not isinstance(members, dict) or members.pop("ver", None) != VERSION:
            raise ManifestError(f"{path}: ver is not {VERSION}")
        known = {member.name for member in fields(cls)} - {"folder"}
        if unknown := sorted(members.keys() - known):
            raise ManifestError(f"{path}: unknown names: {', '.join(unknown)}")
        try:
            return cls(folder=folder, **{name: _read(name, value) for name, value in members.items()})
        except (TypeError, ValueError, AttributeError) as error:
            raise ManifestError(f"{path}: {error}") from error

    @property
    def rewrap_closed(self) -> bool:
        """Whether the window of `Rewrap` is closed."""
        return not self.rewrap_open

    @property
    def rewrap_and_k3(self) -> bool:
        """Whether legacy envelopes can be made, and re-wrapped."""
        return self.rewrap_open and bool(self.k3)

    @property
    def older_object_and_window(self) -> bool:
        """Whether an object of an older epoch can be re-wrapped."""
        return self.rewrap_open and self.older_object is not None

    @property
    def siwe_and_k3(self) -> bool:
        """Whether the address of a managed wallet can be computed."""
        return self.siwe is not None and self.k3_current

    @property
    def siwe_and_oidc(self) -> bool:
        """Whether users whose wallet the target derives can sign in somewhere."""
        return self.siwe is not None and self.oidc is not None

    @property
    def oidc_and_k3(self) -> bool:
        """Whether the initial wallet of an identity can be computed."""
        return self.oidc is not None and self.k3_current

    @property
    def older_epoch(self) -> bool:
        """Whether an epoch before the current one is held."""
        return len(self.held_epochs) > 1

    @property
    def no_software_k11(self) -> bool:
        """Whether software authenticators are refused."""
        return not self.software_k11

    @property
    def k3_current(self) -> bool:
        """Whether the secret of the current epoch is known."""
        return max(self.held_epochs) in self.k3

    def has(self, feature: str) -> bool:
        """Whether the deployment has the optional feature of that name."""
        return bool(getattr(self, feature))


_TABLES: Final[Mapping[str, type]] = {
    "older_object": OlderObject,
    "sts": Sts,
    "siwe": Siwe,
    "typed_data": TypedData,
    "oidc": Oidc,
}


def _read(name: str, value: Any) -> Any:
    if name == "k3":
        return {int(epoch): bytes.fromhex(secret) for epoch, secret in (value or {}).items()}
    if name in _TABLES:
        return None if value is None else _TABLES[name](**value)
    return tuple(value) if isinstance(value, list) else value
