"""A deployment whose registry is the real one: what devices sign is judged by the signer's own rules."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agentkeys_core.audit import AuditRow
from agentkeys_core.encoding import address_encode, b64u_encode, canonical_json, strict_json
from agentkeys_core.errors import Reason
from agentkeys_core.signed_change import SignedChange
from signer.attesting import Attesting
from tests.fakes.evidence_kit import Issuer, attesting, policy
from tests.fakes.registry_kit import Opened, SetClock, opened
from tests.unit.device.deployment import Deployment
from tests.unit.device.https import Reply

ADDRESS, ATTEST = "/v1/derive-address", "/v1/enrolments/attest"


class RealRegistry:
    """Stands behind a `Deployment`, with the broker's two routes of first binds."""

    def __init__(self, here: Opened, issuer: Issuer) -> None:
        self.here = here
        self.issuer = issuer
        self.desk: Attesting = attesting(here, policy(issuer))
        self.desk._software_k11 = True

    def stand_behind(self, deployment: Deployment) -> None:
        deployment.read = self.read  # type: ignore[method-assign]
        deployment.change = self.change  # type: ignore[method-assign]
        deployment.identity.registry.real = self.here.registry
        self._identity = deployment.identity
        deployment.keys = [self.here.keyring.public_key("audit", 1)]
        deployment.hooks["broker", ADDRESS] = self.address
        deployment.hooks["broker", ATTEST] = self.attest

    def read(self, operator: bytes) -> Reply:
        state = self.here.registry.operator(operator)
        if state is not None:
            return 200, state.to_json()
        empty = {"devices": [], "epoch": 1, "freeze_nonce": 0, "frozen": False}
        return 200, {**empty, "incarnation": 1, "nonce": 0, "scopes": {}}

    def change(self, body: bytes) -> Reply:
        signed = SignedChange.parse(body)
        row = self.here.registry.apply(signed)
        self._identity.changed(signed.change.operator_omni, signed.change.type)
        return 200, {"row": AuditRow.parse(row).to_json()}

    def address(self, body: bytes) -> Reply:
        asked = strict_json(body, limit=1024, reason=Reason.INVALID_BODY)
        assert isinstance(asked, dict)
        return 200, {"address": address_encode(self.here.keyring.address(bytes.fromhex(asked["omni"]), 1)), "epoch": 1}

    def attest(self, body: bytes) -> Reply:
        asked = strict_json(body, limit=100_000, reason=Reason.INVALID_BODY)
        assert isinstance(asked, dict)
        change, evidence = (canonical_json(asked[name]) for name in ("change", "evidence"))
        return 200, {"signature": b64u_encode(self.desk.attest(change, evidence, caller="bb" * 32))}


@contextmanager
def real_registry(folder: Path) -> Iterator[RealRegistry]:
    folder.mkdir()
    with opened(folder, clock=SetClock(time.time()), software=True) as here:
        yield RealRegistry(here, Issuer(folder / "issuer.json"))
