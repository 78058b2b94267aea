"""Which scripts a text is written in, by its letters."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

# First and last code point of the blocks of each script's letters, from Unicode 16.0 Blocks.txt; what lies between belongs to "Other".
BLOCKS: tuple[tuple[str, int, int], ...] = (
    ("Latin", 0x0041, 0x005A), ("Latin", 0x0061, 0x007A), ("Latin", 0x00C0, 0x024F), ("Greek", 0x0370, 0x03FF), ("Cyrillic", 0x0400, 0x052F),
    ("Armenian", 0x0530, 0x058F), ("Hebrew", 0x0590, 0x05FF), ("Arabic", 0x0600, 0x06FF), ("Arabic", 0x0750, 0x077F), ("Arabic", 0x08A0, 0x08FF),
    ("Devanagari", 0x0900, 0x097F), ("Bengali", 0x0980, 0x09FF), ("Gurmukhi", 0x0A00, 0x0A7F), ("Gujarati", 0x0A80, 0x0AFF),
    ("Tamil", 0x0B80, 0x0BFF), ("Telugu", 0x0C00, 0x0C7F), ("Kannada", 0x0C80, 0x0CFF), ("Malayalam", 0x0D00, 0x0D7F), ("Thai", 0x0E00, 0x0E7F),
    ("Georgian", 0x10A0, 0x10FF), ("Hangul", 0x1100, 0x11FF), ("Latin", 0x1E00, 0x1EFF), ("Greek", 0x1F00, 0x1FFF), ("Kana", 0x3040, 0x30FF),
    ("Hangul", 0x3130, 0x318F), ("Kana", 0x31F0, 0x31FF), ("Han", 0x3400, 0x4DBF), ("Han", 0x4E00, 0x9FFF), ("Hangul", 0xAC00, 0xD7AF),
    ("Han", 0xF900, 0xFAFF), ("Arabic", 0xFB50, 0xFDFF), ("Arabic", 0xFE70, 0xFEFC), ("Latin", 0xFF21, 0xFF3A), ("Latin", 0xFF41, 0xFF5A),
    ("Kana", 0xFF66, 0xFF9D), ("Han", 0x20000, 0x323AF),
)  # fmt: skip
SCRIPTS: tuple[str, ...] = tuple(dict.fromkeys(script for script, _, _ in BLOCKS))
OTHER, NONE = "Other", "None"
KANA_SHARE = 0.1  # of Kana and Han together: from here on a text is Japanese, although most of its letters may be Han

_NOT_LETTERS = bytes(byte for byte in range(128) if not chr(byte).isalpha())
_ASCII = re.compile(r"[\x00-\x7f]+")
_RUNS: dict[str, re.Pattern[str]] = {
    script: re.compile("[" + "".join(f"{chr(first)}-{chr(last)}" for name, first, last in BLOCKS if name == script) + "]+")
    for script in SCRIPTS
}


def scripts_of(text: str) -> Counter[str]:
    """How many letters of each script `text` holds; letters of scripts that have no name here count as ``Other``."""
    plain = len(text.encode("ascii", "ignore").translate(None, _NOT_LETTERS))
    found = Counter({"Latin": plain} if plain else {})
    rest = "" if text.isascii() else _ASCII.sub("", text)
    for script, run in _RUNS.items():
        if not rest:
            return found
        without = run.sub("", rest)
        if len(without) < len(rest):
            found[script] += len(rest) - len(without)
            rest = without
    if others := sum(map(str.isalpha, rest)):
        found[OTHER] = others
    return found


def main_script(texts: Iterable[str]) -> str:
    """The script most letters of `texts` belong to; ``None`` where there are no letters.

    Kana beside Han counts as Kana when there is enough of it: Japanese is written in both, Chinese in Han alone.
    """
    found: Counter[str] = Counter()
    for text in texts:
        found.update(scripts_of(text))
    return main_of(found)


def main_of(found: Counter[str]) -> str:
    """As `main_script`, of letters already counted."""
    together = found["Kana"] + found["Han"]
    if found["Kana"] and found["Kana"] >= KANA_SHARE * together:
        found = found - Counter(Kana=found["Kana"], Han=found["Han"]) + Counter(Kana=together)
    return max(sorted(found), key=lambda script: found[script], default=NONE)
