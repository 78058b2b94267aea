"""Every way in which a pickle can want to be executed, in every file that something here loads: none of them is (reliability rule R16)."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from core import paths
from core.data.tokenizer import load_tokenizer
from core.data.validate import validate
from core.errors import UserError
from core.export import artifacts
from core.export.adapter import read_adapter
from core.export.header import gguf_header
from core.export.tensors import stored_tensors
from core.training import models
from core.training.architecture import linear_names
from tests import pickles

NAMES = [*pickles.bare(Path("mark")), *pickles.boxed(Path("mark"))]
OF_THE_STARTER = sorted(file.name for file in paths.STARTER.iterdir() if file.is_file())
# Where libraries look for weights and settings of a model besides.
MORE = ("pytorch_model.bin", "model.bin", "adapter_model.bin", "adapter_model.safetensors", "training_args.bin", "optimizer.pt", "vocab.pkl",
        "added_tokens.json", "special_tokens_map.json", "vocab.json", "merges.txt", "chat_template.jinja")  # fmt: skip
SLOTS = sorted({*OF_THE_STARTER, *MORE})
# What a person is told, and what tokenizers and safetensors say of a file that is none of theirs; the page makes a sentence of it.
REFUSALS = (UserError, ValueError, OSError, TypeError, RuntimeError, KeyError, AttributeError)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "mark"


@pytest.mark.parametrize("name", list(pickles.bare(Path("mark"))))
@pytest.mark.filterwarnings("ignore")  # one leaves its file open
def test_what_is_tried_would_be_executed_where_it_is_unpickled(name: str, mark: Path) -> None:
    pickles.executed(pickles.corpus(mark)[name])
    assert mark.exists()


def model_with(folder: Path, slot: str, content: bytes) -> Path:
    """The starter, with `content` for the file `slot`."""
    shutil.copytree(paths.STARTER, folder, copy_function=lambda source, target: Path(target).symlink_to(source))
    (folder / slot).unlink(missing_ok=True)
    (folder / slot).write_bytes(content)
    return folder


def loads_of(folder: Path) -> Iterator[Callable[[], Any]]:
    yield lambda: models.resolve(str(folder))
    yield lambda: load_tokenizer(folder)
    yield lambda: linear_names(folder)
    yield lambda: artifacts.resolve(str(folder))
    yield from (lambda file=file: stored_tensors(file) for file in folder.glob("*.safetensors"))


@pytest.mark.parametrize("slot", SLOTS)
def test_no_file_of_a_model_is_unpickled(slot: str, mark: Path, tmp_path: Path) -> None:
    for name, content in pickles.corpus(mark).items():
        folder = model_with(tmp_path / "model", slot, content)
        for load in loads_of(folder):
            with suppress(*REFUSALS):
                load()
        assert not mark.exists(), name
        shutil.rmtree(folder)


@pytest.mark.parametrize("slot", ["adapter_model.safetensors", "adapter_model.bin", "adapter_config.json"])
def test_no_file_of_an_adapter_is_unpickled(slot: str, mark: Path, tmp_path: Path) -> None:
    for name, content in pickles.corpus(mark).items():
        folder = tmp_path / "adapter"
        folder.mkdir()
        paths.write_json(folder / "adapter_config.json", {"peft_type": "LORA", "r": 4, "base_model_name_or_path": str(paths.STARTER)})
        (folder / slot).write_bytes(content)
        for load in (lambda: artifacts.resolve(str(folder)), lambda: read_adapter(folder)):  # noqa: B023 - called at once
            with pytest.raises(REFUSALS) if slot != "adapter_model.safetensors" else suppress(*REFUSALS):
                load()
        assert not mark.exists(), name
        shutil.rmtree(folder)


@pytest.mark.parametrize("name", NAMES)
def test_no_dataset_and_no_gguf_file_is_unpickled(name: str, mark: Path, tmp_path: Path) -> None:
    content = pickles.corpus(mark)[name]
    for suffix in ("json", "jsonl", "csv", "parquet", "txt"):
        file = tmp_path / f"data.{suffix}"
        file.write_bytes(content)
        report = validate(file)
        assert report.num_valid == 0 and report.counts, suffix
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(UserError, match="not a usable GGUF file"):
        gguf_header(tmp_path / "model.gguf")
    assert not mark.exists()


@pytest.mark.integration
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
class TestWhatLoadsWholeModels:
    """The libraries that can unpickle, as the children of this program call them."""

    def test_transformers_and_peft_unpickle_nothing_of_a_model_or_an_adapter(self, mark: Path, tmp_path: Path) -> None:
        from core.chat import transformers_child
        from core.export import merge_whole_child, prove_child

        starter = str(paths.STARTER)
        for name, content in pickles.corpus(mark).items():
            adapter = tmp_path / "adapter"
            adapter.mkdir()
            config = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"], "base_model_name_or_path": starter}
            paths.write_json(adapter / "adapter_config.json", config)
            (adapter / "adapter_model.safetensors").write_bytes(content)
            for folder in weights_in(tmp_path, content):
                talk = {"folder": str(folder), "adapter": None, "tokenizer": starter, "threads": 1, "context_length": 64}
                merge = {"base": str(folder), "adapter": str(adapter), "out": str(tmp_path / "out"), "reason": "a test"}
                loads: list[Callable[[], Any]] = [
                    lambda talk=talk: transformers_child.load(talk),
                    lambda folder=folder: prove_child.load(str(folder), str(tmp_path)),
                    lambda merge=merge: merge_whole_child.merge(merge, lambda **_: None),
                ]
                for load in loads:
                    with pytest.raises(Exception):  # noqa: B017 - whatever the library calls it; the child's end is a sentence
                        load()
                    assert not mark.exists(), (name, folder.name)
                shutil.rmtree(folder)
            talk = {"folder": starter, "adapter": str(adapter), "tokenizer": starter, "threads": 1, "context_length": 64}
            with pytest.raises(UserError):
                transformers_child.load(talk)
            assert not mark.exists(), name
            shutil.rmtree(adapter)

    def test_the_state_of_a_run_that_goes_on_is_not_unpickled_either(self, mark: Path, tmp_path: Path) -> None:
        """Its optimizer, its schedule and its random numbers, should the seal of a checkpoint not have kept them out."""
        import torch
        from transformers import Trainer, TrainingArguments

        from core.training.trainer import AnswerTrainer

        for method in ("_load_optimizer_and_scheduler", "_load_rng_state", "_load_from_checkpoint"):
            assert getattr(AnswerTrainer, method) is getattr(Trainer, method)
        arguments = TrainingArguments(
            output_dir=str(tmp_path / "out"), max_steps=2, save_steps=1, use_cpu=True, report_to=[], disable_tqdm=True
        )
        good = {"x": torch.ones(2), "labels": torch.ones(1)}

        def train(checkpoint: Path | None) -> None:
            Trainer(Line(), args=arguments, train_dataset=[good] * 4).train(resume_from_checkpoint=checkpoint and str(checkpoint))

        class Line(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.line = torch.nn.Linear(2, 1)

            def forward(self, x: Any, labels: Any) -> Any:
                return {"loss": ((self.line(x) - labels) ** 2).mean()}

        train(None)
        saved = tmp_path / "out" / "checkpoint-1"
        states = [file.name for file in saved.iterdir() if file.suffix in (".pt", ".pth")]
        assert {"optimizer.pt", "scheduler.pt", "rng_state.pth"} <= set(states)
        made = pickles.corpus(mark)
        few = {name: made[name] for name in ("protocol 2", "torch's archive", "torch's older file")}
        for slot in [*states, "pytorch_model.bin", "model.safetensors", "training_args.bin", "trainer_state.json"]:
            for name, content in (made if slot in states else few).items():
                folder = tmp_path / "checkpoint-1"
                shutil.copytree(saved, folder)
                (folder / slot).write_bytes(content)
                with pytest.raises(Exception) if slot in states else suppress(Exception):
                    train(folder)
                assert not mark.exists(), (slot, name)
                shutil.rmtree(folder)


def weights_in(root: Path, content: bytes) -> Iterator[Path]:
    """Models whose weights are `content`: under the name of safetensors, under torch's, and under a name that an index gives."""
    for kind in ("named", "bin", "indexed"):
        folder = root / kind
        shutil.copytree(paths.STARTER, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
        match kind:
            case "named":
                (folder / "model.safetensors").write_bytes(content)
            case "bin":
                shutil.copyfile(paths.STARTER / "model.safetensors", folder / "other.safetensors")  # so that it looks like a good one
                (folder / "pytorch_model.bin").write_bytes(content)
            case _:
                weights = dict.fromkeys(stored_tensors(paths.STARTER / "model.safetensors"), "evil.bin")
                paths.write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weights})
                (folder / "evil.bin").write_bytes(content)
        yield folder
