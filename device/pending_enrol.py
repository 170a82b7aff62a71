"""The file of an Enrol that was signed, and whose row has not come back yet."""

from dataclasses import dataclass, replace
from typing import Final, Self

from agentkeys_core.changes import Enrol, SignedChange
from agentkeys_core.encoding import canonical_json, fields, strict_json
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ids import IdentityType
from device.errors import DeviceError, Trouble
from device.home import MAX_FILE_BYTES, Home
from device.lost_key import ENROL_FILE

_BAD: Final = Reason.INVALID_ENCODING


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """An Enrol that K10 and K11 have signed, and perhaps the wallet; it waits in the folder until its row came back.

    `by` is what names the person; the Enrol holds a hash of it alone.
    """

    signed: SignedChange
    by: IdentityType

    @property
    def change(self) -> Enrol:
        """The Enrol itself."""
        if not isinstance(self.signed.change, Enrol):
            raise DeviceError(Trouble.BAD_FILE, f"{ENROL_FILE} holds another change")
        return self.signed.change

    @classmethod
    def load(cls, home: Home) -> Self | None:
        """Return what waits in the folder, None where nothing does. Raises `bad_file` or `unsafe_file`."""
        data = home.read(ENROL_FILE)
        if data is None:
            return None
        try:
            obj = strict_json(data, limit=MAX_FILE_BYTES, reason=_BAD)
            members = fields(obj, required=("by", "signed"), reason=_BAD)
            return cls(signed=SignedChange.from_json(members["signed"]), by=IdentityType(str(members["by"])))
        except (KeyServiceError, ValueError) as exc:
            raise DeviceError(Trouble.BAD_FILE, f"{home.path / ENROL_FILE}: {exc}") from exc

    def save(self, home: Home) -> None:
        """Keep it."""
        home.write(ENROL_FILE, canonical_json({"by": self.by.value, "signed": self.signed.to_json()}))

    def with_wallet(self, signature: bytes) -> Self:
        """Return it with the wallet's signature."""
        signatures = replace(self.signed.signatures, wallet=signature)
        return replace(self, signed=SignedChange(change=self.signed.change, signatures=signatures))
