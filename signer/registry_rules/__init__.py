"""Who may change what in the registry (design §6): decided from values, without I/O. One module a concern."""

from signer.registry_rules.annulment import annul
from signer.registry_rules.decision import claims, decide
from signer.registry_rules.enrolment import check_free, check_terms
from signer.registry_rules.rotation import due_rotation
from signer.registry_rules.terms import SOFTWARE_ORIGIN_HASH

__all__ = ["SOFTWARE_ORIGIN_HASH", "annul", "check_free", "check_terms", "claims", "decide", "due_rotation"]
