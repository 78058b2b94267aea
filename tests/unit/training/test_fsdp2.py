"""Weights split by FSDP2, as accelerate splits them: the loss at labels only and the fused adapters give what they give on whole ones."""

import copy
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from peft import LoraConfig, get_peft_model
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from transformers import LlamaConfig, LlamaForCausalLM
from trl.trainer.utils import add_fused_lm_head

from core.training.callbacks import is_finite
from core.training.head import score_labels_only
from core.training.layers import keep_gradients
from core.training.lora import fuse_adapters
from core.training.trainer import leave_outputs

SIZES = {"vocab_size": 101, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def accelerator() -> Iterator[SimpleNamespace]:
    """One process on the CPU, where accelerate itself would leave FSDP out."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", reshard_after_forward=True, cpu_ram_efficient_loading=False
    )
    yield SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=plugin),
        torch_device_mesh=init_device_mesh("cpu", (1,), mesh_dim_names=("fsdp",)),
        parallelism_config=SimpleNamespace(fsdp_dim_names=("fsdp",)),
        mixed_precision="no",
        is_main_process=True,
        device=torch.device("cpu"),
    )
    torch.distributed.destroy_process_group()


def model_of(kind: str, tied: bool) -> torch.nn.Module:
    torch.manual_seed(3)
    model = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=tied))
    if kind != "fft":
        lora = LoraConfig(r=4, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
        model = get_peft_model(in_4_bit(model) if kind == "qlora" else model, lora)
    add_fused_lm_head(model.get_base_model() if kind != "fft" else model, outputs=("log_probs", "entropy", "is_top1"))
    return model.train()


def in_4_bit(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """Its layers packed as a recipe with ``quant_storage: compute`` has them, of which FSDP2 can split the storage."""
    from bitsandbytes.nn import Linear4bit

    for layer in model.model.layers:
        for part in (layer.self_attn, layer.mlp):
            for name, child in list(part.named_children()):
                if isinstance(child, torch.nn.Linear):
                    packed = Linear4bit(
                        child.in_features, child.out_features, bias=False, compute_dtype=torch.float32, quant_type="nf4",
                        quant_storage=torch.float32,
                    )  # fmt: skip
                    packed.load_state_dict(child.state_dict())
                    setattr(part, name, packed.to("cpu"))
    keep_gradients(model)
    model.is_loaded_in_4bit = True
    return model


def outcome(model: torch.nn.Module) -> tuple[float, dict[str, torch.Tensor]]:
    ids = torch.randint(3, 101, (2, 17), generator=torch.Generator().manual_seed(4))
    labels = ids.masked_fill(torch.arange(17) < 6, -100)
    model.zero_grad()
    loss = model(input_ids=ids, labels=labels, fused_lm_head=True).loss
    loss.backward()
    gradients = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    return loss.item(), {name: each.full_tensor() if isinstance(each, DTensor) else each for name, each in gradients.items()}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["lora", "qlora", "fft"])
def test_split_weights_give_the_loss_and_the_gradients_of_whole_ones(kind: str, tied: bool, accelerator: SimpleNamespace) -> None:
    whole = model_of(kind, tied)
    expected_loss, expected = outcome(copy.deepcopy(whole))
    assert score_labels_only(whole.get_base_model() if kind != "fft" else whole)
    assert (fuse_adapters(whole) == 14) == (kind != "fft")
    split = fsdp2_prepare_model(accelerator, whole)
    assert any(isinstance(parameter, DTensor) for parameter in split.parameters())
    for _ in range(2):  # a second step gathers anew
        loss, gradients = outcome(split)
        assert loss == pytest.approx(expected_loss, rel=1e-5)
        assert gradients.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(gradients[name], gradient, rtol=1e-3, atol=1e-6)
    saved = get_model_state_dict(split, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, cpu_offload=True))
    learnt = {name: parameter for name, parameter in split.named_parameters() if parameter.requires_grad}
    assert learnt and all(torch.equal(saved[name], parameter.full_tensor()) for name, parameter in learnt.items()), (
        "as accelerate collects it"
    )
    assert is_finite(split)
    next(parameter for parameter in split.parameters() if parameter.requires_grad).data.fill_(float("nan"))
    assert not is_finite(split)


def test_a_loss_under_bf16_is_not_rounded_to_it(accelerator: SimpleNamespace) -> None:
    plugin = copy.copy(accelerator.state.fsdp_plugin)
    plugin.set_mixed_precision("bf16")
    sixteen_bit = SimpleNamespace(**vars(accelerator) | {"state": SimpleNamespace(fsdp_plugin=plugin), "mixed_precision": "bf16"})
    whole = model_of("lora", tied=False)
    assert score_labels_only(whole.get_base_model())
    expected, _ = outcome(copy.deepcopy(whole))
    leave_outputs(plugin)
    split = fsdp2_prepare_model(sixteen_bit, whole)
    ids = torch.randint(3, 101, (2, 17), generator=torch.Generator().manual_seed(4))
    loss = split(input_ids=ids, labels=ids.masked_fill(torch.arange(17) < 6, -100), fused_lm_head=True).loss
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(expected, rel=1e-2)
    loss.backward()
    gradients = [each.grad for name, each in split.named_parameters() if each.requires_grad]
    assert gradients and all(each is not None and each.dtype == torch.float32 for each in gradients)


def test_without_fsdp_nothing_is_changed() -> None:
    leave_outputs(None)
    plugin = SimpleNamespace(fsdp_version=2, mixed_precision_policy=None)
    leave_outputs(plugin)
    assert plugin.mixed_precision_policy is None
