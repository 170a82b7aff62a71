"""Cloud sessions (design section 8): a cap becomes an STS session that opens that cap's object for its verb."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_runtime.identity import CallerIdentity
from signer.admission import Admitted, Attempt, StsPolicy
from signer.keyring import Keyring
from signer.ledger import Journalist, Snapshot
from signer.ports import Clock, StsExchange, StsSession
from signer.releases import check_session, release_session
from signer.tokens import BACKDATED_S, session_policy, web_identity_token

_TOKEN_ID_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRelease:
    """A cloud session and the audit row that records it."""

    session: StsSession = field(repr=False)
    row: bytes


class Sessions:
    """Exchanges web identity tokens, signed by the current epoch's OIDC key, for sessions."""

    def __init__(
        self,
        *,
        keyring: Keyring,
        journalist: Journalist,
        clock: Clock,
        snapshot: Snapshot,
        policy: StsPolicy | None,
        exchange: StsExchange | None,
    ) -> None:
        self._keyring = keyring
        self._journalist = journalist
        self._clock = clock
        self._snapshot = snapshot
        self._policy = policy
        self._exchange = exchange

    def check_role(self, caller: CallerIdentity, role_arn: str) -> None:
        """Return when the role is on the list of the caller's class. Raises role_arn_not_allowed."""
        policy = self._policy
        allowed = policy.role_arns.get(caller.worker_class) if policy and caller.worker_class else None
        if role_arn not in (allowed or ()):
            raise KeyServiceError(Reason.ROLE_ARN_NOT_ALLOWED, "the role is not on the list of the caller's class")

    def open(self, attempt: Attempt, admit: Callable[[], Admitted], role_arn: str) -> SessionRelease:
        """A session for the cap that `admit` admits, once its row is on disk.

        The exchange comes first: a session that was never answered opens nothing for anybody, an unrecorded one would.
        As the endpoint may take its time, the cap is admitted once more before the session leaves.

        Raises:
            KeyServiceError: what `admit` raises, cap_replayed, sts_unreachable, sealed, journal_unavailable.
        """
        admitted, policy = admit(), self._policy
        request = admitted.request
        if self._exchange is None or policy is None:
            raise KeyServiceError(Reason.STS_UNREACHABLE, "no STS endpoint is configured")
        if request.rule.once:
            with self._snapshot() as ledger:  # spares the endpoint what the commit would refuse
                check_session(ledger, request, admitted.ref, now=self._clock.now())
        epoch = request.k3_epoch
        token = web_identity_token(
            issuer=policy.issuer,
            audience=policy.audience,
            owner=admitted.owner,
            # Stores that keep no RoleSessionName log the claims: each line of theirs names the cap all the same.
            token_id=f"{request.digest.hex()}.{secrets.token_hex(_TOKEN_ID_BYTES)}",
            now=int(self._clock.now()) - BACKDATED_S,
            kid=self._keyring.oidc_kid(epoch),
            sign=lambda message: self._keyring.oidc_sign(epoch, message),
        )
        session = self._exchange.assume_role(
            role_arn=role_arn,
            session_name=request.digest.hex(),
            token=token,
            policy=session_policy(
                bucket=policy.bucket,
                effect=request.rule.effect,
                owner=admitted.owner,
                service=request.service,
                object_class=admitted.object_class,
            ),
        )
        again = admit()
        row = self._journalist.run(lambda tx: release_session(tx, attempt, again))
        return SessionRelease(session=session, row=row)
