"""The object store in a bucket of S3, or of what speaks its protocol: one cloud session a request (docs/adr/0008).

The worker has no credentials of its own. Each request's session opens that request's object for its one verb, so
nothing here reads what it writes or removes; that nobody else writes meanwhile, and that a repeated delete removes
nothing newer, the signer sees to when it gives the session.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final, TypeVar

from obstore.exceptions import BaseError, PermissionDeniedError
from obstore.store import S3Store

from agentkeys_core.audit import OpResult
from agentkeys_core.envelope import MAX_ENVELOPE_BYTES
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ops import HOLD_S
from agentkeys_runtime.logs import log_event
from worker.adapters.stripes import LOCK_TIMEOUT_S, Stripes
from worker.admission import Admitted
from worker.ports import CloudSession, Signer

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

#: One attempt, and for how long new ones begin: together the longest that any call here takes, well below a hold.
_ATTEMPT: Final = timedelta(seconds=4)
_RETRYING: Final = timedelta(seconds=3)
_LONGEST_S: Final = 8.0
#: Seconds after a session was asked for in which a change may begin: it must be over before the hold is.
BEGIN_WITHIN_S: Final = HOLD_S - _LONGEST_S - 1
_RETRY: "Final[RetryConfig]" = {"max_retries": 2, "retry_timeout": _RETRYING}
#: Other refusals with the same status, such as a wrong signature or clock, say nothing about the object.
_ACCESS_DENIED: Final = "<Code>AccessDenied</Code>"
_LOG: Final = logging.getLogger("agentkeys.objects")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Where objects lie. `endpoint` is an origin; `ca` (PEM) is trusted beside the system's roots."""

    endpoint: str
    region: str
    name: str
    role_arn: str
    ca: bytes | None = None

    def opened(self, session: CloudSession) -> S3Store:
        """The bucket as this session sees it; nothing of it is kept or shared."""
        options: ClientConfig = {"timeout": _ATTEMPT, "connect_timeout": _ATTEMPT / 2}
        if self.ca is not None:
            options["root_certificate"] = self.ca
        if self.endpoint.startswith("http://"):  # loopback only, as the configuration says
            options["allow_http"] = True
        return S3Store(
            self.name,
            endpoint=self.endpoint,
            region=self.region,
            access_key_id=session.access_key_id,
            secret_access_key=session.secret_access_key,
            token=session.session_token,
            skip_signature=False,
            virtual_hosted_style_request=False,
            disable_bulk_delete=True,  # DELETE of the one object, as the session allows, and one plain answer
            client_options=options,
            retry_config=_RETRY,
        )


class S3Objects:
    """Implements `worker.ports.ObjectStore`. Safe for many threads, processes and hosts."""

    def __init__(self, bucket: Bucket, signer: Signer, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Take the bucket; what this process's environment says of AWS is forgotten, for the library would heed it."""
        for name in [name for name in os.environ if name.upper().startswith("AWS_")]:
            del os.environ[name]
        self._bucket = bucket
        self._signer = signer
        self._clock = clock
        self._stripes = Stripes(timeout_s=LOCK_TIMEOUT_S)

    def reader(self, admitted: Admitted) -> Callable[[], bytes | None]:
        """See the port: one session, however often it is read."""
        store = self._bucket.opened(self._signer.open_session(admitted, role_arn=self._bucket.role_arn))
        return lambda: _read(store, admitted.path)

    @contextmanager
    def hold(self, admitted: Admitted) -> Iterator["S3Held"]:
        """See the port. Threads of this process wait for each other here; other workers are refused by the signer."""
        with self._stripes.hold(admitted.path):
            held = S3Held(self._bucket, self._signer, admitted, self._clock)
            try:
                yield held
            finally:
                held.end()


class S3Held:
    """Implements `worker.ports.Held`. From `claim` to the acknowledgement the signer gives nobody else a session."""

    def __init__(self, bucket: Bucket, signer: Signer, admitted: Admitted, clock: Callable[[], float]) -> None:
        self._bucket = bucket
        self._signer = signer
        self._admitted = admitted
        self._clock = clock
        self._store: S3Store | None = None
        self._begin_until = 0.0

    def is_unchanged(self, version: bytes) -> bool:
        """See the port: the signer acknowledges nothing that another session may have overwritten."""
        return version == self._admitted.digest

    def claim(self) -> None:
        """See the port: the session is the claim."""
        self._begin_until = self._clock() + BEGIN_WITHIN_S
        self._store = self._bucket.opened(self._signer.open_session(self._admitted, role_arn=self._bucket.role_arn))

    def write(self, data: bytes) -> bytes:
        """See the port."""
        store = self._in_time()
        _guarded(lambda: store.put(self._admitted.path, data, use_multipart=False))
        return self._admitted.digest

    def removal(self) -> "S3Removal":
        """See the port."""
        return S3Removal(self, self._signer, self._admitted)

    def remove(self) -> None:
        """Remove the object."""
        store = self._in_time()
        _guarded(lambda: store.delete(self._admitted.path))

    def end(self) -> None:
        """Let the object go where it was claimed and nothing was sent; else the acknowledgement or time does."""
        if self._store is None:
            return
        try:
            self._signer.sign_row(self._admitted, OpResult.FAILURE)
        except KeyServiceError as error:
            log_event(_LOG, "hold_stays", level=logging.WARNING, reason=error.reason.value)

    def _in_time(self) -> S3Store:
        """The claimed bucket, once: whatever is sent ends before the hold does, so that it cannot overtake the next."""
        store = self._store
        if store is None or self._clock() > self._begin_until:
            raise KeyServiceError(Reason.OBJECT_STORE_UNAVAILABLE, "the session was held for too long already")
        self._store = None
        return store


class S3Removal:
    """Implements `worker.ports.Removal`; what is newer than this delete, the signer knows."""

    def __init__(self, held: S3Held, signer: Signer, admitted: Admitted) -> None:
        self._held = held
        self._signer = signer
        self._admitted = admitted

    def refuse(self) -> None:
        """See the port."""

    def carry_out(self) -> None:
        """See the port: under a session that is given only while nothing was stored since the delete was authorised."""
        try:
            self._held.claim()
        except KeyServiceError as error:
            if error.reason is Reason.VERSION_NOT_CURRENT:
                return
            raise
        self._held.remove()
        self._signer.sign_row(self._admitted, OpResult.SUCCESS)  # the same row again; the object is let go


def _read(store: S3Store, path: str) -> bytes | None:
    try:
        found = store.get(path)
        if found.meta["size"] > MAX_ENVELOPE_BYTES:
            raise KeyServiceError(Reason.INVALID_ENVELOPE, "longer than any envelope")
        return bytes(found.bytes())
    except FileNotFoundError:
        return None
    except PermissionDeniedError as error:
        if _ACCESS_DENIED not in str(error):
            raise _failed(error) from error
        # Who may not list is not told whether an object exists. The log tells the host, who can see which it is.
        log_event(_LOG, "missing_or_denied", level=logging.WARNING)
        return None
    except (BaseError, OSError, ValueError) as error:
        raise _failed(error) from error


def _guarded(work: Callable[[], T]) -> T:
    try:
        return work()
    except (BaseError, OSError, ValueError) as error:
        raise _failed(error) from error


def _failed(error: Exception) -> KeyServiceError:
    """The failure without the library's words: they quote addresses, and answers of whoever stands there."""
    name = type(error).__name__
    log_event(_LOG, "store_failed", level=logging.ERROR, error=name)
    return KeyServiceError(Reason.OBJECT_STORE_UNAVAILABLE, f"the object store failed: {name}")
