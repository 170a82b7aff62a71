"""The key documents that the issuer's origin serves (wire.md, Audit)."""

from collections.abc import Iterable

from agentkeys_core.encoding import canonical_json
from agentkeys_core.keys import ES256PublicKey


def jwks_document(keys: Iterable[ES256PublicKey]) -> bytes:
    """The JSON Web Key Set of these keys, sorted by kid, each once."""
    by_kid = {key.kid: key.jwk() for key in keys}
    return canonical_json({"keys": [by_kid[kid] for kid in sorted(by_kid)]})
