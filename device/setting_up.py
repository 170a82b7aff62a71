"""First steps of every device: the profile that the user compared, a folder of its own, K10 and K11 keys."""

import hmac

from agentkeys_core.encoding import hex_decode, hex_encode
from agentkeys_core.errors import KeyServiceError
from agentkeys_core.profile import Profile
from device.errors import DeviceError, Trouble
from device.home import Home
from device.k11.port import K11Kind, K11Record
from device.keys import K10
from device.lost_key import check_key_not_lost
from device.profile_source import read_profile
from device.session import PROFILE_FILE, Device
from device.show import Show


def hex_argument(text: str, name: str, *, length: int) -> bytes:
    """Read hex as people paste it: with or without 0x, capitals or not. Raises `usage`."""
    try:
        return hex_decode(text.strip().lower().removeprefix("0x"), length=length)
    except KeyServiceError as exc:
        raise DeviceError(Trouble.USAGE, f"{name} is not {length} bytes in hex") from exc


def confirmed_profile(source: str, expected_hash: str) -> Profile:
    """Return the profile of a file or https address whose hash is the one that the user was told by another way.

    Raises:
        DeviceError: `profile_hash_mismatch`; `bad_file` for something that is no profile; `usage` for a hash that
            is none; otherwise as `read_profile`.
    """
    expected = hex_argument(expected_hash, "--profile-hash", length=32)
    data = read_profile(source)
    try:
        profile = Profile.parse(data.removesuffix(b"\n"))
    except KeyServiceError as exc:
        raise DeviceError(Trouble.BAD_FILE, f"{source} is no profile: {exc}") from exc
    if not hmac.compare_digest(profile.hash(), expected):
        detail = f"{source} has hash {hex_encode(profile.hash())}, not the one given; do not use it"
        raise DeviceError(Trouble.PROFILE_HASH_MISMATCH, detail)
    return profile


def set_up(home: Home, profile: Profile, show: Show) -> Device:
    """Return the device of a folder, after keeping the profile and making K10 where they are not there yet.

    Raises:
        DeviceError: `already_initialised` where the folder belongs to another deployment: profiles are never exchanged;
            `k10_missing` where its key was lost: no other one takes its place unasked.
    """
    with home.locked():
        stored = home.read(PROFILE_FILE)
        if stored is None:
            home.create(PROFILE_FILE, profile.encode())
        elif stored != profile.encode():
            raise DeviceError(
                Trouble.ALREADY_INITIALISED, f"{home.path} belongs to another deployment; use another --home"
            )
    if K10.load(home) is None:
        check_key_not_lost(home)
    return Device(home, profile, K10.load_or_make(home), show)


def own_k11(device: Device, kind: K11Kind) -> K11Record:
    """Return the public half of this device's K11, made now where there is none.

    Of a browser's key and a security key, the one that is there serves either way.

    Raises:
        DeviceError: `already_initialised` where it has another origin; otherwise as the authenticator.
    """
    record = K11Record.load(device.home)
    if record is None:
        record = device.authenticator(kind).create(device.home, device_key_hash=device.k10.key_hash)
        record.save(device.home)
    if record.kind.origin != kind.origin:
        raise DeviceError(
            Trouble.ALREADY_INITIALISED, f"this device's K11 is of kind {record.kind}; use another --home for {kind}"
        )
    return record
