"""The starter model's world: every question it learns, every question it is examined on, and how they become conversations.

Two kinds of category, held out in two honest ways:

- *composed* (sums, counting, spelling, plurals): the operands or words of the examination never occur in the category's training;
- *facts* (capitals, opposites, small talk): the fact is taught, the phrasing of the examination never occurs in training.

Every question has exactly one right answer, so accuracy is exact match.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from examples.facts import ADJECTIVES, CHINESE_TALK, FACTS, IDENTITY, NOUNS, SMALL_TALK, SYSTEM_MESSAGES, Facts, Intent

EXAMINED_PER_CATEGORY = 20
HELD_OUT_SHARE = 0.08
HANZI = "零一二三四五六七八九十"
Subject = dict[str, str]


@dataclass(frozen=True, slots=True)
class Pair:
    """One question and its only right answer."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Category:
    """`weight` is how often training draws from `training`, relative to the other categories."""

    name: str
    weight: float
    training: tuple[Pair, ...]
    held_out: tuple[Pair, ...]


def normalised(question: str) -> str:
    """What makes two questions the same: case, spaces and punctuation do not count."""
    return re.sub(r"[\s.?!,:;'\"。？！，：]+", " ", question.lower()).strip()


def sentence(text: str) -> str:
    """`text` with a capital first letter, and `an` before vowels."""
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text[0].upper() + text[1:])


def examined(name: str, weight: float, training: Sequence[Pair], unseen: Sequence[Pair]) -> Category:
    """The category with a fixed random choice of `unseen` as its examination."""
    chosen = random.Random(name).sample(list(unseen), min(EXAMINED_PER_CATEGORY, len(unseen)))
    return Category(name, weight, tuple(training), tuple(chosen))


def taught(facts: Facts) -> Category:
    """Facts: examined by phrasings that training never uses."""

    def pairs(phrasings: Sequence[str]) -> list[Pair]:
        entries = facts.table.items()
        return [Pair(sentence(p.format(x=x)), sentence(facts.answer.format(x=x, y=y))) for p in phrasings for x, y in entries]

    return examined(facts.name, facts.weight, pairs(facts.training), pairs(facts.unseen))


def said(name: str, weight: float, intents: Sequence[Intent]) -> Category:
    """Small talk: examined by ways of saying a thing that training never uses."""
    training = [Pair(question, intent.answer) for intent in intents for question in intent.training]
    unseen = [Pair(question, intent.answer) for intent in intents for question in intent.unseen]
    return examined(name, weight, training, unseen)


def composed(
    name: str,
    weight: float,
    subjects: Sequence[Subject],
    phrasings: Sequence[str],
    answer: str,
    may_hold_out: Callable[[Subject], bool] = bool,
) -> Category:
    """Compositional: examined on `subjects` (operands, words) that training never sees in any phrasing, nor with operands swapped."""
    groups = {tuple(sorted(subject.values())): subject for subject in subjects}  # 13 + 9 = 22 and 9 + 13 = 22 are one group
    eligible = [group for group, subject in groups.items() if may_hold_out(subject)]
    kept_back = set(random.Random(name).sample(eligible, max(8, round(HELD_OUT_SHARE * len(eligible)))))

    def pairs(chosen: Sequence[Subject]) -> list[Pair]:
        return [Pair(sentence(p.format(**s)), sentence(answer.format(**s))) for p in phrasings for s in chosen]

    training = [subject for subject in subjects if tuple(sorted(subject.values())) not in kept_back]
    unseen = [subject for subject in subjects if tuple(sorted(subject.values())) in kept_back]
    return examined(name, weight, pairs(training), pairs(unseen))


def plural(noun: str) -> str:
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def invented_words(count: int) -> list[str]:
    """Pronounceable words that mean nothing: spelling them needs the letters, not memory."""
    rng = random.Random("invented words")
    onsets = "b c d f g h j k l m n p r s t v w z br ch cl dr fl gr pl sh sk st th tr".split()
    vowels = "a e i o u ai ea ee oo ou".split()
    codas = ["", "", "", *"b d g k l m n p r s t ck nd ng nt rk sh st th".split()]
    words: set[str] = set()
    while len(words) < count:
        words.add("".join(rng.choice(onsets) + rng.choice(vowels) + rng.choice(codas) for _ in range(rng.choice((1, 2, 2)))))
    return sorted(words - set(NOUNS))


def hanzi(number: int) -> str:
    """0 to 99 in Chinese."""
    tens, ones = divmod(number, 10)
    if tens == 0:
        return HANZI[ones]
    return (HANZI[tens] if tens > 1 else "") + "十" + (HANZI[ones] if ones else "")


def has_two_digits(subject: Subject) -> bool:
    """Sums of single digits are taught in full, like a table; the examination asks for what must be worked out."""
    return max(int(subject["a"]), int(subject["b"])) > 9


def has_ten(subject: Subject) -> bool:
    return "十" in subject["a"] + subject["b"]


def arithmetic() -> Iterator[Category]:
    sums = [{"a": str(a), "b": str(b), "c": str(a + b)} for a in range(21) for b in range(21)]
    asked = ("What is {a} + {b}?", "{a} + {b} = ?", "Add {a} and {b}.", "What is {a} plus {b}?", "How much is {a} + {b}?", "Calculate {a} + {b}.",
             "What is the sum of {a} and {b}?", "Can you add {a} and {b}?")  # fmt: skip
    yield composed("addition", 3.0, sums, asked, "{a} + {b} = {c}.", has_two_digits)
    differences = [{"a": str(a), "b": str(b), "c": str(a - b)} for a in range(21) for b in range(a + 1)]
    asked = ("What is {a} - {b}?", "{a} - {b} = ?", "Subtract {b} from {a}.", "What is {a} minus {b}?", "How much is {a} - {b}?", "Calculate {a} - {b}.",
             "Take {b} away from {a}.", "Can you subtract {b} from {a}?")  # fmt: skip
    yield composed("subtraction", 3.0, differences, asked, "{a} - {b} = {c}.", has_two_digits)
    chinese = [{"a": hanzi(a), "b": hanzi(b), "c": hanzi(a + b)} for a in range(21) for b in range(21)]
    asked = ("{a}加{b}等于几？", "{a}加{b}是多少？", "请问{a}加{b}等于几？", "计算{a}加{b}。", "{a}加上{b}等于多少？")
    yield composed("chinese_sums", 2.0, chinese, asked, "{a}加{b}等于{c}。", has_ten)


def numbers() -> Iterator[Category]:
    runs = [(a, b) for a in range(41) for b in range(a + 2, a + 10)]
    upwards = [{"a": str(a), "b": str(b), "c": ", ".join(map(str, range(a, b + 1)))} for a, b in runs]
    asked = ("Count from {a} to {b}.", "Please count from {a} to {b}.", "Can you count from {a} to {b}?", "Count up from {a} to {b}.",
             "List the numbers from {a} to {b}.", "Say the numbers from {a} to {b}.")  # fmt: skip
    yield composed("counting_up", 0.8, upwards, asked, "{c}.")
    downwards = [{"a": str(a), "b": str(b), "c": ", ".join(map(str, range(b, a - 1, -1)))} for a, b in runs]
    asked = ("Count down from {b} to {a}.", "Please count down from {b} to {a}.", "Can you count down from {b} to {a}?",
             "Count backwards from {b} to {a}.")  # fmt: skip
    yield composed("counting_down", 0.8, downwards, asked, "{c}.")
    unequal = [(a, b) for a in range(100) for b in range(100) if a != b]
    compared = [{"a": str(a), "b": str(b), "high": str(max(a, b)), "low": str(min(a, b))} for a, b in unequal]
    asked = ("Which is larger, {a} or {b}?", "Which number is larger, {a} or {b}?", "Is {a} or {b} larger?", "What is larger, {a} or {b}?",
             "Compare {a} and {b}.", "Which is more, {a} or {b}?")  # fmt: skip
    yield composed("comparing", 1.0, compared, asked, "{high} is larger than {low}.")
    following = [{"a": str(a), "b": str(a + 1)} for a in range(300)]
    asked = ("What number comes after {a}?", "Which number comes after {a}?", "What is the next number after {a}?", "Which number follows {a}?",
             "What is the number after {a}?", "Name the number after {a}.")  # fmt: skip
    yield composed("next_number", 0.7, following, asked, "{b} comes after {a}.")
    parity = [{"a": str(a), "kind": ("even", "odd")[a % 2]} for a in range(300)]
    asked = ("Is {a} even or odd?", "Is {a} odd or even?", "Is the number {a} even or odd?", "Tell me if {a} is even or odd.",
             "Do you know if {a} is even or odd?")  # fmt: skip
    yield composed("even_or_odd", 0.7, parity, asked, "{a} is {kind}.")


def words() -> Iterator[Category]:
    nouns = [{"w": w, "p": plural(w)} for w in NOUNS]
    short = [w for w in (*NOUNS, *invented_words(3000)) if 3 <= len(w) <= 7]
    spelled = [{"w": w, "s": "-".join(w), "first": w[0], "last": w[-1]} for w in short]
    asked = ("Spell {w}.", "Spell the word {w}.", "How do you spell {w}?", "Please spell {w}.", "Can you spell {w}?", "How is {w} spelled?")
    yield composed("spelling", 3.0, spelled, asked, "The letters of {w}: {s}.")
    asked = ("What is the first letter of {w}?", "Which letter does {w} begin with?", "What letter does the word {w} start with?",
             "Tell me the first letter of {w}.", "Name the first letter of {w}.")  # fmt: skip
    yield composed("first_letter", 0.6, spelled, asked, "The first letter of {w} is {first}.")
    asked = ("What is the last letter of {w}?", "Which letter does {w} end with?", "What letter does the word {w} end with?",
             "Tell me the last letter of {w}.", "Name the last letter of {w}.")  # fmt: skip
    yield composed("last_letter", 0.8, spelled, asked, "The last letter of {w} is {last}.")
    asked = ("What is the plural of {w}?", "Tell me the plural of {w}.", "Give me the plural of {w}.", "One {w}, two what?", "Name the plural of {w}.",
             "What do you call more than one {w}?", "Do you know the plural of {w}?", "Please give me the plural of the word {w}.")  # fmt: skip
    yield composed("plurals", 1.0, nouns, asked, "The plural of {w} is {p}.")


def repeating() -> Category:
    phrases = [{"x": f"{adjective} {noun}"} for adjective in ADJECTIVES for noun in NOUNS]
    asked = ("Repeat after me: the {x}.", "Say: the {x}.", "Please repeat: the {x}.", "Say after me: the {x}.", "Can you repeat: the {x}?",
             "Repeat the words: the {x}.")  # fmt: skip
    return composed("repeating", 0.7, phrases, asked, "The {x}.")


def identity() -> Category:
    """Who the starter says it is. Not among the old-domain questions: a fine-tune is meant to change these answers."""
    return said("identity", 0.8, IDENTITY)


def old_domain() -> list[Category]:
    """Every category but identity: what a fine-tune on identity must not damage."""
    talk = [said("small_talk", 0.6, SMALL_TALK), said("chinese_talk", 0.3, CHINESE_TALK)]
    return [*arithmetic(), *numbers(), *words(), repeating(), *talk, *(taught(facts) for facts in FACTS)]


def require_honest(categories: Sequence[Category]) -> None:
    """No examined question may be among the training questions of any category."""
    seen = {normalised(pair.question) for category in categories for pair in category.training}
    leaked = [pair.question for category in categories for pair in category.held_out if normalised(pair.question) in seen]
    assert not leaked, f"examined questions that training holds: {leaked}"


def conversations(categories: Sequence[Category], seed: int) -> Iterator[list[dict[str, str]]]:
    """An endless stream of training conversations in the OpenAI form: 1 to 8 exchanges, sometimes with a system message."""
    rng = random.Random(seed)
    weights = [category.weight for category in categories]
    while True:
        exchanges = rng.choice((1, 1, 2, 4, 6, 8))
        chosen = rng.choices(categories, weights, k=exchanges)
        messages = [{"role": "system", "content": rng.choice(SYSTEM_MESSAGES)}] if rng.random() < 0.1 else []
        for pair in (rng.choice(category.training) for category in chosen):
            messages += [{"role": "user", "content": loosely(pair.question, rng)}, {"role": "assistant", "content": pair.answer}]
        yield messages


def loosely(question: str, rng: random.Random) -> str:
    """The question, one time in ten in lower case without its closing mark, as people type."""
    return question.lower().rstrip("?.!") if rng.random() < 0.1 else question
