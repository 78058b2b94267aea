"""What the card of a run's model knows: the loss curve, and what of it lies on the Hub already."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from core import events, paths
from core.data.dataset import import_dataset
from core.data.statistics import text_statistics
from core.export.artifacts import Artifact
from core.publish.curve import MAX_POINTS, curve
from core.publish.datasets import prepare
from core.publish.facts import facts_of
from core.publish.ledger import is_published, remember
from core.publish.preflight import preflight
from tests.unit.publish.test_preflight import make

RUN_ID = "261123-191203-4f2a"


@pytest.fixture
def models(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Artifact, Artifact]:
    """A run's merged model and a level of it."""
    monkeypatch.setattr("core.publish.facts.template_of", lambda artifact: "")  # the file is named .gguf and is none
    run_dir = paths.runs_dir() / RUN_ID
    root = run_dir / "artifacts"
    merged = make(root, "merged", {"model.safetensors": "w"}, run_id=RUN_ID, base_model="org/base")
    events.append(run_dir, "created", run_id=RUN_ID, name="x", method="lora", steps=["train"])
    for step in range(1, 4):
        events.append(run_dir, "train_log", step=step, loss=3.0 / step)
    level = make(root, "gguf", {"m-Q4_0.gguf": "G"}, "Q4_0", run_id=RUN_ID, base_model="org/base", parent_id=merged.id)
    return merged, level


def front(artifact: Artifact) -> dict[str, object]:
    plan = preflight([artifact], "someone/x")
    return ModelCard(next(file.text or "" for file in plan.files if file.path == "README.md")).data.to_dict()


def test_languages_that_somebody_names_stand_in_the_card(models: tuple[Artifact, Artifact]) -> None:
    """Latin letters do not say which language they write."""
    assert "language" not in front(models[0])
    plan = prepare([models[0].id], "someone/x", languages=["en", "pt-BR"])
    assert ModelCard(next(file.text or "" for file in plan.files if file.path == "README.md")).data.to_dict()["language"] == ["en", "pt-BR"]


def test_a_level_names_the_published_merged_model_as_what_was_quantised(models: tuple[Artifact, Artifact]) -> None:
    merged, level = models
    assert front(level)["base_model"] == "org/base"
    remember("someone/merged", "created")
    remember("someone/merged", "pull_request", sources=[merged.id])
    assert front(level)["base_model"] == "org/base", "a pull request may be declined"
    remember("someone/merged", "committed", sources=[merged.id])
    assert front(level)["base_model"] == "someone/merged" and front(level)["base_model_relation"] == "quantized"
    assert front(merged)["base_model"] == "org/base" and front(merged)["base_model_relation"] == "finetune"
    assert is_published("someone/merged", [merged.id]) and not is_published("someone/merged", [merged.id, level.id])


@pytest.mark.parametrize(
    ("link", "written"),
    [("https://elsewhere.org/terms", "https://elsewhere.org/terms"), ("LICENSE", "https://huggingface.co/org/base/blob/main/LICENSE")],
)
def test_a_licence_of_its_own_is_named_and_linked_as_in_the_card_of_the_base(
    link: str, written: str, models: tuple[Artifact, Artifact], tmp_path: Path
) -> None:
    (tmp_path / "README.md").write_text(f"---\nlicense: other\nlicense_name: base-terms\nlicense_link: {link}\n---\n", encoding="utf-8")
    for artifact in models:
        data = front(artifact.model_copy(update={"base_path": str(tmp_path)}))
        assert (data["license"], data["license_name"], data["license_link"]) == ("other", "base-terms", written)
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    data = front(models[0].model_copy(update={"base_path": str(tmp_path)}))
    assert data["license"] == "mit" and not {"license_name", "license_link"} & set(data)


def test_the_card_names_the_published_data_and_its_language(models: tuple[Artifact, Artifact], tmp_path: Path, workspace: Path) -> None:
    file = tmp_path / "talk.json"
    file.write_text('[{"id": "1", "conversations": [{"from": "human", "value": "你是谁?"}, {"from": "gpt", "value": "我是一个助手。"}]}]')
    dataset = import_dataset(file)
    merged = models[0].model_copy(update={"dataset_id": dataset.id})
    assert "language" not in front(merged), "nobody has counted yet"
    text_statistics(dataset)
    remember("datasets/someone/talk", "committed", sources=[dataset.id])
    assert front(merged)["language"] == ["zh"] and front(merged)["datasets"] == ["someone/talk"]


def test_the_loss_curve_goes_into_the_repository_and_the_card_shows_it(models: tuple[Artifact, Artifact]) -> None:
    (models[0].folder / "other.svg").write_text("<svg/>")
    plan = preflight([models[0]], "someone/x")
    sent = {file.path: file for file in plan.files}
    assert "![Loss by optimizer step](loss.svg)" in (sent["README.md"].text or "")
    assert sent["loss.svg"].text == facts_of([models[0]]).curve and "other.svg" not in sent
    assert ElementTree.fromstring(sent["loss.svg"].text or "").tag.endswith("svg")


def test_a_curve_is_small_whatever_the_run_and_absent_without_points() -> None:
    long = curve({step: 5 / step for step in range(1, 100_000)}, {1: 3.0, 99_999: 0.5})
    assert len(long) < 20_000 and long.count(",") < 2 * MAX_POINTS + 40
    assert "evaluation loss" in long and "training loss" in long
    assert curve({}, {}) == "" == curve({1: 2.0}, {}) == curve({1: float("nan"), 2: float("inf"), 3: 1.0}, {})
    ElementTree.fromstring(curve({1: 2.0, 2: 2.0}, {}))
