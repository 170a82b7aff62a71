"""What one address may ask for without a registered device behind it; and that another one never pays for it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, nullcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_runtime.web.addresses import AddressLimits
from agentkeys_runtime.web.allowance import Allowance
from agentkeys_runtime.web.app import create_app
from agentkeys_runtime.web.endpoints import Call, Endpoint, Known, Page, always
from agentkeys_runtime.web.vouching import vouching
from tests.fakes.app_client import AppClient
from tests.fakes.clock import StillClock

LIMITS = AddressLimits(per_second=2.0, burst=10.0)
HERE, THERE = "192.0.2.1", "198.51.100.9"


def refusal(call: Callable[[], object]) -> KeyServiceError:
    with pytest.raises(KeyServiceError) as caught:
        call()
    assert caught.value.reason is Reason.RATE_LIMITED
    return caught.value


# --- the buckets ------------------------------------------------------------------------------------------------------


def test_a_burst_and_then_so_many_a_second() -> None:
    clock = StillClock()
    allowance = Allowance(LIMITS, clock.now)
    for _ in range(10):
        allowance.put_down(HERE, 1)
    assert refusal(lambda: allowance.put_down(HERE, 1)).metadata["retry_after"] == "1"
    assert refusal(lambda: allowance.put_down(HERE, 5)).metadata["retry_after"] == "3"
    clock.forward(0.5)
    allowance.put_down(HERE, 1)
    refusal(lambda: allowance.put_down(HERE, 1))
    clock.forward(3600)
    for _ in range(10):
        allowance.put_down(HERE, 1)
    refusal(lambda: allowance.put_down(HERE, 1))


def test_waiting_as_long_as_was_said_is_enough() -> None:
    clock = StillClock()
    allowance = Allowance(LIMITS, clock.now)
    allowance.put_down(HERE, 9)
    clock.forward(int(refusal(lambda: allowance.put_down(HERE, 10)).metadata["retry_after"]))
    allowance.put_down(HERE, 10)


def test_no_address_pays_for_another() -> None:
    allowance = Allowance(LIMITS, StillClock().now)
    allowance.put_down(HERE, 10)
    refusal(lambda: allowance.put_down(HERE, 1))
    allowance.put_down(THERE, 10)


def test_what_is_given_back_is_no_gift() -> None:
    allowance = Allowance(LIMITS, StillClock().now)
    for _ in range(100):
        allowance.put_down(HERE, 10)
        allowance.give_back(HERE, 10)
    allowance.give_back(HERE, 10)
    allowance.put_down(HERE, 10)
    refusal(lambda: allowance.put_down(HERE, 1))


def test_so_many_are_remembered_and_nobody_loses_by_being_forgotten() -> None:
    allowance = Allowance(AddressLimits(per_second=2.0, burst=10.0, remembered=3), StillClock().now)
    allowance.put_down(HERE, 10)
    for number in range(1000):
        allowance.put_down(f"2001:db8:{number:x}::/64", 10)
        assert len(allowance) <= 3
    allowance.put_down(HERE, 10)


def test_without_limits_nobody_is_counted() -> None:
    allowance = Allowance(None)
    for _ in range(1000):
        allowance.put_down(HERE, 10)
    assert len(allowance) == 0


@given(steps=st.lists(st.tuples(st.sampled_from([HERE, THERE]), st.integers(0, 10), st.floats(0, 5)), max_size=40))
def test_nobody_ever_gets_more_than_burst_and_rate(steps: list[tuple[str, int, float]]) -> None:
    clock = StillClock(0.0)
    allowance, had = Allowance(LIMITS, clock.now), {HERE: 0, THERE: 0}
    for who, price, pause in steps:
        clock.forward(pause)
        try:
            allowance.put_down(who, price)
            had[who] += price
        except KeyServiceError:
            assert price > 0
        assert had[who] <= LIMITS.burst + clock.at * LIMITS.per_second + 1e-6


@pytest.mark.parametrize("reason", Reason)
def test_what_is_refused_to_a_registered_device_is_vouched_for(reason: Reason) -> None:
    """But not who was revoked meanwhile, who had their share, and what may be anybody's copy."""
    never = {
        Reason.CAP_REPLAYED,
        Reason.DEVICE_REVOKED,
        Reason.DEVICE_UNKNOWN,
        Reason.OVERLOADED,
        Reason.RATE_LIMITED,
    }
    with pytest.raises(KeyServiceError) as caught, vouching():
        raise KeyServiceError(reason)
    assert caught.value.vouched is (reason not in never)


@pytest.mark.parametrize("reason", Reason)
def test_no_reason_vouches_by_itself(reason: Reason) -> None:
    assert not KeyServiceError(reason).vouched


# --- the edge ---------------------------------------------------------------------------------------------------------


class Site:
    """An application whose one handler does what the test says."""

    def __init__(self) -> None:
        self.clients: list[str] = []
        self.refuse: Reason | None = None
        self.vouches = True
        self.known: Known | None = None
        self.looks = 0
        self.limits = AddressLimits(per_second=0.001, burst=10.0, proxies=("10.0.0.7",))
        endpoints = [
            self.endpoint("/stranger"),
            self.endpoint("/dear", price=4),
            self.endpoint("/known", given_back=always),
            self.endpoint("/free", price=0),
            self.endpoint("/told", given_back=lambda answer: answer == {"found": True}),
            self.endpoint("/looked-at", known=self.look),
            self.endpoint("/page", refusal=lambda error: Page(html=str(error.reason), status=429)),
        ]
        endpoints.append(
            Endpoint(
                method="POST",
                path="/form",
                summary="s",
                handler=self.handler,
                body_limit=100,
                refusal=lambda error: Page(html=str(error.reason), status=403),
            )
        )
        endpoints.append(
            Endpoint(method="POST", path="/body", summary="s", handler=self.handler, body_limit=100, response={})
        )
        self.found = True
        self.app = create_app("test", endpoints, addresses=self.limits)

    def endpoint(self, path: str, **given_settings: object) -> Endpoint:
        return Endpoint(method="GET", path=path, summary="s", handler=self.handler, response={}, **given_settings)  # type: ignore[arg-type]  # as the dataclass takes them

    def handler(self, call: Call) -> Mapping[str, object]:
        self.clients.append(call.client)
        if self.refuse is not None:
            with vouching() if self.vouches else nullcontext():
                raise KeyServiceError(self.refuse)
        return {"found": self.found}

    def look(self, call: Call) -> Known | None:
        self.looks += 1
        if self.refuse is not None:
            raise KeyServiceError(self.refuse)
        return self.known


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
def at(site: Site) -> Iterator[Callable[[str], AppClient]]:
    with ExitStack() as stack:
        yield lambda address: stack.enter_context(AppClient(site.app, address))


Ask = Callable[[str], AppClient]


def asked_for(client: AppClient, path: str, times: int, **given_settings: object) -> int:
    """How many of so many requests were let through."""
    return sum(client.get(path, **given_settings).status_code != 429 for _ in range(times))


def test_strangers_are_counted_and_told_when_to_come_again(at: Ask, site: Site) -> None:
    client = at(HERE)
    assert asked_for(client, "/stranger", 12) == 10
    refused = client.get("/stranger")
    assert (refused.status_code, refused.json()["reason"]) == (429, "rate_limited")
    assert int(refused.headers["retry-after"]) == 1000
    assert len(site.clients) == 10  # for those refused nothing was done
    assert asked_for(at(THERE), "/stranger", 12) == 10


def test_prices_differ(at: Ask) -> None:
    client = at(HERE)
    assert asked_for(client, "/dear", 4) == 2
    assert asked_for(client, "/stranger", 4) == 2
    assert asked_for(client, "/free", 50) == 50


def test_whoever_is_known_is_never_short(at: Ask, site: Site) -> None:
    client = at(HERE)
    assert asked_for(client, "/known", 100) == 100
    site.refuse = Reason.SERVICE_NOT_IN_SCOPE
    assert asked_for(client, "/known", 100) == 100
    site.refuse = Reason.DEVICE_UNKNOWN
    assert asked_for(client, "/known", 100) == 10


@pytest.mark.parametrize("path", ["/stranger", "/known"])
def test_no_reason_is_free_by_itself(at: Ask, site: Site, path: str) -> None:
    site.refuse, site.vouches = Reason.OPERATOR_FROZEN, False
    assert asked_for(at(HERE), path, 100) == 10


def test_nobody_is_looked_at_who_can_pay(at: Ask, site: Site) -> None:
    client = at(HERE)
    assert asked_for(client, "/looked-at", 10) == 10
    assert site.looks == 0
    assert asked_for(client, "/looked-at", 5) == 0
    assert site.looks == 5


def test_who_is_known_pays_for_themselves(at: Ask, site: Site) -> None:
    client = at(HERE)
    asked_for(client, "/stranger", 10)
    site.known = Known(who="somebody", act="one")
    assert asked_for(client, "/looked-at", 5) == 1, "an act is good once"
    site.known = Known(who="somebody", act="two")
    assert asked_for(client, "/looked-at", 5) == 1
    site.known = Known()
    assert asked_for(client, "/looked-at", 200) == 200
    site.refuse = Reason.DEVICE_SIGNATURE_INVALID
    assert asked_for(client, "/looked-at", 5) == 0
    assert asked_for(client, "/stranger", 5) == 0, "nothing was given back"


def test_a_form_of_another_site_costs_what_it_costs(at: Ask) -> None:
    """Its refusal names no registered device, whatever its reason is elsewhere."""
    headers = {"Sec-Fetch-Site": "cross-site", "Content-Type": "application/x-www-form-urlencoded"}
    answers = [at(HERE).post("/form", content=b"a=b", headers=headers).text for _ in range(12)]
    assert answers == ["policy_refused"] * 10 + ["rate_limited"] * 2


def test_two_headers_of_one_name_are_one_list(at: Ask, site: Site) -> None:
    """A proxy may add a line of its own instead of going on with the client's: what stands last is the proxy's."""
    lines = [("X-Forwarded-For", THERE), ("X-Forwarded-For", "203.0.113.8")]
    assert asked_for(at("10.0.0.7"), "/stranger", 12, headers=lines) == 10
    assert set(site.clients) == {"203.0.113.8"}
    assert asked_for(at("10.0.0.7"), "/stranger", 12, headers=lines[:1]) == 10  # the other one pays nothing for it


def test_an_answer_may_tell_that_somebody_is_known(at: Ask, site: Site) -> None:
    client = at(HERE)
    assert asked_for(client, "/told", 100) == 100
    site.found = False
    assert asked_for(client, "/told", 100) == 10


def test_the_price_is_put_down_before_a_body_is_read(at: Ask) -> None:
    client = at(HERE)
    for _ in range(10):
        assert (
            client.post("/body", content=bytes(1000), headers={"Content-Type": "application/json"}).status_code == 400
        )
    asked: list[int] = []

    async def body() -> object:
        asked.append(1)
        yield b"{}"

    assert client.post("/body", content=body(), headers={"Content-Type": "application/json"}).status_code == 429


def test_people_are_told_on_a_page(at: Ask) -> None:
    client = at(HERE)
    assert asked_for(client, "/page", 10) == 10
    assert client.get("/page").text == "rate_limited"


def test_one_network_is_one_sender_and_its_neighbour_another(at: Ask) -> None:
    assert asked_for(at("2001:db8:1:2::1"), "/stranger", 10) == 10
    assert asked_for(at("2001:db8:1:2:ffff::1"), "/stranger", 10) == 0
    assert asked_for(at("2001:db8:1:3::1"), "/stranger", 10) == 10


def test_a_header_counts_from_our_proxy_alone(at: Ask, site: Site) -> None:
    victim = {"X-Forwarded-For": THERE}
    assert asked_for(at(HERE), "/stranger", 20, headers=victim) == 10
    assert set(site.clients) == {HERE}
    behind = at("10.0.0.7")
    assert asked_for(behind, "/stranger", 20, headers=victim) == 10  # the victim's own ten are all still there
    assert asked_for(behind, "/stranger", 20, headers={"X-Forwarded-For": f"{THERE}, 203.0.113.8"}) == 10
    assert site.clients[-1] == "203.0.113.8"
