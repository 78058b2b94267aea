"""A dataset reaches the Hub as its conversations and a card of what is known about them, by the same road as a model."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import DatasetCard
from pyarrow import parquet

from core import paths
from core.data.clean import clean
from core.data.dataset import Dataset, import_dataset
from core.data.origin import HubRef, Origin
from core.data.split import split_dataset
from core.errors import UserError
from core.publish.datasets import preflight_datasets, prepare, size_category
from core.publish.facts import languages_of
from core.publish.ledger import is_ours
from core.publish.preflight import Plan
from core.publish.push import compare, push
from tests.hub.repos import GOOD_TOKEN
from tests.hub.server import Hub

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
REPO = "someone/talks"
SECRET = "hf_" + "CANARYcanary0123456789abcd"


def row(number: int, answer: str = "") -> dict[str, object]:
    said = answer or f"It is {number + 1}, which follows {number} as surely as night follows day."
    turns = [{"from": "human", "value": f"What comes after {number}?"}, {"from": "gpt", "value": said}]
    return {"id": f"n{number}", "conversations": turns}


def imported(folder: Path, rows: list[dict[str, object]], origin: Origin | None = None) -> Dataset:
    file = folder / "numbers.jsonl"
    file.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    return import_dataset(file, origin=origin)


def card_of(plan: Plan) -> str:
    return next(file.text or "" for file in plan.files if file.path == "README.md")


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_the_repository_holds_the_conversations_and_the_card_and_nothing_else(form: str, hub: Hub, tmp_path: Path) -> None:
    dataset = imported(tmp_path, [row(number) for number in range(40)])
    plan = prepare([dataset.id], REPO, "cc-by-4.0", form)  # type: ignore[arg-type]
    pushed = push(plan, GOOD_TOKEN)
    repo = hub.repos[("datasets", REPO)]
    assert set(repo.files) == {f"train.{form}", "README.md"} and repo.access == "private"
    assert pushed.url == f"{hub.url}/datasets/{REPO}" and is_ours(f"datasets/{REPO}") and not is_ours(REPO)
    back = tmp_path / f"back.{form}"
    back.write_bytes(repo.files[f"train.{form}"])
    rows = parquet.read_table(back).to_pylist() if form == "parquet" else [json.loads(line) for line in back.read_text().splitlines()]
    assert rows == [row(number) for number in range(40)]
    assert push(prepare([dataset.id], REPO, "cc-by-4.0", form), GOOD_TOKEN).commit == ""  # type: ignore[arg-type]


def test_a_changed_dataset_shows_what_would_change_and_sends_only_that(hub: Hub, tmp_path: Path) -> None:
    first = imported(tmp_path, [row(number) for number in range(20)])
    push(prepare([first.id], REPO), GOOD_TOKEN)
    second = prepare([imported(tmp_path, [row(number) for number in range(21)]).id], REPO)
    difference = compare(second, GOOD_TOKEN)
    assert difference.exists and difference.is_ours and difference.changed == ("README.md", "train.parquet")


def test_the_hubs_own_check_finds_nothing_wrong_with_the_card(hub: Hub, tmp_path: Path) -> None:
    origin = Origin(kind="hub", hub=HubRef(repo_id="org/numbers", split="train"), commit="c" * 40)
    dataset = imported(tmp_path, [row(number) for number in range(1200)], origin)
    text = card_of(preflight_datasets([dataset], REPO))
    card = DatasetCard(text)
    card.validate(repo_type="dataset")
    data = card.data.to_dict()
    assert data["size_categories"] == ["1K<n<10K"] and data["source_datasets"] == ["org/numbers"]
    assert data["configs"] == [{"config_name": "default", "data_files": [{"split": "train", "path": "train.parquet"}]}]
    assert "license" not in data and "Unknown: nothing here says" in text and "language" not in data
    assert "| train | train.parquet | 1,200 | 2,400 |" in text
    assert "[org/numbers](https://huggingface.co/datasets/org/numbers) (train, commit cccccccccc)" in text
    assert str(tmp_path) not in text


def test_the_card_accounts_for_a_cleaning_and_a_split(tmp_path: Path, workspace: Path) -> None:
    rows = [row(number) for number in range(30)] + [{"id": "open", "conversations": [{"from": "human", "value": "Is anybody there?"}]}]
    cleaned = clean(imported(tmp_path, rows), {"drop-rejected": {}})
    train, held_out = split_dataset(cleaned, 0.2, 7)
    plan = preflight_datasets([train, held_out], REPO)
    assert [file.path for file in plan.files] == ["train.parquet", "validation.parquet", "README.md"] and plan.problems == ()
    text = card_of(plan)
    assert "Cleaned: 31 rows came in, 30 stayed as they were, 0 were changed, 1 dropped" in text
    assert "Split: 20% were set aside to evaluate on (seed 7)" in text
    assert "| 0 | 1 | 0 |" in text, "the repair that dropped the row"


def test_a_token_in_a_conversation_stops_the_publication(hub: Hub, tmp_path: Path) -> None:
    rows = [row(number, f"My token is {SECRET}." if number == 1500 else "") for number in range(1600)]
    dataset = imported(tmp_path, rows)
    for _ in range(2):  # the second time the file is there already
        plan = prepare([dataset.id], REPO)
        assert [problem for problem in plan.problems if "access token (row 1501" in problem]
    with pytest.raises(UserError, match="cannot be published") as raised:
        push(plan, GOOD_TOKEN, despite_proofs=True)
    assert "--despite-tokens" in raised.value.remedy and ("datasets", REPO) not in hub.repos
    assert push(plan, GOOD_TOKEN, despite_tokens=True).commit, "whoever looked may know better"


def test_every_row_with_a_token_is_counted_and_talk_about_tokens_is_published(tmp_path: Path, workspace: Path) -> None:
    leaky = imported(tmp_path, [row(number, f"My token is {SECRET}, {number}.") for number in range(30)])
    (problem,) = prepare([leaky.id], REPO).problems
    assert "rows 1, 2, 3," in problem and "20 and 10 more, 30 in all" in problem
    talk = ["Use a task-oriented-dialogue-system.", "The bearer acknowledges it.", "Send Authorization: Bearer YOUR_ACCESS_TOKEN."]
    assert prepare([imported(tmp_path, [row(number, said) for number, said in enumerate(talk)]).id], REPO).problems == ()


def test_a_full_disk_is_said_before_the_file_is_written(tmp_path: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = imported(tmp_path, [row(1)])
    monkeypatch.setattr(paths.shutil, "disk_usage", lambda _: SimpleNamespace(free=256 * 2**20))
    with pytest.raises(UserError, match="The file to publish needs") as raised:
        prepare([dataset.id], REPO)
    assert raised.value.code == "DISK"


def test_models_and_datasets_do_not_mix_and_two_datasets_are_two_splits(tmp_path: Path, workspace: Path) -> None:
    dataset, other = imported(tmp_path, [row(1)]), imported(tmp_path, [row(2)])
    with pytest.raises(UserError, match="repositories of their own"):
        prepare([dataset.id, "starter"], REPO)
    assert any("are the train split" in problem for problem in preflight_datasets([dataset, other], REPO).problems)
    with pytest.raises(UserError, match="There is no dataset"):
        prepare(["ds-../../etc"], REPO)


def test_sizes_and_languages_are_the_hubs_words() -> None:
    assert [size_category(number) for number in (999, 1000, 10**6, 10**8)] == ["n<1K", "1K<n<10K", "1M<n<10M", "100M<n<1B"]
    assert languages_of({"Han": 90, "Kana": 8, "Latin": 2}) == ("zh", "ja")
    assert languages_of({"Latin": 50, "Han": 50}) == () == languages_of({})
