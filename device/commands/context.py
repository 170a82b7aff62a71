"""What every command is given: the global options, and from them an opened device."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import typer

from agentkeys_core.encoding import address_encode, hex_encode
from agentkeys_core.registry import DeviceRecord
from device.change_desk import Receipt
from device.home import Home
from device.session import Device
from device.show import Show

DEFAULT_HOME: Final = Path("~/.agentkeys")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The global options of one run."""

    home: Path
    show: Show


def options(context: typer.Context) -> Options:
    """Return the options that the main command put down."""
    found = context.obj
    if not isinstance(found, Options):
        raise TypeError("the main command has not run")
    return found


@contextmanager
def opened(context: typer.Context) -> Iterator[Device]:
    """Open the device of the chosen folder; close it with its connections afterwards."""
    chosen = options(context)
    with Home.open(chosen.home) as home, Device.open(home, chosen.show) as device:
        yield device


def receipt_json(receipt: Receipt) -> dict[str, object]:
    """What a script gets of an applied change."""
    return {
        "change": receipt.change.type,
        "digest": hex_encode(receipt.digest),
        "done": True,
        "row_hash": hex_encode(receipt.row.row_hash),
        "seq": receipt.row.seq,
    }


def device_json(record: DeviceRecord) -> dict[str, object]:
    """What a script gets of a device."""
    return {
        "actor_omni": hex_encode(record.actor_omni),
        "address": address_encode(record.address),
        "assurance": record.assurance.value,
        "counter_fell": record.counter_fell,
        "device": hex_encode(record.device_key_hash),
        "evidence": record.evidence.value,
        "generation": record.generation,
        "label": record.label,
        "registered_at": record.registered_at,
        "revoked": record.revoked,
        "roles": int(record.roles),
        "sign_count": record.sign_count,
        "tier": record.tier.name.lower(),
    }
