"""How much memory a training takes at its peak, part by part, from the shapes of the model and the recipe alone.

Everything is counted in bytes of one process. Where a number is not plain counting, its source stands beside it:

- ZeRO: Rajbhandari et al., arXiv:1910.02054, section 3 (what is shared between ranks).
- nf4: Dettmers et al., arXiv:2305.14314, section 3; blocks of 64 weights, constants of double quantisation in blocks of 256.
- Saved tensors of a layer: counted with torch's `saved_tensors_hooks` over transformers 5.23's layers, sdpa and eager, with and without
  adapters; `tests/integration/test_estimate.py` counts again.
- Tiles of the output layer: trl 1.16, kernels/chunked_logprob.py (TOKEN_CHUNK_SIZE, and the temporaries of its torch path).
- Optimizer temporaries: torch.optim.adamw, single-tensor path (two tensors of the size of the largest parameter).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from core.training.recipe import Recipe
from core.training.shapes import Linear, Shapes

Device = Literal["cpu", "gpu"]
FP32, HALF = 4, 2
ADAM = 2 * FP32  # two moments a weight
TILE_TOKENS, TILE_VOCAB = 4096, 32_768  # trl/kernels/chunked_logprob.py, trl/trainer/utils.py
# Bytes per logit that live at once in the torch path of those tiles: the tile, and what is made of it.
FORWARD_TILE, BACKWARD_TILE = 17, 33
TRITON_TILE = 2  # on a GPU the tile is folded in place by a kernel
# Of the process, not of the model: what the libraries load after their imports, thread pools, rows and optimizer objects. Measured on the
# embedded starter and on a 20M model (CPU, 2026-11), none of which the estimate is judged by.
CPU_OVERHEAD = 95 * 2**20
CUDA_CONTEXT = 550 * 2**20  # driver, kernels and cuBLAS workspace of one process; outside what torch counts as allocated
HOST_OF_GPU = 3 * 2**30  # main memory of a process that trains on a GPU: CUDA libraries, pinned buffers


@dataclass(frozen=True)
class Part:
    """One term of the estimate."""

    name: str  # "weights", "adapter", "gradients", "optimizer", "activations", "logits", "context", "other"
    size_bytes: float
    said: str  # what it is, in words


@dataclass(frozen=True)
class Memory:
    """The peak of one process. `parts` add up to it; `phases` are the peaks of each phase, of which it is the highest."""

    device: Device
    parts: tuple[Part, ...]
    phases: dict[str, float]  # "load", "train", "evaluate", "save"
    host_bytes: float  # main memory of the process, where the device is a GPU; else the same as the peak

    @property
    def peak_bytes(self) -> float:
        return max(self.phases.values())

    @property
    def phase(self) -> str:
        return max(self.phases, key=lambda name: self.phases[name])


@dataclass(frozen=True)
class Setting:
    """Where a process of the run computes. `half` is true under bf16 or fp16."""

    device: Device
    half: bool
    processes: int = 1
    sharing: str = "ddp"  # the recipe's accelerate_config, resolved

    @property
    def weights_share(self) -> float:
        return 1 / self.processes if self.sharing in ("fsdp2", "zero3", "zero3_offload") else 1.0

    @property
    def optimizer_share(self) -> float:
        return 1 / self.processes if self.sharing in ("fsdp2", "zero2", "zero2_offload", "zero3", "zero3_offload") else 1.0


@dataclass(frozen=True)
class Batch:
    """The tokens of a micro batch, and of one batch of an evaluation (0 where nothing is evaluated)."""

    rows: int
    length: int
    eval_rows: int
    is_masked: bool  # rows are packed or padded, so that attention takes a mask

    @property
    def tokens(self) -> int:
        return self.rows * self.length


def batch_of(recipe: Recipe, eval_tokens: int, longest_row: int | None = None) -> Batch:
    """The recipe's batches at their largest. `longest_row` is that of the data, where it is known (tokens)."""
    length = recipe.max_length if recipe.packing or longest_row is None else min(recipe.max_length, longest_row)
    has_eval = bool(recipe.eval_dataset) or recipe.eval_fraction > 0
    eval_rows = max(recipe.micro_batch_size, min(8, eval_tokens // recipe.max_length)) if has_eval else 0
    return Batch(recipe.micro_batch_size, length, eval_rows, is_masked=recipe.packing)


def estimate(recipe: Recipe, model: Shapes, setting: Setting, batch: Batch) -> Memory:
    """The peak of each phase and the parts of the highest one."""
    element = HALF if setting.half else FP32
    base, adapter = weights(recipe, model, setting), adapter_weights(recipe, model)
    learning = trainable(recipe, model)
    held = base * setting.weights_share + adapter * FP32 * setting.weights_share
    gradients = learning * FP32 * setting.optimizer_share + (learning * FP32 if setting.sharing == "ddp" and setting.processes > 1 else 0)
    state = optimizer_bytes(recipe, model, setting) * setting.optimizer_share
    saved = activations(recipe, model, setting, batch, element)
    tiles = logits(model, batch.tokens, setting, is_learning=learns_head(recipe, model), half=setting.half)
    working = layer_working(recipe, model, setting, batch.tokens, element)
    context = CUDA_CONTEXT if setting.device == "gpu" else CPU_OVERHEAD
    fixed = held + state + context
    piled = gradients if recipe.gradient_accumulation_steps > 1 else 0
    begin = piled + saved + tiles  # the output layer's tiles, with every activation still there
    end = gradients + working + (model.embedding * FP32 if learns_head(recipe, model) and model.is_tied else 0)
    update = gradients + optimizer_working(recipe, model, setting)
    phases = {
        "load": load_bytes(recipe, model, setting, base),
        "train": fixed + max(begin, piled + saved + working, end, update),
        "evaluate": fixed + evaluation(model, batch, setting, element) if batch.eval_rows else 0.0,
        "save": fixed + save_bytes(recipe, model, setting),
    }
    parts = _parts(phases, (base * setting.weights_share, adapter * FP32 * setting.weights_share, gradients, state, saved, tiles, context))
    host = HOST_OF_GPU + save_bytes(recipe, model, setting) if setting.device == "gpu" else max(phases.values())
    return Memory(setting.device, parts, phases, host + offloaded(recipe, model, setting))


def _parts(phases: dict[str, float], sizes: tuple[float, ...]) -> tuple[Part, ...]:
    base, adapter, gradients, state, saved, tiles, context = sizes
    peak = max(phases.values())
    named = [
        Part("weights", base, "the model's weights as they are held while training"),
        Part("adapter", adapter, "the adapter's weights, in float32"),
        Part("optimizer", state, "what the optimizer keeps for every weight that learns"),
        Part("context", context, "the process itself: libraries, driver, thread pools"),
    ]
    if phases["train"] == peak:
        left = peak - sum(part.size_bytes for part in named)
        shown = [
            ("activations", saved, "what the forward pass keeps for the backward pass"),
            ("logits", tiles, "the output layer's scores"),
        ]
        shown.append(("gradients", gradients, "one number for every weight that learns"))
        for name, size_bytes, said in shown:
            taken = min(size_bytes, left)
            named.append(Part(name, taken, said))
            left -= taken
        named.append(Part("other", left, "temporaries of the largest operation"))
        return tuple(named)
    phase = max(phases, key=lambda name: phases[name])
    if phase == "load":
        return (*named[:2], Part("other", peak - base - adapter, "files mapped while the weights are read"))
    words = {"evaluate": "an evaluation's batch: hidden states and scores", "save": "copies made while the result is written"}
    return (*named, Part("other", peak - sum(part.size_bytes for part in named), words[phase]))


# --- what is held -------------------------------------------------------------------------------------------------------------------


def trainable(recipe: Recipe, model: Shapes) -> int:
    """Weights that learn."""
    if recipe.is_adapter:
        return adapter_weights(recipe, model)
    if recipe.method == "fft":
        return model.total
    head = (model.embedding if recipe.train_head else 0) + (model.hidden if recipe.train_norms else 0)
    return min(recipe.trainable_layers, model.layers) * model.layer + head


def adapter_weights(recipe: Recipe, model: Shapes) -> int:
    """A (r, columns) and B (rows, r) of every target; DoRA adds a length for each row."""
    if not recipe.is_adapter:
        return 0
    return model.layers * sum(
        recipe.lora_r * (matrix.rows + matrix.columns) + (matrix.rows if recipe.use_dora else 0)
        for matrix in model.targets(recipe.target_modules)
    )


def learns_head(recipe: Recipe, model: Shapes) -> bool:
    return recipe.method == "fft" or (recipe.method == "sft" and recipe.train_head)


def nf4_bytes(recipe: Recipe) -> float:
    """Of one 4-bit weight: half a byte, and a constant for every 64 (float32, or 8 bit with one float32 for every 256 of them)."""
    return 0.5 + ((1 + FP32 / 256) / 64 if recipe.double_quant else FP32 / 64)


def weights(recipe: Recipe, model: Shapes, setting: Setting) -> float:
    """The base model's weights as held: what learns in float32, the rest in the compute dtype, or in 4 bit."""
    element = HALF if setting.half else FP32
    if recipe.method == "qlora":
        linear = model.layers * model.layer_linear
        return linear * nf4_bytes(recipe) + (model.total - linear) * element
    learning = 0 if recipe.is_adapter else trainable(recipe, model)
    # Under autocast the weights that learn are also held once in the compute dtype, from the forward to the backward pass.
    copies = HALF * learning if setting.half and learning else 0
    return learning * FP32 + (model.total - learning) * element + copies


def optimizer_bytes(recipe: Recipe, model: Shapes, setting: Setting) -> float:
    learning = trainable(recipe, model)
    if setting.sharing.endswith("_offload"):
        return 0.0
    match recipe.optim:
        case "adafactor":
            return learning * FP32 / 512  # a row and a column for each matrix (arXiv:1804.04235); below 1 % of the weights
        case "adamw_8bit" | "paged_adamw_8bit":
            return learning * 2 * (1 + FP32 / 256)  # arXiv:2110.02861: 8 bit in blocks of 256
        case _:
            return float(learning * ADAM)


def optimizer_working(recipe: Recipe, model: Shapes, setting: Setting) -> float:
    """Temporaries of one update: torch's loop makes two of the largest weight's size; on a GPU the fused or foreach path makes one more of all."""
    learning = trainable(recipe, model)
    largest = model.largest if not recipe.is_adapter else max((m.weights for m in _adapter_matrices(recipe, model)), default=0)
    return float(2 * FP32 * min(largest, learning)) if setting.device == "cpu" else float(FP32 * learning)


def _adapter_matrices(recipe: Recipe, model: Shapes) -> list[Linear]:
    r = recipe.lora_r
    return [
        Linear("", r, size) for matrix in model.targets(recipe.target_modules) for size in (matrix.rows, matrix.columns)
    ]  # fmt: skip


def offloaded(recipe: Recipe, model: Shapes, setting: Setting) -> float:
    """Main memory that ZeRO's offloading takes: Adam's state and a float32 copy of this process's share (arXiv:2101.06840), and weights."""
    if not setting.sharing.endswith("_offload"):
        return 0.0
    learning = trainable(recipe, model) * (ADAM + FP32 + FP32) / setting.processes
    parameters = model.total * HALF / setting.processes if setting.sharing == "zero3_offload" else 0.0
    return learning + parameters


# --- what comes and goes ------------------------------------------------------------------------------------------------------------


def activations(recipe: Recipe, model: Shapes, setting: Setting, batch: Batch, element: int) -> float:
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
    inputs = _linear_inputs(recipe, model, element, targets, learns)
    mlp = 3 * inner * element  # gate, its activation, up
    masked = batch.is_masked or (model.window is not None and model.window < batch.length)
    if model.is_capped:
        scores = 2 * model.heads * batch.length * FP32  # tanh and softmax, each (heads, T) for every token
        attention = 3 * queries * element + scores
    else:
        repeated = 2 * (queries if masked else keys)
        attention = (2 * queries + repeated) * element + model.heads * FP32
        if masked:  # the mask as numbers, (T, T) for every row; packed rows are one row of all tokens
            attention += (batch.tokens if recipe.packing else batch.length) * element
    if model.has_head_norms:
        attention += (queries + keys) * (FP32 + (element if learns else 0))
    if model.family == "phi3":
        attention += (queries + keys) * element  # values stay a view of the fused matrix's output
    extra = 5 * hidden * element if half and learns else 0  # autocast casts each linear's input by itself
    return batch.tokens * float(norms + inputs + mlp + attention + extra)


def _linear_inputs(recipe: Recipe, model: Shapes, element: int, targets: dict[str, Linear], learns: bool) -> float:
    """What linear modules keep of their inputs, bytes a token. Attention keeps the input of o_proj by itself."""
    if learns:
        return (2 * model.hidden + model.inner) * element + (model.queries * element if model.is_capped else 0)
    if not targets:
        return 0.0
    first = [name for name in ("q_proj", "k_proj", "v_proj", "qkv_proj") if name in targets]
    second = [name for name in ("gate_proj", "up_proj", "gate_up_proj") if name in targets]
    kept = len(targets) * recipe.lora_r * element
    if recipe.lora_dropout == 0:
        groups = (model.hidden if first else 0) + (model.hidden if second else 0) + (model.inner if "down_proj" in targets else 0)
        capped = model.queries if model.is_capped and "o_proj" in targets else 0
        return kept + (groups + capped) * element
    # Dropout keeps, for each target by itself, what it let through and which that was (numbers on a CPU, a byte on a GPU).
    wide = sum(matrix.columns for matrix in targets.values())
    return kept + wide * (element + (FP32 if element == FP32 else 1))


def layer_working(recipe: Recipe, model: Shapes, setting: Setting, tokens: int, element: int) -> float:
    """Temporaries of one layer's backward pass: gradients of the MLP's four and of two hidden states; a 4-bit matrix unpacked."""
    unpacked = max(matrix.weights for matrix in model.linear) * element if recipe.method == "qlora" else 0
    return tokens * (4 * model.inner + 3 * model.hidden) * float(element) + unpacked


def logits(model: Shapes, tokens: int, setting: Setting, *, is_learning: bool, half: bool) -> float:
    """The largest moment of the output layer: a tile of scores with its temporaries, gradients of hidden states and of the layer itself."""
    cells = min(tokens, TILE_TOKENS) * min(model.vocab, TILE_VOCAB)
    tile = cells * (BACKWARD_TILE if setting.device == "cpu" else TRITON_TILE if half else FP32)
    return float(tile + tokens * model.hidden * 2 * FP32 + (model.embedding * FP32 if is_learning else 0))


def evaluation(model: Shapes, batch: Batch, setting: Setting, element: int) -> float:
    """The largest moment of an evaluation: its scores, or the inside of one MLP."""
    tokens = batch.eval_rows * batch.length
    cells = min(tokens, TILE_TOKENS) * min(model.vocab, TILE_VOCAB)
    scores = cells * (FORWARD_TILE if setting.device == "cpu" else TRITON_TILE if element == HALF else FP32)
    mask = tokens * tokens * (1 + element) if batch.is_masked else 0
    inside = tokens * (3 * model.inner + 3 * model.hidden) * element
    return float(max(scores + tokens * model.hidden * 3 * element, inside + mask))


def load_bytes(recipe: Recipe, model: Shapes, setting: Setting, base: float) -> float:
    """While the weights are read: what is there already, and the files, which are mapped into memory on a CPU."""
    files = model.total * model.stored_bytes if setting.device == "cpu" else 0
    return base + files + (CUDA_CONTEXT if setting.device == "gpu" else CPU_OVERHEAD / 2)


def save_bytes(recipe: Recipe, model: Shapes, setting: Setting) -> float:
    """While the result is written: the weights gathered in the dtype of the base and once more as bytes."""
    if recipe.is_adapter:
        return adapter_weights(recipe, model) * 2 * FP32
    return float(model.total * (2 * model.stored_bytes if setting.device == "cpu" else FP32))
