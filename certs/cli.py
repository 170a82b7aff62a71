"""`agentkeys-certs`: a small certificate authority for one deployment. Parses, calls, prints."""

import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer
from cryptography import x509

from agentkeys_core.ops import WorkerClass
from certs.ca import Authority, parse_chain
from certs.errors import CertsError, InvalidInputError
from certs.files import Folder
from certs.leaf import DEFAULT_TTL
from certs.profiles import LeafNames, Role
from certs.renew import renew as renew_leaf
from certs.revoke import Entry, entry_of, parse_serial, read_list
from certs.revoke import revoke as revoke_entry
from certs.show import Facts

DEFAULT_FOLDER: Final = Path("agentkeys-ca")
_DEFAULT_HOURS: Final = DEFAULT_TTL.total_seconds() / 3600
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Issue, show, renew and revoke the TLS certificates of one AgentKeys deployment (ECDSA P-256, SPIFFE names).",
    epilog="Exit codes: 0 done, 1 not possible as things stand, 2 wrong arguments.",
)

_TTL: Final = typer.Option("--ttl-h", metavar="HOURS", help="Lifetime in hours, at most 2160 (90 days).")
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of lines.")]


@app.callback()
def _options(
    context: typer.Context,
    folder: Annotated[
        Path,
        typer.Option("--dir", metavar="DIR", envvar="AGENTKEYS_CA_DIR", help="Folder of the authority."),
    ] = DEFAULT_FOLDER,
) -> None:
    context.obj = folder


@app.command(short_help="Make the authority.")
def init(
    context: typer.Context,
    trust_domain: Annotated[
        str, typer.Option("--trust-domain", metavar="NAME", help="For example keys.example.org; it never changes.")
    ],
) -> None:
    """Make the authority: root, intermediate, an empty revocation list.

    Afterwards take root.key offline: only init and renew-intermediate need it. Peers trust ca.pem. The signer
    follows revoked.json.
    """
    authority = Authority.create(_folder(context), trust_domain)
    print(f"authority of {authority.trust_domain} in {authority.folder}")
    print(f"take {authority.folder / 'root.key'} offline; issuing needs the intermediate alone")


@app.command(short_help="Make a key and its certificate.")
def issue(
    context: typer.Context,
    role: Annotated[Role, typer.Argument(help="Whom it is for. daemon: opens nothing, for tests.")],
    name: Annotated[str, typer.Argument(help="1 to 63 of a-z, 0-9 and -, for example main.")],
    *,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for cert.pem, key.pem and ca.pem.")],
    worker_class: Annotated[WorkerClass | None, typer.Option("--class", help="Of a worker; needed there.")] = None,
    dns: Annotated[
        list[str] | None,
        typer.Option("--dns", metavar="NAME", help="Host name that a broker, worker or issuer serves; repeatable."),
    ] = None,
    ips: Annotated[
        list[str] | None,
        typer.Option("--ip", metavar="ADDRESS", help="Address likewise. Without either: localhost and 127.0.0.1."),
    ] = None,
    ttl_h: Annotated[float, _TTL] = _DEFAULT_HOURS,
    as_json: JsonOption = False,
) -> None:
    """Make a key and its certificate in a folder of its own; nothing that exists is overwritten.

    Broker and worker may be TLS clients and servers, signer and issuer servers, a daemon a client. The signer's
    certificate carries the DNS name signer.<trust domain>, which no other may have.
    """
    authority = Authority.open(_folder(context))
    names = LeafNames.parse(
        trust_domain=authority.trust_domain,
        role=role,
        name=name,
        worker_class=worker_class,
        dns=dns or (),
        ips=ips or (),
    )
    leaf = authority.issue(names, out, ttl=_hours(ttl_h))
    _print(leaf, None, as_json=as_json)


@app.command(short_help="Tell what a certificate says.")
def show(
    context: typer.Context,
    path: Annotated[
        Path | None, typer.Argument(help="A certificate, or a folder with cert.pem; the authority's own if left out.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Tell what a certificate says: role, SPIFFE id, serial, validity, EKU."""
    home = _folder(context)
    if path is None:
        authority = Authority.open(home)
        facts = [Facts.of(certificate, None) for certificate in (authority.root, authority.intermediate)]
        if as_json:
            print(json.dumps({"root": facts[0].to_json(), "intermediate": facts[1].to_json()}))
        else:
            print("\n\n".join("\n".join(each.lines()) for each in facts))
        return
    _print(_chain(path)[0], _revoked(home), as_json=as_json)


@app.command(short_help="Replace a key and its certificate.")
def renew(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Folder that issue made.")],
    ttl_h: Annotated[float | None, _TTL] = None,
    as_json: JsonOption = False,
) -> None:
    """Replace key and certificate: new key, same identity, as long a life. Running services take it up.

    Refused for a revoked certificate and where key.pem is not its key.
    """
    ttl = None if ttl_h is None else _hours(ttl_h)
    _print(renew_leaf(Authority.open(_folder(context)), folder, ttl=ttl), None, as_json=as_json)


@app.command("renew-intermediate", short_help="Replace the intermediate (needs root.key).")
def renew_intermediate(context: typer.Context) -> None:
    """Replace the intermediate (needs root.key); leaves issued before stay valid."""
    authority = Authority.open(_folder(context)).renew_intermediate()
    print("\n".join(Facts.of(authority.intermediate, None).lines()))


@app.command()
def revoke(
    context: typer.Context,
    path: Annotated[Path | None, typer.Argument(help="The certificate, or a folder with cert.pem.")] = None,
    serial: Annotated[str | None, typer.Option("--serial", metavar="HEX", help="Or its serial number.")] = None,
) -> None:
    """Put a certificate on the list that the signer follows. For good: there is no way back."""
    authority = Authority.open(_folder(context))
    if (path is None) == (serial is None):
        raise InvalidInputError("name the certificate by a path or by --serial, one of them")
    if path is not None:
        chain = _chain(path)
        if not authority.issued(chain):
            raise CertsError(f"{path} was not issued by this authority")
        entry = entry_of(chain[0])
    else:
        entry = (authority.intermediate.subject.rfc4514_string(), parse_serial(str(serial)))
    with Folder(authority.folder) as home:
        added = revoke_entry(home, entry)
    print(f"{'revoked' if added else 'was revoked already:'} serial {entry[1]}")


def main() -> NoReturn:
    """Run the command; a refusal is one line on stderr and an exit code, never a traceback."""
    try:
        app()
    except CertsError as error:
        sys.stderr.write(f"agentkeys-certs: {error}\n")
        sys.exit(error.exit_code)
    except OSError as error:
        sys.stderr.write(f"agentkeys-certs: {error.filename or ''} {error.strerror or type(error).__name__}\n")
        sys.exit(CertsError.exit_code)
    sys.exit(0)


def _folder(context: typer.Context) -> Path:
    folder: Path = context.obj
    return folder


def _hours(hours: float) -> timedelta:
    try:
        return timedelta(hours=hours)
    except (ValueError, OverflowError) as error:
        raise InvalidInputError("--ttl-h is no number of hours") from error


def _chain(path: Path) -> list[x509.Certificate]:
    file = path / "cert.pem" if path.is_dir() else path
    return parse_chain(file.read_bytes(), file)


def _revoked(home: Path) -> list[Entry] | None:
    if not home.is_dir():
        return None
    with Folder(home) as place:
        return read_list(place)


def _print(certificate: x509.Certificate, revoked: list[Entry] | None, *, as_json: bool) -> None:
    facts = Facts.of(certificate, revoked)
    print(json.dumps(facts.to_json()) if as_json else "\n".join(facts.lines()))
