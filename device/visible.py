"""Text of others as people may be shown it: what cannot be seen, or would move or cover other characters, is named."""

from typing import Final
from unicodedata import category

#: Printable to Unicode's categories, and yet nothing to see: fillers, joiners, selectors of variants, a blank pattern.
_BLANK: Final = frozenset(
    map(
        chr,
        (
            *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180B, 0x180C, 0x180D, 0x180F, 0x2800, 0x3164, 0xFFA0, 0x1D159),
            *range(0xFE00, 0xFE10),
            *range(0xE0100, 0xE01F0),
        ),
    )
)
#: Marks that one character carries; more of them would climb into the lines above.
_MARKS: Final = 4
_OPENING: Final = "\u27e8"


def visible(text: str) -> str:
    """Return the text with each such character as ⟨U+HEX⟩: line ends, controls, directions, blanks, piled up marks.

    The opening bracket itself is named as well, so that two texts never look like one. Shown text is not shown again.
    """
    if text.isascii() and text.isprintable():
        return text
    shown, marks = [], _MARKS  # a mark in front would stand on what is not part of the text
    for char in text:
        marks = marks + 1 if category(char).startswith("M") else 0
        is_seen = char.isprintable() and char not in _BLANK and char != _OPENING and marks <= _MARKS
        shown.append(char if is_seen else f"{_OPENING}U+{ord(char):04X}\u27e9")
    return "".join(shown)
