"""Any sequence of changes, signed by anybody: the registry does what an independent model of the design says.

Real K10 keys, software K11 keys, the real registry on disk. Beside the model, three promises are asserted by themselves:
nobody is stranded, nothing unauthorised gets through, one stolen K11 never beats a threshold of two.
"""

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from agentkeys_core.changes import Change
from agentkeys_core.errors import KeyServiceError
from agentkeys_core.keys import DeviceKey
from agentkeys_core.registry import OperatorState
from agentkeys_core.signed_change import K11OfDevice, SignedChange
from tests.fakes.registry_kit import DOMAIN, NOW, Opened, Person, SetClock, opened
from tests.fakes.registry_model import EVERYTHING, HOUR, RECOVERY, Act, Device, Kind, Model
from tests.unit.core.material import SoftwareK11

pytestmark = pytest.mark.adversarial

KEYS: Final = 12
KEY = st.integers(0, KEYS - 1)
QUORUM: Final = ("add_master", "set_roles", "set_threshold", "revoke")
ALONE: Final = ("add_agent", "set_scope", "unfreeze", "teardown", "rotate", "freeze")
#: Made once: key generation would be most of the run time.
K10S: Final = tuple(DeviceKey.generate() for _ in range(KEYS))
K11S: Final = tuple(SoftwareK11(b"k11-%d" % number) for number in range(KEYS))
WALLET: Final = DeviceKey.generate()


class Sequences(RuleBasedStateMachine):
    """One user. Key number 0 is the first master's; everybody's keys are drawn from the same few."""

    def __init__(self) -> None:
        super().__init__()
        self._open = ExitStack()
        folder = Path(self._open.enter_context(tempfile.TemporaryDirectory(dir="build")))
        self.here: Opened = self._open.enter_context(opened(folder, clock=SetClock()))
        self.model = Model(devices={0: Device(master=True, k11=0, roles=EVERYTHING)})

    @initialize(guarded=st.booleans())
    def enrol(self, guarded: bool) -> None:
        """One master; or three with every role, two of whom it takes."""
        self.here.registry.apply(self.person(0).enrol())
        if guarded:
            for new in (1, 2):
                touches = tuple((key, key) for key in range(new + 1))
                self.attempt(Act(kind="add_master", k10=0, touches=touches, new=new, new_k11=new))
            self.attempt(Act(kind="set_threshold", k10=0, touches=((0, 0),), threshold=2))
            assert self.model.threshold == 2

    def teardown(self) -> None:
        self._open.close()

    def person(self, key: int) -> Person:
        device = self.model.devices.get(key)
        k11 = K11S[device.k11] if device is not None and device.k11 is not None else K11S[key]
        return Person(wallet=WALLET, k10=K10S[key], k11=k11, now=NOW + self.model.now)

    @property
    def state(self) -> OperatorState:
        return self.here.state(self.person(0))

    # --- what happens

    @rule(kind=st.sampled_from(QUORUM), data=st.data())
    def masters_act_together(self, kind: Kind, data: st.DataObject) -> None:
        """All live masters approve, one of them with K10: what fails then fails for what it would do."""
        live = self.live_masters()
        act = self.drawn(kind, data, k10=data.draw(st.sampled_from(live)), touching=live)
        self.attempt(act)

    @rule(kind=st.sampled_from(ALONE), data=st.data())
    def a_master_acts(self, kind: Kind, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(self.live_masters()))
        self.attempt(self.drawn(kind, data, k10=key, touching=[key], target=key if kind == "rotate" else None))

    @rule(data=st.data())
    def a_master_without_its_old_key_acts(self, data: st.DataObject) -> None:
        target = data.draw(st.sampled_from(self.live_masters()))
        new = data.draw(KEY)
        self.attempt(self.drawn("rotate", data, k10=new, touching=[target], target=target, new=new))

    @rule(
        kind=st.sampled_from((*QUORUM, *ALONE)),
        data=st.data(),
        k10=KEY,
        touching=st.lists(KEY, max_size=4, unique=True),
    )
    def anybody_acts(self, kind: Kind, data: st.DataObject, k10: int, touching: list[int]) -> None:
        self.attempt(self.drawn(kind, data, k10=k10, touching=touching, careless=True))

    @rule(kind=st.sampled_from((*QUORUM, "rotate")), data=st.data(), stolen=KEY)
    def a_thief_of_every_k10_and_one_k11_acts(self, kind: Kind, data: st.DataObject, stolen: int) -> None:
        """Under a threshold of two or more, whoever can approve recoveries stays who it was."""
        before, threshold = self.model.recoverers(), self.state.threshold
        holders = [key for key in self.live_masters() if self.model.devices[key].k11 == stolen]
        act = self.drawn(kind, data, k10=data.draw(KEY), touching=holders)
        target = self.model.devices.get(act.target)
        self.attempt(act)
        if threshold > 1 and not (kind == "revoke" and (target is None or not target.master)):
            assert self.state.threshold == threshold
            assert k11_able(self.state) == {K11S[key].public.x for key in before}

    @rule(hours=st.sampled_from([1, 24, 72]))
    def time_passes(self, hours: int) -> None:
        self.here.clock.at += hours * HOUR
        self.model.wait(hours * HOUR)
        self.here.registry.settle()

    @rule()
    def the_signer_restarts(self) -> None:
        """What is in memory goes; what counts is on disk."""
        self.here.registry._cache.clear()

    # --- how it is drawn, signed and tried

    def live_masters(self) -> list[int]:
        return sorted(key for key, device in self.model.devices.items() if device.live)

    def drawn(
        self,
        kind: Kind,
        data: st.DataObject,
        *,
        k10: int,
        touching: list[int],
        target: int | None = None,
        new: int | None = None,
        careless: bool = False,
    ) -> Act:
        given: dict[str, Any] = {"kind": kind, "k10": k10}
        given["target"] = data.draw(KEY) if target is None else target
        given["new"] = data.draw(KEY) if new is None else new
        given["roles"] = data.draw(st.integers(1, 7))
        given["threshold"] = data.draw(st.integers(1, 3))
        given["new_k11"] = data.draw(st.sampled_from([given["new"], given["new"], data.draw(KEY)]))
        touches = {key: self.k11_of(key) for key in touching}
        if kind == "add_master":
            touches.setdefault(given["new"], given["new_k11"])
        if careless:
            flags = st.sampled_from([True, True, True, False])
            given |= {name: data.draw(flags) for name in ("fresh", "new_signed", "paired")}
            if touches and not data.draw(flags):
                touches[data.draw(st.sampled_from(sorted(touches)))] = data.draw(KEY)
        return Act(**given, touches=tuple(sorted(touches.items())))

    def k11_of(self, key: int) -> int:
        device = self.model.devices.get(key)
        return key if device is None or device.k11 is None else device.k11

    def attempt(self, act: Act) -> None:
        if act.kind == "freeze" and self.model.frozen and act.fresh:
            return  # the very same change again: answered with the same row, whoever sends it
        signed = self.signed(act)
        allowed = self.model.allows(act)
        refusal = None
        try:
            self.here.registry.apply(signed)
        except KeyServiceError as exc:
            refusal = exc
        assert allowed == (refusal is None), (act, refusal)
        if allowed:
            self.model.perform(act)

    def signed(self, act: Act) -> SignedChange:
        master = self.person(act.k10)
        change = self.change(master, act)
        digest = change.digest(DOMAIN)
        touches = [
            K11OfDevice(device=K10S[device].key_hash, assertion=K11S[k11].answer(digest)) for device, k11 in act.touches
        ]
        rest: dict[str, Any] = {}
        if act.kind in ("add_master", "rotate"):
            signer = K10S[act.new] if act.new_signed else K10S[(act.new + 1) % KEYS]
            rest["new_device"] = signer.sign_recoverable(digest)
        if act.kind in ("add_master", "add_agent"):
            newcomer = Person(wallet=WALLET, k10=K10S[act.new], k11=K11S[act.new_k11], now=master.now)
            by = K10S[act.new] if act.paired else K10S[(act.new + 1) % KEYS]
            pair = master.master_pair if act.kind == "add_master" else None
            rest["pair"] = pair(newcomer, signer=by) if pair else master.pair(K10S[act.new], signer=by)
        return master.approved(change, k11=touches, **rest)

    def change(self, master: Person, act: Act) -> Change:  # noqa: PLR0911
        nonce = self.model.nonce if act.fresh else self.model.nonce + 1
        target = K10S[act.target].key_hash
        match act.kind:
            case "add_master":
                new = Person(wallet=WALLET, k10=K10S[act.new], k11=K11S[act.new_k11], now=master.now)
                return master.add_master_change(new, nonce, roles=act.roles)
            case "add_agent":
                return master.add_agent(K10S[act.new], nonce).change
            case "set_scope":
                return master.set_scope(nonce, revoke=("cred:openrouter",))
            case "revoke":
                return master.revoke(nonce, target)
            case "set_roles":
                return master.set_roles(nonce, target, act.roles)
            case "set_threshold":
                return master.set_threshold(nonce, act.threshold)
            case "rotate":
                return master.rotate_change(nonce, K10S[act.new], old=target)
            case "freeze":
                return master.freeze(self.model.freezes + (not act.fresh)).change
            case "unfreeze":
                return master.unfreeze(nonce)
            case "teardown":
                return master.teardown(nonce, 2)

    # --- what always holds

    @invariant()
    def the_registry_is_what_the_model_is(self) -> None:
        state, model = self.state, self.model
        assert (state.nonce, state.freeze_nonce, state.frozen) == (model.nonce, model.freezes, model.frozen)
        assert state.threshold == model.threshold
        assert {
            key: (device.is_master, int(device.roles), device.revoked) for key, device in state.devices.items()
        } == {
            K10S[key].key_hash: (device.master, device.roles, device.revoked) for key, device in model.devices.items()
        }
        assert {old: (rotation.new_address, rotation.due_at - NOW) for old, rotation in state.rotations.items()} == {
            K10S[old].key_hash: (K10S[new].address, due) for old, (new, due) in model.waiting.items()
        }
        assert bool(state.torn_down) == model.torn

    @invariant()
    def nobody_is_stranded(self) -> None:
        """Somebody can do everything, the threshold can be reached, and still be reached with any one of them gone."""
        state = self.state
        assert any(device.roles == EVERYTHING and device.k11 is not None for device in state.masters())
        able = k11_able(state)
        assert len(able) >= state.threshold
        assert state.threshold <= max(1, len(able) - 1)

    @invariant()
    def no_two_masters_share_a_k11(self) -> None:
        keys = [device.k11.x for device in self.state.masters() if device.k11 is not None]
        assert len(set(keys)) == len(keys)


def k11_able(state: OperatorState) -> set[bytes]:
    return {device.k11.x for device in state.masters() if device.k11 is not None and device.roles & RECOVERY}


TestSequences = Sequences.TestCase
TestSequences.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
