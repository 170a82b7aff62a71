"""Where a profile comes from: a file, or an https address of the host's. Its hash alone says whether it is the one."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from agentkeys_core.encoding import canonical_json, hex_encode
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.profile import MAX_PROFILE_BYTES, Profile
from device.errors import DeviceError, Trouble
from device.home import read_public_file
from device.problems import check_refusal
from device.session import Device
from device.tls import unknown_peer_context
from device.transport import Channel

#: Where a broker serves it.
PROFILE_PATH: Final = "/v1/profile"
_SCHEME: Final = "https://"
_TIMEOUT_S: Final = 10.0


def read_profile(source: str) -> bytes:
    """Return the bytes of a profile, canonical where they came from an address; nothing about them is believed yet.

    Raises:
        DeviceError: `bad_file`; `usage` for something that is no such address; `unreachable`, `answer_not_trusted`.
        KeyServiceError: the refusal of whoever answered.
    """
    if "://" in source and not source.lower().startswith(_SCHEME):
        raise DeviceError(Trouble.USAGE, f"{source}: a profile comes from a file or an https address alone")
    if not source.lower().startswith(_SCHEME):
        return read_public_file(Path(source), limit=MAX_PROFILE_BYTES)
    origin, path = _split(source)
    # Whoever answers cannot be known before there is a profile; the hash that the user was told says what is right.
    with Channel(origin, unknown_peer_context()) as channel:
        answer = check_refusal(channel.get(path, timeout_s=_TIMEOUT_S))
    if len(answer.body) > MAX_PROFILE_BYTES:
        raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, f"{source} answers with more than {MAX_PROFILE_BYTES} bytes")
    try:
        return canonical_json(answer.json())
    except KeyServiceError as exc:
        raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, f"{source} answers with something that is no profile") from exc


def shared_profile(device: Device) -> str | None:
    """The address at which this device's broker serves the very profile that the device has; None where it does not.

    Raises:
        DeviceError: `unreachable`, `peer_not_trusted`.
    """
    try:
        answer = check_refusal(device.channel(None).get(PROFILE_PATH, timeout_s=_TIMEOUT_S))
        found = Profile.parse(canonical_json(answer.json()))
    except KeyServiceError as exc:
        if exc.reason in (Reason.OVERLOADED, Reason.RATE_LIMITED):
            raise
        return None
    return device.profile.broker + PROFILE_PATH if found.hash() == device.profile.hash() else None


def _split(source: str) -> tuple[str, str]:
    try:
        parts = urlsplit(source)
        usable = bool(parts.hostname) and "@" not in parts.netloc and not parts.fragment and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not source.isascii() or not source.isprintable() or " " in source:
        raise DeviceError(Trouble.USAGE, f"{source} is no https address of a profile")
    return f"{_SCHEME}{parts.netloc}", (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def invitation(device: Device, *, label: str | None = None, services: Sequence[str] = ()) -> str:
    """The line that a new agent's machine runs to ask this operator, ready for a shell.

    Raises:
        DeviceError: as `shared_profile`.
    """
    words = ["agentkeys", "pair", "--profile", shared_profile(device) or "profile.json"]
    words += ["--profile-hash", hex_encode(device.profile.hash())]
    words += ["--operator", hex_encode(device.identity().operator_omni)]
    if label is not None:
        words += ["--label", label]
    for service in services:
        words += ["--service", service]
    return shlex.join(words)
