"""Who may call what: the one table. A method without a row is refused for everyone, and a test fails."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from agentkeys_runtime.identity import CallerRole

SIGNER: Final = "agentkeys.signer.v1.Signer"
REGISTRY: Final = "agentkeys.signer.v1.Registry"
HEALTH: Final = "grpc.health.v1.Health"
REFLECTION: Final = "grpc.reflection.v1.ServerReflection"
REFLECTION_V1ALPHA: Final = "grpc.reflection.v1alpha.ServerReflection"

_BROKER: Final = frozenset({CallerRole.BROKER})
_WORKER: Final = frozenset({CallerRole.WORKER})
_BOTH: Final = _BROKER | _WORKER

#: Full method name → roles. Which class of worker may do what hangs on the op, so the service checks that.
PERMISSIONS: Final[Mapping[str, frozenset[CallerRole]]] = MappingProxyType(
    {
        f"/{SIGNER}/DeriveAddress": _BROKER,
        f"/{SIGNER}/DeriveCredKek": _WORKER,
        f"/{SIGNER}/DeriveCredKekBatch": _WORKER,
        f"/{SIGNER}/StsCredentials": _WORKER,
        f"/{SIGNER}/SignAuditRow": _WORKER,
        f"/{SIGNER}/SignAuditRowBatch": _WORKER,
        f"/{SIGNER}/ListObjects": _WORKER,
        f"/{SIGNER}/GetAuditRows": _WORKER,
        f"/{SIGNER}/GetRowHashes": _WORKER,
        f"/{SIGNER}/SignCheckpoint": _WORKER,
        f"/{SIGNER}/SignSiwe": _BROKER,
        f"/{SIGNER}/SignTypedData": _BROKER,
        f"/{SIGNER}/VerifyK10Sig": _BOTH,
        f"/{SIGNER}/VerifyK10SigBatch": _BOTH,
        f"/{SIGNER}/VerifyK11Assertion": _BOTH,
        f"/{SIGNER}/AttestEnrol": _BROKER,
        f"/{SIGNER}/Rewrap": _WORKER,
        f"/{REGISTRY}/GetStatus": _BOTH,
        f"/{REGISTRY}/GetOperator": _BOTH,
        f"/{REGISTRY}/GetDevice": _BOTH,
        f"/{REGISTRY}/ApplyChange": _BOTH,
        f"/{REGISTRY}/WatchChanges": _BOTH,
        f"/{HEALTH}/Check": _BOTH,
        f"/{HEALTH}/List": _BOTH,
        f"/{HEALTH}/Watch": _BOTH,
        f"/{REFLECTION}/ServerReflectionInfo": _BOTH,
        f"/{REFLECTION_V1ALPHA}/ServerReflectionInfo": _BOTH,
    }
)

#: Answered also while the signer is sealed or waits out a clock reset: they release nothing.
ALWAYS_SERVED: Final = frozenset(method for method in PERMISSIONS if not method.startswith("/agentkeys."))

#: Each call, and each item of a batch, is charged to its certificate by the service itself.
CHARGED_BY_ITEM: Final = frozenset(method for method in PERMISSIONS if method.startswith(f"/{SIGNER}/"))
#: Wait for other servers, so they have threads of their own: one that does not answer stops nothing else.
SLOW: Final = frozenset({f"/{SIGNER}/StsCredentials", f"/{SIGNER}/AttestEnrol"})
#: May be as long as an envelope is.
CARRY_ENVELOPES: Final = frozenset({f"/{SIGNER}/Rewrap"})


def is_allowed(role: CallerRole, method: str) -> bool:
    """Whether a caller of `role` may call this full method name."""
    return role in PERMISSIONS.get(method, frozenset())


def name_in_journal(method: str) -> str:
    """A method's short name; one without a row has none, as whoever calls would choose what fills the journal."""
    return method.rpartition("/")[2] if method in PERMISSIONS else "not served"
