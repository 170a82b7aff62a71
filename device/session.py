"""An opened device: its folder, profile and keys, and checked connections to the parts of its deployment."""

import ssl
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final, Self

from agentkeys_core.errors import KeyServiceError
from agentkeys_core.ops import WorkerClass
from agentkeys_core.profile import Profile
from device.errors import DeviceError, Trouble
from device.home import Home
from device.identity import Identity, Memory, Part
from device.k11.browser import BrowserAuthenticator
from device.k11.port import Authenticator, K11Kind, K11Record
from device.k11.software import SoftwareAuthenticator
from device.keys import K10
from device.lost_key import check_key_not_lost
from device.problems import check_refusal
from device.registry import Routes
from device.show import Show
from device.tls import PublicPeer, broker_peer, issuer_peer, peer_context, worker_peer
from device.transport import Channel
from device.trust import KEYS_PATH, AuditKeys

PROFILE_FILE: Final = "profile.json"
# OpenSSL's X509_V_ERR codes: self-signed leaf, self-signed root, no issuer found (two ways).
_UNKNOWN_AUTHORITY: Final = frozenset({18, 19, 20, 21})


def load_profile(home: Home) -> Profile:
    """Return the folder's profile. Raises `not_initialised`, `bad_file` or `unsafe_file`."""
    data = home.read(PROFILE_FILE)
    if data is None:
        raise DeviceError(
            Trouble.NOT_INITIALISED, f"{home.path} holds no profile; run agentkeys init or agentkeys pair"
        )
    try:
        return Profile.parse(data)
    except KeyServiceError as exc:
        raise DeviceError(Trouble.BAD_FILE, f"{home.path / PROFILE_FILE}: {exc}") from exc


class Device:
    """One device, opened. Connections are made when first needed and closed with it."""

    def __init__(
        self, home: Home, profile: Profile, k10: K10, show: Show, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.home = home
        self.profile = profile
        self.k10 = k10
        self.show = show
        self.clock = clock
        self.keys = AuditKeys(home, self._fetch_keys)
        self.routes = Routes(self.channel)
        self._stack = ExitStack()
        self._channels: dict[WorkerClass | None, Channel] = {}

    @classmethod
    def open(cls, home: Home, show: Show) -> Self:
        """Open the device of a folder. Raises `not_initialised`, `k10_missing`, `unsafe_file` or `bad_file`."""
        profile = load_profile(home)
        k10 = K10.load(home)
        if k10 is None:
            check_key_not_lost(home)
            raise DeviceError(
                Trouble.NOT_INITIALISED, f"{home.path} holds no device key; run agentkeys init or agentkeys pair"
            )
        return cls(home, profile, k10, show)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def now(self) -> int:
        """Unix seconds of this machine's clock."""
        return int(self.clock())

    @property
    def memory(self) -> Memory:
        """What verified rows have proven."""
        return Memory.load(self.home)

    def identity(self) -> Identity:
        """Whose device this is. Raises `not_initialised` before init or pair were finished."""
        identity = Identity.load(self.home)
        if identity is None:
            raise DeviceError(Trouble.NOT_INITIALISED, "this device is not enrolled yet; finish agentkeys init")
        if identity.profile_hash != self.profile.hash():
            raise DeviceError(Trouble.BAD_FILE, "the profile in this folder is not the one that was confirmed")
        return identity

    def channel(self, worker: WorkerClass | None) -> Channel:
        """Return the connection to the worker of a class, or to the broker (None)."""
        if worker not in self._channels:
            td = self.profile.trust_domain
            rule = broker_peer(td) if worker is None else worker_peer(td, worker)
            origin = self.profile.broker if worker is None else self.profile.workers[worker]
            self._channels[worker] = self._stack.enter_context(
                Channel(origin, peer_context(rule, ca_pem=self.profile.ca))
            )
        return self._channels[worker]

    def authenticator(self, kind: K11Kind) -> Authenticator:
        """Return who approves for this device."""
        match kind:
            case K11Kind.SOFTWARE:
                return SoftwareAuthenticator(self.home)
            case K11Kind.SECURITY_KEY:
                # Only here: the library costs every other command more than its own work does.
                from device.k11.security_key import SecurityKeyAuthenticator  # noqa: PLC0415

                return SecurityKeyAuthenticator(self.show)
            case K11Kind.BROWSER:
                return BrowserAuthenticator(self.show.k11_page)

    def k11(self) -> tuple[Authenticator, K11Record]:
        """Return this master's K11. Raises `k11_missing` on a device without one."""
        record = K11Record.load(self.home)
        if record is None:
            raise DeviceError(Trouble.K11_MISSING, "this device has no K11; only a master can approve that")
        if record.kind is K11Kind.SOFTWARE:
            self.show.software_k11()
        wished = self.show.asked_by
        return self.authenticator(wished.instead_of(record.kind) if wished else record.kind), record

    def is_master(self) -> bool:
        """Whether this device was made by `init`."""
        return self.identity().part is Part.MASTER

    def _fetch_keys(self) -> bytes:
        """Read the audit keys at the issuer: its certificate is of the deployment's CA for that role, or public."""
        issuer = self.profile.issuer
        own = peer_context(issuer_peer(self.profile.trust_domain), ca_pem=self.profile.ca)
        try:
            with Channel(issuer, own) as channel:
                return check_refusal(channel.get(KEYS_PATH)).body
        except DeviceError as exc:
            # Only a chain that does not lead to our CA is worth a second look; a part of our own in the wrong role is
            # not.
            if not _unknown_authority(exc.__cause__):
                raise
        with Channel(issuer, peer_context(PublicPeer(), ca_pem=None)) as channel:
            return check_refusal(channel.get(KEYS_PATH)).body


def _unknown_authority(exc: BaseException | None) -> bool:
    while exc is not None:
        if isinstance(exc, ssl.SSLCertVerificationError):
            return exc.verify_code in _UNKNOWN_AUTHORITY
        exc = exc.__cause__ or exc.__context__
    return False
