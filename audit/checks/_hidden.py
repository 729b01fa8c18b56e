"""Characters that a reader does not see and a program does: in templates, tokens and configuration they hide what is written.

Source: Unicode Technical Standard 55 ("Source Code Handling"), "Trojan Source" (CVE-2021-42574), the tag block used for prompt injection.
"""

from __future__ import annotations

import unicodedata

BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c")
INVISIBLE = frozenset("\u200b\u2060\u2061\u2062\u2063\u2064\ufeff\u00ad\u180e")
TAGS = range(0xE0000, 0xE0080)


def hidden(text: str) -> tuple[str, ...]:
    """Return the names of the hidden characters in ``text``, each once, sorted."""
    found = {char for char in text if char in BIDI or char in INVISIBLE or ord(char) in TAGS}
    return tuple(sorted(unicodedata.name(char, f"U+{ord(char):04X}") for char in found))
