"""The fast way to token ids gives exactly what the `tokenizers` library gives, or nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from core.conversation import Conversation, Turn
from core.data import encode
from core.data.encode import RowEncoder
from core.data.render import LossOn, tokenize
from core.data.tokenizer import VICUNA_TEMPLATE, ChatTokenizer, chat_tokenizer, load_tokenizer
from core.data.words import Known, word_encoder
from core.paths import EXAMPLES, STARTER, read_json

# As in their tokenizer.json (Llama 3, Qwen 2.5).
LLAMA_3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN = LLAMA_3.replace("{1,3}", "")
CHAT = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
LETTERS = st.sampled_from(" \n\t\r'\"!?.,;:<>|abcdeszXYZ0129éßıſK你好世😀👩‍💻\u00a0\u3000\u2028\u0085\x1c\u200b\u0301ǅ①½٣▁\ufeff\u1e9e")
PIECES = st.sampled_from(
    ["  ", "   ", "\n\n", " \n", "'s", "'LL", "</s>", "<s>", "<unk>", "<|end|>", "<|user|>", "Hello", " world", "```py\n", "1234", "é"]
)
TEXTS = st.lists(LETTERS | PIECES | st.characters(exclude_categories=["Cs"]), max_size=25).map("".join)


def byte_level(pattern: str | None, composes: bool = False) -> ChatTokenizer:
    """A small vocabulary trained on the demo data, split as the large models' are."""
    tokenizer = Tokenizer(models.BPE())
    split = [] if pattern is None else [pre_tokenizers.Split(Regex(pattern), "isolated")]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)])
    if composes:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    names = ["<s>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    texts = [turn["value"] for each in read_json(EXAMPLES / "identity.json")[:200] for turn in each["conversations"]]
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=names, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return chat_tokenizer(tokenizer, CHAT, {"bos_token": "<s>", "eos_token": "<|end|>", "pad_token": None, "unk_token": None}, "test")


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, ChatTokenizer]:
    return {
        "sentencepiece": load_tokenizer(STARTER),
        "llama 3": byte_level(LLAMA_3),
        "qwen": byte_level(QWEN, composes=True),
        "gpt-2": byte_level(None),
    }


KINDS = ["sentencepiece", "llama 3", "qwen", "gpt-2"]


@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_places_equal_the_tokenizers(tokenizers: dict[str, ChatTokenizer], kind: str) -> None:
    tokenizer = tokenizers[kind].tokenizer
    encoder = word_encoder(tokenizer)
    assert encoder
    taken = 0

    @settings(max_examples=400)
    @given(TEXTS)
    def check(text: str) -> None:
        nonlocal taken
        if (encoded := encoder.encode(text)) is None:
            return
        taken += 1
        theirs = tokenizer.encode(text)
        assert encoded.ids.tolist() == theirs.ids
        bytes_before = [len(text[:at].encode()) for at in range(len(text) + 1)]
        inner = range(len(encoder.before), len(theirs.ids) - len(encoder.behind))
        for at in inner:  # a token of a part of a character lies within the place they give: the whole character
            start, end = theirs.offsets[at]
            assert bytes_before[start] <= encoded.starts[at] < encoded.ends[at] <= bytes_before[end]

    check()
    assert taken > 200


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss_on", ["answers", "last", "all"])
def test_rows_equal_those_that_are_tokenized_slowly(
    tokenizers: dict[str, ChatTokenizer], monkeypatch: pytest.MonkeyPatch, kind: str, loss_on: LossOn
) -> None:
    monkeypatch.setattr(encode, "ALL_CHECKED", 0)
    monkeypatch.setattr(encode, "CHECKED_EVERY", 10**9)
    chat = tokenizers[kind]
    encoder = RowEncoder(chat, 60, loss_on)

    @settings(max_examples=80)
    @given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3), st.booleans())
    def check(pairs: list[tuple[str, str]], has_system: bool) -> None:
        turns = [turn for question, answer in pairs for turn in (Turn("user", question), Turn("assistant", answer))]
        talk = Conversation("t", tuple([Turn("system", "Kurz: é")] * has_system + turns))
        sample, row = tokenize(talk, chat, 60, loss_on), encoder.row(talk)
        assert row.input_ids.tolist() == sample.input_ids
        assert row.labels.tolist() == sample.labels
        assert (row.full_length, row.lost) == (sample.full_length, sample.truncated_answer_tokens)

    check()


def test_other_pipelines_are_left_to_the_tokenizer(tokenizers: dict[str, ChatTokenizer]) -> None:
    def changed(kind: str, **fields: object) -> Tokenizer:
        return Tokenizer.from_str(json.dumps(json.loads(tokenizers[kind].tokenizer.to_str()) | fields))

    lower = {"type": "Lowercase"}
    assert word_encoder(changed("llama 3", normalizer=lower)) is None
    assert word_encoder(changed("llama 3", pre_tokenizer={"type": "Whitespace"})) is None
    assert word_encoder(changed("llama 3", pre_tokenizer=None)) is None
    assert word_encoder(changed("sentencepiece", normalizer=lower)) is None
    trimming = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    assert word_encoder(changed("gpt-2", post_processor=trimming)) is None
    greedy = Tokenizer.from_str(tokenizers["gpt-2"].tokenizer.to_str())
    greedy.add_tokens([AddedToken("world", lstrip=True)])
    assert word_encoder(greedy) is None
    assert word_encoder(changed("llama 3", post_processor=trimming)) is None
    joined = json.loads(tokenizers["sentencepiece"].tokenizer.to_str())
    joined["model"]["vocab"]["e▁"] = len(joined["model"]["vocab"])
    joined["model"]["merges"].append(["e", "▁"])
    assert word_encoder(Tokenizer.from_str(json.dumps(joined))) is None
    assert word_encoder(Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))) is None


def test_a_character_that_is_split_otherwise_is_left_to_the_tokenizer(tokenizers: dict[str, ChatTokenizer]) -> None:
    """Here one of the two ways knows letters of the Latin alphabet only."""
    tokenizer = tokenizers["llama 3"].tokenizer
    known = Known(tokenizer, regex.compile(LLAMA_3.replace(r"\p{L}", r"\p{Latin}")), is_composed=False)
    assert known.holds("Un été, 12 ans!")
    assert not known.holds("Да")
    assert not known.holds("Да")
    assert not Known(tokenizer, regex.compile(LLAMA_3), is_composed=False).holds("\u0378")  # a character of no meaning yet


def test_a_way_that_gives_other_ids_is_found_out_and_given_up(tokenizers: dict[str, ChatTokenizer]) -> None:
    chat = tokenizers["sentencepiece"]
    encoder = RowEncoder(chat)
    talk = Conversation("t", (Turn("user", "Hello"), Turn("assistant", "Who are you?")))
    right = encoder.row(talk)
    assert not encoder.disagreed
    assert encoder._words
    word = next(iter(encoder._words.words))
    encoder._words.words[word] = b"\0\0\0\0"
    again = encoder.row(talk)
    assert encoder.disagreed
    assert again.input_ids.tolist() == right.input_ids.tolist()


def test_the_words_kept_are_limited(tokenizers: dict[str, ChatTokenizer], monkeypatch: pytest.MonkeyPatch) -> None:
    from core.data import words

    monkeypatch.setattr(words, "MAX_WORDS", 10)
    encoder = word_encoder(tokenizers["llama 3"].tokenizer)
    assert encoder
    text = " ".join(f"w{number}" for number in range(100))
    encoded = encoder.encode(text)
    assert encoded
    assert encoded.ids.tolist() == tokenizers["llama 3"].tokenizer.encode(text).ids
    assert len(encoder.words) == 10


def test_the_vicuna_template_on_a_real_file(tokenizers: dict[str, ChatTokenizer], tmp_path: Path) -> None:
    from core.data.rows import check_rows

    chat = tokenizers["sentencepiece"]
    assert chat.template == VICUNA_TEMPLATE
    encoder = RowEncoder(chat, 256)
    for _, conversation, _ in list(check_rows(EXAMPLES / "identity.json"))[:200]:
        assert conversation
        sample, row = tokenize(conversation, chat, 256), encoder.row(conversation)
        assert (row.input_ids.tolist(), row.labels.tolist()) == (sample.input_ids, sample.labels)
