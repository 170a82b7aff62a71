"""Codes that people read at one place and type at another."""

import hmac
import secrets
from typing import Final

#: Crockford's alphabet: no I, L, O or U.
ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ALIKE: Final = str.maketrans({"O": "0", "I": "1", "L": "1", "-": None, " ": None})


def new_code(length: int) -> str:
    """A random one: 5 bits a character."""
    return "".join(secrets.choice(ALPHABET) for _ in range(length))


def code_shown(code: str) -> str:
    """A code as people read it: two groups."""
    half = len(code) // 2
    return f"{code[:half]}-{code[half:]}"


def code_read(typed: str) -> str:
    """What somebody typed, in the one form that a code has: cases, hyphens, blanks and look-alikes do not matter."""
    return typed.upper().translate(_ALIKE)


def is_code(typed: str, code: str) -> bool:
    """Whether somebody typed this code, in a time that does not tell how much of it."""
    return hmac.compare_digest(code_read(typed).encode(), code.encode())
