"""The tokenizer and the chat template of a model, the same ids everywhere.

transformers' own `LlamaTokenizer` and llama.cpp split text differently, so SentencePiece BPE tokenizers are rebuilt here as plain
`tokenizers` pipelines (prepend ▁, spaces to ▁, merges in the order of the pieces' scores, bytes as fallback) and saved so that
`AutoTokenizer` loads exactly them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import UserError
from core.paths import read_json, write_json, write_text

if TYPE_CHECKING:
    from tokenizers import Tokenizer

VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
# vicuna_v1.1 of FastChat: BOS comes from the tokenizer, a leading system message replaces the default one.
VICUNA_TEMPLATE = (
    "{%- if messages and messages[0]['role'] == 'system' %}"
    "{%- set system = messages[0]['content'] %}"
    "{%- set turns = messages[1:] %}"
    "{%- else %}"
    '{%- set system = "' + VICUNA_SYSTEM + '" %}'
    "{%- set turns = messages %}"
    "{%- endif %}"
    "{{- system + ' ' }}"
    "{%- for message in turns %}"
    "{%- if message['role'] == 'user' %}"
    "{{- 'USER: ' + message['content'] + ' ' }}"
    "{%- elif message['role'] == 'assistant' %}"
    "{{- 'ASSISTANT: ' + message['content'] + '</s>' }}"
    "{%- else %}"
    "{{- raise_exception('The vicuna template takes a leading system message, then user and assistant: not ' + message['role']) }}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- 'ASSISTANT:' }}{%- endif %}"
)
SENTENCEPIECE_BPE = 2  # TrainerSpec.ModelType.BPE of sentencepiece_model.proto
SPACE = "▁"


@dataclass(frozen=True)
class ChatTokenizer:
    """A tokenizer with its template and special tokens, as values."""

    tokenizer: Tokenizer
    template: str
    bos_token: str | None
    eos_token: str | None
    pad_token: str | None
    unk_token: str | None
    bos_token_id: int | None
    eos_token_id: int | None
    pad_token_id: int | None
    unk_token_id: int | None
    sha256: str
    model: str = ""  # what the person called it by, where that is to be remembered

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids of `text` with the special tokens the tokenizer adds, and each id's character offsets in `text`."""
        encoding = self.tokenizer.encode(text)
        return encoding.ids, encoding.offsets

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)


def load_tokenizer(folder: Path) -> ChatTokenizer:
    """The tokenizer of the model in `folder`, rebuilt in memory where its own file would give other ids than llama.cpp.

    Raises:
        UserError: the folder has no tokenizer, or the tokenizer has no end-of-sequence token.
    """
    from tokenizers import Tokenizer

    settings = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    file, model_file = folder / "tokenizer.json", folder / "tokenizer.model"
    if not file.is_file() and not model_file.is_file():
        raise UserError(
            "The model has no tokenizer.json and no tokenizer.model.",
            str(folder),
            "Choose a model folder that holds its tokenizer.",
        )
    if (
        model_file.is_file()
        and is_sentencepiece_bpe(model_file)
        and not (file.is_file() and follows_rule(read_json(file), model_file, settings))
    ):
        tokenizer = rebuild_sentencepiece(model_file, bool(settings.get("add_bos_token", True)), bool(settings.get("add_eos_token", False)))
        add_missing_tokens(tokenizer, folder, settings)
    elif file.is_file():
        tokenizer = Tokenizer.from_file(str(file))
    else:
        raise UserError(
            "The tokenizer.model is no SentencePiece BPE model, and there is no tokenizer.json.",
            str(model_file),
            "Save the tokenizer once with transformers so that a tokenizer.json exists.",
        )
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return chat_tokenizer(tokenizer, read_template(folder, settings), special_tokens(folder, settings), str(folder))


def chat_tokenizer(tokenizer: Tokenizer, template: str, names: dict[str, str | None], where: str) -> ChatTokenizer:
    """Bind `tokenizer` to its template and to `names`: ``bos_token``, ``eos_token``, ``pad_token``, ``unk_token``."""
    found = {key: name if name and tokenizer.token_to_id(name) is not None else None for key, name in names.items()}
    if found["eos_token"] is None:
        raise UserError(
            "The tokenizer has no end-of-sequence token, so a trained model would never stop.",
            where,
            "Name an eos_token in tokenizer_config.json that the vocabulary holds.",
        )
    ids = {key: tokenizer.token_to_id(name) if name else None for key, name in found.items()}
    return ChatTokenizer(
        tokenizer=tokenizer,
        template=template,
        bos_token=found["bos_token"],
        eos_token=found["eos_token"],
        pad_token=found["pad_token"],
        unk_token=found["unk_token"],
        bos_token_id=ids["bos_token"],
        eos_token_id=ids["eos_token"],
        pad_token_id=ids["pad_token"],
        unk_token_id=ids["unk_token"],
        sha256=hashlib.sha256((tokenizer.to_str() + template).encode()).hexdigest(),
    )


def save_tokenizer(chat: ChatTokenizer, folder: Path, tokenizer_model: Path | None = None) -> None:
    """Write the tokenizer so that transformers, llama.cpp's converter and `load_tokenizer` all read the same ids from `folder`."""
    write_text(folder / "tokenizer.json", chat.tokenizer.to_str(pretty=True))
    names = {key: getattr(chat, key) for key in ("bos_token", "eos_token", "pad_token", "unk_token")}
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "TokenizersBackend",
            "add_bos_token": adds(chat, chat.bos_token_id, 0),
            "add_eos_token": adds(chat, chat.eos_token_id, -1),
            "clean_up_tokenization_spaces": False,
            "model_max_length": 10**30,
            **{key: name for key, name in names.items() if name is not None},
            "added_tokens_decoder": added_tokens_decoder(chat.tokenizer),
        },
    )
    write_json(folder / "special_tokens_map.json", {key: name for key, name in names.items() if name is not None})
    write_text(folder / "chat_template.jinja", chat.template)
    if tokenizer_model is not None and tokenizer_model.resolve() != (folder / "tokenizer.model").resolve():
        shutil.copyfile(tokenizer_model, folder / "tokenizer.model")


def added_tokens_decoder(tokenizer: Tokenizer) -> dict[str, dict[str, Any]]:
    """The added tokens by id, as llama.cpp's converter reads them: it does not look into tokenizer.json for SentencePiece models."""
    return {str(token["id"]): {key: token[key] for key in token if key != "id"} for token in json.loads(tokenizer.to_str())["added_tokens"]}


def adds(chat: ChatTokenizer, token_id: int | None, place: int) -> bool:
    """Whether encoding puts `token_id` first (0) or last (-1) by itself."""
    return token_id is not None and chat.encode("a")[0][place] == token_id


# --- SentencePiece -------------------------------------------------------------------------------------------------------------------


def read_sentencepiece(model_file: Path) -> Any:
    """The parsed `ModelProto` of a SentencePiece model file."""
    from sentencepiece import sentencepiece_model_pb2

    messages: Any = sentencepiece_model_pb2  # protobuf makes its classes when it is imported
    model = messages.ModelProto()
    model.ParseFromString(model_file.read_bytes())
    return model


def is_sentencepiece_bpe(model_file: Path) -> bool:
    from google.protobuf.message import DecodeError

    try:
        return read_sentencepiece(model_file).trainer_spec.model_type == SENTENCEPIECE_BPE
    except DecodeError:  # Llama 3 and Mistral ship a tiktoken file under the same name
        return False


def rebuild_sentencepiece(model_file: Path, add_bos: bool = True, add_eos: bool = False) -> Tokenizer:
    """The `tokenizers` pipeline that gives a SentencePiece BPE model the ids llama.cpp gives it."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    proto = read_sentencepiece(model_file)
    scores = {piece.piece: piece.score for piece in proto.pieces}
    vocabulary = {piece.piece: index for index, piece in enumerate(proto.pieces)}
    unknown = next(piece.piece for piece in proto.pieces if piece.type == piece.UNKNOWN)
    has_bytes = any(piece.type == piece.BYTE for piece in proto.pieces)
    mergeable = {piece.piece: piece.score for piece in proto.pieces if piece.type == piece.NORMAL}
    assert len(scores) == len(proto.pieces), "a SentencePiece vocabulary names a piece once"
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges_by_score(mergeable), unk_token=unknown, fuse_unk=True, byte_fallback=has_bytes)
    )
    prefix = [normalizers.Prepend(SPACE)] if proto.normalizer_spec.add_dummy_prefix else []
    tokenizer.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", SPACE)])
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    special = [piece.piece for piece in proto.pieces if piece.type in (piece.UNKNOWN, piece.CONTROL)]
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in special])
    user_defined = [piece.piece for piece in proto.pieces if piece.type == piece.USER_DEFINED]
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in user_defined])
    tokenizer.post_processor = added_ends(proto, vocabulary, add_bos, add_eos)
    return tokenizer


def merges_by_score(scores: dict[str, float]) -> list[tuple[str, str]]:
    """Every way to join two pieces into a third, best score of the joined piece first: the order in which SentencePiece merges."""
    merges = [
        (scores[piece], left, right)
        for piece in scores
        for left, right in ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
        if left in scores and right in scores
    ]
    merges.sort(key=lambda merge: (-merge[0], -scores[merge[1]], -scores[merge[2]]))
    return [(left, right) for _, left, right in merges]


def added_ends(proto: Any, vocabulary: dict[str, int], add_bos: bool, add_eos: bool) -> Any:
    """The post-processor that puts BOS before a text, and EOS after it, where the model wants them."""
    from tokenizers import processors

    bos, eos = proto.trainer_spec.bos_piece, proto.trainer_spec.eos_piece
    before = [bos] if add_bos and bos in vocabulary else []
    after = [eos] if add_eos and eos in vocabulary else []
    return processors.TemplateProcessing(
        single=[*before, "$A", *after],
        pair=[*before, "$A", *after, *(f"{name}:1" for name in before), "$B:1", *(f"{name}:1" for name in after)],
        special_tokens=[(name, vocabulary[name]) for name in {*before, *after}],
    )


def follows_rule(fields: dict[str, Any], model_file: Path, settings: dict[str, Any]) -> bool:
    """Whether a tokenizer.json is already the pipeline that `rebuild_sentencepiece` would build from `model_file`."""
    rebuilt = rebuild_sentencepiece(model_file, bool(settings.get("add_bos_token", True)), bool(settings.get("add_eos_token", False)))
    wanted = json.loads(rebuilt.to_str())
    model = fields.get("model") or {}
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model.get("merges", [])]
    same_model = merges == wanted["model"]["merges"] and model.get("vocab") == wanted["model"]["vocab"]
    same_steps = all(fields.get(step) == wanted[step] for step in ("normalizer", "pre_tokenizer", "post_processor", "decoder"))
    return same_model and same_steps and bool(model.get("byte_fallback")) == wanted["model"]["byte_fallback"]


def add_missing_tokens(tokenizer: Tokenizer, folder: Path, settings: dict[str, Any]) -> None:
    """Add the tokens that came after the SentencePiece model (``<pad>``, chat markers), in the order of their ids.

    Raises:
        UserError: an added token would get another id than the model was trained with.
    """
    from tokenizers import AddedToken

    for token_id, token in sorted(added_tokens(folder, settings), key=lambda entry: entry[0]):
        if tokenizer.token_to_id(token["content"]) is None:
            added = AddedToken(token["content"], normalized=False, special=bool(token.get("special", True)))
            (tokenizer.add_special_tokens if token.get("special", True) else tokenizer.add_tokens)([added])
        if tokenizer.token_to_id(token["content"]) != token_id:
            raise UserError(
                f"The added token {token['content']!r} should have id {token_id} and would get {tokenizer.token_to_id(token['content'])}.",
                str(folder),
                "The tokenizer files of this model contradict each other: download them again.",
            )


def added_tokens(folder: Path, settings: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """`(id, fields)` of every added token that the folder's files name."""
    if (folder / "tokenizer.json").is_file():
        for token in read_json(folder / "tokenizer.json").get("added_tokens", []):
            yield token["id"], token
    elif (folder / "added_tokens.json").is_file():
        for content, token_id in read_json(folder / "added_tokens.json").items():
            yield token_id, {"content": content}
    else:
        for token_id, token in settings.get("added_tokens_decoder", {}).items():
            yield int(token_id), token


# --- settings beside the tokenizer ---------------------------------------------------------------------------------------------------


def read_template(folder: Path, settings: dict[str, Any]) -> str:
    """The Jinja template: ``chat_template.jinja``, else the one in tokenizer_config.json, else empty."""
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    template = settings.get("chat_template") or ""
    if isinstance(template, list):  # several named templates
        template = next((entry["template"] for entry in template if entry["name"] == "default"), template[0]["template"])
    return template


def special_tokens(folder: Path, settings: dict[str, Any]) -> dict[str, str | None]:
    """The names of BOS, EOS, PAD and UNK from tokenizer_config.json, else special_tokens_map.json, else SentencePiece's own."""
    mapped = read_json(folder / "special_tokens_map.json") if (folder / "special_tokens_map.json").is_file() else {}
    usual = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"} if (folder / "tokenizer.model").is_file() else {}

    def name(key: str) -> str | None:
        value = settings.get(key) or mapped.get(key) or usual.get(key)
        return value["content"] if isinstance(value, dict) else value

    return {key: name(key) for key in ("bos_token", "eos_token", "pad_token", "unk_token")}
