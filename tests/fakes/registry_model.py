"""Who may change what, written once more from the design's table alone: it shares no code with the signer's rules.

Keys are names (small numbers) here; `tests/adversarial/test_10_registry_sequences.py` gives each a real key.
"""

from dataclasses import dataclass, field
from typing import Literal

CAP_MINT, RECOVERY, SCOPE = 1, 2, 4
EVERYTHING = 7
HOUR = 3600
Kind = Literal[
    "add_master",
    "add_agent",
    "set_scope",
    "revoke",
    "set_roles",
    "set_threshold",
    "rotate",
    "freeze",
    "unfreeze",
    "teardown",
]


@dataclass(frozen=True)
class Act:
    """One change and who signed it: `k10` a key, `touches` pairs of (device, K11 key that answered for it)."""

    kind: Kind
    k10: int
    touches: tuple[tuple[int, int], ...] = ()
    fresh: bool = True  # nonce, deadline, incarnation are those of now
    target: int = -1  # revoke, set_roles, rotate: a device
    roles: int = EVERYTHING
    threshold: int = 1
    new: int = -1  # add_master, add_agent, rotate: the new K10
    new_k11: int = -1  # add_master
    new_signed: bool = True  # the new key signed the change
    paired: bool = True  # the new key signed a Pair that fits


@dataclass
class Device:
    """A registered K10."""

    master: bool
    k11: int | None
    roles: int
    revoked: bool = False

    @property
    def live(self) -> bool:
        return self.master and not self.revoked


@dataclass
class Model:
    """One operator."""

    devices: dict[int, Device]
    threshold: int = 1
    frozen: bool = False
    nonce: int = 1
    freezes: int = 0
    now: int = 0
    waiting: dict[int, tuple[int, int]] = field(default_factory=dict)  # old K10 → new K10, due
    torn: bool = False

    def live(self, key: int) -> bool:
        return key in self.devices and self.devices[key].live

    def recoverers(self, *, without: int = -1, give: dict[int, int] | None = None) -> set[int]:
        """K11 keys that can approve a recovery, were some masters given other roles."""
        roles = {key: device.roles for key, device in self.devices.items()} | (give or {})
        return {
            device.k11
            for key, device in self.devices.items()
            if device.live and key != without and device.k11 is not None and roles[key] & RECOVERY
        }

    def bound(self, able: set[int]) -> int:
        return max(1, len(able) - 1)

    def known(self, key: int) -> bool:
        return key in self.devices or any(key == new for new, _ in self.waiting.values())

    # --- who stands behind it

    def _touched(self, act: Act) -> set[int] | None:
        """Devices whose own K11 answered; None where an assertion is wrong or of nobody."""
        seen = set()
        for device, k11 in act.touches:
            new = act.kind == "add_master" and device == act.new
            right = act.new_k11 if new else self.devices[device].k11 if self.live(device) else None
            if right is None or right != k11 or device in seen:
                return None
            seen.add(device)
        return seen

    def _alone(self, act: Act, role: int, touched: set[int]) -> bool:
        return self.live(act.k10) and self.devices[act.k10].roles & role == role and act.k10 in touched

    def _together(self, act: Act, touched: set[int], *, without: int = -1) -> bool:
        if not self.live(act.k10) or not self.devices[act.k10].roles & RECOVERY or act.k10 == without:
            return False
        newcomer = act.new if act.kind == "add_master" else -1
        keys = {
            self.devices[device].k11
            for device in touched - {without, newcomer}
            if self.devices[device].roles & RECOVERY
        }
        return len(keys) >= self.threshold

    # --- what is allowed, and what it does

    def allows(self, act: Act) -> bool:
        touched = self._touched(act)
        if touched is None or not act.fresh:
            return False
        if self.frozen and act.kind not in ("freeze", "unfreeze", "revoke", "set_scope"):
            return False
        return bool(getattr(self, f"_allows_{act.kind}")(act, touched))

    def _allows_freeze(self, act: Act, touched: set[int]) -> bool:
        return self.live(act.k10)

    def _allows_unfreeze(self, act: Act, touched: set[int]) -> bool:
        return self._alone(act, 0, touched) and self.frozen

    def _allows_set_scope(self, act: Act, touched: set[int]) -> bool:
        """Here it only takes away, which stays possible while frozen."""
        return self._alone(act, SCOPE, touched) and any(not device.master for device in self.devices.values())

    def _allows_revoke(self, act: Act, touched: set[int]) -> bool:
        target = self.devices.get(act.target)
        if target is None or target.revoked:
            return False
        if not target.master:
            return self._alone(act, SCOPE, touched)
        others = [device for key, device in self.devices.items() if key != act.target and device.live]
        return self._together(act, touched, without=act.target) and any(one.roles == EVERYTHING for one in others)

    def _allows_add_master(self, act: Act, touched: set[int]) -> bool:
        k11_free = all(device.k11 != act.new_k11 for device in self.devices.values())
        proven = act.paired and act.new_signed and act.new in touched
        return self._together(act, touched) and proven and not self.known(act.new) and k11_free

    def _allows_add_agent(self, act: Act, touched: set[int]) -> bool:
        return self._alone(act, SCOPE, touched) and act.paired and not self.known(act.new)

    def _allows_set_roles(self, act: Act, touched: set[int]) -> bool:
        if not self._together(act, touched) or not self.live(act.target):
            return False
        given = {key: device.roles for key, device in self.devices.items() if device.live} | {act.target: act.roles}
        able = self.recoverers(give={act.target: act.roles})
        return EVERYTHING in given.values() and self.threshold <= self.bound(able)

    def _allows_set_threshold(self, act: Act, touched: set[int]) -> bool:
        return self._together(act, touched) and act.threshold <= self.bound(self.recoverers())

    def _allows_rotate(self, act: Act, touched: set[int]) -> bool:
        elsewhere = any(act.new == new for old, (new, _) in self.waiting.items() if old != act.target)
        new_ok = act.new_signed and act.new not in self.devices and not elsewhere
        return self.live(act.target) and act.target in touched and new_ok and act.k10 in (act.target, act.new)

    def _allows_teardown(self, act: Act, touched: set[int]) -> bool:
        return self._alone(act, 0, touched)

    def perform(self, act: Act) -> None:
        if act.kind == "freeze":
            self.frozen = True
            self.waiting.clear()
            return
        self.nonce += 1
        match act.kind:
            case "add_master":
                self.devices[act.new] = Device(master=True, k11=act.new_k11, roles=act.roles)
            case "add_agent":
                self.devices[act.new] = Device(master=False, k11=None, roles=CAP_MINT)
            case "revoke":
                self.devices[act.target].revoked = True
                self.waiting.pop(act.target, None)
                if self.devices[act.target].master:
                    self.threshold = min(self.threshold, self.bound(self.recoverers()))
            case "set_roles":
                self.devices[act.target].roles = act.roles
            case "set_threshold":
                self.threshold = act.threshold
            case "rotate":
                self.waiting.pop(act.target, None)
                if act.k10 == act.target:
                    self._replace(act.target, act.new)
                else:
                    self.waiting[act.target] = (act.new, self.now + 72 * HOUR)
            case "unfreeze":
                self.frozen = False
                self.freezes += 1
            case "teardown":
                self.torn = True
            case _:
                pass

    def _replace(self, old: int, new: int) -> None:
        gone = self.devices[old]
        self.devices[new] = Device(master=True, k11=gone.k11, roles=gone.roles)
        gone.revoked = True

    def wait(self, seconds: int) -> None:
        self.now += seconds
        for old, (new, due) in sorted(self.waiting.items(), key=lambda entry: entry[1][1]):
            if due <= self.now:
                del self.waiting[old]
                self._replace(old, new)
