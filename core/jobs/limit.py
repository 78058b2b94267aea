"""How long a job may take: a rough expectation from the model's size and the data, with a wide margin. A job without a limit ends after 30 minutes."""

from __future__ import annotations

from core.data.dataset import Dataset
from core.data.tokenizer import ChatTokenizer
from core.training import estimate, shapes
from core.training.architecture import read_config
from core.training.hardware import Hardware
from core.training.models import ModelRef
from core.training.recipe import Recipe

# Dense bf16 TFLOP/s (fp16 on the T4) of NVIDIA's data sheets, by a word of the name; whoever is not listed counts as an A10G.
TFLOPS = {"T4": 65, "L40S": 362, "L4": 121, "A10G": 70, "A100": 312, "H200": 989, "RTX PRO 6000": 503}
UTILISATION = 0.2  # of that, reached by an adapter with checkpointed activations; well-tuned training reaches twice that
CPU_FLOPS = 2e10  # per core; 1,050 tokens/s of a 5M model on one thread measured
SETUP_S = 1800.0  # installing, fetching, starting
STORE_BYTES_PER_S = 50e6  # to and from the Hub
EXPORT_S_PER_WEIGHT = 120 / 1e9  # merging, converting, each level and its measurement
MARGIN = 3.0
LEAST_S = 3600


def expected_s(recipe: Recipe, model: ModelRef, dataset: Dataset, tokenizer: ChatTokenizer, machine: Hardware) -> float:
    """Seconds from the machine's start to the results' arrival."""
    count = shapes.shapes(read_config(model.path)).total
    steps = estimate.steps(dataset, tokenizer, recipe, machine)
    rows = recipe.micro_batch_size * recipe.gradient_accumulation_steps * max(1, recipe.num_processes or len(machine.gpus))
    flops = 8.0 * count * steps * rows * recipe.max_length  # 6 per weight and token, and a second forward pass for checkpointing
    levels = 2 + len(recipe.levels)
    return SETUP_S + flops / speed(machine) + count * (levels * EXPORT_S_PER_WEIGHT + 4 / STORE_BYTES_PER_S)


def speed(machine: Hardware) -> float:
    """Floating-point operations per second that training reaches on all devices together."""
    if not machine.gpus:
        return machine.cpu_count * CPU_FLOPS
    peak = next((tflops for word, tflops in TFLOPS.items() if word in machine.gpus[0].name), TFLOPS["A10G"])
    return len(machine.gpus) * peak * 1e12 * UTILISATION


def timeout_s(recipe: Recipe, model: ModelRef, dataset: Dataset, tokenizer: ChatTokenizer, machine: Hardware) -> int:
    """The time limit: the expectation three times over, and at least an hour."""
    return max(LEAST_S, int(MARGIN * expected_s(recipe, model, dataset, tokenizer, machine)))
