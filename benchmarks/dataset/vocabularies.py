"""Real vocabularies without a Hub: llama.cpp's source distribution holds them as GGUF files; here they become model folders."""

from __future__ import annotations

import os
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from core.data.tokenizer import SENTENCEPIECE_BPE, VICUNA_TEMPLATE, chat_tokenizer, load_tokenizer, rebuild_sentencepiece, save_tokenizer
from core.export.converter import download_source

# name -> the tokens that the vocabulary itself does not name
NAMES: dict[str, dict[str, str | None]] = {
    "llama-spm": {"bos_token": "<s>", "eos_token": "</s>", "pad_token": None, "unk_token": "<unk>"},
    "llama-bpe": {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>", "pad_token": None, "unk_token": None},
    "qwen2": {"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": None},
}
TITLES = {"llama-spm": "Llama 2 (SentencePiece)", "llama-bpe": "Llama 3 (byte-level)", "qwen2": "Qwen 2 (byte-level)"}


def make(folder: Path) -> None:
    """A folder for each vocabulary, with the Vicuna template, that this project and transformers read alike. Needs the package gguf."""
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as download:
        given = os.environ.get("LLAMA_CPP_PYTHON_SDIST")
        source = Path(given) if given else download_source(Path(download))
        with tarfile.open(source) as tar:
            for member in tar:
                name = Path(member.name).name.removeprefix("ggml-vocab-").removesuffix(".gguf")
                if name in NAMES and member.name.endswith(f"/models/ggml-vocab-{name}.gguf"):
                    (folder / name).mkdir(parents=True)
                    content = tar.extractfile(member)
                    assert content
                    (folder / name / "vocab.gguf").write_bytes(content.read())
    for name, tokens in NAMES.items():
        place = folder / name
        if name == "llama-spm":
            sentencepiece(place / "vocab.gguf", place / "tokenizer.model")
            tokenizer = rebuild_sentencepiece(place / "tokenizer.model")
        else:
            tokenizer = AutoTokenizer.from_pretrained(place, gguf_file="vocab.gguf")._tokenizer
        save_tokenizer(chat_tokenizer(tokenizer, VICUNA_TEMPLATE, tokens, str(place)), place)
        load_tokenizer(place)


def sentencepiece(gguf: Path, target: Path) -> None:
    """The SentencePiece model file that the vocabulary of `gguf` was made from, as far as encoding goes."""
    from gguf import GGUFReader
    from sentencepiece import sentencepiece_model_pb2

    messages: Any = sentencepiece_model_pb2
    fields = GGUFReader(gguf).fields
    pieces, scores, kinds = (fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "scores", "token_type"))
    model = messages.ModelProto()
    for piece, score, kind in zip(pieces, scores, kinds, strict=True):
        model.pieces.add(piece=piece, score=score, type=kind)
    model.trainer_spec.model_type = SENTENCEPIECE_BPE
    model.trainer_spec.byte_fallback = model.normalizer_spec.add_dummy_prefix = True
    model.normalizer_spec.remove_extra_whitespaces = False
    target.write_bytes(model.SerializeToString())
