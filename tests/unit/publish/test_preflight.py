"""What would be sent is exactly the allow-list, and what speaks against it is said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from core import paths
from core.errors import UserError
from core.export import artifacts
from core.export.artifacts import Artifact
from core.publish.preflight import WINDOW, describe, preflight, repo_problems, suggest_repo_id
from tests.unit.export import gguf_files

TOKEN = "hf_" + "CANARYcanary0123456789abcd"
PROVED = {"template_identical": True, "tokens_identical": True, "merge_kl": 2e-7, "merge_top1": 1.0, "passed": True}


def make(root: Path, kind: artifacts.Kind, files: dict[str, str], level: str | None = None, **fields: object) -> Artifact:
    """A real artifact on disk: `files` (name to text) and a manifest with their hashes."""
    folder = root / (kind if level is None else f"{kind}-{level}")
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    values = {
        "id": folder.name.lower(),
        "kind": kind,
        "level": level,
        "name": "Starter-Identity",
        "base_model": "starter",
        "proofs": PROVED,
    }
    return artifacts.write(Artifact.model_validate(values | fields), folder)


def merged(root: Path, **fields: object) -> Artifact:
    files = {
        "config.json": "{}",
        "model.safetensors": "weights",
        "tokenizer.json": "{}",
        "tokenizer.model": "pieces",
        "chat_template.jinja": "{{ 1 }}",
    }
    return make(root, "merged", files, **fields)


def gguf(root: Path, level: str) -> Artifact:
    return make(root, "gguf", {f"Starter-Identity-{level}.gguf": "GGUF"}, level)


@pytest.fixture(autouse=True)
def templates_need_no_real_gguf(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files here are named .gguf and are not; reading one is tested with the header."""
    monkeypatch.setattr("core.publish.facts.template_of", lambda artifact: "{{ messages }}")


def test_only_the_files_of_the_model_are_sent(tmp_path: Path, workspace: Path) -> None:
    artifact = merged(tmp_path)
    junk = [
        "training_args.bin",
        "optimizer.pt",
        "optimizer.safetensors",
        "scheduler.pt",
        "rng_state.pth",
        "pytorch_model.bin",
        "worker.log",
    ]
    junk += ["trainer_state.json", ".hidden.json", "events.jsonl", "adapter.pkl", "notes.md/optimizer.json", "manifest.json", "README.md"]
    for name in junk:
        if not (artifact.folder / name).exists():
            (artifact.folder / name).parent.mkdir(exist_ok=True)
            (artifact.folder / name).write_text("junk")
    (artifact.folder / "elsewhere.json").symlink_to("/etc/hostname")
    plan = preflight([artifact], "someone/Starter-Identity")
    sent = {file.path for file in plan.files}
    model = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer.model", "chat_template.jinja"}
    assert sent == model | {"README.md", "transmute.json"}
    assert {item.path for item in plan.refused} == {*junk, "elsewhere.json"}
    assert plan.problems == ()
    assert plan.total_bytes == sum(file.size_bytes for file in plan.files) > 0


def test_licence_texts_are_passed_on_also_those_of_the_base(tmp_path: Path, workspace: Path) -> None:
    own = make(tmp_path, "merged", {"model.safetensors": "w", "LICENSE": "terms", "NOTICE": "notice", "USE_POLICY.md": "policy"})
    sent = {file.path for file in preflight([own], "someone/x").files}
    assert {"LICENSE.txt", "NOTICE.txt", "USE_POLICY.md"} <= sent
    base, blob = tmp_path / "hub" / "snapshots" / "c0ffee", tmp_path / "hub" / "blobs" / "e1"
    for folder in (base, blob.parent):
        folder.mkdir(parents=True)
    blob.write_text("terms")
    (base / "LICENSE").symlink_to(blob)
    (base / "NOTICE").symlink_to("/etc/hostname")
    adapter = make(tmp_path, "adapter", {"adapter_model.safetensors": "w"}, base_path=str(base))
    assert {"LICENSE.txt"} == {file.path for file in preflight([adapter], "someone/x").files if file.path.endswith(".txt")}
    rooms = paths.runs_dir() / "261123-191203-4f2a" / "artifacts"
    whole = make(rooms, "merged", {"model.safetensors": "w", "LICENSE": "terms"}, run_id="261123-191203-4f2a")
    of_whole = {"run_id": whole.run_id, "parent_id": whole.id}
    plan = preflight([gguf(rooms, level).model_copy(update=of_whole) for level in ("Q4_0", "F16")], "someone/x-GGUF")
    assert {"LICENSE.txt"} == {file.path for file in plan.files if file.path.endswith(".txt")} and plan.problems == ()


def test_a_token_in_a_file_keeps_that_file_back(tmp_path: Path, workspace: Path) -> None:
    artifact = merged(tmp_path)
    (artifact.folder / "generation_config.json").write_text(json.dumps({"token": TOKEN}))
    plan = preflight([artifact], "someone/x")
    assert [(item.path, item.reason) for item in plan.refused if item.path == "generation_config.json"] == [
        ("generation_config.json", "holds what looks like an access token")
    ]
    assert TOKEN not in json.dumps(describe(preflight([artifact], "someone/x")))


def test_a_token_in_a_file_of_the_model_itself_stops_the_publication(tmp_path: Path, workspace: Path) -> None:
    """Left out silently, the file would be missing from the model."""
    files = {"config.json": "{}", "model.safetensors": "w", "tokenizer.json": json.dumps({"token": TOKEN})}
    plan = preflight([make(tmp_path, "merged", files)], "someone/x")
    assert plan.problems == plan.token_problems == ("tokenizer.json of merged holds what looks like an access token; take it out there.",)
    assert "tokenizer.json" in {file.path for file in plan.files}


@pytest.mark.parametrize("before", [3 * WINDOW, WINDOW - len(TOKEN) // 2])
def test_a_text_file_of_any_size_is_looked_through(before: int, tmp_path: Path, workspace: Path) -> None:
    artifact = merged(tmp_path)
    (artifact.folder / "vocab.json").write_text("x " * (before // 2) + TOKEN)
    (artifact.folder / "merges.txt").write_bytes(b"caf\xe9 " * WINDOW + str(workspace).encode())
    plan = preflight([artifact], "someone/x")
    assert "vocab.json" in {item.path for item in plan.refused}
    assert any("merges.txt names a folder of this machine" in problem for problem in plan.problems)


def test_a_folder_of_this_machine_inside_a_file_is_a_problem(tmp_path: Path, workspace: Path) -> None:
    artifact = make(tmp_path, "merged", {"config.json": json.dumps({"_name_or_path": str(workspace / "x")}), "model.safetensors": "w"})
    assert any("names a folder of this machine" in problem for problem in preflight([artifact], "someone/x").problems)


def test_the_published_provenance_has_no_local_paths(tmp_path: Path, workspace: Path) -> None:
    run_dir = paths.runs_dir() / "261123-191203-4f2a"
    recipe = {"method": "qlora", "dataset": str(tmp_path / "identity.json"), "base_model": "starter", "learning_rate": 1e-4}
    paths.write_text(run_dir / "recipe.yaml", "\n".join(f"{key}: {value}" for key, value in recipe.items()))
    paths.write_json(run_dir / "dataset.json", {"train": {"name": str(tmp_path / "identity.json"), "num_rows": 3}})
    artifact = merged(tmp_path, run_id=run_dir.name, base_path=str(tmp_path / "base"), base_model=str(tmp_path / "my-base"))
    plan = preflight([artifact], "someone/x")
    written = {file.path: file.text or "" for file in plan.files if file.local is None}
    assert set(written) == {"README.md", "transmute.json"}
    for text in written.values():
        assert str(tmp_path) not in text
    provenance = json.loads(written["transmute.json"])
    assert provenance["recipe"]["dataset"] == "identity.json"
    assert provenance["artifacts"][0]["base_model"] == "my-base"
    assert {file["name"] for file in provenance["artifacts"][0]["files"]} >= {"config.json", "model.safetensors"}


def test_the_headers_of_weights_are_looked_through_for_tokens_and_folders(tmp_path: Path, workspace: Path) -> None:
    whole = make(tmp_path, "merged", {"config.json": "{}"})
    save_file({"w": np.zeros(2, np.float32)}, whole.folder / "model.safetensors", metadata={"from": f"{workspace}/base"})
    whole = artifacts.write(whole, whole.folder)
    assert any("model.safetensors names a folder of this machine" in problem for problem in preflight([whole], "someone/x").problems)
    level = make(tmp_path, "gguf", {"readme.txt": ""}, "Q4_0")
    said = gguf_files.entry("general.description", gguf_files.STRING, gguf_files.text(f"made with {TOKEN}"))
    (level.folder / "x-Q4_0.gguf").write_bytes(gguf_files.gguf([gguf_files.ARCHITECTURE, said]))
    plan = preflight([artifacts.write(level, level.folder)], "someone/x-GGUF")
    assert [problem for problem in plan.token_problems if "x-Q4_0.gguf" in problem]


def test_what_is_too_large_for_the_hub_is_said_before_it_is_sent(tmp_path: Path, workspace: Path) -> None:
    artifact = merged(tmp_path)
    with (artifact.folder / "model.safetensors").open("r+b") as file:
        file.truncate(101 * 10**9)  # a hole: it takes no space
    plan = preflight([artifact.model_copy(update={"files": ()})], "someone/x")
    assert plan.problems == () and any("101.0 GB are more than the 100.0 GB" in note for note in plan.notes)
    with (artifact.folder / "model.safetensors").open("r+b") as file:
        file.truncate(501 * 10**9)
    plan = preflight([artifact.model_copy(update={"files": ()})], "someone/x")
    assert plan.problems == ("model.safetensors has 501.0 GB, and the Hub takes no file above 500.0 GB.",)


def test_several_levels_share_one_repository(tmp_path: Path, workspace: Path) -> None:
    plan = preflight([gguf(tmp_path, "Q4_0"), gguf(tmp_path, "F16")], "someone/Starter-Identity-GGUF")
    assert [file.path for file in plan.files][:2] == ["Starter-Identity-Q4_0.gguf", "Starter-Identity-F16.gguf"]
    assert plan.problems == ()
    assert plan.proofs["passed"] is True


def test_kinds_do_not_share_a_repository(tmp_path: Path, workspace: Path) -> None:
    plan = preflight([gguf(tmp_path, "Q4_0"), merged(tmp_path)], "someone/x")
    assert "gguf and merged artifacts belong in repositories of their own." in plan.problems


def test_a_failed_proof_and_a_changed_file_are_problems(tmp_path: Path, workspace: Path) -> None:
    artifact = merged(tmp_path, proofs=PROVED | {"passed": False})
    (artifact.folder / "model.safetensors").write_text("other weights")
    problems = " ".join(preflight([artifact], "someone/x").problems)
    assert "A proof of merged does not hold" in problems
    assert "model.safetensors of merged has changed" in problems


def test_a_proof_that_broke_blocks_and_one_without_a_comparison_is_a_note(tmp_path: Path, workspace: Path) -> None:
    broke = preflight([merged(tmp_path / "a", proofs={"passed": False, "error": "DECODE"})], "someone/x")
    assert broke.problems == broke.proof_problems and "could not be made (DECODE)" in broke.problems[0]
    bare = preflight([merged(tmp_path / "b", proofs={"passed": None, "num_positions": 3})], "someone/x")
    assert not bare.proof_problems and any("is not proved" in note for note in bare.notes) and bare.proofs["passed"] is False


def test_what_is_not_proved_or_has_no_weights_is_said(tmp_path: Path, workspace: Path) -> None:
    artifact = make(tmp_path, "adapter", {"adapter_config.json": "{}"}, proofs={})
    plan = preflight([artifact], "someone/x-adapter")
    assert "There are no weights among the files." in plan.problems
    assert any("is not proved" in note for note in plan.notes)
    assert any("embedded starter" in note for note in plan.notes)


@pytest.mark.parametrize(
    "repo_id", ["no-owner", "a/b/c", "some one/x", "someone/-x", "someone/x..y", "someone/" + "x" * 120, "someone/x.git", ""]
)
def test_a_bad_repository_name_is_a_problem(repo_id: str) -> None:
    assert len(repo_problems(repo_id)) == 1


def test_names_are_suggested_by_the_hubs_habits(tmp_path: Path) -> None:
    assert repo_problems("someone/Starter-Identity") == []
    assert suggest_repo_id([gguf(tmp_path, "Q4_0")], "someone/x") == "someone/x-GGUF"
    assert suggest_repo_id([gguf(tmp_path, "Q4_0")], "someone/x-gguf") == "someone/x-gguf"
    assert suggest_repo_id([merged(tmp_path)], "someone/x") == "someone/x"


def test_nothing_chosen_is_an_error_with_a_remedy() -> None:
    with pytest.raises(UserError, match="Nothing is chosen"):
        preflight([], "someone/x")


def test_the_dry_run_is_plain_json(tmp_path: Path, workspace: Path) -> None:
    plan = json.loads(json.dumps(describe(preflight([merged(tmp_path)], "someone/x"))))
    about = {"repo_id", "suggested_repo_id", "repo_type", "files", "total_bytes", "card", "curve"}
    assert set(plan) == about | {"refused", "problems", "notes", "proofs"}
    assert plan["card"].startswith("---\n")
    assert {"path", "size_bytes", "local"} == set(plan["files"][0])
