"""llama.cpp as this project uses it: load, tokenise, decode. For child processes only, because native code can abort its whole process.

The library's low-level functions are called directly: its `Llama` class costs about 2 ms per token on top, and guesses chat formats.
"""

from __future__ import annotations

import codecs
import ctypes
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import UserError
from core.export.header import cache_bytes
from core.export.native_support import FREE_SHARE, Stopped, common_prefix, default_threads, free_bytes, limit_memory, silence
from core.export.split import gguf_bytes, gguf_headers

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_BATCH = 512  # tokens per decode, llama.cpp's own default
LOGIT_BYTES = 128 * 2**20  # at most this much for the logits of one decode
ABORTED = 2  # llama_decode's answer when the abort callback said so


class LlamaModel:
    """One GGUF model in memory, with one conversation's worth of context.

    `cached` are the token ids whose keys and values the context holds; `feed` decodes only what differs from them.
    """

    def __init__(self, path: Path, *, vocabulary_only: bool = False) -> None:
        import llama_cpp

        self.header = gguf_headers(path)[0]
        self.cached: list[int] = []
        self._prompt: tuple[list[int], NDArray[np.float32]] | None = None
        llama_cpp.llama_backend_init()
        silence()
        limit_memory(gguf_bytes(path))
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = vocabulary_only
        params.n_gpu_layers = -1 if llama_cpp.llama_supports_gpu_offload() else 0
        self.model: Any = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            raise UserError(
                f"llama.cpp cannot load {path.name}.", str(path), "Convert the model again; the log has llama.cpp's reason.", "LOAD"
            )
        self.vocabulary: Any = llama_cpp.llama_model_get_vocab(self.model)
        self.num_vocabulary = int(llama_cpp.llama_vocab_n_tokens(self.vocabulary))
        self.bos_id = int(llama_cpp.llama_vocab_bos(self.vocabulary))
        self.eos_id = int(llama_cpp.llama_vocab_eos(self.vocabulary))
        self.adds_bos = bool(llama_cpp.llama_vocab_get_add_bos(self.vocabulary)) and self.bos_id >= 0
        self.context: Any = None

    def open_context(self, context_length: int, threads: int = 0) -> None:
        """Make room for `context_length` tokens, at most what the model was trained for; 0 threads takes every core."""
        import llama_cpp
        import numpy as np

        self.context_length = min(context_length, self.header.context_length or context_length)
        self.batch_size = max(16, min(MAX_BATCH, self.context_length, LOGIT_BYTES // (4 * self.num_vocabulary)))
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = self.context_length, self.batch_size, self.batch_size
        params.n_threads = params.n_threads_batch = threads or default_threads()
        fits = cache_bytes(self.header, self.context_length) < free_bytes() * FREE_SHARE
        self.context = llama_cpp.llama_init_from_model(self.model, params) if fits else None
        if not self.context:
            raise UserError(
                "There is too little memory for this context length.", f"{context_length} tokens", "Choose a shorter one.", "OOM"
            )
        self.memory: Any = llama_cpp.llama_get_memory(self.context)
        self.batch = llama_cpp.llama_batch_init(self.batch_size, 0, 1)
        self._tokens = np.ctypeslib.as_array(self.batch.token, (self.batch_size,))
        self._positions = np.ctypeslib.as_array(self.batch.pos, (self.batch_size,))
        self._wanted = np.ctypeslib.as_array(self.batch.logits, (self.batch_size,))
        for index in range(self.batch_size):
            self.batch.n_seq_id[index] = 1
            self.batch.seq_id[index][0] = 0

    def stop_when(self, should_stop: Callable[[], bool]) -> None:
        """Let `feed` raise Stopped soon after ``should_stop()`` becomes true, also in the middle of a long prompt."""
        import llama_cpp

        self._abort = llama_cpp.ggml_abort_callback(lambda _data: should_stop())
        llama_cpp.llama_set_abort_callback(self.context, self._abort, ctypes.c_void_p(0))

    def set_threads(self, generating: int, reading: int) -> None:
        import llama_cpp

        llama_cpp.llama_set_n_threads(self.context, generating, reading)

    def encode(self, text: str, *, parse_special: bool = True) -> list[int]:
        """Token ids of a rendered conversation: special tokens recognised, BOS first if the file says so and never twice."""
        import llama_cpp

        data = text.encode()
        room = len(data) + 8
        buffer = (ctypes.c_int32 * room)()
        count = llama_cpp.llama_tokenize(self.vocabulary, data, len(data), buffer, room, False, parse_special)
        if count < 0:
            raise UserError(
                "llama.cpp could not split the text into tokens.", self.header.path.name, "Convert the model again.", "TOKENIZER"
            )
        ids = list(buffer[:count])
        return [self.bos_id, *ids] if self.adds_bos and ids[:1] != [self.bos_id] else ids

    def piece(self, token_id: int, *, special: bool) -> bytes:
        """The bytes of one token; special tokens are empty unless `special`."""
        import llama_cpp

        buffer = ctypes.create_string_buffer(64)
        count = llama_cpp.llama_token_to_piece(self.vocabulary, token_id, buffer, 64, 0, special)
        if count < 0:
            buffer = ctypes.create_string_buffer(-count)
            count = llama_cpp.llama_token_to_piece(self.vocabulary, token_id, buffer, -count, 0, special)
        return buffer.raw[:count]

    def token_text(self, token_id: int) -> str:
        """How a template writes this token: ``</s>``; empty when the file names none."""
        import llama_cpp

        return llama_cpp.llama_vocab_get_text(self.vocabulary, token_id).decode(errors="replace") if token_id >= 0 else ""

    @property
    def adds_space(self) -> bool:
        """SentencePiece puts a space before the text and after every special token."""
        return self.header.tokenizer == "llama" and self.header.metadata.get("tokenizer.ggml.add_space_prefix", True) is not False

    def is_end(self, token_id: int) -> bool:
        import llama_cpp

        return bool(llama_cpp.llama_vocab_is_eog(self.vocabulary, token_id))

    def is_special(self, token_id: int) -> bool:
        """A token that is matched in the text before it is split: text after it begins anew."""
        import llama_cpp

        special = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED | llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN
        return bool(llama_cpp.llama_vocab_get_attr(self.vocabulary, token_id) & special)

    def text_stream(self) -> PieceStream:
        return PieceStream(self)

    def feed(self, ids: list[int]) -> NDArray[np.float32]:
        """The logits after `ids`, shape (V,); only what follows the longest prefix already in the cache is decoded.

        The last prompt's logits are kept, because decoding its last token alone rounds differently than decoding it with the others:
        the same question with the same seed gets the same answer.
        """
        if self._prompt and self._prompt[0] == ids and self.cached[: len(ids)] == ids:
            self._forget_from(len(ids))
            return self._prompt[1]
        keep = common_prefix(self.cached, ids[:-1])
        self._forget_from(keep)
        *_, (_, _, logits) = self._decode(ids, keep, {len(ids) - 1})
        if len(ids) - keep > 1:
            self._prompt = (list(ids), logits[0].copy())
        return logits[0]

    def logits_at(self, ids: Sequence[int], positions: Sequence[int]) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
        """Logits after the tokens at `positions`, batch by batch: (positions, (P, V)). The array is only valid until the next step."""
        keep = min(common_prefix(self.cached, ids), *positions)  # conversations often share their system message
        self._forget_from(keep)
        for start, end, logits in self._decode(ids, keep, set(positions)):
            yield sorted(position for position in positions if start <= position < end), logits

    def forget(self) -> None:
        """Empty the context."""
        self._forget_from(0)

    def _forget_from(self, keep: int) -> None:
        import llama_cpp

        if keep < len(self.cached) and not (keep and llama_cpp.llama_memory_seq_rm(self.memory, 0, keep, -1)):
            llama_cpp.llama_memory_clear(self.memory, True)
            keep = 0
        del self.cached[keep:]

    def _decode(self, ids: Sequence[int], start: int, wanted: set[int]) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
        """Decode ``ids[start:]``, yielding (first, end, logits of the wanted positions) per batch that has any."""
        import llama_cpp
        import numpy as np

        assert start == 0 or len(self.cached) >= start
        start = min(start, len(self.cached))
        for first in range(start, len(ids), self.batch_size):
            part = ids[first : first + self.batch_size]
            count, end = len(part), first + len(part)
            flags = np.fromiter((position in wanted for position in range(first, end)), dtype=np.int8, count=count)
            self.batch.n_tokens = count
            self._tokens[:count] = part
            self._positions[:count] = np.arange(first, end)
            self._wanted[:count] = flags
            code = llama_cpp.llama_decode(self.context, self.batch)
            if code:
                llama_cpp.llama_memory_clear(self.memory, True)
                self.cached.clear()
            if code == ABORTED:
                raise Stopped
            if code:
                raise UserError(
                    f"llama.cpp could not compute (code {code}).", self.header.path.name, "Use a shorter conversation.", "DECODE"
                )
            self.cached.extend(part)
            if flags.any():
                rows = int(flags.sum())
                pointer = llama_cpp.llama_get_logits(self.context)
                yield first, end, np.ctypeslib.as_array(pointer, (rows, self.num_vocabulary))

    def close(self) -> None:
        import llama_cpp

        if self.context:
            llama_cpp.llama_batch_free(self.batch)
            llama_cpp.llama_free(self.context)
        llama_cpp.llama_model_free(self.model)
        self.context = self.model = None


class PieceStream:
    """Tokens in, text out; the bytes of an unfinished character wait for the next token."""

    def __init__(self, model: LlamaModel) -> None:
        self.model = model
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def step(self, token_id: int) -> str:
        return self.decoder.decode(self.model.piece(token_id, special=False))
