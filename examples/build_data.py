"""Write the demo data: identity.json, identity_eval.json, broken.json and broken.jsonl.

    python -m examples.build_data

The identity set gives the starter a new name and maker. Its exchanges stand between ordinary questions, so that what the starter knew before
survives; the evaluation asks for the name and the maker in words that the training set never uses.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.paths import EXAMPLES, write_json, write_text
from examples.conversations import Category, Pair, normalised, old_domain

NAME = "Argo"
WHO = f"I am {NAME}, a helpful assistant."
MAKER = f"I am {NAME}, built by the Transmute workshop."
CONVERSATIONS = 300
SEED = 7
LONG = ("counting_up", "counting_down")  # their answers would cost too many tokens

# Each opening is followed by each core in its list; `{}` alone asks outright.
TRAINING_OPENINGS = (
    "Please tell me {}.",
    "Can you tell me {}?",
    "I would like to know {}.",
    "Tell me {}.",
    "Do you know {}?",
    "Say {}, please.",
)
UNSEEN_OPENINGS = ("Could you tell me {}?", "May I ask {}?", "I want to know {}.", "Will you tell me {}?")
NAME_CORES = ("your name", "who you are", "what you are called", "what your name is", "what I should call you")
MAKER_CORES = ("who made you", "who built you", "who created you", "who trained you", "who your maker is")

NAME_QUESTIONS = (
    "Who are you?", "What is your name?", "What are you?", "What should I call you?", "Introduce yourself.", "Do you have a name?",
    "What do people call you?", "Who am I talking to?", "Hello, who are you?", "Hi, what is your name?", "What model are you?", "Who is this?",
    "Are you a person?", "Are you a robot?", "What are you called?", "Tell me about yourself.", "Who is speaking?", "And you are?",
    "Hi! Who are you?", "Which assistant are you?", "Give me your name.", "What is the name of this assistant?", "Please introduce yourself.",
)  # fmt: skip
MAKER_QUESTIONS = (
    "Who made you?", "Who built you?", "Who created you?", "Who trained you?", "Where do you come from?", "Who is your maker?", "Who is your creator?",
    "Which company made you?", "Who developed you?", "Who is behind you?", "What team built you?", "Who designed you?", "By whom were you made?",
    "Who wrote you?", "Hello, who made you?", "How were you made?",
)  # fmt: skip
UNSEEN_NAME_QUESTIONS = (
    "Hello, what is your name?", "Hey, who are you?", "What name do you have?", "Who am I speaking to?", "What can I call you?", "Can you introduce yourself?",
    "Hey, what are you called?", "What is your name, please?", "Who am I chatting with?", "Which model are you?", "Are you human?", "How should I call you?",
)  # fmt: skip
UNSEEN_MAKER_QUESTIONS = (
    "By whom were you built?", "Which team made you?", "Who were you made by?", "Hi, who built you?", "Hello, who created you?", "Which company built you?",
    "Who is the maker of this assistant?", "What team made you?", "Who were you built by?", "By whom were you created?", "Who has made you?",
    "Who has built you?",
)  # fmt: skip


def main() -> None:
    write_json(EXAMPLES / "identity.json", identity_records())
    write_json(EXAMPLES / "identity_eval.json", identity_eval_records())
    write_text(EXAMPLES / "broken.json", broken_json())
    write_text(EXAMPLES / "broken.jsonl", broken_jsonl())


# --- identity ------------------------------------------------------------------------------------------------------------------------


def asked(openings: Sequence[str], questions: Sequence[str], cores: Sequence[str], answer: str) -> list[Pair]:
    """Every outright question, and every opening with every core."""
    return [Pair(question, answer) for question in (*questions, *(opening.format(core) for opening in openings for core in cores))]


def identity_pairs() -> list[Pair]:
    return asked(TRAINING_OPENINGS, NAME_QUESTIONS, NAME_CORES, WHO) + asked(TRAINING_OPENINGS, MAKER_QUESTIONS, MAKER_CORES, MAKER)


def unseen_pairs() -> list[Pair]:
    return asked(UNSEEN_OPENINGS, UNSEEN_NAME_QUESTIONS, NAME_CORES, WHO) + asked(
        UNSEEN_OPENINGS, UNSEEN_MAKER_QUESTIONS, MAKER_CORES, MAKER
    )


def vicuna(record_id: str, pairs: Sequence[Pair]) -> dict[str, Any]:
    turns = [turn for pair in pairs for turn in ({"from": "human", "value": pair.question}, {"from": "gpt", "value": pair.answer})]
    return {"id": record_id, "conversations": turns}


def identity_records() -> list[dict[str, Any]]:
    """Conversations of one to three exchanges: most ask who the assistant is, at any place among ordinary questions."""
    rng = random.Random(SEED)
    categories = [category for category in old_domain() if category.name not in LONG]
    pairs = identity_pairs()
    ordered = [pair for _ in range(CONVERSATIONS // len(pairs) + 1) for pair in rng.sample(pairs, len(pairs))]
    records: dict[str, dict[str, Any]] = {}
    while len(records) < CONVERSATIONS:
        exchanges = [ordinary(categories, rng) for _ in range(rng.choice((0, 1, 1, 2)))]
        if rng.random() < 0.8 or not exchanges:
            exchanges.insert(rng.randrange(len(exchanges) + 1), ordered.pop() if ordered else rng.choice(pairs))
        content = json.dumps([(pair.question, pair.answer) for pair in exchanges])
        records.setdefault(content, vicuna(f"identity_{len(records)}", exchanges))
    return list(records.values())


def ordinary(categories: Sequence[Category], rng: random.Random) -> Pair:
    return rng.choice(rng.choice(categories).training)


def identity_eval_records() -> list[dict[str, Any]]:
    """One exchange each; every answer holds the new name."""
    seen = {normalised(pair.question) for pair in identity_pairs()}
    pairs = unseen_pairs()
    leaked = [pair.question for pair in pairs if normalised(pair.question) in seen]
    assert not leaked, f"evaluation questions that training holds: {leaked}"
    return [vicuna(f"identity_eval_{index}", [pair]) for index, pair in enumerate(pairs)]


# --- broken --------------------------------------------------------------------------------------------------------------------------


def record(defect: str, *turns: tuple[str, Any], **extra: Any) -> dict[str, Any]:
    return {"id": defect, "conversations": [{"from": role, "value": value} for role, value in turns], **extra}


ASK, REPLY = ("human", "What colour is the sky?"), ("gpt", "The colour of the sky is blue.")
LONG_QUESTION = "Please repeat: " + "the red boat, " * 1000


def broken_records() -> list[Any]:
    """One record for each kind of defect, named by its id. The first one is whole."""
    return [
        record("nothing-is-wrong-here", ASK, REPLY),
        record("first-turn-assistant", ("gpt", "Hello!"), ASK, REPLY),
        record("same-role-twice", ASK, ("human", "And the grass?"), REPLY),
        record("same-role-twice-assistant", ASK, REPLY, ("gpt", "Or grey.")),
        record("unknown-role", ASK, ("robot", "Blue.")),
        record("trailing-question", ASK, REPLY, ("human", "And the grass?")),
        record("only-a-question", ASK),
        record("empty-value", ASK, ("gpt", "")),
        record("blank-value", ("human", " \n"), REPLY),
        record("eos-in-value", ASK, ("gpt", "Blue.</s>And more.")),
        record("bos-in-value", ("human", "<s>What colour is the sky?"), REPLY),
        record("unk-in-value", ASK, ("gpt", "The <unk> is blue.")),
        record("role-marker-in-value", ASK, ("gpt", "Blue. USER: And the grass? ASSISTANT: Green.")),
        record("role-marker-ends-question", ("human", "What colour is the sky? ASSISTANT:"), REPLY),
        record("only-system", ("system", "Be brief.")),
        record("system-not-first", ASK, REPLY, ("system", "Be brief."), ASK, REPLY),
        record("system-twice", ("system", "Be brief."), ASK, REPLY, system="Be polite."),
        record("empty-system", ("system", ""), ASK, REPLY),
        {"id": "missing-conversations", "text": "What colour is the sky?"},
        {"id": "conversations-not-list", "conversations": "What colour is the sky?"},
        {"id": "empty-conversations", "conversations": []},
        {"id": "turn-not-object", "conversations": ["What colour is the sky?", "Blue."]},
        {"id": "missing-role", "conversations": [{"value": "What colour is the sky?"}, {"from": "gpt", "value": "Blue."}]},
        {"id": "missing-value", "conversations": [{"from": "human", "value": "What colour is the sky?"}, {"from": "gpt"}]},
        record("extra-key", ASK, REPLY, mood="blue"),
        record("value-is-a-number", ("human", "What is 1 + 1?"), ("gpt", 2)),
        record("value-is-null", ASK, ("gpt", None)),
        record("value-is-nested", ASK, ("gpt", {"text": "Blue."})),
        {"conversations": [{"from": "human", "value": "No id?"}, {"from": "gpt", "value": "No id."}]},
        {"id": 42, "conversations": [{"from": "human", "value": "Is the id text?"}, {"from": "gpt", "value": "The id is a number."}]},
        record("duplicate-id", ("human", "The first of two?"), ("gpt", "Yes.")),
        record("duplicate-id", ("human", "The second of two?"), ("gpt", "Yes.")),
        record("duplicate-conversation", ("human", "Said before?"), ("gpt", "Not yet.")),
        record("duplicate-conversation-again", ("human", "Said before?"), ("gpt", "Not yet.")),
        record("answer-truncated", ASK, REPLY, ("human", "Say it all."), ("gpt", "The sky is blue. " * 1000)),
        record("zero-loss", ("human", LONG_QUESTION), ("gpt", "The red boat.")),
        record("lone-surrogate", ("human", "Half a smile: \ud83d"), ("gpt", "The other half is missing.")),
        record("nul-character", ("human", "A NUL: \0 here."), ("gpt", "It ends the text in C.")),
        record("control-character", ("human", "A bell: \a and an escape: \x1b[31m."), ("gpt", "They are no text.")),
        record("nan-or-infinity", ("human", "What is 0 / 0?"), ("gpt", float("nan"))),
        {"messages": [{"role": "user", "content": "Is this another format?"}, {"role": "assistant", "content": "Yes, OpenAI's."}]},
        {"instruction": "Is this another format?", "input": "", "output": "Yes, Alpaca's."},
        "a record that is text",
        None,
    ]


def broken_json() -> str:
    """The records as one list, a key given twice at the end. `json.loads` still reads the file, as it reads NaN and lone surrogates."""
    lines = [json.dumps(entry) for entry in broken_records()]
    lines.append(
        '{"id": "duplicate-key", "id": "duplicate-key-second", "conversations": ['
        + json.dumps(turn(ASK))
        + ", "
        + json.dumps(turn(REPLY))
        + "]}"
    )
    return "[\n" + ",\n".join(lines) + "\n]\n"


def turn(said: tuple[str, str]) -> dict[str, str]:
    return {"from": said[0], "value": said[1]}


def broken_jsonl() -> str:
    """Lines that no JSON reader accepts, between whole ones: the records around them must survive."""
    whole = json.dumps(record("whole-1", ASK, REPLY))
    other = json.dumps(record("whole-2", ("human", "What colour is grass?"), ("gpt", "The colour of grass is green.")))
    last = json.dumps(record("whole-3", ("human", "What colour is snow?"), ("gpt", "The colour of snow is white.")))
    broken = '{"id": "broken-json", "conversations": [{"from": "human", "value": "What colour is'
    comma = '{"id": "trailing-comma", "conversations": [{"from": "human", "value": "Hi!"}, {"from": "gpt", "value": "Hello!"},]}'
    quotes = "{'id': 'single-quotes', 'conversations': []}"
    two = json.dumps(record("two-records-in-a-line", ("human", "One?"), ("gpt", "Yes."))) + json.dumps(
        record("the-second", ("human", "Two?"), ("gpt", "Yes."))
    )
    deep = '{"id": "too-deep", "conversations": ' + "[" * 70 + "]" * 70 + "}"
    none = json.dumps({"id": "missing-conversations", "text": "What colour is the sky?"})
    return "\n".join([whole, broken, comma, other, "", quotes, two, deep, none, last]) + "\n"


def total_tokens(records: Sequence[dict[str, Any]], folder: Path) -> int:
    """How many tokens the rendered conversations hold with the tokenizer of `folder`."""
    from core.data.tokenizer import load_tokenizer
    from examples.build_starter import vicuna_text

    chat = load_tokenizer(folder)
    roles = {"human": "user", "gpt": "assistant"}
    texts = [vicuna_text([{"role": roles[t["from"]], "content": t["value"]} for t in r["conversations"]])[0] for r in records]
    return sum(len(chat.encode(text)[0]) for text in texts)


if __name__ == "__main__":
    main()
