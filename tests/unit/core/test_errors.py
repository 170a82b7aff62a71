from agentkeys_core.errors import REASONS_OF, Code, KeyServiceError, Reason


def test_every_reason_has_exactly_one_code() -> None:
    listed = [reason for reasons in REASONS_OF.values() for reason in reasons]
    assert sorted(listed) == sorted(Reason)
    assert len(listed) == len(set(listed))
    assert {reason.code for reason in Reason} == set(Code)


def test_codes_are_those_of_the_design() -> None:
    assert Reason.CAP_REPLAYED.code is Code.ALREADY_EXISTS
    assert Reason.WINDOW_TOO_LONG.code is Code.OUT_OF_RANGE
    assert Reason.DEVICE_REVOKED.code is Code.PERMISSION_DENIED
    assert Reason.REGISTRY_STALE.code is Code.UNAVAILABLE
    assert Reason.CLOCK_BEHIND.code is Code.FAILED_PRECONDITION


def test_names_are_the_values() -> None:
    assert all(reason.name == reason.value.upper() for reason in Reason)


def test_an_error_shows_reason_and_detail_but_no_row() -> None:
    error = KeyServiceError(Reason.CAP_REPLAYED, "burned", metadata={"server_time": "1"}, row=b"row")
    assert str(error) == "cap_replayed: burned"
    assert "row" not in repr(error)
    assert str(KeyServiceError(Reason.SEALED)) == "sealed"
    assert dict(error.metadata) == {"server_time": "1"}
