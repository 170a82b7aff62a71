"""`wallet show`, `sign siwe | typed-data | approve`."""

import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from agentkeys_core.captoken import UncosignedCap
from agentkeys_core.checksum import checksum_encode
from agentkeys_core.encoding import address_decode, address_encode, hex_encode, strict_json
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.k11 import K11Assertion
from agentkeys_core.signing_bodies import TypedDataBody
from agentkeys_core.siwe import MAX_MESSAGE_BYTES, SiweMessage
from device.approval import MAX_TEXT, ApprovalRequest, approve, encode_approval, parse_approval
from device.commands.context import opened
from device.errors import DeviceError, Trouble
from device.home import read_public_file
from device.show import Show
from device.signing import (
    DEFAULT_LIFETIME_S,
    Signed,
    compose_siwe,
    sign_siwe,
    sign_typed_data,
    siwe_intent,
    typed_intent,
)
from device.wallet import Ground, wallet_of

app = typer.Typer(no_args_is_help=True, help="Signatures by this actor's wallet.")
wallet_app = typer.Typer(no_args_is_help=True, help="This actor's wallet.")
MAX_TYPED_DATA_BYTES: Final = 512 * 1024
_GROUNDS: Final = {
    Ground.OPERATOR_OMNI: "proven: this operator's name is its hash",
    Ground.SIGNED_ROW: "proven: a signed audit row names it",
    Ground.BROKER: "told by the broker, not proven yet; a sign-in proves it",
}


@wallet_app.command("show")
def show_command(context: typer.Context) -> None:
    """Show the address of this actor's wallet, and how it is known."""
    with opened(context) as device:
        wallet = wallet_of(device)
        data = {
            "address": checksum_encode(wallet.address),
            "known_by": wallet.ground.value,
            "proven": wallet.proven,
        }
        device.show.result(data, [checksum_encode(wallet.address)])
        device.show.note(_GROUNDS[wallet.ground])


@app.command("siwe")
def siwe_command(
    context: typer.Context,
    *,
    domain: Annotated[str | None, typer.Option("--domain", metavar="HOST", help="Where to sign in.")] = None,
    uri: Annotated[str | None, typer.Option("--uri", metavar="URI", help="What the sign-in is for.")] = None,
    statement: Annotated[str | None, typer.Option("--statement", help="One line that people read.")] = None,
    chain_id: Annotated[int, typer.Option("--chain-id", min=1, help="EIP-155 chain id.")] = 1,
    nonce: Annotated[str | None, typer.Option("--nonce", help="As the host gave it; otherwise a random one.")] = None,
    lifetime_s: Annotated[
        int, typer.Option("--lifetime", min=1, help="Seconds until it expires.")
    ] = DEFAULT_LIFETIME_S,
    file: Annotated[
        Path | None,
        typer.Option("--file", metavar="FILE", help="A whole EIP-4361 message instead; - is standard input."),
    ] = None,
) -> None:
    """Sign in with this actor's wallet (EIP-4361). The signer's host must allow it, and an agent's scope name it."""
    if (file is None) == (domain is None and uri is None):
        raise DeviceError(Trouble.USAGE, "give either --file, or --domain and --uri")
    with opened(context) as device:
        if file is not None:
            message = SiweMessage.parse(_text(file, MAX_MESSAGE_BYTES + 1).removesuffix("\n"))
        elif domain is None or uri is None:
            raise DeviceError(Trouble.USAGE, "--domain and --uri belong together")
        else:
            message = compose_siwe(
                device,
                domain=domain,
                uri=uri,
                statement=statement,
                chain_id=chain_id,
                nonce=nonce,
                lifetime_s=lifetime_s,
            )
        device.show.signing(siwe_intent(message))
        device.show.confirm(f"Sign in to {message.domain} as {checksum_encode(message.address)}?")
        signed = sign_siwe(device, message)
        text = message.encode()
        _result(device.show, signed, {"message": text}, [*text.split("\n"), ""])


@app.command("typed-data")
def typed_data_command(
    context: typer.Context,
    *,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="EIP-712 JSON, as eth_signTypedData_v4 takes it.")],
    policy: Annotated[str, typer.Option("--policy", metavar="ID", help="The host's policy id: service sign:ID.")],
    wallet_epoch: Annotated[
        int | None, typer.Option("--wallet-epoch", min=1, help="Sign with the wallet of another epoch; needs --wallet.")
    ] = None,
    wallet: Annotated[
        str | None, typer.Option("--wallet", metavar="ADDRESS", help="The wallet that is expected to sign.")
    ] = None,
    ask_master: Annotated[
        bool,
        typer.Option(
            "--ask-master", help="Show a request for a master's K11 on standard error, and read the approval."
        ),
    ] = False,
) -> None:
    """Sign typed data (EIP-712) with this actor's wallet. A master approves with K11; an agent may ask one."""
    if wallet_epoch is not None and wallet is None:
        raise DeviceError(Trouble.USAGE, "--wallet-epoch needs --wallet: nothing else says which address is right")
    expected = None if wallet is None else _address(wallet)
    text = _text(file, MAX_TYPED_DATA_BYTES).encode()
    obj = strict_json(text, limit=MAX_TYPED_DATA_BYTES, reason=Reason.INVALID_TYPED_DATA)
    body = TypedDataBody(typed_data=obj, wallet_epoch=wallet_epoch)
    with opened(context) as device:
        if ask_master and device.is_master():
            raise DeviceError(Trouble.USAGE, "a master approves by itself")
        device.show.signing(typed_intent(body))
        device.show.confirm("Sign this typed data?")
        signed = sign_typed_data(
            device,
            body,
            policy,
            expected=expected,
            k11=device.is_master(),
            approve=(lambda cap, sent: _ask_master(device.show, cap, sent)) if ask_master else None,
        )
        _result(device.show, signed, {"intent": signed.intent}, [signed.intent or "no words for it are known", ""])


@app.command("approve", short_help="Approve an agent's typed data, with K11.")
def approve_command(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="FILE", help="What the agent printed; - is standard input.")] = Path(
        "-"
    ),
) -> None:
    """Approve an agent's typed data with this master's K11, after looking at what it says."""
    with opened(context) as device:
        line = encode_approval(approve(device, ApprovalRequest.parse(_text(source, MAX_TEXT))))
        device.show.result({"approval": line}, [line])


def _ask_master(show: Show, cap: UncosignedCap, body: bytes) -> K11Assertion:
    """Show the request and read the approval, a line each."""
    show.approval_needed(ApprovalRequest(cap=cap, body=body).encode())
    return parse_approval(sys.stdin.readline(MAX_TEXT))


def _address(text: str) -> bytes:
    try:
        return address_decode(text.lower())
    except KeyServiceError as exc:
        raise DeviceError(Trouble.USAGE, "--wallet is not an address") from exc


def _text(source: Path, limit: int) -> str:
    data = sys.stdin.buffer.read(limit + 1) if str(source) == "-" else read_public_file(source, limit=limit)
    if len(data) > limit:
        raise DeviceError(Trouble.BAD_FILE, f"{source} has more than {limit} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        raise DeviceError(Trouble.BAD_FILE, f"{source} is not text") from exc


def _result(show: Show, signed: Signed, more: dict[str, object], lines: list[str]) -> None:
    signature = f"0x{hex_encode(signed.signature)}"
    data = {
        "address": address_encode(signed.address),
        "digest": hex_encode(signed.digest),
        "row_hash": hex_encode(signed.row_hash),
        "signature": signature,
        **more,
    }
    show.result(data, [*lines, f"signature: {signature}"])
