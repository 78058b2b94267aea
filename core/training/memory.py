"""How much memory a training takes at its peak, part by part, from the shapes of the model and the recipe alone. Bytes of one process."""

from __future__ import annotations

from dataclasses import dataclass

from core.training.activations import (
    activations,
    evaluation,
    host_load_bytes,
    host_save_bytes,
    layer_working,
    load_bytes,
    logits,
    save_bytes,
)
from core.training.recipe import Recipe
from core.training.setting import FP32, HALF, Batch, Device, Setting, adapter_weights, context_bytes, learns_head, trainable
from core.training.shapes import Linear, Shapes

ADAM = 2 * FP32  # two moments a weight
HOST_OF_GPU = 3 * 2**30  # main memory of a process that trains on a GPU: imports, CUDA libraries, pinned buffers; a rule of thumb
IMPORTS = 555 * 2**20  # main memory after the worker's imports (torch 2.13, trl 1.16; 2026-11)
BUCKET = 500_000_000  # numbers in each buffer that DeepSpeed sends gradients from: reduce_bucket_size where spaces/deepspeed sets none
LIVE = 1_000_000_000  # weights that ZeRO-3 has here at once: stage3_max_live_parameters of spaces/deepspeed/zero3.json

# Where each term comes from. "counted" is plain arithmetic on the shapes.
SOURCES = {
    "weights": "counted; nf4 with its constants: QLoRA, arXiv:2305.14314, section 3; shared between devices: ZeRO, arXiv:1910.02054, section 3",
    "adapter": "counted; LoRA, arXiv:2106.09685, section 4.1; DoRA's lengths, arXiv:2402.09353, section 4",
    "gradients": "counted; float32, shared under ZeRO-2 and up: arXiv:1910.02054, section 3; under ZeRO once more in the compute dtype",
    "optimizer": "counted; Adam's two moments, arXiv:1412.6980; 8 bit in blocks of 256, arXiv:2110.02861; Adafactor, arXiv:1804.04235",
    "activations": "tensors that transformers 5.23's layers save for the backward pass, counted with torch's saved_tensors_hooks",
    "logits": "tiles of scores and their temporaries: on a CPU core/training/head.py, else trl 1.16, kernels/chunked_logprob.py",
    "sharing": "counted; ZeRO: the buckets and live weights of spaces/deepspeed and deepspeed 0.19; FSDP2: two layers and the output layer",
    "context": "measured on models that no estimate is judged by (CPU, 2026-11); CUDA context and cuBLAS workspace: a rule of thumb",
    "other": "temporaries of the largest operation: transformers' evaluation and saving, torch.optim's single-tensor path",
}


@dataclass(frozen=True)
class Part:
    """One term of the estimate."""

    name: str  # a key of SOURCES
    size_bytes: float
    said: str  # what it is, in words

    @property
    def source(self) -> str:
        return SOURCES[self.name]


@dataclass(frozen=True)
class Memory:
    """The peak of one process. `parts` add up to it; `phases` are the peaks of each phase, of which it is the highest."""

    device: Device
    parts: tuple[Part, ...]
    phases: dict[str, float]  # "load", "train", "evaluate", "save"
    host_bytes: float  # main memory of the process with its imports
    uncounted_bytes: float = 0.0  # of the peak, what no measurement sees: torch does not count the CUDA context as allocated

    @property
    def peak_bytes(self) -> float:
        return max(self.phases.values())

    @property
    def measurable_bytes(self) -> float:
        """What a run's measured peak is compared with."""
        return self.peak_bytes - self.uncounted_bytes

    @property
    def phase(self) -> str:
        return max(self.phases, key=lambda name: self.phases[name])


def needed(recipe: Recipe, model: Shapes, setting: Setting, batch: Batch) -> Memory:
    """The peak of each phase and the parts of the highest one. On a CPU it is counted above the process's imports."""
    element = HALF if setting.half else FP32
    base, adapter = weights(recipe, model, setting), adapter_weights(recipe, model) * learning_element(setting)
    held = (base + adapter) * setting.weights_share
    gradients = gradient_bytes(recipe, model, setting)
    state = optimizer_bytes(recipe, model, setting) * setting.optimizer_share
    shared = sharing_bytes(recipe, model, setting)
    saved = activations(recipe, model, batch, element)
    tiles = logits(model, batch.tokens, setting, is_learning=learns_head(recipe))
    working = layer_working(recipe, model, batch.tokens, element)
    context = context_bytes(setting)
    fixed = held + state + context + shared
    piled = gradients if recipe.gradient_accumulation_steps > 1 else 0
    begin = piled + saved + tiles  # the output layer's tiles, with every activation still there
    end = gradients + working + (model.embedding * FP32 if learns_head(recipe) and model.is_tied else 0)
    update = gradients + optimizer_working(recipe, model, setting)
    copies = autocast_copies(recipe, model, setting) * setting.weights_share  # gone with the backward pass
    phases = {
        "load": load_bytes(recipe, model, setting, base * setting.weights_share),
        "train": fixed + max(begin, piled + saved + working, end, update - copies),
        "evaluate": fixed + evaluation(model, batch, setting, element) if batch.eval_rows else 0.0,
        "save": fixed - copies + save_bytes(recipe, model, setting),
    }
    parts = _parts(phases, (base * setting.weights_share, adapter * setting.weights_share, gradients, state, saved, tiles, context, shared))
    read_or_written = max(host_load_bytes(recipe, model, setting), host_save_bytes(recipe, model, setting, base))
    host = HOST_OF_GPU + read_or_written if setting.device == "gpu" else max(phases.values()) + IMPORTS
    return Memory(setting.device, parts, phases, host + offloaded(recipe, model, setting), context if setting.device == "gpu" else 0.0)


def _parts(phases: dict[str, float], sizes: tuple[float, ...]) -> tuple[Part, ...]:
    base, adapter, gradients, state, saved, tiles, context, shared = sizes
    peak = max(phases.values())
    named = [
        Part("weights", base, "the model's weights as they are held while training"),
        Part("adapter", adapter, "the adapter's weights"),
        Part("optimizer", state, "what the optimizer keeps for every weight that learns"),
        Part("context", context, "the process itself: libraries, driver, thread pools"),
        Part("sharing", shared, "what passes between the processes: weights that are here for a moment, gradients on their way"),
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
        return (named[0], Part("other", peak - base, "files mapped while the weights are read"))
    words = {"evaluate": "an evaluation's batch: hidden states and scores", "save": "copies made while the result is written"}
    return (*named, Part("other", peak - sum(part.size_bytes for part in named), words[phase]))


def nf4_bytes(recipe: Recipe) -> float:
    """Of one 4-bit weight: half a byte, and a constant for every 64 (float32, or 8 bit with one float32 for every 256 of them)."""
    return 0.5 + ((1 + FP32 / 256) / 64 if recipe.double_quant else FP32 / 64)


def weights(recipe: Recipe, model: Shapes, setting: Setting) -> float:
    """The base model's weights as held: what learns in float32, the rest in the compute dtype, or in 4 bit. Under ZeRO all in the compute dtype."""
    element, copies = HALF if setting.half else FP32, autocast_copies(recipe, model, setting)
    if recipe.method == "qlora":
        linear = model.layers * model.layer_linear
        return linear * nf4_bytes(recipe) + (model.total - linear) * element + copies
    learning = 0 if recipe.is_adapter else trainable(recipe, model)
    frozen = learning_element(setting) if recipe.method == "fft" else element  # a tower that sees is read as the rest is
    return learning * learning_element(setting) + (model.total - learning) * frozen + copies


def learning_element(setting: Setting) -> int:
    """Bytes of a weight that learns, as the model holds it."""
    return HALF if setting.is_zero and setting.half else FP32


def autocast_copies(recipe: Recipe, model: Shapes, setting: Setting) -> float:
    """Under autocast the weights that learn are also held once in the compute dtype, from the forward to the backward pass. ZeRO holds them
    in it, and FSDP2 brings them in it."""
    return float(HALF * trainable(recipe, model)) if setting.half and setting.sharing == "ddp" else 0.0


def gradient_bytes(recipe: Recipe, model: Shapes, setting: Setting) -> float:
    """One number for every weight that learns; DDP has them once more in what it sends, ZeRO in the compute dtype, or in main memory."""
    learning = trainable(recipe, model)
    if setting.offloads:
        return 0.0
    if setting.is_zero:
        return learning * (FP32 + learning_element(setting)) * setting.optimizer_share
    sent = learning * FP32 if setting.sharing == "ddp" and setting.processes > 1 else 0
    return learning * FP32 * setting.optimizer_share + sent


def sharing_bytes(recipe: Recipe, model: Shapes, setting: Setting) -> float:
    """What is on the device for a moment only because processes share: gradients on their way, and weights of others.

    ZeRO-2 keeps two buckets of gradients, ZeRO-3 one and at most so many weights at once, at least the largest matrix. FSDP2 has two layers, the
    next one being fetched while one computes, with the output layer, and the gradients of one. A CPU has of a bucket what was written to.
    """
    element = HALF if setting.half else FP32
    bucket = BUCKET if setting.device == "gpu" else min(BUCKET, trainable(recipe, model))
    if setting.sharing.startswith("zero2"):
        return 2.0 * bucket * element
    if setting.sharing.startswith("zero3"):
        return float(max(min(model.total, LIVE), model.largest) + bucket) * element
    if setting.sharing != "fsdp2":
        return 0.0
    layer = model.layer_linear * nf4_bytes(recipe) if recipe.method == "qlora" else float(model.layer * element)
    learning = 0 if recipe.is_adapter else model.layer * (element + FP32)  # its gradients, and in float32 to be added up
    return 2 * layer + learning + model.embedding * element


def optimizer_bytes(recipe: Recipe, model: Shapes, setting: Setting) -> float:
    """Of all processes together, without what is offloaded; ZeRO keeps what learns in float32 beside it."""
    learning = trainable(recipe, model)
    if setting.offloads:
        return 0.0
    masters = learning * FP32 if setting.is_zero else 0
    match recipe.optim:
        case "adafactor":
            return masters + learning * FP32 / 512  # a row and a column for each matrix; below 1 % of the weights
        case "adamw_8bit" | "paged_adamw_8bit":
            return masters + learning * 2 * (1 + FP32 / 256)
        case _:
            return float(masters + learning * ADAM)


def optimizer_working(recipe: Recipe, model: Shapes, setting: Setting) -> float:
    """Temporaries of one update: torch's loop makes two of the largest weight's size; the fused ones of a GPU make none."""
    learning = trainable(recipe, model)
    if setting.device == "gpu":
        return 0.0
    largest = model.largest if not recipe.is_adapter else max((m.weights for m in _adapter_matrices(recipe, model)), default=0)
    return float(2 * FP32 * min(largest, learning))


def _adapter_matrices(recipe: Recipe, model: Shapes) -> list[Linear]:
    sizes = [size for matrix in model.targets(recipe.target_modules) for size in (matrix.rows, matrix.columns)]
    return [Linear("", recipe.lora_r, size) for size in sizes]


def offloaded(recipe: Recipe, model: Shapes, setting: Setting) -> float:
    """Main memory that ZeRO's offloading takes: Adam's state and a float32 copy of this process's share (arXiv:2101.06840), and weights."""
    if not setting.offloads:
        return 0.0
    learning = trainable(recipe, model) * (ADAM + FP32 + FP32) / setting.processes
    parameters = model.total * HALF / setting.processes if setting.sharing == "zero3_offload" else 0.0
    return learning + parameters
