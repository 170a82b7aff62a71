"""The authority in its folder: a root that signs one intermediate, and the intermediate that signs leaves."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from certs.errors import CertsError
from certs.files import PRIVATE, PUBLIC, Folder
from certs.leaf import DEFAULT_TTL, build_authority, build_leaf, certificate_pem, key_pem, new_key
from certs.profiles import LeafNames, check_trust_domain
from certs.revoke import EMPTY_LIST, REVOKED

ROOT_TTL: Final = timedelta(days=3650)
INTERMEDIATE_TTL: Final = timedelta(days=730)


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """An opened authority: trust domain, certificates, and the intermediate's key. The root's key stays in its file.

    The folder holds root.pem, root.key, intermediate.pem, intermediate.key, ca.pem (the root alone: what peers trust)
    and revoked.json. Only `create` and `renew_intermediate` need root.key; keep it offline in between.
    """

    folder: Path
    trust_domain: str
    root: x509.Certificate
    intermediate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def create(cls, folder: Path, trust_domain: str, *, now: datetime | None = None) -> "Authority":
        """Make a new authority in `folder` (made with mode 0700 if missing); nothing that exists is overwritten.

        Raises:
            InvalidInputError: the trust domain has another shape.
            CertsError: a file of it exists, or the folder cannot be used.
        """
        check_trust_domain(trust_domain)
        moment = now or datetime.now(UTC)
        root_key, key = new_key(), new_key()
        root = build_authority(
            trust_domain=trust_domain, label="root", key=root_key, parent=None, now=moment, ttl=ROOT_TTL
        )
        intermediate = _intermediate(trust_domain, key, root, root_key, moment)
        with Folder.make(folder) as place, place.locked():
            place.create(
                {
                    "root.key": (key_pem(root_key), PRIVATE),
                    "intermediate.key": (key_pem(key), PRIVATE),
                    "root.pem": (certificate_pem(root), PUBLIC),
                    "intermediate.pem": (certificate_pem(intermediate), PUBLIC),
                    "ca.pem": (certificate_pem(root), PUBLIC),
                    REVOKED: (EMPTY_LIST, PUBLIC),
                }
            )
        return cls(folder=folder, trust_domain=trust_domain, root=root, intermediate=intermediate, key=key)

    @classmethod
    def open(cls, folder: Path) -> "Authority":
        """Open what `create` made; root.key need not be there.

        Raises:
            CertsError: missing, loose or damaged files, or certificates and key that do not belong together.
        """
        with Folder(folder) as place, place.locked():
            settle(place, "intermediate.pem", "intermediate.key")
            root = read_chain(place, "root.pem")[0]
            intermediate = read_chain(place, "intermediate.pem")[0]
            key = read_key(place, "intermediate.key")
        if not _signed_by(intermediate, root):
            raise CertsError(f"{folder}: root and intermediate do not belong together")
        try:
            names = root.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        except (ValueError, x509.ExtensionNotFound) as error:
            raise CertsError(f"{folder}: root.pem names no trust domain") from error
        if key.public_key() != intermediate.public_key():
            raise CertsError(f"{folder}: intermediate.key is not the key of intermediate.pem")
        trust_domain = check_trust_domain(uri.removeprefix("spiffe://"))
        return cls(folder=folder, trust_domain=trust_domain, root=root, intermediate=intermediate, key=key)

    def sign(
        self,
        names: LeafNames,
        public_key: ec.EllipticCurvePublicKey,
        *,
        ttl: timedelta = DEFAULT_TTL,
        now: datetime | None = None,
    ) -> x509.Certificate:
        """Return a leaf for this key; InvalidInputError for another trust domain or a ttl out of range."""
        if names.trust_domain != self.trust_domain:
            raise CertsError("the names are of another trust domain")
        moment = now or datetime.now(UTC)
        return build_leaf(names, public_key, issuer=self.intermediate, issuer_key=self.key, now=moment, ttl=ttl)

    def issue(
        self, names: LeafNames, out: Path, *, ttl: timedelta = DEFAULT_TTL, now: datetime | None = None
    ) -> x509.Certificate:
        """Make a key and its leaf: cert.pem (with the intermediate), key.pem (0600) and ca.pem in `out`.

        Raises:
            InvalidInputError: as `sign`.
            CertsError: one of the files exists (`renew` is for that), or the folder cannot be used.
        """
        key = new_key()
        leaf = self.sign(names, key.public_key(), ttl=ttl, now=now)
        with Folder.make(out) as place, place.locked():
            place.create(
                {
                    "key.pem": (key_pem(key), PRIVATE),
                    "cert.pem": (self.chain(leaf), PUBLIC),
                    "ca.pem": (certificate_pem(self.root), PUBLIC),
                }
            )
        return leaf

    def chain(self, leaf: x509.Certificate) -> bytes:
        """Return the PEM that a server shows: the leaf, then the intermediate."""
        return certificate_pem(leaf) + certificate_pem(self.intermediate)

    def issued(self, chain: Sequence[x509.Certificate]) -> bool:
        """Say whether the first of these certificates is our leaf: signed by our intermediate, or by an earlier one.

        An earlier intermediate follows the leaf in the chain and is signed by our root.
        """
        leaf, *others = chain
        earlier = [other for other in others if _signed_by(other, self.root)]
        return any(_signed_by(leaf, issuer) for issuer in (self.intermediate, *earlier))

    def renew_intermediate(self, *, now: datetime | None = None) -> "Authority":
        """Replace the intermediate by one with a new key; leaves issued before stay valid. Needs root.key.

        Raises:
            CertsError: root.key is not there or not the root's.
        """
        moment = now or datetime.now(UTC)
        with Folder(self.folder) as place, place.locked():
            root_key = read_key(place, "root.key")
            if root_key.public_key() != self.root.public_key():
                raise CertsError(f"{self.folder}: root.key is not the key of root.pem")
            key = new_key()
            intermediate = _intermediate(self.trust_domain, key, self.root, root_key, moment)
            place.replace(
                {
                    "intermediate.key": (key_pem(key), PRIVATE),
                    "intermediate.pem": (certificate_pem(intermediate), PUBLIC),
                }
            )
        return Authority.open(self.folder)


def _intermediate(
    trust_domain: str,
    key: ec.EllipticCurvePrivateKey,
    root: x509.Certificate,
    root_key: ec.EllipticCurvePrivateKey,
    now: datetime,
) -> x509.Certificate:
    ttl = min(INTERMEDIATE_TTL, root.not_valid_after_utc - now)
    return build_authority(
        trust_domain=trust_domain, label="intermediate", key=key, parent=(root, root_key), now=now, ttl=ttl
    )


def _signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def settle(place: Folder, certificate: str, key: str) -> None:
    """Finish a replacement that a crash cut off after the key was renamed and before its certificate was."""
    new = certificate + ".new"
    if not place.has(new) or not place.has(key):
        return
    public = read_key(place, key).public_key()
    if read_chain(place, certificate)[0].public_key() != public and read_chain(place, new)[0].public_key() == public:
        place.finish(certificate)


def read_chain(place: Folder, name: str) -> list[x509.Certificate]:
    """Return the certificates of a PEM file, one at least; CertsError where there is none."""
    return parse_chain(place.read(name), place.path / name)


def parse_chain(data: bytes, path: Path) -> list[x509.Certificate]:
    """Return the certificates of PEM bytes that came from `path`, one at least; CertsError where there is none."""
    try:
        return x509.load_pem_x509_certificates(data)
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise CertsError(f"{path} is not a certificate") from error


def read_key(place: Folder, name: str) -> ec.EllipticCurvePrivateKey:
    """Return the P-256 key in a 0600 PEM file; CertsError where it is loose or no such key."""
    try:
        key = load_pem_private_key(place.read(name, private=True), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CertsError(f"{place.path / name} is not an unencrypted private key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertsError(f"{place.path / name} is not an ECDSA key")
    return key
