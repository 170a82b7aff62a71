"""Masters in the console: everything that the commands can, over the real registry, and nothing uncompared."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from agentkeys_core.registry import Role
from device.home import Home
from device.identity import Identity
from device.pairing import shown
from tests.unit.device.conftest import Person
from tests.unit.device.console_kit import Visitor, console_at
from tests.unit.device.masters_kit import Named, device_of, offer, state_of
from tests.unit.device.real_registry import RealRegistry

Fields = dict[str, str | list[str]]


@pytest.fixture
def consoles() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def visitor(first: Person, consoles: ExitStack) -> Visitor:
    return consoles.enter_context(console_at(first.home))


def handed_over(visitor: Visitor) -> str:
    """The file that the last job left, as the page lets one save or copy it."""
    saved = visitor.file()
    assert saved.status_code == 200
    return saved.text


def test_an_old_page_saves_no_other_jobs_file(
    registry: RealRegistry, first: Person, visitor: Visitor, person: Named, tmp_path: Path
) -> None:
    offer(person("machine"), first, tmp_path / "offer")
    visitor.handed((tmp_path / "offer").read_text())
    visitor.approve(roles=["1"])
    visitor.agree()
    for link in ("/page/file", f"/page/file?job={'0' * 32}", "/page/file?job="):
        assert visitor.get(link).status_code == 404
    assert handed_over(visitor)


# --- letting a master in


def test_a_further_master_comes_in_by_upload_and_download(
    registry: RealRegistry, first: Person, visitor: Visitor, person: Named, tmp_path: Path
) -> None:
    machine = person("machine")
    told = offer(machine, first, tmp_path / "offer").data["pairing_hash"]
    assert visitor.handed((tmp_path / "offer").read_text()) == {"go": "pair"}
    page = visitor.get("/page/pair").text
    assert shown(bytes.fromhex(told)) in page
    assert 'name="compared" value="yes" required>' in page  # nobody ticks it but the person
    assert visitor.approve(roles=["1", "4"]) == {"go": "job"}
    asked = visitor.get("/page/job").text
    assert "Let a further master in" in asked
    assert "use credentials, manage agents" in asked
    done = visitor.agree()
    assert "agentkeys join FILE" in done
    (tmp_path / "back").write_text(handed_over(visitor))
    assert machine("join", tmp_path / "back").code == 0
    record = state_of(registry, first).devices[device_of(machine)]
    assert (record.is_master, int(record.roles)) == (True, 5)


def test_nothing_is_approved_uncompared_or_other_than_shown(
    first: Person, visitor: Visitor, person: Named, tmp_path: Path
) -> None:
    offer(person("machine"), first, tmp_path / "offer")
    visitor.handed((tmp_path / "offer").read_text())
    bends: list[Fields] = [
        {"compared": ""},
        {"id": "00" * 16},
        {"id": ""},
        {"id": "\u00e4"},
        {"roles": ["8"]},
        {"roles": []},
    ]
    for bent in bends:
        assert visitor.approve(**({"roles": ["1"]} | bent))["reason"] == "usage"
    shown_before = visitor.get("/page/pair").text
    visitor.handed((tmp_path / "offer").read_text())  # another one came in meanwhile
    old = shown_before.partition('name="id" value="')[2][:32]
    assert visitor.approve(id=old, roles=["1"])["reason"] == "usage"
    assert visitor.console._job is None
    assert visitor.file().status_code == 404


def test_an_agents_offer_comes_in_by_file_too(
    registry: RealRegistry, first: Person, visitor: Visitor, person: Named, tmp_path: Path
) -> None:
    machine = person("machine")
    operator = first("whoami", "--offline").data["operator_omni"]
    words = ("--out", tmp_path / "offer", "--label", "research")
    told = machine("pair", "--operator", operator, *machine.profile_words(), *words).data["pairing_hash"]
    assert visitor.handed((tmp_path / "offer").read_text()) == {"go": "pair"}
    page = visitor.get("/page/pair").text
    assert shown(bytes.fromhex(told)) in page
    assert 'value="research"' in page
    assert visitor.approve(label="research", services="cred:a", generation="0", compared="")["reason"] == "usage"
    assert visitor.approve(label="research", services="cred:a", generation="0") == {"go": "job"}
    assert "is let in" in visitor.agree()
    assert device_of(machine) in state_of(registry, first).devices


def test_an_offer_for_somebody_else_is_refused(first: Person, visitor: Visitor, person: Named, tmp_path: Path) -> None:
    stranger = person("stranger")
    stranger.init()
    offer(person("machine"), stranger, tmp_path / "offer")
    assert visitor.handed((tmp_path / "offer").read_text())["reason"] == "pair_invalid"
    assert "Pairing hash" not in visitor.get("/page/pair").text


@pytest.mark.parametrize("text", ["", "x", "[]", "{}", '{"kind":"agentkeys-pair"}', '{"kind":"agentkeys-change"}', "ä"])
def test_what_is_no_file_of_ours_is_refused_by_name(visitor: Visitor, text: str) -> None:
    assert visitor.handed(text)["reason"] == "bad_file"
    assert "Nothing to approve" in visitor.get("/page/changes").text


# --- several masters


def test_two_masters_sign_together(
    registry: RealRegistry, first: Person, second: Person, third: Person, visitor: Visitor, consoles: ExitStack
) -> None:
    target = device_of(third)
    assert visitor.send("/do", what="revoke", device=target.hex()) == {"go": "job"}
    asked = visitor.get("/page/job").text
    assert "Afterwards 1 instead of 2 masters" in asked
    assert target.hex() in asked
    assert "another master approves this file" in visitor.agree()
    assert not state_of(registry, first).devices[target].revoked
    file = handed_over(visitor)
    assert visitor.handed(file) == {"go": "changes"}
    assert "approved it already" in visitor.get("/page/changes").text
    other = consoles.enter_context(console_at(second.home))
    assert other.handed(file) == {"go": "changes"}
    page = other.get("/page/changes").text
    assert "Revoke a device for ever" in page
    assert f"master {device_of(first).hex()[:8]}: 1 of 2" in page
    digest = page.partition("Digest: <code>")[2][:64]
    assert other.approve("changes", compared="") == {"go": "job"}  # there is no hash to compare
    assert digest in other.get("/page/job").text
    assert "it is done" in other.agree()
    assert state_of(registry, first).devices[target].revoked


def test_an_approver_compares_the_hash_too(
    registry: RealRegistry,
    first: Person,
    second: Person,
    third: Person,
    person: Named,
    consoles: ExitStack,
    tmp_path: Path,
) -> None:
    fourth = person("fourth")
    told = offer(fourth, first, tmp_path / "offer").data["pairing_hash"]
    first("device", "add", tmp_path / "offer", "--out", tmp_path / "back", "--pairing-hash", told)
    other = consoles.enter_context(console_at(second.home))
    assert other.handed((tmp_path / "back").read_text()) == {"go": "changes"}
    assert shown(bytes.fromhex(told)) in other.get("/page/changes").text
    assert other.approve("changes", compared="")["reason"] == "usage"
    assert other.approve("changes") == {"go": "job"}
    assert "agentkeys join FILE" in other.agree()
    (tmp_path / "back").write_text(handed_over(other))
    assert fourth("join", tmp_path / "back").code == 0


def test_another_operators_change_is_not_shown(
    first: Person, second: Person, person: Named, consoles: ExitStack, tmp_path: Path
) -> None:
    stranger = person("stranger")
    stranger.init()
    first("device", "threshold", 1, "--collect", tmp_path / "file")
    other = consoles.enter_context(console_at(stranger.home))
    assert other.handed((tmp_path / "file").read_text())["reason"] == "bad_file"
    assert "Nothing to approve" in other.get("/page/changes").text


def test_roles_and_threshold_are_set(registry: RealRegistry, first: Person, second: Person, visitor: Visitor) -> None:
    target = device_of(second)
    assert visitor.send("/do", what="roles", device=target.hex(), roles=["1"]) == {"go": "job"}
    assert "may from now on" in visitor.get("/page/job").text
    assert "roles are changed" in visitor.agree()
    assert state_of(registry, first).devices[target].roles == Role.CAP_MINT
    page = visitor.get("/page/masters").text
    assert page.count(" checked") == 4  # three roles of the first, one of the second
    for threshold in ("0", "256", "x", "", "1.5", "\u0661"):
        assert visitor.send("/do", what="threshold", threshold=threshold)["reason"] == "usage"
    assert visitor.send("/do", what="threshold", threshold="1") == {"go": "job"}
    assert "it takes 1" in visitor.agree()


@pytest.mark.parametrize("roles", [[], ["0"], ["8"], ["1", "x"], ["7"]])
def test_roles_that_are_none_are_refused(visitor: Visitor, roles: list[str]) -> None:
    assert visitor.send("/do", what="roles", device="00" * 32, roles=roles)["reason"] == "usage"


# --- keys


def test_a_new_device_key_and_the_console_goes_on_with_it(
    registry: RealRegistry, first: Person, visitor: Visitor
) -> None:
    old = device_of(first)
    assert visitor.send("/do", what="rotate") == {"go": "job"}
    assert "Replace a master" in visitor.get("/page/job").text
    assert "the old one is revoked" in visitor.agree()
    new = device_of(first)
    devices = state_of(registry, first).devices
    assert (devices[old].revoked, devices[new].revoked) == (True, False)
    page = visitor.get("/page/devices").text
    assert page.count("this device") == 1
    assert "not told" not in page  # its session is one of the new key
    visitor.send("/do", what="freeze")
    assert "is frozen" in visitor.agree()


def test_a_lost_key_is_asked_for_in_its_place(
    registry: RealRegistry, first: Person, second: Person, consoles: ExitStack
) -> None:
    old = device_of(first)
    (first.home / "k10.json").unlink()
    visitor = consoles.enter_context(console_at(first.home))
    assert "The registry does not know this machine" in visitor.get("/page/devices").text
    page = visitor.get("/page/masters").text
    assert f'value="{old.hex()}"' in page.partition("<select")[2].partition("</select>")[0]
    assert device_of(second).hex() not in page.partition("<select")[2].partition("</select>")[0]
    assert visitor.send("/do", what="lost", device=old.hex()) == {"go": "job"}
    assert "72 hours" in visitor.agree()
    warned = visitor.get("/page/devices").text
    assert f"Device <code>{old.hex()[:8]}</code> gets another key" in warned
    asked = visitor.get("/page/masters").text
    assert "It is asked for, and holds from" in asked
    assert "<select" not in asked
    registry.here.clock.at = time.time() + 72 * 3600
    registry.here.registry.settle()
    assert not state_of(registry, second).devices[device_of(first)].revoked


def test_who_was_never_registered_gets_no_key_in_a_lost_ones_place(
    first: Person, person: Named, tmp_path: Path
) -> None:
    machine = person("machine")
    offer(machine, first, tmp_path / "offer")
    (machine.home / "k10.json").unlink()
    assert machine("console").reason == "usage"
    with Home.open(first.home) as home:  # enrolled halfway: the registry never answered
        identity = Identity.load(home)
        assert identity is not None
        replace(identity, registered=False).save(home)
    (first.home / "k10.json").unlink()
    assert first("console").reason == "k10_missing"
    assert not any((folder / "k10.json").exists() for folder in (machine.home, first.home))


# --- destroying


def test_what_is_destroyed_is_named_in_writing(registry: RealRegistry, first: Person, visitor: Visitor) -> None:
    own = bytes.fromhex(first("whoami", "--offline").data["operator_omni"])
    assert "no way back" in visitor.get("/page/destroy").text
    fields: Fields = {"what": "teardown", "actor": own.hex(), "classes": ["credentials"], "name": "my own data"}
    bends: list[Fields] = [{"name": ""}, {"name": "My own data"}, {"classes": []}, {"classes": ["x"]}]
    bends.append({"actor": "00" * 32})
    for bent in bends:
        assert visitor.send("/do", **(fields | bent))["reason"] == "usage"
    assert visitor.console._job is None
    assert visitor.send("/do", **fields) == {"go": "job"}
    asked = visitor.get("/page/job").text
    assert "every key of credentials" in asked
    assert own.hex() in asked
    assert "is destroyed" in visitor.agree()
    assert state_of(registry, first).torn_down == {own: 1}
    assert "credentials of" in visitor.get("/page/devices").text


def test_an_agent_has_memory_to_destroy_and_no_credentials(
    registry: RealRegistry, first: Person, visitor: Visitor, person: Named, tmp_path: Path
) -> None:
    machine = person("machine")
    operator = first("whoami", "--offline").data["operator_omni"]
    machine("pair", "--operator", operator, *machine.profile_words(), "--out", tmp_path / "offer")
    told = shown_hash(tmp_path / "offer", visitor)
    added = first("agent", "add", tmp_path / "offer", "--label", "research", "--pairing-hash", told)
    assert added.code == 0, added.err
    actor = state_of(registry, first).devices[device_of(machine)].actor_omni.hex()
    page = visitor.get(f"/page/destroy?actor={actor}").text
    assert "research/0" in page
    assert 'value="credentials"' not in page
    fields: Fields = {"what": "teardown", "actor": actor, "classes": ["memory"], "name": "research/0"}
    assert visitor.send("/do", **(fields | {"classes": ["credentials"]}))["reason"] == "usage"
    assert visitor.send("/do", **(fields | {"name": "my own data"}))["reason"] == "usage"
    visitor.send("/do", **fields)
    assert "is destroyed" in visitor.agree()
    assert state_of(registry, first).torn_down == {bytes.fromhex(actor): 2}
    assert visitor.get("/page/destroy?actor=zz").status_code == 502
    assert "Nothing is under way" in visitor.get(f"/page/destroy?actor={'00' * 32}").text


def shown_hash(file: Path, visitor: Visitor) -> str:
    """The pairing hash of an offer, as the console computes it."""
    assert json.loads(file.read_text())["kind"] == "agentkeys-pair"
    visitor.handed(file.read_text())
    page = visitor.get("/page/pair").text
    return page.partition('class="compare"><code>')[2].partition("<")[0].replace(" ", "")
