"""The numbers that people and other implementations rely on, as the documents give them."""

from broker.ceremonies import codes, pairing, steps
from broker.session_tokens import TOKEN_TTL_S
from broker.sessions import SESSION_S


def test_links_codes_and_ceremonies_last_ten_minutes() -> None:
    assert steps.LIFETIME_S == 600


def test_a_token_is_short_and_a_session_ends() -> None:
    assert TOKEN_TTL_S == 600
    assert SESSION_S == 12 * 3600


def test_codes_are_unambiguous_and_cannot_be_guessed() -> None:
    """40 bits, of which a user may try 20 an hour, and each is good for 10 minutes."""
    assert not set("ILOU") & set(codes.ALPHABET)
    assert len(set(codes.ALPHABET)) == len(codes.ALPHABET) == 32
    assert pairing.CODE_LENGTH == 8
    assert pairing.CLAIMS_PER_USER == 20


def test_what_a_person_types_for_a_ceremony_is_not_guessed() -> None:
    """30 bits, and five tries."""
    assert (steps.CODE_LENGTH, steps.TYPED_TRIES) == (6, 5)
