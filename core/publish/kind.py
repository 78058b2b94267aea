"""What the Space that this is can do and what it cannot, by its hardware, and why: said to its owner before anything is tried."""

from __future__ import annotations

from core.publish.space import Advice, settings_url
from core.training.hardware import Hardware, detect, is_zero_gpu
from core.units import size

ELSEWHERE = (
    "A larger model trains on a rented machine (Train tab, Where it runs), or here after choosing hardware with a GPU in the settings."
)


def kind(hardware: Hardware | None = None) -> Advice | None:
    """The advice for this Space; None on a machine that is none."""
    if not settings_url():
        return None
    if is_zero_gpu():
        return _zero_gpu()
    hardware = hardware or detect()
    if not hardware.gpus:
        return _cpu()
    return _one(hardware) if len(hardware.gpus) == 1 else _several(hardware)


def _zero_gpu() -> Advice:
    said = "ZeroGPU: the GPU is lent to this page for a minute at a time. Chat uses it; training happens on the CPU or elsewhere."
    steps = (
        "Chat with a merged model or an adapter runs on the GPU. Levels (GGUF) answer on the CPU: llama.cpp has a process of its own.",
        "The starter model trains here, on the CPU: a training is a process of its own that outlives this page, and ZeroGPU lends it nothing.",
        "Merging, converting and quantising run on the CPU: they wait for the disk, not for arithmetic, and cost none of your GPU minutes.",
        ELSEWHERE,
    )
    return Advice(said, steps, settings_url())


def _cpu() -> Advice:
    said = "This Space has no GPU: the starter model trains here in minutes, and models of any size can be looked at, merged and quantised."
    steps = ("Data is checked and cleaned here as fast as anywhere; chat with small levels answers on the CPU.", ELSEWHERE)
    return Advice(said, steps, settings_url())


def _one(hardware: Hardware) -> Advice:
    gpu = hardware.gpus[0]
    said = f"This Space has one GPU, {gpu.name} with {size(gpu.vram_bytes)}: whatever the estimate on the Train tab says fits trains here."
    steps = ("Runs wait for one another, and chats share the GPU with them.", _bf16(hardware), ELSEWHERE)
    return Advice(said, tuple(filter(None, steps)), settings_url())


def _several(hardware: Hardware) -> Advice:
    gpus = hardware.gpus
    said = f"This Space has {len(gpus)} GPUs, {gpus[0].name} with {size(gpus[0].vram_bytes)} each: a run uses all of them."
    steps = (
        "A model that fits on one GPU learns from several batches at once (ddp); one that does not is spread over all (fsdp2, zero3).",
        "Runs wait for one another: they do not share the GPUs out among them.",
        _bf16(hardware),
    )
    return Advice(said, tuple(filter(None, steps)), settings_url())


def _bf16(hardware: Hardware) -> str:
    return (
        ""
        if hardware.has_bf16
        else "This GPU has no bf16 and no flash attention: recipes that ask for them need dtype auto or fp16, and sdpa."
    )
