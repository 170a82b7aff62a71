"""Refuses protobuf messages that carry fields which this version does not know."""

from collections.abc import Callable
from typing import Final, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from agentkeys_core.errors import KeyServiceError, Reason

M = TypeVar("M", bound=Message)
_MESSAGE: Final = FieldDescriptor.TYPE_MESSAGE


def parser(kind: type[M]) -> Callable[[bytes], M]:
    """A function from bytes to a message of `kind`; it raises `invalid_encoding` or `unknown_fields`."""
    nested = any(field.type == _MESSAGE for field in kind.DESCRIPTOR.fields)

    def parse(data: bytes) -> M:
        try:
            message = kind.FromString(data)
        except DecodeError as exc:
            raise KeyServiceError(Reason.INVALID_ENCODING, f"not a {kind.DESCRIPTOR.name}") from exc
        if len(UnknownFieldSet(message)) or (nested and _carries_unknown(message)):
            raise KeyServiceError(Reason.UNKNOWN_FIELDS, f"{kind.DESCRIPTOR.name} has unknown fields")
        return message

    return parse


def _carries_unknown(message: Message) -> bool:
    """Whether a field at any depth is unknown. The library drops them all in C: walking 256 items costs far more."""
    size = message.ByteSize()
    message.DiscardUnknownFields()
    return message.ByteSize() != size
