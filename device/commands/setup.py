"""`init`, `whoami`: becoming a master device, and saying which one."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from agentkeys_core.encoding import address_encode, hex_encode
from agentkeys_core.errors import KeyServiceError
from agentkeys_core.keys import DeviceKey
from agentkeys_core.profile import Profile
from device.binding import MAX_TOKEN_BYTES, bind_by_token, wished_token
from device.change_desk import views_of
from device.commands.context import Options, device_json, opened, options
from device.enrol import Enrolment, enrol
from device.errors import DeviceError, Trouble
from device.home import Home, read_private_file
from device.identity import Identity, Part
from device.intent import moment
from device.k11.port import K11Kind
from device.learn import learn_agent, own_record
from device.session import Device
from device.setting_up import confirmed_profile, hex_argument, set_up
from device.show import described

ProfileOption = Annotated[
    str, typer.Option("--profile", metavar="FILE|URL", help="The deployment's profile: a file, or its https address.")
]
ProfileHashOption = Annotated[
    str, typer.Option("--profile-hash", metavar="HEX", help="Its hash, told to you by another way than the file.")
]
_KEY_BYTES = 32


class Named(StrEnum):
    """What names a user at the first bind."""

    EVM = "evm"
    OIDC = "oidc"
    OAUTH2_GOOGLE = "oauth2_google"


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


def init(
    context: typer.Context,
    *,
    profile: ProfileOption,
    profile_hash: ProfileHashOption,
    wallet: Annotated[
        str | None, typer.Option("--wallet", metavar="ADDRESS", help="Your own wallet: it names you.")
    ] = None,
    wallet_signature: Annotated[
        str | None,
        typer.Option("--wallet-signature", metavar="HEX", help="The wallet's signature over the printed EIP-712 JSON."),
    ] = None,
    wallet_key_file: Annotated[
        Path | None,
        typer.Option("--wallet-key-file", metavar="FILE", help="Development only: the wallet's key in hex, mode 0600."),
    ] = None,
    identity: Annotated[
        Named, typer.Option("--identity", help="evm: your own wallet names you. oidc, oauth2_google: an ID token does.")
    ] = Named.EVM,
    client_id: Annotated[
        str | None, typer.Option("--client-id", metavar="ID", help="Of an ID token: which client it is for.")
    ] = None,
    id_token_file: Annotated[
        Path | None,
        typer.Option("--id-token-file", metavar="FILE", help="The ID token, mode 0600, with the nonce printed before."),
    ] = None,
    k11: Annotated[
        K11Kind, typer.Option("--k11", help="browser: WebAuthn on this machine's own page. software: development only.")
    ] = K11Kind.BROWSER,
) -> None:
    """Make this machine the first master device of a new tree: that of your wallet, or of an identity elsewhere.

    Run it with --wallet first: it prints the EIP-712 JSON for the wallet to sign. Run it again with --wallet-signature.
    Or run it with --identity oidc --client-id ID: it prints a nonce to sign in with. Run it again with --id-token-file.
    """
    chosen = options(context)
    confirmed = confirmed_profile(profile, profile_hash)
    if identity is not Named.EVM:
        _init_by_token(chosen, confirmed, identity=identity, client_id=client_id, id_token_file=id_token_file, k11=k11)
        return
    key = None if wallet_key_file is None else _wallet_key(wallet_key_file)
    address = None if wallet is None else hex_argument(wallet, "--wallet", length=20)
    if key is not None and address not in (None, key.address):
        raise DeviceError(Trouble.USAGE, "--wallet and --wallet-key-file are of different wallets")
    signature = None if wallet_signature is None else hex_argument(wallet_signature, "--wallet-signature", length=65)
    with Home.open(chosen.home, create=True) as home, set_up(home, confirmed, chosen.show) as device:
        made = enrol(
            device, wallet=key.address if key else address, kind=k11, wallet_signature=signature, wallet_key=key
        )
        _print_enrolment(device, made)


def _init_by_token(
    chosen: Options,
    confirmed: Profile,
    *,
    identity: Named,
    client_id: str | None,
    id_token_file: Path | None,
    k11: K11Kind,
) -> None:
    if client_id is None:
        raise DeviceError(Trouble.USAGE, "name the client that the ID token is for: --client-id ID")
    token = None if id_token_file is None else _token(id_token_file)
    with Home.open(chosen.home, create=True) as home, set_up(home, confirmed, chosen.show) as device:
        wish = wished_token(device, client_id, k11)
        if token is not None:
            _print_enrolment(device, bind_by_token(device, wish, token, google=identity is Named.OAUTH2_GOOGLE))
            return
        chosen.show.note("Sign in at the issuer with this nonce; then run this again with --id-token-file:")
        chosen.show.result({"client_id": client_id, "nonce": wish.nonce, "status": "id_token_needed"}, [wish.nonce])


def _token(path: Path) -> str:
    """Read an ID token from a private file: until it is used, whoever has it could try. Raises `bad_file`."""
    try:
        return read_private_file(path, limit=MAX_TOKEN_BYTES).decode("ascii").strip()
    except UnicodeDecodeError as exc:
        raise DeviceError(Trouble.BAD_FILE, f"{path} holds no ID token") from exc


def _print_enrolment(device: Device, made: Enrolment) -> None:
    show = device.show
    if made.identity is None and made.pending is not None:
        change, domain = made.pending.change, device.profile.domain
        typed_data = change.typed_data(domain)
        show.note(
            "Let your wallet sign this EIP-712 message (eth_signTypedData_v4); then run this with --wallet-signature:"
        )
        data = {
            "digest": hex_encode(change.digest(domain)),
            "status": "wallet_signature_needed",
            "typed_data": typed_data,
        }
        show.result({**data, "wallet": address_encode(change.wallet)}, [json.dumps(typed_data, sort_keys=True)])
        return
    if made.identity is None:
        raise DeviceError(Trouble.INTERNAL, "neither enrolled nor waiting")
    status = "enrolled" if made.receipt else "already_enrolled"
    data = {
        "device": hex_encode(device.k10.key_hash),
        "operator_omni": hex_encode(made.identity.operator_omni),
        "status": status,
    }
    if made.receipt:
        data["row_hash"] = hex_encode(made.receipt.row.row_hash)
        show.note("Done. Enrol a second master when you can: without any master nobody can recover this tree.")
        show.note("An agent running as your own Unix user can read this folder: give agents their own user or machine.")
    show.result(data)


def whoami(
    context: typer.Context,
    offline: Annotated[bool, typer.Option("--offline", help="Do not ask the registry.")] = False,
) -> None:
    """Show this device, whose it is, and what the registry holds of it."""
    with opened(context) as device:
        identity = Identity.load(device.home)
        data: dict[str, object] = {
            "address": address_encode(device.k10.address),
            "device": hex_encode(device.k10.key_hash),
            "home": str(device.home.path),
            "profile_hash": hex_encode(device.profile.hash()),
            "status": "not_enrolled",
        }
        if identity is not None:
            if not offline:
                identity = _add_registry(device, data)
            data |= _own(identity)
            if offline:
                data["status"] = "not_asked"
        since = data.get("registered_at")
        shown = data if not isinstance(since, int) else data | {"registered_at": moment(since)}
        device.show.result(data, described(shown))


def _own(identity: Identity) -> dict[str, object]:
    data: dict[str, object] = {
        "actor_omni": None if identity.actor_omni is None else hex_encode(identity.actor_omni),
        "operator_omni": hex_encode(identity.operator_omni),
        "part": identity.part.value,
    }
    if identity.part is Part.AGENT:
        return data | {"generation": identity.generation, "label": identity.label}
    return data | {"wallet": None if identity.wallet is None else address_encode(identity.wallet)}


def _add_registry(device: Device, data: dict[str, object]) -> Identity:
    identity = device.identity()
    try:
        views = views_of(device, identity.operator_omni)
    except DeviceError as exc:
        if exc.reason is not Trouble.NOT_REGISTERED:
            raise
        data["status"] = "not_registered"
        return identity
    identity = learn_agent(device, views)
    record = own_record(device, views)
    state = views[0].state
    data["epoch"], data["frozen"] = state.k3_epoch, state.frozen
    if record is None:
        data["status"] = "not_registered"
        return identity
    data["status"] = "revoked" if record.revoked else "registered"
    data["registered_at"] = device_json(record)["registered_at"]
    if identity.part is Part.AGENT:
        data["scope"] = sorted(state.scopes.get(record.actor_omni, frozenset()))
    return identity
