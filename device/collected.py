"""A change that several machines sign, as the file that goes from one to the next."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

from agentkeys_core.changes import AddMaster, Change, K11OfDevice, RevokeDevice, SetRoles, SetThreshold, SignedChange
from agentkeys_core.encoding import b64u_decode, b64u_encode, canonical_json, fields, strict_json
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ids import address_of
from agentkeys_core.signed_change import MAX_CHANGE_BYTES
from device.errors import DeviceError, Trouble
from device.home import read_public_file, write_new_file

#: The registry takes an hour at most; what is left of it is for clocks that differ.
COLLECT_LIFE_S: Final = 3000
MAX_FILE_BYTES: Final = MAX_CHANGE_BYTES + 4096
#: What takes as many masters as the recovery threshold says.
QUORUM_CHANGES: Final = (AddMaster, RevokeDevice, SetRoles, SetThreshold)
_KIND: Final = "agentkeys-change"
_VERSION: Final = 1
_BAD: Final = Reason.INVALID_ENCODING


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """A change and its signatures so far. `new_public_key` (33 bytes) is the K10 of a master that it lets in."""

    signed: SignedChange
    new_public_key: bytes | None = None

    @property
    def change(self) -> Change:
        """The change itself."""
        return self.signed.change

    @property
    def devices(self) -> tuple[bytes, ...]:
        """Key hashes of the masters whose K11 approved so far."""
        return tuple(entry.device for entry in self.signed.signatures.k11)

    def with_k11(self, *assertions: K11OfDevice) -> Self:
        """Return it with these approvals as well."""
        signatures = replace(self.signed.signatures, k11=(*self.signed.signatures.k11, *assertions))
        return replace(self, signed=replace(self.signed, signatures=signatures))

    def encode(self) -> bytes:
        """The file."""
        key = None if self.new_public_key is None else b64u_encode(self.new_public_key)
        change = strict_json(self.signed.encode(), limit=MAX_CHANGE_BYTES, reason=_BAD)
        return canonical_json({"kind": _KIND, "new_public_key": key, "signed": change, "ver": _VERSION})

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the file. Raises `bad_file`, also for a change that takes one master alone."""
        try:
            names = ("kind", "new_public_key", "signed", "ver")
            members = fields(strict_json(data, limit=MAX_FILE_BYTES, reason=_BAD), required=names, reason=_BAD)
            key = members["new_public_key"]
            found = cls(
                signed=SignedChange.parse(canonical_json(members["signed"])),
                new_public_key=None if key is None else b64u_decode(key, length=33),
            )
            fits = found._fits()
        except (KeyServiceError, ValueError) as exc:
            raise DeviceError(Trouble.BAD_FILE, f"not a change that masters sign together: {exc}") from exc
        if members["kind"] != _KIND or members["ver"] != _VERSION or not fits:
            raise DeviceError(Trouble.BAD_FILE, "not a change that masters sign together, of this version")
        return found

    def _fits(self) -> bool:
        """Whether the new master's key goes with an AddMaster, and is the one that it names."""
        if isinstance(self.change, AddMaster):
            return self.new_public_key is not None and address_of(self.new_public_key) == self.change.device
        return isinstance(self.change, QUORUM_CHANGES) and self.new_public_key is None

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file. Raises `bad_file`."""
        return cls.parse(read_public_file(path, limit=MAX_FILE_BYTES))

    def write(self, path: Path, *, replace_it: bool) -> None:
        """Write a file. Raises `file_exists` or `bad_file`."""
        write_new_file(path, self.encode() + b"\n", replace=replace_it)
