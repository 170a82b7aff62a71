"""Codes that a provider gave: few are redeemed, one at a time, and a page that is loaded again is no further one."""

import threading
from contextlib import ExitStack

import pytest

from agentkeys_runtime.web.gate import WAITING_THREADS
from broker.ceremonies.oidc import ASKED, CODES, REDEEM_S
from tests.fakes.app_client import AppClient
from tests.fakes.hostile_provider import HostileProvider
from tests.unit.broker.identity_world import IdentityWorld
from tests.unit.broker.test_email import FORM, page_reason
from tests.unit.broker.test_oidc import onward_of
from tests.unit.broker.test_oidc_hostile import JSON, Ceremony, stuck_ones
from tests.unit.broker.visitor import reason, typed


def test_one_ceremony_redeems_few_codes_and_then_has_ended(world: IdentityWorld, provider: HostileProvider) -> None:
    provider.bodies["token"] = 400, JSON, b'{"error":"invalid_grant"}'
    ceremony = Ceremony(world, provider)
    answers = [page_reason(ceremony.back(f"code{number}")) for number in range(CODES + 3)]
    assert answers == ["invalid_evidence"] * CODES + ["ceremony_ended"] * 3
    assert provider.codes == [f"code{number}" for number in range(CODES)]
    assert reason(ceremony.told()) == "ceremony_ended"


def test_codes_that_come_at_once_are_few_as_well(world: IdentityWorld, provider: HostileProvider) -> None:
    provider.bodies["token"] = 400, JSON, b'{"error":"invalid_grant"}'
    ceremony = Ceremony(world, provider)
    world.client.get(ceremony.page)
    with ExitStack() as stack:
        clients = [stack.enter_context(AppClient(world.app, f"192.0.2.{n}")) for n in range(WAITING_THREADS)]
        threads = [
            threading.Thread(target=ceremony.back, args=(f"x{n}",), kwargs={"client": client})
            for n, client in enumerate(clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert 1 <= len(provider.codes) <= CODES


def test_a_moment_of_silence_ends_nothing(world: IdentityWorld, provider: HostileProvider) -> None:
    ceremony = Ceremony(world, provider)
    provider.bodies["token"] = 503, JSON, b""
    assert page_reason(ceremony.back()) == "provider_unreachable"
    del provider.bodies["token"]
    assert ceremony.back().status_code == 303


def test_a_page_loaded_again_is_no_further_code(world: IdentityWorld, provider: HostileProvider) -> None:
    ceremony = Ceremony(world, provider)
    provider.bodies["token"] = 400, JSON, b'{"error":"invalid_grant"}'
    assert [page_reason(ceremony.back("bad")) for _ in range(CODES + 1)] == ["invalid_evidence"] * (CODES + 1)
    assert provider.codes == ["bad"]
    provider.bodies["token"] = 503, JSON, b""
    assert [page_reason(ceremony.back()) for _ in range(CODES + 1)] == ["provider_unreachable"] * (CODES + 1)
    del provider.bodies["token"]
    assert ceremony.back().status_code == 303


def test_a_provider_is_asked_few_times_in_all(world: IdentityWorld, provider: HostileProvider) -> None:
    ceremony = Ceremony(world, provider)
    provider.bodies["token"] = 503, JSON, b""
    answers = [page_reason(ceremony.back()) for _ in range(ASKED + 2)]
    assert answers == ["provider_unreachable"] * ASKED + ["ceremony_ended"] * 2
    assert len(provider.codes) == ASKED
    assert reason(ceremony.told()) == "ceremony_ended"


def test_a_page_loaded_again_while_the_provider_is_slow_waits_and_goes_on(
    world: IdentityWorld, provider: HostileProvider
) -> None:
    ceremony = Ceremony(world, provider)
    with stuck_ones(world, provider, [ceremony]) as answers:
        waiting = [ceremony.back() for _ in range(CODES + 1)]
    assert [answer.status_code for answer in waiting] == [200] * (CODES + 1)
    assert all('http-equiv="refresh"' in answer.text for answer in waiting)
    assert provider.codes == ["x"]
    (first,) = answers
    asks = onward_of(first)
    assert onward_of(ceremony.back()) == asks
    assert provider.codes == ["x"]
    assert page_reason(ceremony.back("another")) == "ceremony_ended"  # who knows no code gets no page
    assert world.client.post(asks, content=typed(ceremony.begun), headers=FORM).status_code == 200


def test_a_redemption_that_was_cut_short_is_made_again(
    world: IdentityWorld, provider: HostileProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    ceremony = Ceremony(world, provider)
    with monkeypatch.context() as patched:
        patched.setattr("broker.adapters.openid.Provider.redeem", lambda *_, **__: 1 / 0)
        assert ceremony.back().status_code == 500
    assert 'http-equiv="refresh"' in ceremony.back().text
    world.clock.forward(REDEEM_S)
    assert ceremony.back().status_code == 303
