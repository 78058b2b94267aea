"""One text, the same ids everywhere: the rebuilt tokenizer against llama.cpp, transformers and itself after a reload."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from core.data.tokenizer import (
    VICUNA_SYSTEM,
    VICUNA_TEMPLATE,
    ChatTokenizer,
    chat_tokenizer,
    load_tokenizer,
    rebuild_sentencepiece,
    save_tokenizer,
)
from core.errors import UserError
from core.paths import STARTER, read_json, write_json

WORDS = [
    "hello",
    "the",
    "capital",
    "of",
    "France",
    "squirrel",
    "  ",
    "   ",
    "\n",
    "\n\n",
    "\t",
    "ASSISTANT:",
    "USER:",
    "3",
    "42",
    "1999",
    "?!",
    "a-b-c",
]
WORDS += [
    "你好",
    "天空是蓝色的",
    "龘",
    "🙂",
    "👩‍👩‍👧",
    "é",
    "ß",
    "▁",
    "</s>",
    "</s>USER:",
    "<s>",
    "<unk>",
    "<0x41>",
    "…",
    "“x”",
    "{}",
    "\\n",
    "$%^&*",
]


def random_texts(count: int) -> list[str]:
    """Ascii, doubled spaces, newlines, Chinese, emoji, digits and special tokens, with and without spaces at the ends."""
    rng = random.Random(7)

    def one() -> str:
        letters = "".join(chr(rng.randrange(32, 127)) for _ in range(rng.randrange(12)))
        words = [rng.choice([*WORDS, letters]) for _ in range(rng.randrange(1, 12))]
        return rng.choice(["", "", " ", "  ", "\n"]) + rng.choice(["", " ", " ", "  "]).join(words) + rng.choice(["", "", " ", "\n"])

    return [one() for _ in range(count)]


@pytest.fixture(scope="module")
def starter() -> ChatTokenizer:
    return load_tokenizer(STARTER)


def render(messages: list[dict[str, str]], add_generation_prompt: bool = False) -> str:
    """The template as transformers renders it."""

    def raise_exception(message: str) -> None:
        raise ValueError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = raise_exception
    return environment.from_string(VICUNA_TEMPLATE).render(messages=messages, add_generation_prompt=add_generation_prompt)


def talk(*contents: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


def test_the_template_is_vicuna_v1_1_to_the_character() -> None:
    assert (
        render(talk("Hi", "Hello!", "Bye", "See you")) == f"{VICUNA_SYSTEM} USER: Hi ASSISTANT: Hello!</s>USER: Bye ASSISTANT: See you</s>"
    )


def test_the_generation_prompt_ends_with_the_colon() -> None:
    assert render(talk("Hi"), add_generation_prompt=True) == f"{VICUNA_SYSTEM} USER: Hi ASSISTANT:"


def test_a_leading_system_message_replaces_the_default_one() -> None:
    assert render([{"role": "system", "content": "Be brief."}, *talk("Hi", "Hello")]) == "Be brief. USER: Hi ASSISTANT: Hello</s>"


def test_a_role_the_template_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="not tool"):
        render([{"role": "tool", "content": "x"}])


def test_newlines_and_spaces_of_a_message_survive_the_template() -> None:
    assert render(talk(" a\n\n b ", "\n{{ x }}\n")).endswith("USER:  a\n\n b  ASSISTANT: \n{{ x }}\n</s>")


def test_encoding_begins_with_bos_and_knows_its_special_tokens(starter: ChatTokenizer) -> None:
    assert (starter.bos_token, starter.eos_token, starter.pad_token, starter.unk_token) == ("<s>", "</s>", "<unk>", "<unk>")
    assert starter.encode("Hi</s>")[0][:1] == [starter.bos_token_id] and starter.encode("Hi</s>")[0][-1] == starter.eos_token_id


def test_digits_are_single_tokens_and_a_role_after_eos_starts_a_word(starter: ChatTokenizer) -> None:
    pieces = [starter.tokenizer.id_to_token(token) for token in starter.encode("12</s>USER: 345")[0]]
    assert pieces == ["<s>", "▁", "1", "2", "</s>", "▁USER", ":", "▁", "3", "4", "5"]


def test_offsets_cover_every_character_in_order(starter: ChatTokenizer) -> None:
    for text in random_texts(300):
        ids, offsets = starter.encode(text)
        assert len(ids) == len(offsets) and offsets[0] == (0, 0)
        covered = {index for start, end in offsets for index in range(start, end)}
        assert covered == set(range(len(text))), text
        assert offsets == sorted(offsets), text


def test_text_comes_back_whole_from_its_ids(starter: ChatTokenizer) -> None:
    plain = [text for text in random_texts(500) if not any(token in text for token in ("<s>", "</s>", "<unk>", "▁"))]
    assert len(plain) > 100
    assert [starter.decode(starter.encode(text)[0]) for text in plain] == plain


def test_the_starters_own_file_follows_the_rule_and_saving_changes_nothing(starter: ChatTokenizer, tmp_path: Path) -> None:
    save_tokenizer(starter, tmp_path, STARTER / "tokenizer.model")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "tokenizer.model"):
        assert (tmp_path / name).read_bytes() == (STARTER / name).read_bytes(), name
    assert load_tokenizer(tmp_path).sha256 == starter.sha256
    assert "generation" not in starter.template.replace("add_generation_prompt", "")


def test_tokenizer_model_alone_gives_the_same_ids(starter: ChatTokenizer, tmp_path: Path) -> None:
    shutil.copy(STARTER / "tokenizer.model", tmp_path)
    alone = load_tokenizer(tmp_path)
    assert alone.bos_token_id == 1 and alone.eos_token_id == 2 and alone.template == ""
    assert [alone.encode(text) for text in random_texts(300)] == [starter.encode(text) for text in random_texts(300)]


@pytest.mark.parametrize("defect", ["merges by id", "other normaliser", "no bos"])
def test_a_tokenizer_json_that_breaks_the_rule_is_rebuilt(starter: ChatTokenizer, tmp_path: Path, defect: str) -> None:
    fields = read_json(STARTER / "tokenizer.json")
    if defect == "merges by id":
        fields["model"]["merges"].reverse()
    elif defect == "other normaliser":
        fields |= {
            "normalizer": None,
            "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False},
        }
    else:
        fields["post_processor"] = None
    write_json(tmp_path / "tokenizer.json", fields)
    shutil.copy(STARTER / "tokenizer.model", tmp_path)
    shutil.copy(STARTER / "chat_template.jinja", tmp_path)
    assert load_tokenizer(tmp_path).sha256 == load_tokenizer(STARTER).sha256


def test_tokens_added_after_sentencepiece_keep_their_ids(tmp_path: Path) -> None:
    shutil.copy(STARTER / "tokenizer.model", tmp_path)
    size = load_tokenizer(STARTER).tokenizer.get_vocab_size()
    write_json(tmp_path / "added_tokens.json", {"<|im_end|>": size + 1, "<|im_start|>": size})
    write_json(tmp_path / "tokenizer_config.json", {"eos_token": {"content": "<|im_end|>"}, "bos_token": "<s>", "add_bos_token": False})
    chat = load_tokenizer(tmp_path)
    assert chat.eos_token_id == size + 1
    assert chat.encode("<|im_start|>")[0] == [size]


def test_an_added_token_that_would_get_another_id_is_an_error(tmp_path: Path) -> None:
    shutil.copy(STARTER / "tokenizer.model", tmp_path)
    write_json(tmp_path / "added_tokens.json", {"<pad>": 99_999})
    with pytest.raises(UserError, match="99999"):
        load_tokenizer(tmp_path)


def test_a_folder_without_a_tokenizer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_without_an_end_of_sequence_is_an_error(tmp_path: Path) -> None:
    shutil.copy(STARTER / "tokenizer.json", tmp_path)
    with pytest.raises(UserError, match="end-of-sequence"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_model_of_another_kind_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_text("IQ== 0\nIg== 1\n", encoding="utf-8")  # the tiktoken file of Llama 3
    with pytest.raises(UserError, match="no SentencePiece BPE"):
        load_tokenizer(tmp_path)


def test_the_template_may_stand_in_tokenizer_config(tmp_path: Path) -> None:
    shutil.copy(STARTER / "tokenizer.json", tmp_path)
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    write_json(tmp_path / "tokenizer_config.json", {"eos_token": "</s>", "chat_template": named})
    assert load_tokenizer(tmp_path).template == "plain"


# --- against the other readers -------------------------------------------------------------------------------------------------------


@pytest.mark.integration
def test_transformers_gives_the_same_ids_also_after_its_own_save(starter: ChatTokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    texts = random_texts(2000)
    expected = [starter.encode(text)[0] for text in texts]
    loaded = AutoTokenizer.from_pretrained(STARTER)
    assert type(loaded).__name__ == "TokenizersBackend"
    assert loaded(texts)["input_ids"] == expected
    loaded.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)(texts)["input_ids"] == expected
    assert [load_tokenizer(tmp_path).encode(text)[0] for text in texts] == expected
    messages = [{"role": "system", "content": "Be brief."}, *talk("Hi ", "Hello!\n", "天空")]
    assert loaded.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == render(messages, True)


@pytest.fixture(scope="module")
def vocabulary_gguf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The starter, converted."""
    from core.export.converter import convert

    file = tmp_path_factory.mktemp("gguf") / "starter.gguf"
    convert(STARTER, file)
    yield file


def llama_cpp(file: Path, **options: Any) -> Any:
    llama_cpp = pytest.importorskip("llama_cpp")
    return llama_cpp.Llama(str(file), verbose=False, **options)


def llama_ids(llama: Any, text: str) -> list[int]:
    return llama.tokenize(text.encode(), add_bos=True, special=True)


@pytest.mark.integration
@pytest.mark.network  # the converter may have to be downloaded
@pytest.mark.timeout(600)
def test_llama_cpp_gives_the_same_ids(starter: ChatTokenizer, vocabulary_gguf: Path) -> None:
    llama = llama_cpp(vocabulary_gguf, vocab_only=True)
    differing = [text for text in random_texts(2000) if llama_ids(llama, text) != starter.encode(text)[0]]
    llama.close()
    assert differing == []


@pytest.mark.integration
@pytest.mark.network
@pytest.mark.timeout(600)
def test_llama_cpp_python_renders_the_same_text(vocabulary_gguf: Path) -> None:
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    llama = llama_cpp(vocabulary_gguf, vocab_only=True)
    template = llama.metadata["tokenizer.chat_template"]
    llama.close()
    formatter = Jinja2ChatFormatter(template=template, eos_token="</s>", bos_token="<s>")
    for messages in (talk("Hi"), talk("你好\n", "{{ 1 }}</p>", "  x"), [{"role": "system", "content": "Be brief."}, *talk("Hi")]):
        assert formatter(messages=messages).prompt == render(messages, add_generation_prompt=True)


@pytest.mark.integration
@pytest.mark.network
@pytest.mark.timeout(600)
def test_the_real_llama_vocabulary_gets_llama_cpps_ids(tmp_path: Path) -> None:
    """`ggml-vocab-llama-spm.gguf` of the source distribution, written back as a SentencePiece model and rebuilt."""
    from core.export.converter import converter_dir

    file = converter_dir() / "models" / "ggml-vocab-llama-spm.gguf"
    if not file.is_file():
        pytest.skip("the converter's folder holds no vocabularies; set LLAMA_CPP_DIR to a llama.cpp checkout")
    llama = llama_cpp(file, vocab_only=True)
    write_sentencepiece(llama, tmp_path / "tokenizer.model")
    names: dict[str, str | None] = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": None}
    rebuilt = chat_tokenizer(rebuild_sentencepiece(tmp_path / "tokenizer.model"), VICUNA_TEMPLATE, names, "here")
    differing = [text for text in random_texts(2000) if llama_ids(llama, text) != rebuilt.encode(text)[0]]
    llama.close()
    assert differing == []


def write_sentencepiece(llama: Any, file: Path) -> None:
    """llama.cpp's vocabulary in the form the Hub ships it."""
    import llama_cpp
    from sentencepiece import sentencepiece_model_pb2

    vocabulary = llama_cpp.llama_model_get_vocab(llama.model)
    model = sentencepiece_model_pb2.ModelProto()
    model.trainer_spec.model_type = model.trainer_spec.BPE
    model.normalizer_spec.add_dummy_prefix = True
    kinds = {
        llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN: model.SentencePiece.UNKNOWN,
        llama_cpp.LLAMA_TOKEN_ATTR_CONTROL: model.SentencePiece.CONTROL,
        llama_cpp.LLAMA_TOKEN_ATTR_BYTE: model.SentencePiece.BYTE,
    }
    for token in range(llama.n_vocab()):
        model.pieces.add(
            piece=llama_cpp.llama_vocab_get_text(vocabulary, token).decode(),
            score=llama_cpp.llama_vocab_get_score(vocabulary, token),
            type=kinds.get(llama_cpp.llama_vocab_get_attr(vocabulary, token), model.SentencePiece.NORMAL),
        )
    file.write_bytes(model.SerializeToString())


def test_the_saved_files_are_plain_json(starter: ChatTokenizer, tmp_path: Path) -> None:
    save_tokenizer(starter, tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["tokenizer_class"] == "TokenizersBackend"
    assert not (tmp_path / "tokenizer.model").exists()
