"""A merged model, or an adapter on its base, answering in a process of its own, through transformers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.chat.child import Loaded, run
from core.data.render import encode_text
from core.data.tokenizer import ChatTokenizer, load_tokenizer
from core.errors import UserError
from core.export.artifacts import adapter_weights
from core.export.native_support import Stopped, common_prefix
from core.training.failures import is_out_of_memory

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BATCH_SIZE = 32
PREFILL_TOKENS = 256  # between two looks at whether to stop
MOST_SAID = 200  # characters of a library's own words
FLOAT32_BYTES = 4 * 2**30  # on a CPU, models up to this size in float32 compute faster and exactly


class TorchModel:
    """A causal language model with the keys and values of the conversation so far; of two, when it has an adapter that can be off."""

    def __init__(self, model: Any, tokenizer: ChatTokenizer, context_length: int) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.context_length = context_length
        self.ends = _end_ids(model, tokenizer)
        self.cached: list[int] = []
        self._cache: Any = None
        self._has_adapter = True
        self._other: tuple[Any, list[int]] = (None, [])  # what is kept for the adapter switched the other way
        self._should_stop: Callable[[], bool] = lambda: False

    def stop_when(self, should_stop: Callable[[], bool]) -> None:
        self._should_stop = should_stop

    def encode(self, text: str) -> list[int]:
        return encode_text(text, self.tokenizer)[0]

    def use_adapter(self, is_on: bool) -> None:
        """From now on compute with the adapter or with the bare base; what each has computed so far is kept."""
        if is_on != self._has_adapter:
            self._other, (self._cache, self.cached) = (self._cache, self.cached), self._other
            self._has_adapter = is_on

    def _computing(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._has_adapter else self.model.disable_adapter()

    def feed(self, ids: Sequence[int]) -> NDArray[np.float32]:
        import torch
        from transformers import DynamicCache

        keep = common_prefix(self.cached, ids[:-1])
        if self._cache is None or not keep:
            self._cache, keep = DynamicCache(config=self.model.config), 0
        elif keep < len(self.cached):
            self._cache.crop(keep - len(self.cached))
        del self.cached[keep:]
        logits: Any = None
        for begin in range(keep, len(ids), PREFILL_TOKENS):
            if self._should_stop():
                raise Stopped
            part = list(ids[begin : begin + PREFILL_TOKENS])
            inputs = torch.tensor([part], device=self.model.device)  # (1, T)
            with torch.inference_mode(), self._computing():
                logits = self.model(input_ids=inputs, past_key_values=self._cache, use_cache=True, logits_to_keep=1).logits
            self.cached.extend(part)
        return logits[0, -1].float().cpu().numpy()

    def is_end(self, token_id: int) -> bool:
        return token_id in self.ends

    def text_stream(self) -> TokenizerStream:
        return TokenizerStream(self.tokenizer)

    def batch(self, prompts: list[str], max_tokens: int) -> list[str]:
        """Greedy answers, several prompts at a time, padded on the left; the longest prompts first, so that padding stays small."""
        rows = [self.encode(prompt) for prompt in prompts]
        order = sorted(range(len(rows)), key=lambda index: -len(rows[index]))
        answers = [""] * len(rows)
        for begin in range(0, len(order), BATCH_SIZE):
            chosen = order[begin : begin + BATCH_SIZE]
            for index, ids in zip(chosen, self._generate([rows[index] for index in chosen], max_tokens), strict=True):
                answers[index] = self.tokenizer.decode(ids).strip()
        return answers

    def _generate(self, rows: list[list[int]], max_tokens: int) -> list[list[int]]:
        import torch
        from transformers import GenerationConfig

        pad = next(iter(self.ends), 0)
        width = max(len(row) for row in rows)
        inputs = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=self.model.device)  # (B, T)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=self.model.device)  # (B, T)
        config = GenerationConfig(do_sample=False, max_new_tokens=max_tokens, pad_token_id=pad, eos_token_id=sorted(self.ends) or None)
        with torch.inference_mode(), self._computing():
            output = self.model.generate(input_ids=inputs, attention_mask=mask, generation_config=config)
        return [self._until_end(row.tolist()) for row in output[:, width:]]

    def _until_end(self, ids: list[int]) -> list[int]:
        return next((ids[:index] for index, token_id in enumerate(ids) if token_id in self.ends), ids)


class TokenizerStream:
    def __init__(self, tokenizer: ChatTokenizer) -> None:
        from tokenizers.decoders import DecodeStream

        self.tokenizer = tokenizer.tokenizer
        self.stream = DecodeStream(skip_special_tokens=True)

    def step(self, token_id: int) -> str:
        return self.stream.step(self.tokenizer, token_id) or ""


def _end_ids(model: Any, tokenizer: ChatTokenizer) -> set[int]:
    """Every token that ends an answer: the tokenizer's EOS and those of the model's generation config."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    several: list[int] = configured if isinstance(configured, list) else [configured] if isinstance(configured, int) else []
    return {*several, *([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id])}


def load(payload: dict[str, Any]) -> Loaded:
    """The model that `core.chat.engine.child_payload` names.

    Raises:
        UserError: transformers or PEFT cannot load it (code LOAD).
    """
    import torch

    if payload["threads"]:
        torch.set_num_threads(payload["threads"])
    adapter = adapter_weights(Path(payload["adapter"])).parent if payload["adapter"] else None
    try:
        model = _model(Path(payload["folder"]), adapter)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        name = (adapter or Path(payload["folder"])).name
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:MOST_SAID]
        remedy = "Check that the model is whole and of a kind that transformers knows; an adapter needs the base it was trained on."
        raise UserError(f"transformers cannot load this model: {said}", name, remedy, code="LOAD") from error
    tokenizer = load_tokenizer(Path(payload["tokenizer"]))
    limit = getattr(model.config, "max_position_embeddings", None) or payload["context_length"]
    chat = TorchModel(model, tokenizer, min(limit, payload["context_length"]))
    switch = chat.use_adapter if adapter else None
    return Loaded(chat, tokenizer.template or None, tokenizer.bos_token or "", tokenizer.eos_token or "", chat.batch, switch)


def _model(folder: Path, adapter: Path | None) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    has_cuda = torch.cuda.is_available()
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    dtype = torch.float32 if not has_cuda and weights <= FLOAT32_BYTES else "auto"
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, trust_remote_code=False, use_safetensors=True, local_files_only=True, device_map="cuda" if has_cuda else None
    )
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter, local_files_only=True)
    return model.eval()


if __name__ == "__main__":
    run(load)
