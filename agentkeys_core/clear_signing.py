"""What a wallet signs, in words: the same words for whoever asks and in the audit row. Typed data by ERC-7730.

The bundled descriptors are data in the published schema (v1). One applies only where the types are exactly its own, and
where the domain and the deployment are, if it names them: a look-alike gets no words rather than wrong ones.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import Any, Final, Self

from agentkeys_core.checksum import checksum_encode
from agentkeys_core.siwe import SiweMessage
from agentkeys_core.typed_data import TypedData, Value, kind_at
from agentkeys_core.typed_data_types import DOMAIN_TYPE, Kind, TypeSet

#: A text beyond this tells a person nothing, and an audit row has its own limit.
MAX_INTENT: Final = 1000
_CONTAINER: Final = "@.to"  # ERC-7730 for the contract itself
_FOLDER: Final = "descriptors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One line of a descriptor. `token_path`, `threshold` and `message` belong to token amounts."""

    path: str
    label: str
    format: str
    token_path: str | None = None
    threshold: int | None = None
    message: str | None = None

    @classmethod
    def parse(cls, obj: Mapping[str, Any]) -> Self:
        """Read a member of `fields`."""
        params = obj.get("params", {})
        threshold = params.get("threshold")
        return cls(
            path=obj["path"],
            label=obj["label"],
            format=obj["format"],
            token_path=params.get("tokenPath"),
            threshold=None if threshold is None else int(threshold, 16),
            message=params.get("message"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """One format of one ERC-7730 file: which typed data it is about, and how to say it.

    `deployments` are (chain id, contract); None where any will do.
    """

    types: TypeSet
    domain_type: str
    domain: Mapping[str, Value]
    deployments: frozenset[tuple[int, bytes]] | None
    intent: str
    fields: tuple[Field, ...]

    @classmethod
    def parse(cls, obj: Mapping[str, Any]) -> tuple[Self, ...]:
        """Read every format of a descriptor file; what stands in ours is checked by the tests."""
        context = obj["context"]["eip712"]
        listed = context.get("deployments")
        deployments = None if listed is None else frozenset(_deployment(item) for item in listed)
        made = []
        for schema in context["schemas"]:
            declared = dict(schema["types"])
            domain_types = TypeSet.parse(DOMAIN_TYPE, {DOMAIN_TYPE: declared.pop(DOMAIN_TYPE)})
            shown = obj["display"]["formats"][schema["primaryType"]]
            made.append(
                cls(
                    types=TypeSet.parse(schema["primaryType"], declared),
                    domain_type=domain_types.encode_type(),
                    domain=context.get("domain", {}),
                    deployments=deployments,
                    intent=shown["intent"],
                    fields=tuple(Field.parse(item) for item in shown["fields"]),
                )
            )
        return tuple(made)

    def applies_to(self, typed: TypedData) -> bool:
        """Whether these words are about that typed data."""
        domain = typed.domain
        deployed = (domain.get("chainId"), domain.get("verifyingContract"))
        return (
            typed.types.encode_type() == self.types.encode_type()
            and typed.domain_types.encode_type() == self.domain_type
            and all(domain.get(name) == value for name, value in self.domain.items())
            and (self.deployments is None or deployed in self.deployments)
        )

    def describe(self, typed: TypedData) -> str:
        """The words: the intent, the chain, then each field."""
        said = [f"{field.label} {_say(typed, field, value)}" for field in self.fields for value in typed.at(field.path)]
        chain = _raw(typed.domain["chainId"], None)
        return f"{self.intent}, on chain {chain}: {'; '.join(said)}"


def intent_of(typed: TypedData) -> str | None:
    """The words of the descriptor that applies, None where there is none or they would be too long to be read."""
    for descriptor in bundled():
        if descriptor.applies_to(typed):
            words = descriptor.describe(typed)
            return words if len(words) <= MAX_INTENT and words.isprintable() else None
    return None


def sign_in_words(message: SiweMessage) -> str:
    """The words for a sign-in: where, and as whom."""
    return f"Sign in to {message.domain} as {checksum_encode(message.address)}"


@cache
def bundled() -> Sequence[Descriptor]:
    """The descriptors that come with this package."""
    folder = resources.files(__package__ or "agentkeys_core") / _FOLDER
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".json")), key=lambda file: file.name)
    return tuple(found for file in files for found in Descriptor.parse(json.loads(file.read_text("utf-8"))))


def _deployment(obj: Mapping[str, Any]) -> tuple[int, bytes]:
    return obj["chainId"], bytes.fromhex(obj["address"][2:])


def _say(typed: TypedData, field: Field, value: Value) -> str:
    kind = kind_at(typed.types, field.path)
    if field.format == "tokenAmount" and isinstance(value, int):
        return _amount(typed, field, value)
    if field.format == "date" and isinstance(value, int):
        return _date(value)
    return _raw(value, kind)


def _amount(typed: TypedData, field: Field, value: int) -> str:
    """The plain number: without the token's own word for it, decimals would be a guess."""
    path = field.token_path or _CONTAINER
    token = typed.domain.get("verifyingContract") if path == _CONTAINER else next(iter(typed.at(path)), None)
    named = checksum_encode(token) if isinstance(token, bytes) else "unknown"
    unlimited = field.threshold is not None and value >= field.threshold
    return f"{field.message or 'Unlimited'} (token {named})" if unlimited else f"{value} base units of token {named}"


def _date(value: int) -> str:
    try:
        return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return "without end"


def _raw(value: Value, kind: Kind | None) -> str:
    if isinstance(value, bytes):
        return checksum_encode(value) if kind is not None and kind.base == "address" else f"0x{value.hex()}"
    return str(value)
