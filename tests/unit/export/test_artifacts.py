"""A manifest that two write at once keeps what both say; an adapter knows the weights of its base, and is not merged into others."""

import threading

import pytest
import torch
from safetensors.torch import save_file

from core import paths
from core.errors import UserError
from core.export import artifacts
from core.export.artifacts import Artifact
from core.export.merge import merge_adapter
from core.export.prove import passed, proofs_of
from core.export.tensors import weights_fingerprint
from core.publish.card import proof_sentences

WEIGHTS = {f"layer.{number}": torch.randn(64, 64, generator=torch.Generator().manual_seed(number)) for number in range(4)}


def test_two_who_measure_at_once_lose_nothing_of_each_other(workspace, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    made = artifacts.write(Artifact(id="m", kind="merged", name="m"), folder)

    def measure(who):
        for number in range(20):
            artifacts.update(made, measured={f"{who}-{number}": number})

    writers = [threading.Thread(target=measure, args=(who,)) for who in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert artifacts.read(folder).measured == {f"{who}-{number}": number for who in range(4) for number in range(20)}


@pytest.mark.parametrize("damage", [b"", b'{"id": "r-1-merged", "ki', b"\x00" * 300, b"\xff\xfe", b'{"id": "r-1-merged"}'])
def test_a_manifest_that_is_damaged_hides_no_other_model(damage, workspace):
    for run_id in ("r-1", "r-2"):
        folder = paths.runs_dir() / run_id / "artifacts" / "merged"
        folder.mkdir(parents=True)
        artifacts.write(Artifact(id=f"{run_id}-merged", kind="merged", name="m", run_id=run_id), folder)
    (paths.runs_dir() / "r-1" / "artifacts" / "merged" / artifacts.MANIFEST).write_bytes(damage)
    assert [artifact.id for artifact in artifacts.everywhere()] == ["r-2-merged"]
    assert artifacts.resolve("r-2-merged").name == "m"


def model(folder, weights, shards=1):
    folder.mkdir()
    paths.write_json(folder / "config.json", {"model_type": "llama"})
    names = sorted(weights)
    parts = [names[start::shards] for start in range(shards)]
    files = ["model.safetensors"] if shards == 1 else [f"model-{number}.safetensors" for number in range(shards)]
    for file, part in zip(files, parts, strict=True):
        save_file({name: weights[name] for name in part}, folder / file)
    if shards > 1:
        weight_map = {name: file for file, part in zip(files, parts, strict=True) for name in part}
        paths.write_json(folder / "model.safetensors.index.json", {"weight_map": weight_map})
    return folder


def test_the_same_weights_in_other_files_are_the_same_and_others_of_the_same_shape_are_not(tmp_path):
    one = weights_fingerprint(model(tmp_path / "one", WEIGHTS))
    assert weights_fingerprint(model(tmp_path / "in-parts", WEIGHTS, shards=3)) == one
    tuned = {name: weight * 1.001 if name == "layer.2" else weight for name, weight in WEIGHTS.items()}
    assert weights_fingerprint(model(tmp_path / "tuned", tuned)) != one
    swapped = WEIGHTS | {"layer.0": WEIGHTS["layer.1"], "layer.1": WEIGHTS["layer.0"]}
    assert weights_fingerprint(model(tmp_path / "swapped", swapped)) != one


def test_an_adapter_is_not_merged_into_another_base_of_equal_shapes(workspace, tmp_path):
    base = model(tmp_path / "base", WEIGHTS)
    other = model(tmp_path / "Other-7B", {name: weight + 1 for name, weight in WEIGHTS.items()})
    adapter = Artifact(id="a", kind="adapter", name="Argo", base_path=str(other), base_weights=weights_fingerprint(base), folder=tmp_path)
    with pytest.raises(UserError, match="Other-7B is not the base that Argo was trained on") as refusal:
        merge_adapter(adapter, tmp_path / "out")
    assert refusal.value.code == "BASE" and not (tmp_path / "out").exists()


def test_a_base_that_is_another_one_fails_the_proof():
    assert passed({"base_identical": True}) is True and passed({"base_identical": False, "merge_kl": 0.0}) is False
    assert "The base is NOT the one that the adapter was trained on." in proof_sentences({"base_identical": False})


def test_what_one_level_says_counts_for_that_level_only():
    said = {"template_identical": True, "tokens_identical": True}
    proofs = {"merge_kl": 0.0, "gguf_kl": 0.0, **said, "levels": {"q8_0": said, "q4_0": said | {"template_identical": False}}}
    proofs |= {"passed": passed(proofs)}
    assert proofs["passed"] is False
    by_level = {level: proofs_of(Artifact(id=level, kind="gguf", level=level, name="m"), proofs) for level in ("f16", "q8_0", "q4_0")}
    assert {level: own["passed"] for level, own in by_level.items()} == {"f16": True, "q8_0": True, "q4_0": False}
    assert by_level["q4_0"]["template_identical"] is False and "levels" not in by_level["q4_0"]
    merged = proofs_of(Artifact(id="m", kind="merged", name="m"), proofs)
    assert merged["passed"] is True and "NOT those of training at q4_0" in " ".join(proof_sentences(merged))
    broken = {"levels": {"q4_0": {"error": "CRASH"}}}
    assert proofs_of(Artifact(id="q", kind="gguf", level="q4_0", name="m"), broken)["passed"] is False
