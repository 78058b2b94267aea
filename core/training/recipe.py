"""The recipe: every knob of a run once, with its title, help, unit, bounds and group.

The form, the YAML file, the command line's ``--set``, the README's table and the checks are all derived from this class.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.errors import UserError

Method = Literal["qlora", "lora", "sft", "fft"]
Group = Literal["Model", "Data", "Method", "Optimisation", "Memory", "Checkpoints", "Where", "Distribution files", "After training"]
ADAPTER_METHODS: tuple[Method, ...] = ("qlora", "lora")


def knob(default: Any, group: Group, title: str, help: str, *, unit: str = "", short: bool = False, **bounds: Any) -> Any:
    """A recipe field. `short` puts it on the short form; `bounds` are pydantic's (gt, ge, le, min_length, ...)."""
    return Field(default, title=title, description=help, json_schema_extra={"group": group, "unit": unit, "short": short}, **bounds)


class Written(yaml.SafeDumper):
    """Texts of several lines are written as they are read, line by line."""


def _line_by_line(dumper: Written, text: str) -> yaml.ScalarNode:
    if any(mark in text for mark in "\r\x85\u2028\u2029"):  # other ends of a line, which YAML reads as its own unless they are escaped
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


Written.add_representer(str, _line_by_line)


class Recipe(BaseModel):
    """A frozen description of one run. Two recipes with the same values are the same recipe (`sha256`)."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    name: str = knob(
        "model",
        "After training",
        "Name",
        "What the result is called: the folder, the GGUF files and the model card.",
        short=True,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,59}$",
    )

    base_model: str = knob(
        "starter",
        "Model",
        "Base model",
        "The model to start from: starter (ships with Transmute), a Hub id such as lmsys/vicuna-7b-v1.5, or a local folder.",
        short=True,
        min_length=1,
    )
    base_revision: str | None = knob(
        None, "Model", "Revision", "Commit, tag or branch of a Hub model. Empty takes main; the commit is recorded either way."
    )

    chat_template: Literal["model", "vicuna_v1.1"] = knob(
        "model",
        "Model",
        "Chat template",
        "How a conversation becomes text. model: the one the model comes with, right for every chat model. vicuna_v1.1: FastChat's, for base "
        "models that have none; it goes into everything made here. Another than a chat model knows makes it unlearn its own: answers run on.",
    )
    rope_scaling: Literal["none", "linear"] = knob(
        "none",
        "Model",
        "RoPE scaling",
        "linear stretches the model's positions to reach the maximum length, as FastChat does (arXiv:2306.15595). The factor is the smallest "
        "whole number that reaches it; it goes into the config of what is made. none refuses a maximum length beyond the model's positions.",
    )

    dataset: str = knob(
        "", "Data", "Dataset", "The conversations to train on: a dataset id, or a data file of any known layout.", short=True
    )
    eval_dataset: str = knob(
        "", "Data", "Evaluation dataset", "Conversations kept apart to measure on. Empty sets aside a share of the dataset (next field)."
    )
    eval_fraction: float = knob(
        0.05,
        "Data",
        "Evaluation share",
        "Share of the dataset set aside when there is no evaluation dataset. 0.02 to 0.1 is usual; "
        "with 0 nothing is measured and over-fitting goes unseen.",
        ge=0,
        le=0.5,
    )
    max_length: int = knob(
        2048,
        "Data",
        "Maximum length",
        "Longer conversations are cut at the end and lose their last answers. Memory grows with it. "
        "512 to 4096 is usual; never beyond the model's own positions, unless RoPE scaling stretches them.",
        unit="tokens",
        short=True,
        ge=16,
        le=1_048_576,
    )
    loss_on: Literal["answers", "all", "last"] = knob(
        "answers",
        "Data",
        "Loss on",
        "answers: learn to answer (FastChat's rule). all: learn the questions too (AutoTrain and the QLoRA "
        "notebook did). last: only the final answer of each conversation.",
    )
    packing: bool = knob(
        True,
        "Data",
        "Packing",
        "Puts several short conversations into one row so that nothing is spent on padding; they do not see each other.",
    )
    group_by_length: bool = knob(
        False,
        "Data",
        "Group by length",
        "Batches rows of similar length, the longest first: less padding and time when packing is off, and memory that runs out does so at once. "
        "The order is less random, so the loss goes up and down with the lengths. Of no use with packing.",
    )

    method: Method = knob(
        "qlora",
        "Method",
        "Method",
        "qlora: adapter on a 4-bit base, least memory. lora: adapter on a 16-bit base. sft: the last layers only. "
        "fft: every weight, most memory.",
        short=True,
    )
    lora_r: int = knob(
        16,
        "Method",
        "LoRA rank r",
        "Width of the low-rank update of each weight. 8 to 64 is usual: too low learns little, too high forgets more.",
        ge=1,
        le=1024,
    )
    lora_alpha: int = knob(
        32,
        "Method",
        "LoRA alpha",
        "The update is scaled by alpha / r. One to two times r is usual; raising it acts like a higher learning rate.",
        ge=1,
        le=4096,
    )
    lora_dropout: float = knob(
        0.05, "Method", "LoRA dropout", "Share of the adapter's inputs dropped while training, against over-fitting. 0 to 0.1.", ge=0, lt=1
    )
    target_modules: str = knob(
        "all-linear",
        "Method",
        "Target modules",
        "Which weights get an adapter: all-linear (usual: as good as a full fine-tune in QLoRA's paper), or names such as q_proj,v_proj, as early "
        "LoRA recipes have it. Fewer modules take less memory and learn less; a name that the model does not have is refused.",
        min_length=1,
    )
    use_rslora: bool = knob(
        False, "Method", "Rank-stabilised LoRA", "Scales by alpha / sqrt(r) (arXiv:2312.03732); steadier at r of 64 and above."
    )
    use_dora: bool = knob(
        False,
        "Method",
        "DoRA",
        "Learns the length of each weight apart from its direction (arXiv:2402.09353). Often better at r below 16; slower, with more memory.",
    )
    trainable_layers: int = knob(
        2,
        "Method",
        "Trainable layers",
        "For sft: how many of the last decoder layers learn; the rest stay as they are.",
        unit="layers",
        ge=1,
        le=1000,
    )
    train_head: bool = knob(
        False,
        "Method",
        "Output layer learns",
        "For sft: the output layer learns too. Where it is tied to the input embeddings, those learn with it, and memory grows towards fft.",
    )
    train_norms: bool = knob(
        False,
        "Method",
        "Final norm learns",
        "For sft: the norm before the output layer learns too. A few thousand weights; costs next to nothing.",
    )
    double_quant: bool = knob(
        True,
        "Method",
        "Double quantisation",
        "For qlora: quantises the quantisation constants too (arXiv:2305.14314); saves 0.4 bits per weight.",
    )
    quant_storage: Literal["uint8", "compute"] = knob(
        "uint8",
        "Method",
        "4-bit storage type",
        "For qlora: what 4-bit weights are packed into; their values and size stay the same. uint8 is usual. compute packs them into the compute "
        "dtype, without which fsdp2 and zero3 cannot share them between devices, and are refused.",
    )

    learning_rate: float = knob(
        2e-4,
        "Optimisation",
        "Learning rate",
        "Size of each update. 1e-4 to 3e-4 for adapters, 1e-5 to 2e-5 for fft and sft. Too high: the loss jumps or "
        "becomes NaN; too low: nothing changes.",
        short=True,
        gt=0,
        le=1,
    )
    lr_scheduler_type: Literal["cosine", "linear", "constant", "constant_with_warmup"] = knob(
        "cosine", "Optimisation", "Schedule", "How the learning rate falls over the run. cosine is the usual choice."
    )
    warmup_steps: float = knob(
        0.03,
        "Optimisation",
        "Warm-up",
        "Steps during which the learning rate rises from 0; below 1 it is a share of all steps (the old warmup_ratio).",
        unit="steps",
        ge=0,
    )
    weight_decay: float = knob(
        0.0,
        "Optimisation",
        "Weight decay",
        "Pulls what learns towards 0 at each step, by this times the learning rate, against over-fitting. 0 to 0.1 is usual, 0 in short "
        "fine-tunes. Too high: the model learns less than the data has.",
        ge=0,
        le=1,
    )
    max_grad_norm: float = knob(
        1.0,
        "Optimisation",
        "Gradient clipping",
        "Longer gradients are shortened to this norm, so that one odd batch does not throw the weights. 0.3 to 1 is usual. Too high: the loss "
        "jumps at such batches; far too low: every step is cut, and learning slows down.",
        gt=0,
    )
    optim: Literal["adamw_torch", "adamw_torch_fused", "paged_adamw_32bit", "paged_adamw_8bit", "adamw_8bit", "adafactor"] = knob(
        "adamw_torch",
        "Optimisation",
        "Optimizer",
        "Turns gradients into updates. adamw_torch is usual and keeps 8 bytes for each weight that learns. The 8-bit ones keep 2, a little "
        "coarser; the paged ones move them to main memory when GPU memory runs short; these need a GPU, and not fsdp2. adafactor keeps next to "
        "nothing and often learns more slowly.",
    )
    num_train_epochs: float = knob(
        3.0,
        "Optimisation",
        "Epochs",
        "How often the whole dataset is seen. 1 to 3 is usual; more learns by heart.",
        short=True,
        gt=0,
        le=1000,
    )
    max_steps: int = knob(
        0,
        "Optimisation",
        "Number of steps",
        "Trains so many optimizer steps whatever the epochs say, going through the data again where they are few. 0 leaves it to Epochs.",
        unit="steps",
        ge=0,
    )
    micro_batch_size: int = knob(
        4, "Optimisation", "Micro batch size", "Rows per device at a time. Lower it first when memory runs out.", unit="rows", ge=1, le=4096
    )
    gradient_accumulation_steps: int = knob(
        1,
        "Optimisation",
        "Gradient accumulation",
        "Micro batches added up before one optimizer step: the batch grows, memory does not. So many that a step has 16 to 128 rows on all "
        "devices is usual. Too many leave few steps, and little is learned in an epoch; with too few the loss is restless.",
        ge=1,
        le=4096,
    )
    seed: int = knob(42, "Optimisation", "Seed", "Fixes the order of the data, the new weights and the dropout.", ge=0, le=2**32 - 1)

    dtype: Literal["auto", "bf16", "fp16", "fp32"] = knob(
        "auto",
        "Memory",
        "Precision",
        "What products are computed in; weights that learn stay float32. auto takes bf16 where the GPU has it, fp16 on older GPUs. On a CPU it "
        "takes bf16 where the cores multiply it (avx512_bf16, AMX) and the model has 30M weights or more: about 1.4 times as fast, and the frozen "
        "weights of lora take half the memory; else fp32, as a smaller model gains next to nothing there. fp32 is exact and slowest.",
    )
    gradient_checkpointing: bool = knob(
        False, "Memory", "Gradient checkpointing", "Recomputes activations: about a third slower, far less memory."
    )
    attn_implementation: Literal["auto", "sdpa", "eager", "flash_attention_2"] = knob(
        "auto",
        "Memory",
        "Attention",
        "auto takes sdpa, for each packed conversation by itself. flash_attention_2 needs an NVIDIA GPU of Ampere or later.",
    )

    use_liger_kernel: bool = knob(
        False,
        "Memory",
        "Liger kernels",
        "Fused norms, RoPE and MLP (github.com/linkedin/Liger-Kernel): less memory and quicker on a GPU. Needs the package liger-kernel.",
    )

    logging_steps: int = knob(
        1,
        "Checkpoints",
        "Log every",
        "Optimizer steps between two points of the loss curve, each the mean since the last. 1 is usual, 10 in runs of many thousand steps. "
        "Larger ones hide where the loss jumps, and the time left is known later.",
        unit="steps",
        ge=1,
    )
    eval_steps: int = knob(
        0, "Checkpoints", "Evaluate every", "Optimizer steps between evaluations; 0 evaluates before and after only.", unit="steps", ge=0
    )
    early_stopping_patience: int = knob(
        0,
        "Checkpoints",
        "Stop early after",
        "Ends when this many evaluations in a row brought no lower evaluation loss. 3 is usual with Evaluate every set; 0 never stops early.",
        unit="evaluations",
        ge=0,
        le=1000,
    )
    sample_prompts: str = knob(
        "",
        "Checkpoints",
        "Sample questions",
        "Questions, one a line, at most 8, that the model answers at every evaluation, so that one sees it change. Each costs a few seconds.",
    )
    save_steps: int = knob(
        200,
        "Checkpoints",
        "Save every",
        "Optimizer steps between checkpoints; a crash loses at most this much. 0 saves only when stopped.",
        unit="steps",
        ge=0,
    )
    save_total_limit: int = knob(
        2,
        "Checkpoints",
        "Checkpoints kept",
        "Older ones are deleted once a newer one is whole. 2 or 3 is usual: with 1 there is none to go back to when it is damaged; many fill the "
        "disk, for fft with 12 bytes for each weight of the model.",
        ge=1,
        le=1000,
    )

    report_to: Literal["none", "trackio", "wandb"] = knob(
        "none",
        "Checkpoints",
        "Also log to",
        "TensorBoard files are always written. trackio and wandb write theirs beside them, without a network; each needs its package. "
        "What they wrote is sent by one click on the Runs tab, or with `sync RUN`: to wandb's server, or to a private trackio Space.",
    )

    accelerate_config: Literal["auto", "cpu", "single_gpu", "ddp", "fsdp2", "zero2", "zero2_offload", "zero3", "zero3_offload"] = knob(
        "auto",
        "Where",
        "Distribution",
        "auto: one process on one device; on several ddp where the model fits beside its optimizer, else what shares it. fsdp2 and zero3 "
        "share the weights between devices; zero2 only gradients and optimizer. The offload ones keep the optimizer (zero3 also the weights) "
        "in main memory: slower, least GPU memory.",
    )
    num_processes: int = knob(
        0, "Where", "Processes", "One per GPU. 0 takes every GPU of this machine, or one process on a CPU.", ge=0, le=1024
    )

    accelerate_yaml: str = knob(
        "",
        "Distribution files",
        "accelerate's file",
        "A configuration in YAML that takes the place of the one in spaces/accelerate. Empty leaves it to Distribution. It is checked before a "
        "start and kept with the run.",
    )
    deepspeed_json: str = knob(
        "",
        "Distribution files",
        "DeepSpeed's file",
        "For zero2 and zero3: settings in JSON that take the place of those in spaces/deepspeed. Empty leaves them to Distribution.",
    )

    levels: tuple[str, ...] = knob(
        (),
        "After training",
        "GGUF levels",
        "Quantised files made, measured and proved after training, such as f16, q8_0, q4_0, Q4_K_M. Empty makes none. "
        "Q4_K_M+imatrix is guided by an importance matrix of the training conversations.",
    )
    publish_to: str = knob(
        "",
        "After training",
        "Publish to",
        "A repository on the Hub, USER/NAME, for the result: the GGUF files where levels are made, else the merged model or the adapter. "
        "When the run is done, `train` sends it with the saved login; on the page it waits for a click of whoever is signed in. It is private "
        "at first. Empty publishes nothing.",
        pattern=r"^([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})?$",
    )

    @property
    def is_adapter(self) -> bool:
        return self.method in ADAPTER_METHODS

    @property
    def has_own_files(self) -> bool:
        """Whether it is launched with a configuration of its own, see `core.training.accelerated`."""
        return bool(self.accelerate_yaml.strip() or self.deepspeed_json.strip())

    @property
    def prompts(self) -> tuple[str, ...]:
        """The sample questions, without empty lines."""
        return tuple(line.strip() for line in self.sample_prompts.splitlines() if line.strip())

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def to_yaml(self) -> str:
        return yaml.dump(self.model_dump(mode="json"), Dumper=Written, sort_keys=False, allow_unicode=True)


def build(values: dict[str, Any], where: str) -> Recipe:
    """A recipe from plain values.

    Raises:
        UserError: one that names every field that is wrong, not only the first.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise UserError(describe(error), where, "Correct the fields named; `README.md` lists every knob with its bounds.") from None


def describe(error: ValidationError) -> str:
    """Every wrong field in one sentence: ``learning_rate: 5 - Input should be less than or equal to 1; ...``."""
    parts: list[str] = []
    for problem in error.errors():
        field = ".".join(str(part) for part in problem["loc"]) or "recipe"
        if problem["type"] == "extra_forbidden":
            parts.append(f"{field}: there is no such knob")
        else:
            parts.append(f"{field}: {problem['input']!r} - {problem['msg']}")
    return "; ".join(parts)


def load(path: Path) -> Recipe:
    """The recipe of a YAML file, checked field by field."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"There is no recipe {path}.", str(path), "Give the path of a YAML file, or use --preset NAME.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path.name} is not a YAML file: {error}", str(path), "Correct the place named.") from None
    if not isinstance(values, dict):
        raise UserError(f"{path.name} holds no mapping of knobs to values.", str(path), "Write one `knob: value` a line.")
    return build(values, str(path))


def override(recipe: Recipe, assignments: list[str]) -> Recipe:
    """`recipe` with ``key=value`` assignments applied, values read as YAML (``levels=[f16, q4_0]``, ``packing=false``)."""
    values: dict[str, Any] = recipe.model_dump(exclude_unset=True)
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator:
            raise UserError(f"{assignment!r} is not key=value.", "--set", "Write for example --set learning_rate=1e-4.")
        values[key.strip()] = _value(key.strip(), text)
    return build(values, "--set")


def _value(key: str, text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    field = Recipe.model_fields.get(key)
    default = field.default if field else None
    if isinstance(default, tuple) and not isinstance(value, list):
        return [part.strip() for part in text.split(",") if part.strip()]  # ``levels=f16,q4_0``; ``levels=`` clears it
    if value is None and isinstance(default, str):
        return ""  # ``eval_dataset=`` clears it
    is_text = isinstance(default, str) or key == "base_revision"
    if is_text and not isinstance(value, (str, list, type(None))):
        return text  # a name of digits, or a question with a colon in it
    # YAML 1.1 reads 1e-4 as text; pydantic then makes it a number where the knob is one.
    return value


def knobs() -> list[dict[str, Any]]:
    """One row per knob (name, title, group, unit, default, help) for the README's table and the form."""
    rows: list[dict[str, Any]] = []
    for name, field in Recipe.model_fields.items():
        extra = field.json_schema_extra
        assert isinstance(extra, dict)
        rows.append({"name": name, "title": field.title, "default": field.default, "help": field.description, **extra})
    return rows
