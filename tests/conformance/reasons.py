"""Every reason of the protocol: the case that provokes it, or why nobody outside can."""

from collections.abc import Mapping
from typing import Final

from agentkeys_core.errors import Reason

#: Reasons of the signer that no caller can bring about over gRPC, and what would.
NOT_FROM_OUTSIDE: Final[Mapping[Reason, str]] = {
    Reason.K3_MISMATCH: "a vault that is not the registry's: the host swapped a file",
    Reason.CLOCK_BEHIND: "the target's clock fell behind what it has recorded",
    Reason.REGISTRY_STALE: "a registry on a chain, or a stream, has not been heard for too long",
    Reason.REGISTRY_UNREACHABLE: "the registry's file or chain cannot be read",
    Reason.JOURNAL_UNAVAILABLE: "the target's disk is full or gone",
    Reason.INTERNAL: "a mistake in the target",
}
#: Reasons that broker, workers and device give at their own edges; the signer gives none of them.
NOT_OF_THE_SIGNER: Final[Mapping[Reason, str]] = {
    Reason.METHOD_NOT_ALLOWED: "HTTP",
    Reason.GONE: "HTTP",
    Reason.OBJECT_NOT_FOUND: "workers",
    Reason.OBJECT_STORE_UNAVAILABLE: "workers",
    Reason.SIGNER_UNREACHABLE: "clients of the signer",
    Reason.NOT_FOUND: "HTTP",
    Reason.SESSION_INVALID: "broker",
    Reason.PROOF_INVALID: "broker",
    Reason.CEREMONY_ENDED: "broker",
    Reason.PROVIDER_UNREACHABLE: "broker",
    Reason.MAIL_UNREACHABLE: "broker",
}
