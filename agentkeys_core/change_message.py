"""What every registry change has in common: an EIP-712 message read, checked, written and hashed (wire.md)."""

from dataclasses import dataclass
from typing import Any, ClassVar, Final, Self, cast

from agentkeys_core.eip712 import Domain, Member, Struct, Value, signing_digest
from agentkeys_core.encoding import fields
from agentkeys_core.errors import KeyServiceError, Reason

BAD: Final = Reason.INVALID_CHANGE


def require(condition: bool, detail: str) -> None:
    """Raise `invalid_change` unless `condition` holds."""
    if not condition:
        raise KeyServiceError(BAD, detail)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One EIP-712 message. Omnis, hashes and credential ids: 32 bytes; addresses: 20; times in Unix seconds."""

    struct: ClassVar[Struct]

    operator_omni: bytes

    @property
    def type(self) -> str:
        """The name on the wire, such as `SetScope`."""
        return self.struct.name

    def _read(self, member: Member) -> Value:
        return cast("Value", getattr(self, member.attribute))

    def to_message(self) -> dict[str, object]:
        """The `message` object of wire.md."""
        return {member.name: member.to_json(self._read(member)) for member in self.struct.members}

    @classmethod
    def read_message(cls, message: object) -> Self:
        """Read a message by names and types alone: enough for its digest, too little to act on.

        Raises:
            KeyServiceError: `unknown_fields`, else `invalid_change`.
        """
        members = fields(message, required=[member.name for member in cls.struct.members], reason=BAD)
        values: dict[str, Any] = {
            member.attribute: member.from_json(members[member.name]) for member in cls.struct.members
        }
        return cls(**values)

    @classmethod
    def from_message(cls, message: object) -> Self:
        """Read a message and check all that can be checked without the registry.

        Raises:
            KeyServiceError: `unknown_fields`, else `invalid_change`.
        """
        change = cls.read_message(message)
        change.check()
        return change

    def check(self) -> None:
        """Raise `invalid_change` for values that no registry could accept, in whatever state."""

    def digest(self, domain: Domain) -> bytes:
        """The 32 bytes that K10 and wallets sign, and that K11 takes as its challenge."""
        return signing_digest(domain, self.struct.hash(self._read))

    def typed_data(self, domain: Domain) -> dict[str, object]:
        """The whole EIP-712 JSON, as wallets take it."""
        return {
            "domain": domain.to_json(),
            "message": self.to_message(),
            "primaryType": self.struct.name,
            "types": {"EIP712Domain": domain.struct.declaration(), self.struct.name: self.struct.declaration()},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderedChange(Change):
    """A change with the common header: registry incarnation, per-operator nonce (0 for Enrol), deadline."""

    incarnation: int
    nonce: int
    deadline: int
