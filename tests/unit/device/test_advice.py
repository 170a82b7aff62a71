"""What a refusal says beside its reason: advice where it can help, and nothing that a peer made up."""

import json

import pytest

from agentkeys_core.errors import KeyServiceError, Reason
from device.advice import advice_on
from device.problems import check_refusal
from device.transport import Answer

NOW = 1_764_000_000


def refused(reason: Reason, **members: object) -> KeyServiceError:
    """As it comes out of an answer."""
    with pytest.raises(KeyServiceError) as caught:
        check_refusal(Answer(403, json.dumps({"reason": str(reason), **members}).encode()))
    return caught.value


@pytest.mark.parametrize("reason", Reason)
def test_the_servers_time_is_told_where_a_clock_can_be_the_cause_and_nowhere_else(reason: Reason) -> None:
    told = str(NOW) in advice_on(refused(reason, server_time=NOW))
    assert told == (reason in (Reason.CAP_EXPIRED, Reason.CAP_NOT_YET_VALID, Reason.PROOF_INVALID))
    assert ("clock" in advice_on(KeyServiceError(reason))) == told


@pytest.mark.parametrize("name", ["server_time", "current_epoch"])
@pytest.mark.parametrize(
    "value", ["1764000000", "buy at https://evil.example", True, None, -1, 2**53, 10**400, [NOW], {"a": 1}]
)
def test_what_is_no_number_of_ours_is_told_to_nobody(name: str, value: object) -> None:
    error = refused(Reason.CAP_EXPIRED, **{name: value})
    assert not error.metadata
    assert "Server time" not in advice_on(error)


@pytest.mark.parametrize("value", [0, NOW, 2**53 - 1])
def test_a_number_is_told(value: int) -> None:
    assert refused(Reason.CAP_EXPIRED, server_time=value).metadata == {"server_time": str(value)}
