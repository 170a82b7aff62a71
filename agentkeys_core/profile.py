"""A device's profile: what it takes from its host once and compares by hash (design §3).

It never changes on a broker's word.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Self

from agentkeys_core.eip712 import Domain
from agentkeys_core.encoding import address_decode, address_encode, canonical_json, fields, parse_canonical
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.hashes import sha256
from agentkeys_core.ops import WorkerClass
from agentkeys_core.shapes import integer, sequence, text

PROFILE_VERSION: Final = 1
MAX_PROFILE_BYTES: Final = 64 * 1024
_BAD: Final = Reason.INVALID_ENCODING
_NAMES: Final = ("aud", "broker", "ca", "chain", "issuer", "trust_domain", "ver", "workers")
_HOST: Final = r"(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:]+\])"
_ORIGIN: Final = re.compile(rf"https://{_HOST}(?::([1-9][0-9]{{0,4}}))?")
_ENDPOINT: Final = re.compile(rf"https?://{_HOST}(?::[1-9][0-9]{{0,4}})?(?:/[!-~]*)?")
_TRUST_DOMAIN: Final = re.compile(r"[a-z0-9._-]{1,255}")
_CONTRACT: Final = re.compile(r"[A-Za-z0-9]{1,64}")
_MAX_PORT: Final = 65535


def check_origin(value: object, name: str) -> str:
    """Return `value` if it is a bare https origin: lower-case host, perhaps a port, no path and no trailing slash.

    Raises:
        KeyServiceError: `invalid_encoding`.
    """
    match = _ORIGIN.fullmatch(text(value, name, reason=_BAD))
    if match is None or (match[1] is not None and int(match[1]) > _MAX_PORT):
        raise KeyServiceError(_BAD, f"{name} is not an https origin")
    return match[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainProfile:
    """Where an EVM registry is: chain id, contract addresses (20 bytes) by name, JSON-RPC endpoints."""

    id: int
    contracts: Mapping[str, bytes]
    endpoints: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """The `chain` object."""
        return {
            "contracts": {name: address_encode(self.contracts[name]) for name in sorted(self.contracts)},
            "endpoints": list(self.endpoints),
            "id": self.id,
        }

    @classmethod
    def from_json(cls, obj: object) -> Self:
        """Read `chain`. Raises `unknown_fields` or `invalid_encoding`."""
        members = fields(obj, required=("contracts", "endpoints", "id"), reason=_BAD)
        contracts = members["contracts"]
        if not isinstance(contracts, dict) or not all(_CONTRACT.fullmatch(name) for name in contracts):
            raise KeyServiceError(_BAD, "contracts")
        endpoints = tuple(
            text(item, "endpoint", reason=_BAD) for item in sequence(members["endpoints"], "endpoints", reason=_BAD)
        )
        if not endpoints or not all(_ENDPOINT.fullmatch(endpoint) for endpoint in endpoints):
            raise KeyServiceError(_BAD, "endpoints")
        return cls(
            id=integer(members["id"], "id", low=1, reason=_BAD),
            contracts=MappingProxyType({name: address_decode(value, reason=_BAD) for name, value in contracts.items()}),
            endpoints=endpoints,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One deployment as its devices see it. `aud` is the registry id, `ca` the root certificate as PEM text."""

    aud: str
    broker: str
    ca: str
    issuer: str
    trust_domain: str
    workers: Mapping[WorkerClass, str]
    chain: ChainProfile | None = None

    @property
    def domain(self) -> Domain:
        """The EIP-712 domain of every change that this device signs."""
        return Domain.of(self.aud)

    def encode(self) -> bytes:
        """Canonical JSON."""
        return canonical_json(
            {
                "aud": self.aud,
                "broker": self.broker,
                "ca": self.ca,
                "chain": None if self.chain is None else self.chain.to_json(),
                "issuer": self.issuer,
                "trust_domain": self.trust_domain,
                "ver": PROFILE_VERSION,
                "workers": {worker.value: self.workers[worker] for worker in WorkerClass},
            }
        )

    def hash(self) -> bytes:
        """The 32 bytes that the user compares once, and that every `Pair` names."""
        return sha256(self.encode())

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the canonical JSON.

        Raises:
            KeyServiceError: `too_large`, `unknown_fields`, `unsupported_version`, else `invalid_encoding`.
        """
        members = fields(
            parse_canonical(data, limit=MAX_PROFILE_BYTES, not_canonical=_BAD), required=_NAMES, reason=_BAD
        )
        if integer(members["ver"], "ver", reason=_BAD) != PROFILE_VERSION:
            raise KeyServiceError(Reason.UNSUPPORTED_VERSION, "profile")
        ca = text(members["ca"], "ca", reason=_BAD)
        if not ca.startswith("-----BEGIN CERTIFICATE-----\n"):
            raise KeyServiceError(_BAD, "ca is not a PEM certificate")
        trust_domain = text(members["trust_domain"], "trust_domain", reason=_BAD)
        if not _TRUST_DOMAIN.fullmatch(trust_domain):
            raise KeyServiceError(_BAD, "trust_domain")
        workers = fields(members["workers"], required=tuple(worker.value for worker in WorkerClass), reason=_BAD)
        chain = members["chain"]
        profile = cls(
            aud=text(members["aud"], "aud", reason=_BAD),
            broker=check_origin(members["broker"], "broker"),
            ca=ca,
            issuer=check_origin(members["issuer"], "issuer"),
            trust_domain=trust_domain,
            workers=MappingProxyType({worker: check_origin(workers[worker.value], worker) for worker in WorkerClass}),
            chain=None if chain is None else ChainProfile.from_json(chain),
        )
        profile._check_registry()
        return profile

    def _check_registry(self) -> None:
        """The registry id is well-formed, and of the kind and chain that the profile describes."""
        try:
            on_chain = self.domain.is_chain
        except KeyServiceError as exc:
            raise KeyServiceError(_BAD, "aud") from exc
        if on_chain != (self.chain is not None):
            raise KeyServiceError(_BAD, "aud and chain do not fit")
        if self.chain is not None and not self.aud.startswith(f"eip155:{self.chain.id}:"):
            raise KeyServiceError(_BAD, "aud is of another chain")
