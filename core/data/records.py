"""From a record's value to a `Conversation`, naming everything on the way that training would stumble over."""

from __future__ import annotations

import re
from itertools import islice
from typing import Any

from core.conversation import ROLE_ALIASES, Conversation, Role, Turn
from core.data.parse import SURROGATE
from core.data.rules import Finding, around, is_error, shorten
from core.data.scan import TURNS_KEYS

ROLE_KEYS = ("from", "role")
VALUE_KEYS = ("value", "content", "text")
MAX_TURNS, MAX_KEYS = 10_000, 1000  # of a conversation, and of a record or a turn; a batch of good records is too short for as many
KINDS = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number", type(None): "null"}

# Tab, line feed and carriage return are ordinary; the rest of C0, DEL and C1 is not.
CONTROL = re.compile("[\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
ESCAPE = re.compile(rb"\\[ubf/]")  # behind which anything may hide
SPECIAL = re.compile("</s>|<s>|<unk>| ASSISTANT:|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
TEXT_RULES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("eos-in-value", re.compile("</s>")),
    ("bos-in-value", re.compile("<s>")),
    ("unk-in-value", re.compile("<unk>")),
    ("role-marker-in-value", re.compile(" ASSISTANT:")),
    ("nul-character", re.compile("\x00")),
    ("lone-surrogate", SURROGATE),
    ("control-character", CONTROL),
)


def is_plain(raw: bytes) -> bool:
    """Whether a record's text proves, cheaply, that none of its values can hold what `TEXT_RULES` look for."""
    if b"<" in raw or b"\xc2" in raw or b"\x7f" in raw or b"ASSISTANT:" in raw:
        return False
    return b"\\" not in raw or ESCAPE.search(raw) is None


def read_record(value: Any, row: int, raw: bytes | None = None) -> tuple[Conversation | None, list[Finding], str]:
    """The conversation of a record (None when an error stands in the way), the findings, and its format: ``conversations (from/value)``.

    `raw`, the record's text, spares the search of values that cannot hold anything special.
    """
    findings: list[Finding] = []
    turns_key = _turns_key(value, findings)
    if turns_key is None:
        return None, findings, ""
    identifier = _identifier(value, row, findings)
    if len(value) > 2 or "id" not in value:
        findings += [Finding("extra-key", {"text": shorten(key)}) for key in value if key not in ("id", "system", turns_key)]
    turns: list[Turn] = []
    keys: set[str] = set()
    is_searched = raw is None or not is_plain(raw)
    previous: str | None = None
    for number, item in enumerate(value[turns_key]):
        turn, role = _read_turn(item, number, findings, keys)
        if is_searched and type(item) is dict:
            _search_text(next((item[key] for key in VALUE_KEYS if key in item), None), number, findings)
        _check_order(role, previous, number, item, findings)
        previous = role or "?"
        if turn is not None:
            turns.append(turn)
    _check_end(value[turns_key], previous, findings)
    if system := _system_key(value, turns, findings):
        turns.insert(0, system)
    layout = f"{turns_key} ({', '.join(sorted(keys))})" if keys else ""
    if any(is_error(finding) for finding in findings):
        return None, findings, layout
    return Conversation(identifier, tuple(turns)), findings, layout


def _turns_key(value: Any, findings: list[Finding]) -> str | None:
    """The key under which the record keeps its turns, when they are a list with something in it."""
    if type(value) is not dict:
        findings.append(Finding("record-not-object", {"kind": KINDS[type(value)], "text": shorten(value)}))
        return None
    if _has_too_many_keys(value, findings):
        return None
    key = next((key for key in TURNS_KEYS if key in value), None)
    if key is None:
        findings.append(Finding("missing-conversations", {"text": ", ".join(shorten(name) for name in list(value)[:8]) or "none"}))
    elif type(value[key]) is not list:
        findings.append(Finding("conversations-not-list", {"kind": KINDS[type(value[key])], "text": shorten(value[key])}))
    elif not value[key]:
        findings.append(Finding("empty-conversations"))
    elif len(value[key]) > MAX_TURNS:
        fields = {"count": f"{len(value[key]):,}", "limit": f"{MAX_TURNS:,}", "text": _beginning(value[key][0])}
        findings.append(Finding("too-many-turns", fields))
    else:
        return key
    return None


def _has_too_many_keys(value: dict[str, Any], findings: list[Finding], turn: int | None = None) -> bool:
    if len(value) <= MAX_KEYS:
        return False
    fields = {"count": f"{len(value):,}", "limit": f"{MAX_KEYS:,}", "text": ", ".join(shorten(name) for name in islice(value, 8))}
    findings.append(Finding("too-many-keys", fields, turn))
    return True


def _identifier(value: dict[str, Any], row: int, findings: list[Finding]) -> str:
    identifier = value.get("id")
    if type(identifier) is str:
        if not SURROGATE.search(identifier):
            return identifier
        findings.append(_text_finding("lone-surrogate", identifier, SURROGATE, None))
        return identifier
    if identifier is None:
        findings.append(Finding("missing-id", {"text": f"row-{row}"}))
        return f"row-{row}"
    findings.append(Finding("id-not-text", {"text": shorten(str(identifier)).strip('"'), "kind": KINDS[type(identifier)]}))
    return str(identifier)


def _read_turn(item: Any, number: int, findings: list[Finding], keys: set[str]) -> tuple[Turn | None, Role | None]:
    """The turn, when it is fit for use, and its role, when that is known."""
    if type(item) is not dict:
        findings.append(Finding("turn-not-object", {"kind": KINDS[type(item)], "text": shorten(item)}, number))
        return None, None
    if _has_too_many_keys(item, findings, number):
        return None, None
    role_key = "from" if "from" in item else "role" if "role" in item else None
    value_key = next((key for key in VALUE_KEYS if key in item), None)
    role = _read_role(item, role_key, number, findings)
    if value_key is None:
        findings.append(Finding("missing-value", {"text": ", ".join(shorten(name) for name in item) or "none"}, number))
        return None, role
    if role_key is not None:
        keys.add(f"{role_key}/{value_key}")
    if len(item) > 2:
        extra = [key for key in item if key not in (role_key, value_key)]
        findings += [Finding("extra-key", {"text": shorten(key)}, number) for key in extra]
    content = item[value_key]
    if type(content) is not str:
        findings.append(Finding("value-not-text", {"kind": KINDS[type(content)], "text": shorten(content)}, number))
        return None, role
    _check_text(content, role, number, findings)
    is_kept = role is not None and (role != "system" or content.strip())
    return (Turn(role, content) if role and is_kept else None), role


def _read_role(item: dict[str, Any], role_key: str | None, number: int, findings: list[Finding]) -> Role | None:
    if role_key is None:
        findings.append(Finding("missing-role", {"text": ", ".join(shorten(name) for name in item) or "none"}, number))
        return None
    name = item[role_key]
    role = ROLE_ALIASES.get(name) if type(name) is str else None
    if role is None:
        findings.append(Finding("unknown-role", {"text": shorten(name)}, number))
    return role


def _check_text(content: str, role: Role | None, number: int, findings: list[Finding]) -> None:
    if not content.strip():
        if role == "system":
            findings.append(Finding("empty-system", {}, number))
        elif content:
            findings.append(Finding("blank-value", {"text": shorten(content)}, number))
        else:
            findings.append(Finding("empty-value", {"role": role or "this"}, number))


def _search_text(content: Any, number: int | None, findings: list[Finding]) -> None:
    if type(content) is str and SPECIAL.search(content):
        findings += [_text_finding(code, content, pattern, number) for code, pattern in TEXT_RULES if pattern.search(content)]


def _text_finding(code: str, content: str, pattern: re.Pattern[str], number: int | None) -> Finding:
    match = pattern.search(content)
    assert match
    escape = f"\\u{ord(match[0][0]):04x}"
    return Finding(code, {"text": around(content, match.start(), match.end()), "escape": escape}, number)


def _check_order(role: Role | None, previous: str | None, number: int, item: Any, findings: list[Finding]) -> None:
    """Judge a turn by the one before it. An unknown role says nothing about its neighbours."""
    if role is None or previous == "?":
        return
    if role == "system":
        if number > 0:
            findings.append(Finding("system-not-first", {"text": _beginning(item)}, number))
    elif role == "assistant" and previous in (None, "system"):
        findings.append(Finding("first-turn-assistant", {"text": _beginning(item)}, number))
    elif role == previous:
        findings.append(Finding("same-role-twice", {"role": role, "text": _beginning(item)}, number))


def _check_end(items: list[Any], previous: str | None, findings: list[Finding]) -> None:
    """Judge how the conversation ends."""
    if previous == "user":
        findings.append(Finding("trailing-question", {"text": _beginning(items[-1])}, len(items) - 1))
    elif previous == "system" and len(items) == 1:
        findings.append(Finding("only-system", {"text": _beginning(items[0])}, 0))


def _beginning(item: Any) -> str:
    """How a turn's text begins, for a person to find it again."""
    return shorten(next((item[key] for key in VALUE_KEYS if key in item), "") if type(item) is dict else item)


def _system_key(value: dict[str, Any], turns: list[Turn], findings: list[Finding]) -> Turn | None:
    """The system turn that the record's "system" key stands for."""
    system = value.get("system")
    if system is None or system == "":
        return None
    if type(system) is not str:
        findings.append(Finding("value-not-text", {"kind": KINDS[type(system)], "text": shorten(system)}))
        return None
    if not system.strip():
        findings.append(Finding("empty-system"))
        return None
    _search_text(system, None, findings)
    if turns and turns[0].role == "system":
        findings.append(Finding("system-twice", {"text": shorten(system)}))
        return None
    return Turn("system", system)


def beginning_of(conversation: Conversation) -> str:
    """How the first turn that says anything begins, for a person to find it again."""
    return shorten(next((turn.content for turn in conversation.turns if turn.content.strip()), ""))
