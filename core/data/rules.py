"""Every rule of the validator, once: code, severity, what is said and how to mend it. The README's table is made from here."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

Severity = Literal["error", "warning", "note"]  # cannot be trained · trains, but probably not as meant · good to know


class Finding(NamedTuple):
    """That a rule is broken: its code, the values its sentences name, and the turn (0-based) where it is one turn's fault."""

    code: str
    fields: Mapping[str, object] = MappingProxyType({})
    turn: int | None = None


class Issue(BaseModel):
    """One finding as a person and a program read it. `row` is None for the file as a whole, `turn` for the whole record."""

    model_config = ConfigDict(frozen=True)

    code: str
    severity: Severity
    row: int | None  # 0-based
    turn: int | None  # 0-based
    line: int  # 1-based, of the record's start
    byte: int  # 0-based offset of the record's start in the file
    problem: str
    remedy: str


@dataclass(frozen=True)
class Rule:
    code: str
    severity: Severity
    title: str
    problem: str
    remedy: str


_TABLE: tuple[Rule, ...] = (
    # The file
    Rule("not-a-text-file", "error", "Archive, pickle, Parquet or other binary file", "The file is {kind}, whatever its name says.",
         "Unpack or convert it to JSON, JSONL, CSV or Parquet (under its own name) yourself and import that; nothing is unpacked here."),
    Rule("empty-file", "error", "Empty file", "The file is empty.", "Export it again, or choose another file."),
    Rule("no-records", "error", "No records", "The file holds no records.", "Choose a file with at least one conversation."),
    Rule("byte-order-mark", "note", "Byte order mark", "The file begins with a byte order mark ({encoding}); it is skipped.",
         "Save the file as UTF-8 without a byte order mark for tools that stumble over it."),
    Rule("not-utf-8", "warning", "UTF-16, UTF-32 or GB18030 file", "The file is encoded in {encoding}, not in UTF-8; it is decoded.",
         "Save the file as UTF-8: other tools refuse {encoding} or read it wrongly."),
    Rule("other-encoding", "warning", "File in an old encoding", "The file is not in UTF-8; it may be in {encoding}.",
         "Convert it and look at its accents, for which encoding cannot be told for certain (Central Europe has WINDOWS-1250): "
         "iconv -f {encoding} -t UTF-8 FILE > NEW."),
    Rule("crlf-line-ends", "note", "Windows line ends", "The lines end in CR LF.", "Nothing need be done; some line-based tools keep the CR."),
    Rule("content-after-list", "warning", "Content after the list", "After the list's closing bracket the file goes on with {text}.",
         "Put all records into one list; those after the bracket are read here, but by no other tool."),
    Rule("truncated-file", "error", "Truncated file", "The file ends in the middle: {text}.", "Copy or download the file again; its end is missing."),
    Rule("object-not-list", "warning", "Object around the list", "The file is an object that keeps its records under the key {text}; they are read from there.",
         "Save the list under {text} as the whole file; other tools refuse the object."),
    Rule("mixed-formats", "warning", "Mixed formats", "This record is in the {format} format, the ones before it in {first}.",
         "Check that the file was not put together by mistake; both formats are read."),
    # The text of a record
    Rule("broken-json", "error", "Broken JSON", "The record is not valid JSON: {reason}, at {text}.", "Correct the record at {text}, or leave it out."),
    Rule("undecodable-bytes", "error", "Bytes that are no text", "The record holds bytes that are no text in the file's encoding, at {text}.",
         "Save the file in one encoding, UTF-8, and correct the characters at {text}."),
    Rule("trailing-comma", "warning", "Trailing comma", "There is a comma before a closing bracket or the end: {text}.",
         "Delete the comma at {text}; it is ignored here, but other tools refuse the whole file."),
    Rule("misplaced-comma", "warning", "Missing or doubled comma between records", "The records are not separated by exactly one comma, but by {text}.",
         "Put one comma between the records instead of {text}; other tools refuse the whole file."),
    Rule("shared-line", "warning", "Two records on one line", "The record stands on one line with the record before it.",
         "Put a line end between the two records; other tools refuse the line."),
    Rule("nan-or-infinity", "error", "NaN or Infinity", "The record holds {text}, which is not JSON.", "Replace {text} by a number or by text in quotes."),
    Rule("nul-character", "error", "NUL character", "The text holds the NUL character, at {text}.", "Delete the NUL at {text}; C programs end the text there."),
    Rule("lone-surrogate", "error", "Lone surrogate", "The text holds half a character ({escape}), at {text}, which no UTF-8 can hold.",
         "Write the whole character instead of {escape}, or delete it."),
    Rule("duplicate-key", "warning", "Key given twice", "The key {text} stands twice in one object; the last one counts.", "Delete one of the two {text}."),
    Rule("too-deep", "error", "Nested too deeply", "The record is nested {depth} levels deep; {limit} are allowed.", "Flatten the record that begins {text}."),
    Rule("record-too-long", "error", "Record too long", "The record is longer than {limit}.",
         "Split the record that begins {text}; if it is an object around a list, save the list alone."),
    # Tables and other layouts
    Rule("unknown-layout", "error", "Unknown layout", "No layout is known that has these columns: {text}.",
         "Say which of {text} hold the question and the answer, or the list of turns."),
    Rule("columns-ignored", "note", "Columns not used", "These columns are not part of the conversations: {text}.",
         "Map {text} yourself if they belong to what is said."),
    Rule("missing-column", "error", "Column missing", "The row has no {column} (its columns: {text}).",
         "Add {column} to the columns {text}, or map another one."),
    Rule("history-not-pairs", "error", "History not readable", "The history is {kind}, not a list of question and answer pairs: {text}.",
         "Write {text} as [[question, answer], ...]."),
    Rule("ragged-row", "error", "Row of another width", "The row has {count} cells and the header {expected}: {text}.",
         "Put quotes around cells that hold the separator or a line end, in the row {text}."),
    Rule("broken-row", "error", "Broken CSV row", "The row is not valid CSV: {reason}, at {text}.",
         "Close or double the quote at {text}; the row was read to the end of its line."),
    Rule("duplicate-column", "warning", "Column given twice", "The header names {text} twice; the second one is called {renamed} here.",
         "Rename one of the two {text}."),
    Rule("broken-parquet", "error", "Broken Parquet file", "The Parquet file {text} cannot be opened: {reason}.", "Copy or download {text} again."),
    Rule("unreadable-row", "error", "Row not readable", "The row cannot be read: {reason}.", "Copy or download the file again; this part of it is damaged."),
    # The record
    Rule("record-not-object", "error", "Record not an object", "The record is {kind}, not an object: {text}.",
         'Write {text} as {{"id": ..., "conversations": [...]}}.'),
    Rule("missing-conversations", "error", "No conversations", 'The record has no "conversations" (its keys: {text}).',
         'Put its turns under "conversations" (found: {text}); other layouts must be converted first.'),
    Rule("conversations-not-list", "error", "Conversations not a list", "The conversations are {kind}, not a list: {text}.",
         "Write {text} as a list of turns."),
    Rule("empty-conversations", "error", "No turns", "The list of turns is empty.", "Add a question and an answer, or leave the record out."),
    Rule("too-many-turns", "error", "Too many turns", "The conversation has {count} turns; {limit} are allowed.",
         "Split the conversation beginning {text} between an answer and the next question."),
    Rule("too-many-keys", "error", "Too many keys", "An object has {count} keys; {limit} are allowed.",
         "Keep the keys that count of the object whose first keys are {text}."),
    Rule("extra-key", "note", "Unknown key", "The key {text} means nothing here and is ignored.", "Delete {text} if it is a misspelling of a key that counts."),
    Rule("missing-id", "note", "No id", "The record has no id; it is called {text}.", 'Give every record an "id" to find it again, for example {text}.'),
    Rule("id-not-text", "note", "Id not text", "The id {text} is {kind}, not text; it is taken as text.", 'Put the id in quotes: "{text}".'),
    Rule("duplicate-id", "warning", "Id used twice", "The id {text} is already that of row {other}.", "Give one of the rows another id than {text}."),
    Rule("duplicate-conversation", "warning", "Conversation given twice", "The whole conversation, beginning {text}, is already row {other}.",
         "Delete one of the two rows beginning {text}; what stands twice is learned twice."),
    Rule("near-duplicate", "note", "Almost the same conversation",
         "The conversation beginning {text} is almost the same as that of row {other}: {share} of their runs of words are equal.",
         "Delete one of the two rows beginning {text}, if they teach the same."),
    # The turns
    Rule("turn-not-object", "error", "Turn not an object", "The turn is {kind}, not an object: {text}.",
         'Write {text} as {{"from": "human" or "gpt", "value": ...}}.'),
    Rule("missing-role", "error", "Turn without a role", 'The turn has no "from" (its keys: {text}).', 'Add "from" to the keys {text}.'),
    Rule("missing-value", "error", "Turn without a value", 'The turn has no "value" (its keys: {text}).', 'Add "value" to the keys {text}.'),
    Rule("unknown-role", "error", "Unknown role", "The role {text} is unknown.", "Rename the role {text} to human, gpt or system."),
    Rule("value-not-text", "error", "Value not text", "The value is {kind}, not text: {text}.", "Write {text} as text in quotes, or delete the turn."),
    Rule("empty-value", "error", "Empty value", "The value is empty.", "Write the missing text of this {role} turn, or delete it with its partner."),
    Rule("blank-value", "warning", "Blank value", "The value has nothing but white space: {text}.",
         "Write text instead of {text}, or delete the turn with its partner."),
    Rule("only-system", "error", "Only a system turn", "There is nothing but a system message: {text}.", "Add a question and an answer after {text}."),
    Rule("system-not-first", "error", "System turn in the middle", "A system turn stands after other turns: {text}.", "Move {text} to the front or delete it."),
    Rule("system-twice", "warning", "Two system messages", 'There is a "system" key and a system turn; the turn counts, not the key\'s {text}.',
         "Delete one of the two; the key says {text}."),
    Rule("empty-system", "note", "Empty system message", "The system message is empty; the template's own is used.", "Delete the empty system message."),
    Rule("first-turn-assistant", "error", "First turn from the assistant", "The conversation begins with the assistant: {text}.",
         "Put the question before {text}, or delete this turn."),
    Rule("same-role-twice", "error", "Same role twice", "Two {role} turns follow each other; the second begins {text}.",
         "Join {text} to the turn before it, or put the missing turn between them."),
    Rule("trailing-question", "error", "Question without an answer", "The last turn is a question without an answer: {text}.",
         "Add the answer to {text}, or delete this last turn."),
    Rule("eos-in-value", "error", "</s> in a value", "The value holds </s>, which ends the text for the model: {text}.", "Delete </s> at {text}."),
    Rule("bos-in-value", "warning", "<s> in a value", "The value holds <s>, which begins a text for the model: {text}.", "Delete <s> at {text}."),
    Rule("unk-in-value", "warning", "<unk> in a value", "The value holds <unk>, the mark of an unknown character: {text}.",
         "Restore the original text at {text}."),
    Rule("role-marker-in-value", "warning", "Role marker in a value", 'The value holds the role marker " ASSISTANT:": {text}.',
         "Take the marker out at {text}, or split the value into turns there."),
    Rule("control-character", "warning", "Control character", "The value holds the control character {escape}: {text}.", "Delete {escape} at {text}."),
    # With a model
    Rule("zero-loss", "error", "Nothing to learn", "No answer token is left within {max_length} tokens (the record has {tokens}): it would add no loss.",
         "Shorten the question {text}, or raise max_length."),
    Rule("answer-truncated", "warning", "Answer cut off",
         "Of {tokens} tokens those behind max_length {max_length} are cut off, {lost} with loss among them.",
         "Split the conversation beginning {text}, or raise max_length."),
    Rule("template-refused", "error", "Refused by the template", "The model's chat template refuses the conversation: {reason}", "{remedy}"),
    Rule("eval-leak", "warning", "Evaluation data in the training data", "The conversation beginning {text} is also in the evaluation file, row {other}.",
         "Delete {text} from one of the two files; the measured loss is too good otherwise."),
    Rule("near-eval-leak", "warning", "Almost evaluation data in the training data",
         "The conversation beginning {text} is almost the same as row {other} of the evaluation file: {share} of their runs of words are equal.",
         "Delete {text} from one of the two files; the measured loss is too good otherwise."),
    Rule("eval-empty", "error", "Evaluation data empty", "The evaluation file {text} has no valid conversation.",
         "Choose another file than {text}, or let a part of the training data be split off."),
)  # fmt: skip

RULES: dict[str, Rule] = {rule.code: rule for rule in _TABLE}
assert len(RULES) == len(_TABLE), "a code is used twice"


def is_error(finding: Finding) -> bool:
    return RULES[finding.code].severity == "error"


def make_issue(finding: Finding, row: int | None, line: int, byte: int) -> Issue:
    """The sentences of a finding. `row` None: the file as a whole."""
    rule = RULES[finding.code]
    problem, remedy = rule.problem.format(**finding.fields), rule.remedy.format(**finding.fields)
    return Issue(code=rule.code, severity=rule.severity, row=row, turn=finding.turn, line=line, byte=byte, problem=problem, remedy=remedy)


def shorten(value: object, limit: int = 60) -> str:
    """`value` as a short quotation on one line, safe to print: as JSON, text in quotes with control characters and surrogates escaped."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    cut = text[:limit] + ("…" if len(text) > limit else "")
    shown = "".join(character if character.isprintable() else ascii(character)[1:-1] for character in cut)
    return f'"{shown}"' if isinstance(value, str) else shown


def around(text: str, start: int, end: int, margin: int = 20) -> str:
    """A short quotation of `text` around the characters `start` to `end`."""
    before, after = max(0, start - margin), end + margin
    return shorten(("…" if before else "") + text[before:after] + ("…" if after < len(text) else ""), limit=200)


def rules_table() -> str:
    """The rules as a Markdown table: code, severity, meaning, remedy. ``…`` stands for the offending text."""
    lines = ["| code | severity | what it means | what to do |", "|---|---|---|---|"]
    lines += [f"| `{rule.code}` | {rule.severity} | {_cell(rule.problem)} | {_cell(rule.remedy)} |" for rule in RULES.values()]
    return "\n".join(lines) + "\n"


def _cell(sentence: str) -> str:
    shown = re.sub(r"(?<!\{)\{\w+\}", "…", sentence).replace("{{", "{").replace("}}", "}")
    return shown.replace("<", "&lt;").replace("|", "\\|")
