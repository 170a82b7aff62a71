"""Gives the holder of a leaf a new key and a new leaf with the same identity, in place."""

from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509

from certs.ca import Authority, read_chain, read_key, settle
from certs.errors import CertsError
from certs.files import PRIVATE, PUBLIC, Folder
from certs.leaf import certificate_pem, key_pem, new_key, ttl_of
from certs.profiles import LeafNames
from certs.revoke import entry_of, read_list


def renew(
    authority: Authority, out: Path, *, ttl: timedelta | None = None, now: datetime | None = None
) -> x509.Certificate:
    """Replace key.pem, cert.pem and ca.pem in `out`; services take them up by themselves.

    The key in the folder must be the old leaf's: otherwise whoever can write there could put another part's public
    certificate in its place and be given a key with that part's identity.

    Args:
        authority: the one that issued the leaf.
        out: folder that `issue` made.
        ttl: lifetime; by default as long as the old leaf's.
        now: time of issue, by default the clock's.

    Raises:
        CertsError: not our leaf, not its key, revoked, or a file that is missing or a link.
    """
    with Folder(authority.folder) as home:
        revoked = read_list(home)
    with Folder(out) as place, place.locked():
        settle(place, "cert.pem", "key.pem")
        chain = read_chain(place, "cert.pem")
        old = chain[0]
        if not authority.issued(chain):
            raise CertsError(f"{out}/cert.pem was not issued by this authority")
        if read_key(place, "key.pem").public_key() != old.public_key():
            raise CertsError(f"{out}/key.pem is not the key of cert.pem; issue a new leaf into a new folder")
        if entry_of(old) in revoked:
            raise CertsError(f"{out}/cert.pem is revoked; issue a new leaf into a new folder")
        key = new_key()
        lifetime = ttl_of(old) if ttl is None else ttl
        leaf = authority.sign(LeafNames.of(old), key.public_key(), ttl=lifetime, now=now)
        place.replace(
            {
                "ca.pem": (certificate_pem(authority.root), PUBLIC),
                "key.pem": (key_pem(key), PRIVATE),
                "cert.pem": (authority.chain(leaf), PUBLIC),
            }
        )
    return leaf
