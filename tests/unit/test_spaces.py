"""The folder spaces/ holds data only, and every file in it is valid for the pinned libraries."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from core.paths import PROJECT, SPACES, read_json

ACCELERATE = sorted((SPACES / "accelerate").glob("*.yaml"))


def test_no_python_lies_in_spaces() -> None:
    """A local package `spaces` would hide the one from PyPI, which Gradio calls on a Space."""
    assert list(SPACES.rglob("*.py*")) == []


def test_every_accelerate_configuration_is_there() -> None:
    assert [path.stem for path in ACCELERATE] == ["cpu", "ddp", "fsdp2", "single_gpu", "zero2", "zero2_offload", "zero3", "zero3_offload"]


@pytest.mark.parametrize("path", ACCELERATE, ids=lambda path: path.stem)
def test_accelerate_reads_its_configuration(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    config = load_config_from_file(str(path))  # refuses unknown keys
    assert config.mixed_precision is None, "the training arguments decide"
    options = vars(launch_command_parser().parse_args(["script.py"]))
    assert set(config.fsdp_config) | set(config.deepspeed_config) <= set(options)


def test_fsdp2_wraps_decoder_layers_and_gathers_the_whole_state() -> None:
    import yaml
    from accelerate.utils.constants import FSDP_AUTO_WRAP_POLICY, FSDP_STATE_DICT_TYPE

    fsdp: dict[str, Any] = yaml.safe_load((SPACES / "accelerate/fsdp2.yaml").read_text())["fsdp_config"]
    assert fsdp["fsdp_version"] == 2
    assert fsdp["fsdp_auto_wrap_policy"] == "TRANSFORMER_BASED_WRAP" in FSDP_AUTO_WRAP_POLICY
    assert fsdp["fsdp_state_dict_type"] == "FULL_STATE_DICT" in FSDP_STATE_DICT_TYPE


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_files_carry_fastchats_values(stage: int) -> None:
    """playground/deepspeed_config_s2.json and _s3.json of lm-sys/FastChat, with bf16 "auto" added."""
    import yaml

    named = yaml.safe_load((SPACES / f"accelerate/zero{stage}.yaml").read_text())["deepspeed_config"]["deepspeed_config_file"]
    assert (PROJECT / named).is_file()
    plain = read_json(SPACES / f"deepspeed/zero{stage}.json")
    offload = read_json(SPACES / f"deepspeed/zero{stage}_offload.json")
    for config in (plain, offload):
        assert config["fp16"]["enabled"] == config["bf16"]["enabled"] == "auto"
        assert config["train_micro_batch_size_per_gpu"] == config["gradient_accumulation_steps"] == "auto"
        assert config["zero_optimization"]["stage"] == stage
        assert config["zero_optimization"]["overlap_comm"] is config["zero_optimization"]["contiguous_gradients"] is True
    assert offload["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    if stage == 3:
        zero = offload["zero_optimization"]
        assert zero["offload_param"] == zero["offload_optimizer"] == {"device": "cpu", "pin_memory": True}
        assert (zero["stage3_max_live_parameters"], zero["stage3_max_reuse_distance"]) == (1e9, 1e9)
        assert (zero["stage3_prefetch_bucket_size"], zero["stage3_param_persistence_threshold"]) == (5e8, 1e6)
        assert zero["sub_group_size"] == 1e12
        assert zero["stage3_gather_16bit_weights_on_model_save"] is True


def test_parameters_of_the_listed_models_follow_from_their_shapes() -> None:
    listed = tomllib.loads((SPACES / "models.toml").read_text(encoding="utf-8"))["models"]
    assert [model["id"] for model in listed[:4]] == [
        "starter",
        "lmsys/vicuna-7b-v1.5",
        "lmsys/vicuna-7b-v1.5-16k",
        "NousResearch/Llama-2-7b-chat-hf",
    ]
    for model in listed[1:]:
        assert parameters(model) == model["parameters"], model["id"]


def parameters(m: dict[str, Any]) -> int:
    """Weights of a Llama-like decoder: embeddings, attention, gated MLP and norms; Qwen3 also norms each head's queries and keys."""
    hidden, head = m["hidden_size"], m["head_dim"]
    attention = 2 * hidden * head * (m["num_attention_heads"] + m["num_key_value_heads"])
    norms = 2 * hidden + (2 * head if m["model_type"] == "qwen3" else 0)
    layer = attention + 3 * hidden * m["intermediate_size"] + norms
    embeddings = m["vocab_size"] * hidden * (1 if m["tie_word_embeddings"] else 2)
    return embeddings + m["num_hidden_layers"] * layer + hidden


def test_the_notebook_is_valid_and_its_python_compiles() -> None:
    import nbformat

    notebook = nbformat.read(SPACES / "deploy" / "colab.ipynb", as_version=4)
    nbformat.validate(notebook)
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    for source in sources:
        compile("\n".join(line for line in source.splitlines() if not line.startswith(("!", "%"))), "cell", "exec")
    commands = "\n".join(sources)
    assert '"git", "clone"' in commands and "requirements.txt" in commands and "core doctor" in commands
    assert "TRANSMUTE_PASSWORD" in commands and "secrets.token_urlsafe" in commands and "app.py --share" in commands
    assert all(not cell.get("outputs") for cell in notebook.cells)


def run_clone_cell(source: str, into: Path) -> None:
    """The notebook's first cell without the lines for the shell, with `source` typed into its field."""
    import nbformat

    cells = nbformat.read(SPACES / "deploy" / "colab.ipynb", as_version=4).cells
    code = next(cell.source for cell in cells if '"git", "clone"' in cell.source).replace("/content/transmute", str(into))
    lines = [line for line in code.splitlines() if not line.startswith(("!", "%"))]
    typed = [f"SOURCE = {source!r}" if source and line.startswith("SOURCE = ") else line for line in lines]
    assert (typed != lines) == bool(source)
    exec("\n".join(typed), {})


def test_the_notebook_clones_what_is_named_and_says_what_to_do_where_nothing_can_be_cloned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    into, origin = tmp_path / "into", tmp_path / "origin"
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "x")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "x@example.com")
    with pytest.raises(ValueError, match="Write in the field SOURCE"):
        run_clone_cell("", into)
    with pytest.raises(ValueError, match=r"not to be had from .*nowhere\. Look at the spelling"):
        run_clone_cell(f"file://{tmp_path}/nowhere", into)
    with pytest.raises(ValueError, match="not to be had"):
        run_clone_cell("--upload-pack=touch hurt", into)
    subprocess.run(["git", "init", "-q", str(origin)], check=True)
    (origin / "other.py").write_text("of another program")
    subprocess.run(["git", "-C", str(origin), "add", "."], check=True)
    subprocess.run(["git", "-C", str(origin), "commit", "-q", "-m", "x"], check=True)
    with pytest.raises(ValueError, match="not to be had"):
        run_clone_cell(f"file://{origin}", into)
    (origin / "app.py").write_text("first")
    subprocess.run(["git", "-C", str(origin), "add", "."], check=True)
    subprocess.run(["git", "-C", str(origin), "commit", "-q", "-m", "x"], check=True)
    for _ in range(2):  # a cell is run again
        run_clone_cell(f"file://{origin}", into)
        assert (into / "app.py").read_text() == "first"


def test_the_dockerfile_takes_files_and_pins_that_exist() -> None:
    import re

    lines = (SPACES / "deploy" / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY ") and "--from" not in line]
    names = [name for words in copied for name in words if not name.startswith("--")]
    assert names and all((PROJECT / name).exists() for name in names)
    pins = re.findall(r"grep -o '\^([\w-]+)==\[\^ \]\*' (requirements[\w-]*\.txt)", "\n".join(lines))
    assert pins
    for pattern, name in pins:
        assert re.search(rf"^{pattern}==\S+", (PROJECT / name).read_text(), re.MULTILINE), pattern
    assert not [line for line in lines if re.search(r"(TOKEN|SECRET|PASSWORD)", line) and not line.startswith("#")]
    (run,) = (line for line in lines if "docker run" in line)
    assert "-e TRANSMUTE_PASSWORD=" in run, "the page refuses to listen on every address without one"
    assert "ARG FLASH_ATTN=requirements" in lines
    assert {".git", ".venv", ".env*", "build"} <= set((PROJECT / ".dockerignore").read_text().splitlines())
