"""The real signer's use cases behind the port that broker and workers call, in this process."""

from collections.abc import Callable
from typing import TypeVar

from agentkeys_core.ops import ObjectClass, WorkerClass
from agentkeys_runtime.signer_client import (
    CloudSession,
    ListedObject,
    ObjectPage,
    ReleasedKey,
    RowPage,
    SealedSignature,
    SignerClient,
)
from tests.unit.signer.world import OF_CLASS, World, broker

T = TypeVar("T")


class InProcessSigner(SignerClient):
    """The real signer's use cases without the port between. `before` and `after` may raise; `calls` lists what was asked."""

    def __init__(self, world: World, worker_class: WorkerClass | None = None) -> None:
        self._world = world
        self._caller = broker() if worker_class is None else OF_CLASS[worker_class]
        self.calls: list[str] = []
        self.before: Callable[[str], None] = lambda _: None
        self.after: Callable[[str], None] = lambda _: None

    def _run(self, name: str, work: Callable[[], T]) -> T:
        self.calls.append(name)
        self.before(name)
        found = work()
        self.after(name)
        return found

    def derive_address(self, omni: bytes, *, epoch: int) -> bytes:
        return self._run("address", lambda: self._world.service.derive_address(self._caller, omni, epoch))

    def wallet_address(self, actor_omni: bytes) -> tuple[bytes, int]:
        found = self._run("wallet", lambda: self._world.service.wallet_address(self._caller, actor_omni))
        return found.address, found.epoch

    def sign_siwe(self, cap: bytes, *, message: str) -> SealedSignature:
        found = self._run("siwe", lambda: self._world.service.sign_siwe(self._caller, cap, message))
        return SealedSignature(sealed=found.sealed, row=found.row)

    def sign_typed_data(self, cap: bytes, *, body: bytes) -> SealedSignature:
        found = self._run("typed", lambda: self._world.service.sign_typed_data(self._caller, cap, body))
        return SealedSignature(sealed=found.sealed, row=found.row)

    def derive_cred_kek(
        self, cap: bytes, *, epoch: int = 0, salt: bytes = b"", expect: bytes | None = None
    ) -> ReleasedKey:
        def work() -> ReleasedKey:
            found = self._world.service.derive_cred_kek(self._caller, cap, epoch=epoch, salt=salt, expect=expect or b"")
            return ReleasedKey(
                key=found.key, commitment=found.commitment, salt=found.salt, epoch=found.epoch, row=found.row
            )

        return self._run("derive", work)

    def sts_credentials(self, cap: bytes, *, role_arn: str) -> CloudSession:
        def work() -> CloudSession:
            found = self._world.service.sts_credentials(self._caller, cap, role_arn)
            opened = found.session
            return CloudSession(
                access_key_id=opened.access_key_id,
                secret_access_key=opened.secret_access_key,
                session_token=opened.session_token,
                expires_at=opened.expires_at,
                row=found.row,
            )

        return self._run("session", work)

    def sign_audit_row(self, cap: bytes, *, result: int) -> bytes:
        return self._run(f"row{result}", lambda: self._world.service.sign_audit_row(self._caller, cap, result))

    def list_objects(self, cap: bytes, *, after: str | None, limit: int) -> ObjectPage:
        def work() -> ObjectPage:
            page = self._world.service.list_objects(self._caller, cap, after=after, limit=limit)
            names = tuple(ListedObject(name=entry.name, store=entry.store) for entry in page.names)
            return ObjectPage(names=names, next=page.next, row=page.row)

        return self._run("list", work)

    def rewrap(self, *, object_class: ObjectClass, owner: bytes, service: str, envelope: bytes) -> bytes:
        asked = {"object_class": object_class, "owner": owner, "service": service, "envelope": envelope}
        return self._run("rewrap", lambda: self._world.service.rewrap(self._caller, **asked))  # type: ignore[arg-type]

    def get_audit_rows(self, cap: bytes, *, after: int | None, limit: int) -> RowPage:
        def work() -> RowPage:
            page = self._world.service.get_audit_rows(self._caller, cap, after=after, limit=limit)
            return RowPage(rows=page.rows, next=page.next)

        return self._run("rows", work)
