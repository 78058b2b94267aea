"""The repairs that `clean` offers, in the order in which they are applied: what each is called, what can be set, what it does to a row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from core.data import mend, sift
from core.data.drafts import Draft
from core.data.language import SCRIPTS
from core.data.tokenizer import ChatTokenizer
from core.errors import UserError

Options = dict[str, Any]
Chosen = dict[str, Options]  # {code: {parameter: value}}
# What becomes of a row: itself, another row, several, or nothing.
Step = Callable[[Draft], tuple[Draft, ...]]
Kind = Literal["turns", "split", "rows", "twins"]


@dataclass(frozen=True)
class Parameter:
    """Something that can be set. The type of `default` is the type of the value; a tuple is a list of texts."""

    name: str
    title: str
    help: str
    default: int | float | str | tuple[str, ...]
    unit: str = ""
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Repair:
    """One repair. `kind` says what it does: changes turns, splits a row, drops a row for itself, or drops one for its likeness to another."""

    code: str
    kind: Kind
    title: str
    help: str
    make: Callable[[Options, ChatTokenizer | None], Step] | None  # None for twins, which need to see every row first
    parameters: tuple[Parameter, ...] = ()


_CODES = Parameter("codes", "Codes", "Only rows with one of these errors; empty drops every row that cannot be trained.", ())
_TOKENS_HELP = "0: no limit. Counted with the tokenizer and the template of the base model chosen."

_TABLE: tuple[Repair, ...] = (
    Repair("fix-encoding", "turns", "Mend wrongly decoded text", "Turns cafÃ© back into café: UTF-8 that was read as Latin-1 or "
           "Windows-1252.", mend.fix_encoding),
    Repair("strip-control", "turns", "Strip control characters", "Deletes NUL and other control characters, and halves of characters. "
           "Tabs and line ends stay.", mend.strip_control),
    Repair("strip-special", "turns", "Strip special tokens", "Deletes text that the model takes for marks of its own.", mend.strip_special,
           (Parameter("tokens", "Tokens", "What is deleted.", ("</s>", "<s>", "<unk>", "<|im_start|>", "<|im_end|>", "<|endoftext|>",
                      "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>")),)),
    Repair("rename-roles", "turns", "Rename roles", "Gives turns with unknown roles the role they mean.", mend.rename_roles,
           (Parameter("roles", "Roles", "Each as OLD=NEW, where NEW is human, gpt or system.", ()),)),
    Repair("merge-same-role", "turns", "Join turns of one speaker", "Joins turns of the same role that follow each other, with an empty line "
           "between them.", mend.merge_same_role),
    Repair("drop-empty", "turns", "Drop empty turns", "Drops a turn without text together with its question or answer.", mend.drop_empty),
    Repair("drop-leading-answer", "turns", "Drop a leading answer", "Drops what the assistant says before the first question.",
           mend.drop_leading_answer),
    Repair("drop-trailing-question", "turns", "Drop a trailing question", "Drops a last question that has no answer.", mend.drop_trailing_question),
    Repair("split-long", "split", "Split long conversations", "Splits a conversation between a pair of question and answer and the next, so that each "
           "part fits. The system message stands in each part. A single pair that is too long stays whole and is named.", sift.split_long,
           (Parameter("max_tokens", "Longest part", _TOKENS_HELP, 2048, "tokens"),
            Parameter("max_characters", "Longest part", "0: no limit.", 0, "characters"))),
    Repair("drop-rejected", "rows", "Drop what cannot be trained", "Drops rows that still have an error after the repairs above.",
           sift.drop_rejected, (_CODES,)),
    Repair("drop-language", "rows", "Drop by language", "Drops conversations by the script most of their letters are written in. "
           "Japanese counts as Kana. Those without letters stay.", sift.drop_language,
           (Parameter("keep", "Keep only", "Scripts; empty keeps all but those to drop.", (), choices=SCRIPTS),
            Parameter("drop", "Drop", "Scripts.", (), choices=SCRIPTS))),
    Repair("drop-length", "rows", "Drop by length", "Drops conversations that are too short or too long.", sift.drop_length,
           (Parameter("min_turns", "Fewest turns", "Questions and answers together; 0: no limit.", 0, "turns"),
            Parameter("max_turns", "Most turns", "0: no limit.", 0, "turns"),
            Parameter("min_characters", "Shortest", "0: no limit.", 0, "characters"),
            Parameter("max_characters", "Longest", "0: no limit.", 0, "characters"),
            Parameter("min_tokens", "Shortest", _TOKENS_HELP, 0, "tokens"),
            Parameter("max_tokens", "Longest", _TOKENS_HELP, 0, "tokens"))),
    Repair("drop-phrase", "rows", "Drop by phrase", "Drops conversations that hold one of these phrases, whatever the case of the letters.",
           sift.drop_phrase,
           (Parameter("phrases", "Phrases", "One is enough.", ("as an AI language model",)),
            Parameter("where", "Where", "In which turns they are looked for.", "answers", choices=("answers", "questions", "anywhere")))),
    Repair("dedupe-exact", "twins", "Drop repeated conversations", "Keeps the first of conversations that are the same word for word.", None),
    Repair("dedupe-near", "twins", "Drop near-duplicates", "Keeps the first of conversations that are almost the same: whose shared runs of three words "
           "(or characters of Chinese, Japanese and Thai) are at least this share of all. System messages do not count.", None,
           (Parameter("threshold", "Similarity", "0.8 is careful; 0.5 also finds texts on the same pattern.", 0.8),)),
)  # fmt: skip

REPAIRS: dict[str, Repair] = {repair.code: repair for repair in _TABLE}
LISTS = (";", "\n")  # what separates the entries of a list


def checked(chosen: Chosen) -> Chosen:
    """`chosen` in the order of application, every parameter there.

    Raises:
        UserError: nothing is chosen, an unknown code or parameter, or a value that does not fit.
    """
    if not chosen:
        raise UserError("No repair is chosen.", "clean", f"Choose one or more of {', '.join(REPAIRS)}.")
    for code, options in chosen.items():
        if code not in REPAIRS:
            raise UserError(f"There is no repair {code!r}.", "clean", f"Choose from {', '.join(REPAIRS)}.")
        names = [parameter.name for parameter in REPAIRS[code].parameters]
        if unknown := next((name for name in options if name not in names), None):
            known = f"It has {', '.join(names)}." if names else "It has none."
            raise UserError(f"The repair {code} has no parameter {unknown!r}.", "clean", known)
    return {
        code: {parameter.name: _value(code, parameter, chosen[code].get(parameter.name)) for parameter in repair.parameters}
        for code, repair in REPAIRS.items()
        if code in chosen
    }


def parse_chosen(text: str) -> Chosen:
    """Repairs as written on a command line: ``code,code:parameter=value,parameter=value,code,...``; a list's entries are separated by ``;``.

    A comma behind which neither a code nor a parameter stands belongs to the value before it.
    """
    chosen: Chosen = {}
    code = name = ""
    for piece in text.split(","):
        head, has_options, rest = piece.strip().partition(":")
        if head in REPAIRS:
            code, name = head, ""
            chosen.setdefault(code, {})
            if not has_options:
                continue
            piece = rest
        elif not code:
            raise UserError(f"There is no repair {piece.strip()!r}.", "--fix", f"Choose from {', '.join(REPAIRS)}.")
        known = [parameter.name for parameter in REPAIRS[code].parameters]
        key, is_given, value = piece.partition("=")
        if is_given and (key.strip() in known or not name):
            name = key.strip()
            chosen[code][name] = value
        elif name:
            chosen[code][name] += f",{piece}"
        else:
            raise UserError(f"{piece.strip()!r} is neither a repair nor parameter=value.", "--fix", f"Choose from {', '.join(REPAIRS)}.")
    return checked(chosen)


def _value(code: str, parameter: Parameter, given: Any) -> Any:
    """`given` (None: not given) as the type of the parameter's default."""
    if given is None:
        return list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
    if isinstance(parameter.default, tuple):
        entries = given.replace("\n", LISTS[0]).split(LISTS[0]) if isinstance(given, str) else list(given)
        return [_choice(code, parameter, str(entry).strip()) for entry in entries if str(entry).strip()]
    if isinstance(parameter.default, str):
        return _choice(code, parameter, str(given))
    try:
        value = type(parameter.default)(given)
    except (TypeError, ValueError, OverflowError):
        raise _unfit(code, parameter, given, "Give a number.") from None
    if isinstance(parameter.default, float) and not 0 < value <= 1:
        raise _unfit(code, parameter, given, "Choose a share above 0 and up to 1.")
    if value < 0:
        raise _unfit(code, parameter, given, "Choose 0 or more.")
    return value


def _choice(code: str, parameter: Parameter, value: str) -> str:
    if not parameter.choices:
        return value
    for choice in parameter.choices:
        if choice.casefold() == value.casefold():
            return choice
    raise _unfit(code, parameter, value, f"Choose from {', '.join(parameter.choices)}.")


def _unfit(code: str, parameter: Parameter, value: object, remedy: str) -> UserError:
    return UserError(f"{code}: {parameter.name} cannot be {value!r}.", "clean", remedy)
