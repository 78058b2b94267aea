"""What a training step takes and gives back: saved tensors of each layer, the output layer's tiles, evaluation, loading, saving.

Counted in bytes of one process; `core.training.memory` adds them up. Sources:

- Saved tensors of a layer: counted with torch's `saved_tensors_hooks` over transformers 5.23's layers, sdpa and eager, with and without
  adapters; `tests/integration/test_estimate.py` counts again.
- Tiles of the output layer: core/training/head.py on a CPU; elsewhere, and for capped scores, trl 1.16, kernels/chunked_logprob.py
  (TOKEN_CHUNK_SIZE, and the temporaries of its torch path).
"""

from __future__ import annotations

from core.training.recipe import Recipe
from core.training.setting import FP32, HALF, Batch, Setting, adapter_weights, context_bytes, trainable
from core.training.shapes import Linear, Shapes

TILE_TOKENS, TILE_VOCAB = 4096, 32_768  # trl/kernels/chunked_logprob.py, trl/trainer/utils.py
# Bytes per score that live at once in the torch path of those tiles: the tile, and what is made of it.
FORWARD_TILE, BACKWARD_TILE = 17, 33
CAPPED_TILE = 4  # more, where the scores are capped: their tanh is kept
TRITON_TILE = 2  # on a GPU the tile is folded in place by a kernel
CHUNK_SCORES = {"cpu": 2**23, "gpu": 2**27}  # core/training/head.py: scores that live at once, with their logarithms


def activations(recipe: Recipe, model: Shapes, batch: Batch, element: int) -> float:
    """What the forward pass keeps, all layers and the output layer's input together."""
    layers = [kind for kind in layer_kinds(recipe, model) if kind != "asleep"]
    end = batch.tokens * model.hidden * (2 * FP32 + element)  # final norm and its output
    if not layers:
        return float(end)
    sizes = {kind: layer_saved(recipe, model, batch, element, kind) for kind in set(layers)}
    if recipe.gradient_checkpointing:
        kept = batch.tokens * model.hidden * (FP32 if not recipe.is_adapter else element)
        return len(layers) * kept + max(sizes.values()) + end
    return sum(sizes[kind] for kind in layers) + end


def layer_kinds(recipe: Recipe, model: Shapes) -> list[str]:
    """Of each layer: ``learns``, ``adapts``, ``passes`` (the gradient goes through it) or ``asleep`` (nothing below it learns)."""
    if recipe.method == "fft":
        return ["learns"] * model.layers
    if recipe.is_adapter:
        return ["adapts"] * model.layers
    below = "passes" if recipe.train_head and model.is_tied else "asleep"
    learning = min(recipe.trainable_layers, model.layers)
    return [below] * (model.layers - learning) + ["learns"] * learning


def layer_saved(recipe: Recipe, model: Shapes, batch: Batch, element: int, kind: str) -> float:
    """Bytes that one layer keeps for its backward pass."""
    hidden, inner, queries, keys = model.hidden, model.inner, model.queries, model.keys
    learns, half = kind == "learns", element == HALF
    targets = {matrix.name: matrix for matrix in model.targets(recipe.target_modules)} if kind == "adapts" else {}
    # Norms keep their input in float32, and the normed values where their weight learns.
    norms = model.norms * hidden * (FP32 + (element if learns else 0))
    inputs = _linear_inputs(recipe, model, batch, element, targets, learns)
    mlp = 3 * inner * element  # gate, its activation, up
    masked = batch.is_masked or (model.window is not None and model.window < batch.length)
    if model.is_capped:
        scores = 2 * model.heads * batch.length * FP32  # tanh and softmax, each (heads, T) for every token
        attention = 3 * queries * element + scores
    else:
        repeated = 2 * (queries if masked else keys)
        attention = (2 * queries + repeated) * element + model.heads * FP32
        if masked:  # the mask as numbers, (T, T) for every row; packed rows are one row of all tokens
            attention += (batch.tokens if batch.is_flat else batch.length) * element
        keeps_input = recipe.lora_dropout == 0 or (batch.is_fused and batch.on_cpu)  # a GPU's kernel joins the documents by itself
        if batch.by_document and (learns or (keeps_input and "o_proj" in targets)):
            attention += queries * element  # of each document by itself, and joined for o_proj
    if model.has_head_norms:
        attention += (queries + keys) * (FP32 + (element if learns else 0))
    if model.family == "phi3":
        attention += (queries + keys) * element  # values stay a view of the fused matrix's output
    extra = 5 * hidden * element if half and learns else 0  # autocast casts each linear's input by itself
    return batch.tokens * float(norms + inputs + mlp + attention + extra)


def _linear_inputs(recipe: Recipe, model: Shapes, batch: Batch, element: int, targets: dict[str, Linear], learns: bool) -> float:
    """What linear modules keep of their inputs, bytes a token. Attention keeps the input of o_proj by itself."""
    if learns:
        return (2 * model.hidden + model.inner) * element + (model.queries * element if model.is_capped else 0)
    if not targets:
        return 0.0
    first = [name for name in ("q_proj", "k_proj", "v_proj", "qkv_proj") if name in targets]
    second = [name for name in ("gate_proj", "up_proj", "gate_up_proj") if name in targets]
    kept = len(targets) * recipe.lora_r * element
    groups = (model.hidden if first else 0) + (model.hidden if second else 0) + (model.inner if "down_proj" in targets else 0)
    shared = (groups + (model.queries if model.is_capped and "o_proj" in targets else 0)) * element
    if recipe.lora_dropout == 0:
        return kept + shared
    # Dropout keeps, for each target by itself, what it let through and which that was (numbers on a CPU, a byte on a GPU).
    wide = sum(matrix.columns for matrix in targets.values())
    if batch.is_fused:
        return kept + shared + wide
    return kept + wide * (element + (FP32 if element == FP32 else 1))


def layer_working(recipe: Recipe, model: Shapes, tokens: int, element: int) -> float:
    """Temporaries of one layer's backward pass: gradients of the MLP's four and of two hidden states; a 4-bit matrix unpacked."""
    unpacked = max(matrix.weights for matrix in model.linear) * element if recipe.method == "qlora" else 0
    return tokens * (4 * model.inner + 3 * model.hidden) * float(element) + unpacked


def logits(model: Shapes, tokens: int, setting: Setting, *, is_learning: bool) -> float:
    """The largest moment of the output layer: scores with their temporaries, gradients of hidden states and of the layer itself."""
    element = HALF if setting.half else FP32
    if labels_only(model, setting):
        copy = model.embedding * HALF if setting.half and is_learning else 0
        scores = _chunk(model, tokens, setting) * (element + FP32) + copy
        return float(scores + tokens * model.hidden * (element + FP32) + (2 * model.embedding * FP32 if is_learning else 0))
    cells = min(tokens, TILE_TOKENS) * min(model.vocab, TILE_VOCAB)
    tile = cells * (
        BACKWARD_TILE + CAPPED_TILE * model.is_head_capped if setting.device == "cpu" else TRITON_TILE if setting.half else FP32
    )
    return float(tile + tokens * model.hidden * 2 * FP32 + (model.embedding * FP32 if is_learning else 0))


def labels_only(model: Shapes, setting: Setting) -> bool:
    """Whether the loss is that of `core.training.head`."""
    return not model.is_head_capped and not setting.sharing.startswith("zero3")


def _chunk(model: Shapes, tokens: int, setting: Setting) -> int:
    return model.vocab * min(tokens, max(1, CHUNK_SCORES[setting.device] // model.vocab))


def evaluation(model: Shapes, batch: Batch, setting: Setting, element: int) -> float:
    """The largest moment of an evaluation: its scores, or the inside of one MLP."""
    tokens = batch.eval_rows * batch.eval_length
    cells = min(tokens, TILE_TOKENS) * min(model.vocab, TILE_VOCAB)
    scores = cells * (FORWARD_TILE if setting.device == "cpu" else TRITON_TILE if element == HALF else FP32)
    if labels_only(model, setting):
        scores = _chunk(model, tokens, setting) * (element + FP32)
    mask = tokens * (tokens if batch.is_flat else batch.eval_length) * (1 + element)
    inside = tokens * (3 * model.inner + 3 * model.hidden) * element
    return float(max(scores + tokens * model.hidden * 3 * element, inside + mask))


def load_bytes(recipe: Recipe, model: Shapes, setting: Setting, base: float) -> float:
    """While the weights are read: what is there already, and the files, which are mapped into memory on a CPU; frozen weights stay in them
    where they are computed with as they are stored."""
    copied = trainable(recipe, model) if recipe.method == "sft" else 0 if recipe.method == "lora" else model.total
    files = (copied if is_held_as_stored(model, setting) else model.total) * model.stored_bytes if setting.device == "cpu" else 0
    return base + files + context_bytes(setting) / (1 if setting.device == "gpu" else 2)


def is_held_as_stored(model: Shapes, setting: Setting) -> bool:
    """Whether frozen weights on a CPU are the bytes of the file, in which they are mapped, so that nothing copies them."""
    return setting.device == "cpu" and setting.half and model.is_bf16


def save_bytes(recipe: Recipe, model: Shapes, setting: Setting) -> float:
    """On the device, while the result is written: on a CPU the weights once more, in the base's dtype (safetensors writes them from there),
    but for those that are held in it.

    A GPU holds the copy in the base's dtype of what learned in float32; DeepSpeed and FSDP2 collect the weights in main memory.
    """
    if recipe.is_adapter:
        return adapter_weights(recipe, model) * 2.0 * FP32
    if setting.device == "cpu":
        return float((trainable(recipe, model) if is_held_as_stored(model, setting) else model.total) * model.stored_bytes)
    return float(trainable(recipe, model) * model.stored_bytes) if setting.sharing == "ddp" else 0.0


def host_save_bytes(recipe: Recipe, model: Shapes, setting: Setting, base: float) -> float:
    """In main memory, while training is on a GPU, on average of a process: the bytes of the files, which the first one writes, and the
    `base` that was collected for it, frozen weights too; under ZeRO-2 every process collects its own.
    """
    written = adapter_weights(recipe, model) * 2.0 * FP32 if recipe.is_adapter else model.total * model.stored_bytes
    collected = 0.0 if setting.sharing == "ddp" else base * (setting.processes if setting.sharing.startswith("zero2") else 1)
    return (written + collected) / setting.processes


def host_load_bytes(recipe: Recipe, model: Shapes, setting: Setting) -> float:
    """In main memory of one process while the weights are read for a GPU: a process alone, and QLoRA, read them into the GPU tensor by tensor.

    Of several each holds the model first; FSDP2 lets the first one read for all, and ZeRO-3 takes every tensor apart as it comes.
    """
    if recipe.method == "qlora" or setting.sharing.startswith("zero3") or (setting.sharing == "ddp" and setting.processes == 1):
        return 0.0
    copied = model.total * (FP32 if recipe.method == "fft" else 0 if model.is_bf16 and setting.half else HALF)
    return float(copied / (setting.processes if setting.sharing == "fsdp2" else 1))
