"""Which K4 an actor's wallet is: fixed when the actor was registered, whatever epoch is current later."""

from pathlib import Path

from agentkeys_core.audit import OpKind
from agentkeys_core.keys import DeviceKey
from agentkeys_core.registry import ALL_ROLES, DeviceRecord, Tier
from signer.adapters.registry_store import write_effects
from signer.ports import WalletRef
from signer.registry_effects import Effects, Enrolment
from tests.fakes.registry_kit import NOW, Opened, Person, opened
from tests.unit.core.refusal import refused


def advance(signer: Opened, epoch: int) -> None:
    """Make `epoch` current. The committer signs under it, so the keyring of these tests holds it."""
    signer.committer.run(lambda tx: tx.conn.execute("UPDATE meta SET value = ? WHERE key = 'k3_epoch'", (epoch,)))
    signer.registry._checked_at = 0.0


def test_a_users_own_wallet_is_none_of_ours(here: Opened) -> None:
    person = Person()
    here.registry.apply(person.enrol())
    assert here.registry.wallet(person.operator) is None


def test_an_agents_wallet_stays_at_the_epoch_that_registered_the_agent(tmp_path: Path) -> None:
    with opened(tmp_path, epochs=(1, 2)) as here:
        person = Person()
        here.registry.apply(person.enrol())
        here.registry.apply(person.add_agent(DeviceKey.generate(), 1))
        advance(here, 2)
        here.registry.apply(person.add_agent(DeviceKey.generate(), 2))  # the same actor's second device
        here.registry.apply(person.add_agent(DeviceKey.generate(), 3, label="later"))
        assert here.registry.wallet(person.actor()) == WalletRef(omni=person.actor(), epoch=1)
        assert here.registry.wallet(person.actor("later")) == WalletRef(omni=person.actor("later"), epoch=2)


def test_a_revoked_agent_that_comes_back_has_its_old_wallet(tmp_path: Path) -> None:
    with opened(tmp_path, epochs=(1, 2)) as here:
        person, agent = Person(), DeviceKey.generate()
        here.registry.apply(person.enrol())
        here.registry.apply(person.add_agent(agent, 1))
        here.registry.apply(person.approved(person.revoke(2, agent.key_hash)))
        advance(here, 2)
        here.registry.apply(person.add_agent(DeviceKey.generate(), 3))
        assert here.registry.wallet(person.actor()) == WalletRef(omni=person.actor(), epoch=1)


def test_a_master_without_a_wallet_has_that_of_the_identity(here: Opened) -> None:
    """As a first bind by e-mail, OIDC or passkey leaves it; its rules are tested with those."""
    person, identity = Person(), b"\x07" * 32
    device = DeviceRecord(
        device_key_hash=person.device,
        operator_omni=person.operator,
        actor_omni=person.operator,
        address=person.k10.address,
        tier=Tier.MASTER,
        roles=ALL_ROLES,
        revoked=False,
        registered_at=NOW,
        k11=person.k11.public,
    )
    effects = Effects(
        kind=OpKind.DEVICE_ADD,
        nonce=1,
        freeze_nonce=0,
        frozen=False,
        threshold=1,
        enrolment=Enrolment(identity_omni=identity, wallet=person.wallet.address, wallet_epoch=3),
        added=device,
        actor=person.operator,
    )
    here.committer.run(
        lambda tx: write_effects(tx.conn, person.operator, effects, sequence=1, digest=bytes(32), k3_epoch=9)
    )
    assert here.registry.wallet(person.operator) == WalletRef(omni=identity, epoch=3)


def test_an_actor_that_nobody_registered_has_no_wallet(here: Opened) -> None:
    with refused("actor_binding_mismatch"):
        here.registry.wallet(bytes(32))
