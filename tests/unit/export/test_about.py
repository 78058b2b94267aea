"""What GGUF files are called and what they say about where they come from."""

import pytest

from core.data.dataset import import_dataset
from core.data.origin import HubRef, Origin
from core.export.about import file_name, gguf_metadata, size_label
from core.export.artifacts import Artifact
from core.export.levels import level
from core.paths import EXAMPLES


def test_files_are_named_as_the_convention_has_it():
    assert file_name("Starter Identity", level("q4_0")) == "Starter-Identity-Q4_0.gguf"
    assert file_name("Starter Identity", level("q4_0"), 5_262_336) == "Starter-Identity-5.3M-Q4_0.gguf"
    assert file_name("Vicuna-7B-v1.5", level("Q4_K_M"), 6_738_415_616) == "Vicuna-7B-v1.5-Q4_K_M.gguf"
    assert file_name("Mixtral-8x7B", level("f16"), 10) == "Mixtral-8x7B-F16.gguf"
    assert file_name("qwen2.5-0.5b-instruct", level("f16"), 10) == "qwen2.5-0.5b-instruct-F16.gguf"
    assert file_name("Model-v1.5", level("f16"), 10**9 + 1) == "Model-v1.5-1.0B-F16.gguf"
    assert file_name("../../etc/passwd", level("f16")) == "etc-passwd-F16.gguf"
    assert file_name("你好", level("f16")) == "你好-F16.gguf"
    assert file_name("///", level("f16")) == "Model-F16.gguf"


@pytest.mark.parametrize(
    ("count", "label"),
    [(5_262_336, "5.3M"), (6_738_415_616, "6.7B"), (13_015_864_320, "13B"), (1_100_048_384, "1.1B"), (494_032_768, "494M"), (999, "1.0K")],
)
def test_sizes_are_written_as_gguf_writes_them(count, label):
    assert size_label(count) == label


def model(**fields):
    return Artifact(id="m", kind="merged", name="m", **fields)


def test_metadata_names_the_base_model_on_the_hub_but_never_a_local_path(workspace):
    def bases(base):
        return gguf_metadata(model(base_model=base))["general.base_models"]

    address = "https://huggingface.co/lmsys/vicuna-7b-v1.5"
    assert bases("lmsys/vicuna-7b-v1.5") == [{"name": "vicuna 7b v1.5", "organization": "lmsys", "repo_url": address}]
    assert bases("/home/someone/models/secret-base") == [{"name": "secret base"}]
    assert bases("starter") == [{"name": "starter"}]
    assert "general.base_models" not in gguf_metadata(model())


def test_metadata_names_the_dataset_and_the_licence(workspace, tmp_path):
    (tmp_path / "my-data.json").write_bytes((EXAMPLES / "identity_eval.json").read_bytes())
    dataset = import_dataset(tmp_path / "my-data.json")
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# Base\n")
    known = gguf_metadata(model(dataset_id=dataset.id, base_path=str(tmp_path)))
    assert known == {"general.quantized_by": "Transmute", "general.datasets": [{"name": "my data"}], "general.license": "mit"}
    assert gguf_metadata(model()) == {"general.quantized_by": "Transmute"}
    assert gguf_metadata(model(dataset_id="ds-gone")) == {"general.quantized_by": "Transmute"}


def test_a_dataset_of_the_hub_is_named_by_its_address_and_no_other_is(workspace):
    def datasets(file, name, **origin):
        return gguf_metadata(model(dataset_id=import_dataset(EXAMPLES / file, name, origin=Origin(**origin)).id))["general.datasets"]

    chosen = HubRef(repo_id="someone/chats", config="en", split="test")
    known = {"name": "chats", "organization": "someone", "repo_url": "https://huggingface.co/datasets/someone/chats"}
    assert datasets("identity_eval.json", "someone/chats en test", kind="hub", hub=chosen) == [known]
    assert datasets("identity.json", "mine/or yours") == [{"name": "mine or yours"}]
