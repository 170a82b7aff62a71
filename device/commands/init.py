"""`init`: becoming the first master device of a new tree, by a wallet of one's own or another identity."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Final

import typer

from agentkeys_core.changes import Enrol
from agentkeys_core.encoding import address_encode, hex_encode
from agentkeys_core.errors import KeyServiceError
from agentkeys_core.ids import IdentityType
from agentkeys_core.keys import DeviceKey
from device.commands.context import options
from device.enrol import Enrolment, enrol, waits_for_wallet
from device.errors import DeviceError, Trouble
from device.home import Home, read_private_file
from device.identities.email import bind_by_email
from device.identities.passkey import bind_by_passkey
from device.identities.providers import GOOGLE
from device.identities.token import MAX_TOKEN_BYTES, TokenWish, bind_at_provider, bind_by_token
from device.identity import Identity
from device.k11.port import K11Kind
from device.session import Device
from device.setting_up import confirmed_profile, hex_argument, set_up
from device.wallet_page.enrolling import enrol_on_page

ProfileOption = Annotated[
    str, typer.Option("--profile", metavar="FILE|URL", help="The deployment's profile: a file, or its https address.")
]
ProfileHashOption = Annotated[
    str, typer.Option("--profile-hash", metavar="HEX", help="Its hash, told to you by another way than the file.")
]
_KEY_BYTES: Final = 32


_BY_TOKEN: Final = frozenset({IdentityType.OIDC, IdentityType.OAUTH2_GOOGLE})
#: Options that mean something to some identities only: given with another one they are a mistake.
_ONLY_FOR: Final[Mapping[str, frozenset[IdentityType]]] = {
    "--wallet": frozenset({IdentityType.EVM}),
    "--wallet-signature": frozenset({IdentityType.EVM}),
    "--wallet-key-file": frozenset({IdentityType.EVM}),
    "--issuer": frozenset({IdentityType.OIDC}),
    "--client-id": _BY_TOKEN,
    "--id-token-file": _BY_TOKEN,
    "--email": frozenset({IdentityType.EMAIL}),
    "--existing-passkey": frozenset({IdentityType.PASSKEY}),
}


def init(
    context: typer.Context,
    *,
    profile: ProfileOption,
    profile_hash: ProfileHashOption,
    identity: Annotated[
        IdentityType, typer.Option("--identity", help="What names you; evm is a wallet of your own.")
    ] = IdentityType.EVM,
    wallet: Annotated[
        str | None,
        typer.Option("--wallet", metavar="ADDRESS", help="Your own wallet: prints what it must sign."),
    ] = None,
    wallet_signature: Annotated[
        str | None,
        typer.Option("--wallet-signature", metavar="HEX", help="The wallet's signature over the printed EIP-712 JSON."),
    ] = None,
    wallet_key_file: Annotated[
        Path | None,
        typer.Option("--wallet-key-file", metavar="FILE", help="Development only: the wallet's key in hex, mode 0600."),
    ] = None,
    issuer: Annotated[
        str | None,
        typer.Option("--issuer", metavar="URL", help="oidc: which of the broker's providers, where it has several."),
    ] = None,
    email: Annotated[str | None, typer.Option("--email", metavar="ADDRESS", help="email: your address.")] = None,
    existing_passkey: Annotated[
        bool, typer.Option("--existing-passkey", help="passkey: show one that this broker knows; else one is made.")
    ] = False,
    client_id: Annotated[
        str | None,
        typer.Option("--client-id", metavar="ID", help="oidc without the broker's pages: the client of your ID token."),
    ] = None,
    id_token_file: Annotated[
        Path | None,
        typer.Option(
            "--id-token-file", metavar="FILE", help="That ID token, mode 0600, with the nonce printed before."
        ),
    ] = None,
    k11: Annotated[
        K11Kind,
        typer.Option(
            "--k11",
            help="browser: WebAuthn on this machine's own page. security-key: over USB, without a browser. "
            "software: development only.",
        ),
    ] = K11Kind.BROWSER,
) -> None:
    """Make this machine the first master device of a new tree: that of your wallet, or of an identity elsewhere.

    Your own wallet signs on a page of this machine, in the browser that has it. Where no browser has it: with --wallet
    the EIP-712 JSON to sign is printed; run it again with --wallet-signature.

    With --identity oidc, oauth2_google, passkey or email you prove who you are on a page of the broker, or by a link in
    a mail. Every such page shows this device; compare it with what is printed here. Stopped at any point, the same
    command goes on where it was.

    Where the broker's pages cannot be used: --identity oidc --client-id ID prints a nonce to sign in with elsewhere;
    run it again with --id-token-file.
    """
    given = {
        "--wallet": wallet,
        "--wallet-signature": wallet_signature,
        "--wallet-key-file": wallet_key_file,
        "--issuer": issuer,
        "--client-id": client_id,
        "--id-token-file": id_token_file,
        "--email": email,
        "--existing-passkey": existing_passkey or None,
    }
    for name, value in given.items():
        if value is not None and identity not in _ONLY_FOR[name]:
            raise DeviceError(Trouble.USAGE, f"{name} has no meaning with --identity {identity}")
    chosen = options(context)
    confirmed = confirmed_profile(profile, profile_hash)
    match identity:
        case IdentityType.EVM:
            step = _by_wallet(wallet, wallet_signature, wallet_key_file, k11)
        case IdentityType.EMAIL:
            step = _by_email(email, k11)
        case IdentityType.PASSKEY:
            step = lambda device: bind_by_passkey(device, existing=existing_passkey, kind=k11)  # noqa: E731
        case _:
            step = _by_provider(identity, issuer, client_id, id_token_file, k11)
    with Home.open(chosen.home, create=True) as home, set_up(home, confirmed, chosen.show) as device:
        _print(device, step(device))


Step = Callable[[Device], Enrolment | TokenWish]


def _by_wallet(wallet: str | None, signature: str | None, key_file: Path | None, kind: K11Kind) -> Step:
    key = None if key_file is None else _wallet_key(key_file)
    address = None if wallet is None else hex_argument(wallet, "--wallet", length=20)
    if key is not None and address not in (None, key.address):
        raise DeviceError(Trouble.USAGE, "--wallet and --wallet-key-file are of different wallets")
    signed = None if signature is None else hex_argument(signature, "--wallet-signature", length=65)
    named = key.address if key else address

    def step(device: Device) -> Enrolment:
        if named is None and signed is None and not waits_for_wallet(device.home):
            return enrol_on_page(device, kind)
        return enrol(device, wallet=named, kind=kind, wallet_signature=signed, wallet_key=key)

    return step


def _by_provider(
    by: IdentityType, issuer: str | None, client_id: str | None, id_token_file: Path | None, kind: K11Kind
) -> Step:
    if client_id is None:
        if id_token_file is not None:
            raise DeviceError(Trouble.USAGE, "name the client that the ID token is for: --client-id ID")
        named = GOOGLE if by is IdentityType.OAUTH2_GOOGLE else issuer
        return lambda device: bind_at_provider(device, issuer=named, by=by, kind=kind)
    if issuer is not None:
        raise DeviceError(Trouble.USAGE, "--issuer and --client-id are of two different ways; give one of them")
    token = None if id_token_file is None else _token(id_token_file)
    return lambda device: bind_by_token(device, client_id=client_id, token=token, by=by, kind=kind)


def _by_email(address: str | None, kind: K11Kind) -> Step:
    if address is None:
        raise DeviceError(Trouble.USAGE, "name the address: --email ADDRESS")
    return lambda device: bind_by_email(device, address, kind=kind)


def _wallet_key(path: Path) -> DeviceKey:
    """Read a wallet's key for development: hex in a private file. Raises `bad_file` or `unsafe_file`."""
    try:
        return DeviceKey.from_bytes(
            hex_argument(read_private_file(path, limit=256).decode("ascii"), str(path), length=_KEY_BYTES)
        )
    except (UnicodeDecodeError, KeyServiceError, DeviceError) as exc:
        if isinstance(exc, DeviceError) and exc.reason is not Trouble.USAGE:
            raise
        raise DeviceError(Trouble.BAD_FILE, f"{path} holds no wallet key in hex") from None


def _token(path: Path) -> str:
    """Read an ID token from a private file: until it is used, whoever has it could try. Raises `bad_file`."""
    try:
        return read_private_file(path, limit=MAX_TOKEN_BYTES).decode("ascii").strip()
    except UnicodeDecodeError as exc:
        raise DeviceError(Trouble.BAD_FILE, f"{path} holds no ID token") from exc


def _print(device: Device, made: Enrolment | TokenWish) -> None:
    show = device.show
    if isinstance(made, TokenWish):
        show.note("Sign in at the issuer with this nonce; then run this again with --id-token-file:")
        data = {"client_id": made.client_id, "nonce": made.nonce, "status": "id_token_needed"}
        show.result(data, [made.nonce])
    elif made.identity is not None:
        _print_enrolled(device, made.identity, made)
    elif made.pending is not None:
        _print_pending(device, made.pending.change)
    else:
        raise DeviceError(Trouble.INTERNAL, "neither enrolled nor waiting")


def _print_pending(device: Device, change: Enrol) -> None:
    domain = device.profile.domain
    typed_data = change.typed_data(domain)
    device.show.note(
        "Let your wallet sign this EIP-712 message (eth_signTypedData_v4); then run this with --wallet-signature:"
    )
    data = {"digest": hex_encode(change.digest(domain)), "status": "wallet_signature_needed", "typed_data": typed_data}
    device.show.result({**data, "wallet": address_encode(change.wallet)}, [json.dumps(typed_data, sort_keys=True)])


def _print_enrolled(device: Device, identity: Identity, made: Enrolment) -> None:
    receipt = made.receipt
    data: dict[str, object] = {
        "device": hex_encode(device.k10.key_hash),
        "operator_omni": hex_encode(identity.operator_omni),
        "status": "enrolled" if receipt else "already_enrolled",
    }
    if receipt is None:
        device.show.note("This folder is enrolled already; nothing was done. For another tree use another --home.")
    else:
        data["row_hash"] = hex_encode(receipt.row.row_hash)
        if made.signed_in is not None:
            data["signed_in"] = made.signed_in.method.value
        device.show.note("Done. Enrol a second master when you can: without any master nobody can recover this tree.")
        device.show.note(
            "An agent running as your own Unix user can read this folder: give agents their own user or machine."
        )
    device.show.result(data)
