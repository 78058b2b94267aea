"""The value of one record's text, and what is wrong with that text: exact JSON, named faults, no recursion error."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any, NamedTuple

import orjson

from core.data.rules import Finding, around, shorten

MAX_DEPTH = 64
STRING = rb'"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+"'
STRINGS = re.compile(STRING)
OPENING, CLOSING = list(b"{["), list(b"}]")
DEPTH_BYTES = 1 << 16  # looked at in one go
TRAILING_COMMA = re.compile(rb"(" + STRING + rb")|,(\s*+[}\]])")
SPACED_COLON = re.compile(rb'"[ \t\r\n]++:')
SURROGATE = re.compile("[\ud800-\udfff]")


class Parsed(NamedTuple):
    """A record's value, whether it could be read at all, and what was found on the way."""

    value: Any
    is_readable: bool
    findings: tuple[Finding, ...] = ()


def parse(raw: bytes) -> Parsed:
    """The JSON value of `raw` (UTF-8). Faults that leave its meaning clear are mended and reported; others make it unreadable."""
    return parse_valid(raw) or _diagnose(raw, may_mend=True)


def parse_valid(raw: bytes) -> Parsed | None:
    """The value of `raw`, or None at once when it is not strictly valid JSON."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    if raw.count(b'":') == _usual_keys(value) and raw.count(b"[") + raw.count(b"{") <= MAX_DEPTH and not _has_spaced_colon(raw):
        return Parsed(value, True)  # as many colons as keys: none is given twice
    if (levels := depth(value)) > MAX_DEPTH:
        return _too_deep(raw, levels)
    return Parsed(value, True, _duplicate_keys(raw))


def depth(value: Any) -> int:
    """How many objects and lists lie in each other at most: 0 for a number or text."""
    levels, layer = 0, [value]
    while layer := [item for item in layer if type(item) is dict or type(item) is list]:
        levels += 1
        layer = [child for item in layer for child in (item.values() if type(item) is dict else item)]
    return levels


def _usual_keys(value: Any) -> int:
    """The number of keys of a record and of its turns; deeper ones are left out, so that they make the counts differ."""
    if type(value) is not dict:
        return -1
    keys = len(value)
    for item in value.values():
        if type(item) is list:
            for turn in item:
                if type(turn) is dict:
                    keys += len(turn)
    return keys


def _has_spaced_colon(raw: bytes) -> bool:
    return (b'" ' in raw or b"\n" in raw or b"\t" in raw or b"\r" in raw) and SPACED_COLON.search(raw) is not None


def _duplicate_keys(raw: bytes) -> tuple[Finding, ...]:
    twice: dict[str, None] = {}

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            counts = Counter(name for name, _ in pairs)
            twice.update(dict.fromkeys(name for name in found if counts[name] > 1))
        return found

    json.loads(raw, object_pairs_hook=collect, parse_int=str, parse_float=str)
    return tuple(Finding("duplicate-key", {"text": shorten(name)}) for name in twice)


def _diagnose(raw: bytes, may_mend: bool) -> Parsed:
    """What orjson refused, taken apart with the standard library, which says where and why."""
    if (levels := _text_depth(raw)) > MAX_DEPTH:
        return _too_deep(raw, levels)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        place = raw[max(0, error.start - 20) : error.end + 20].decode("utf-8", "backslashreplace")
        return _unreadable("undecodable-bytes", text=shorten(place, limit=200))
    if (nul := text.find("\0")) >= 0:
        return _unreadable("nul-character", text=around(text, nul, nul + 1))
    constants: list[str] = []
    try:
        value = json.loads(text, parse_constant=constants.append)
    except json.JSONDecodeError as error:
        return (_mended(raw) if may_mend else None) or _broken(text, error)
    except ValueError:  # an integer of thousands of digits
        return _unreadable("broken-json", reason="a number has too many digits", text=shorten(text))
    findings = list(_duplicate_keys(raw))
    if constants:
        return Parsed(None, False, (*findings, Finding("nan-or-infinity", {"text": constants[0]})))
    return Parsed(value, True, (*findings, *_lone_surrogates(text, value)))


def may_be_cut(raw: bytes, parsed: Parsed) -> bool:
    """Whether `raw` could not be read for something that a longer text may mend: no valid JSON so far, or it ends inside a character."""
    if any(finding.code == "broken-json" for finding in parsed.findings):
        return True
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return False


def _mended(raw: bytes) -> Parsed | None:
    """The value without its trailing commas, if it had any and that was all that was wrong."""
    without = TRAILING_COMMA.sub(lambda match: match[1] or match[2], raw)
    if without == raw:
        return None
    comma = next(match for match in TRAILING_COMMA.finditer(raw) if match[2]).start()
    parsed = _diagnose(without, may_mend=False)
    if any(finding.code == "broken-json" for finding in parsed.findings):
        return None
    text = raw[max(0, comma - 20) : comma + 20].decode("utf-8", "replace")
    return parsed._replace(findings=(*parsed.findings, Finding("trailing-comma", {"text": shorten(text)})))


def _lone_surrogates(text: str, value: Any) -> tuple[Finding, ...]:
    if not (found := SURROGATE.search(json.dumps(value, ensure_ascii=False))):
        return ()
    escape = f"\\u{ord(found[0]):04x}"
    at = max(0, text.lower().find(escape))
    return (Finding("lone-surrogate", {"escape": escape, "text": around(text, at, at + 6)}),)


def _text_depth(raw: bytes) -> int:
    """How deep brackets outside of strings lie in each other, whether or not they are closed."""
    import numpy as np

    bare, level, deepest = np.frombuffer(STRINGS.sub(b"", raw), dtype=np.uint8), 0, 0
    for at in range(0, len(bare), DEPTH_BYTES):
        piece = bare[at : at + DEPTH_BYTES]
        levels = level + np.cumsum(np.isin(piece, OPENING).astype(np.int8) - np.isin(piece, CLOSING))
        deepest, level = max(deepest, int(levels.max())), int(levels[-1])
    return deepest


def _broken(text: str, error: json.JSONDecodeError) -> Parsed:
    at = around(text, error.pos, error.pos) if text else '""'
    return _unreadable("broken-json", reason=error.msg[0].lower() + error.msg[1:].removesuffix(" at"), text=at)


def _too_deep(raw: bytes, levels: int) -> Parsed:
    return _unreadable("too-deep", depth=levels, limit=MAX_DEPTH, text=shorten(raw[:80].decode("utf-8", "replace")))


def _unreadable(code: str, **fields: object) -> Parsed:
    return Parsed(None, False, (Finding(code, fields),))
