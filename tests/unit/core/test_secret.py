import copy
import pickle
from typing import Any

import pytest

from agentkeys_core.secret import Secret

KEY = b"\x01" * 32


def test_owns_the_buffer_itself_and_wipes_it_at_the_end_of_the_block() -> None:
    buffer = bytearray(KEY)
    with Secret.take(buffer) as secret:
        assert secret.reveal() == KEY
        assert len(secret) == 32
    assert buffer == bytes(32)
    assert secret.wiped


def test_wipes_when_the_block_raises() -> None:
    buffer = bytearray(KEY)
    with pytest.raises(RuntimeError), Secret.take(buffer):
        raise RuntimeError
    assert buffer == bytes(32)


def test_wipes_when_collected() -> None:
    buffer = bytearray(KEY)
    secret = Secret.take(buffer)
    del secret
    assert buffer == bytes(32)


def test_a_view_is_read_only_and_shows_zeros_after_wiping() -> None:
    secret = Secret.copy_of(KEY)
    view = secret.view()
    assert view.readonly
    secret.wipe()
    assert bytes(view) == bytes(32)


@pytest.mark.parametrize("use", [Secret.view, Secret.reveal])
def test_a_wiped_secret_gives_no_zeros_away_as_a_key(use: Any) -> None:
    secret = Secret.copy_of(KEY)
    secret.wipe()
    with pytest.raises(ValueError):
        use(secret)


@pytest.mark.parametrize("show", [repr, str, "{}".format, lambda s: f"{s!r:>20}", lambda s: f"{[s]}"])
def test_never_prints_its_bytes(show: Any) -> None:
    text = show(Secret.copy_of(b"sk-very-secret"))
    assert "secret" not in text.replace("Secret", "")
    assert "<Secret>" in text


@pytest.mark.parametrize(
    "act",
    [
        pickle.dumps,
        copy.copy,
        copy.deepcopy,
        hash,
        lambda secret: secret == Secret.copy_of(KEY),
        lambda secret: secret == KEY,
        lambda secret: secret != KEY,
        bytes,
        lambda secret: secret[0],
    ],
)
def test_is_never_serialised_copied_or_compared(act: Any) -> None:
    with pytest.raises(TypeError):
        act(Secret.copy_of(KEY))


def test_has_no_room_for_attributes() -> None:
    with pytest.raises(AttributeError):
        setattr(Secret.copy_of(KEY), "note", 1)  # noqa: B010  # typed code could not
