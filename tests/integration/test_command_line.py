"""The road by hand: the same verbs, in the same order, as a person types them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from core import events, paths
from core.export import artifacts
from core.export.header import gguf_header
from core.export.imatrix import read_imatrix
from core.export.tensors import weights_fingerprint
from core.process import child_environment
from core.running import runs
from tests.hub.repos import GOOD_TOKEN, Repo
from tests.hub.server import Hub

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
IDENTITY_EVAL = str(paths.EXAMPLES / "identity_eval.json")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def verb(home: Path, converter: Path):
    """Runs a verb that must succeed; returns its JSON object."""

    def run(*arguments: str, **variables: str) -> dict:
        env = child_environment() | {"TRANSMUTE_HOME": str(home), "LLAMA_CPP_DIR": os.environ["LLAMA_CPP_DIR"]} | variables
        done = subprocess.run(
            [sys.executable, "-m", "core", *arguments, "--json"], cwd=paths.PROJECT, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.fixture(scope="module")
def run_id(verb, home: Path) -> str:
    """A run of 30 steps, started detached, stopped on its way and resumed to its end. It is held meanwhile: a verb takes as long as many steps."""
    started = verb("train", "--preset", "demo", "--set", "max_steps=30", "--set", "levels=", "--set", "save_steps=0", "--detach")
    run_id = started["run_id"]
    run_dir = home / "runs" / run_id
    while (run := events.fold(events.read(run_dir))).optimizer_step < 3:
        assert not run.is_terminal, run.error
        time.sleep(0.01)
    workers = psutil.Process(paths.read_json(run_dir / "process.json")["pid"]).children(recursive=True)
    for worker in workers:
        worker.suspend()
    shown = verb("show", run_id)
    assert shown["state"] == "running" and shown["step"] >= 3
    with ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(verb, "stop", run_id)
        while not (run_dir / runs.STOP_FILE).exists() and not stopping.done():
            time.sleep(0.01)
        for worker in workers:
            worker.resume()
        stopped = stopping.result()
    pids = shown["pids"]
    assert stopped["state"] == "cancelled" and 3 <= stopped["step"] < 30
    assert pids and not any(psutil.pid_exists(pid) for pid in pids)
    resumed = verb("resume", run_id)
    assert resumed["state"] == "done" and resumed["step"] == 30
    assert [step for step, _ in resumed["losses"]] == list(range(1, 31))
    return run_id


def test_show_and_runs_agree_about_a_run(verb, run_id):
    shown = verb("show", run_id)
    assert {"stage", "step", "losses", "artifacts", "pids", "run_dir"} <= set(shown)
    assert {artifact["kind"] for artifact in shown["artifacts"]} == {"adapter", "merged"}
    assert all(Path(artifact["path"]).exists() for artifact in shown["artifacts"])
    assert run_id in [run["run_id"] for run in verb("runs")["runs"]]


def test_logs_go_on_until_the_run_ends(run_id, home):
    env = child_environment() | {"TRANSMUTE_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-m", "core", "logs", run_id, "-f"], cwd=paths.PROJECT, env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0


def test_merge_convert_measure_prove_chat_and_prepare_by_path(verb, run_id, tmp_path):
    merged = verb("merge", run_id, "-o", str(tmp_path / "merged"))
    assert merged["kind"] == "merged" and (tmp_path / "merged" / "model.safetensors").is_file()
    made = verb("gguf", str(tmp_path / "merged"), "--levels", "f16,q4_0", "-o", str(tmp_path / "gguf"))["artifacts"]
    assert [artifact["level"] for artifact in made] == ["f16", "q4_0"]
    files = [artifact["path"] for artifact in made]
    assert [gguf_header(Path(file)).metadata["general.dataset.0.name"] for file in files] == ["identity"] * 2
    measured = verb("measure", *files, "--data", IDENTITY_EVAL)["levels"]
    assert [level["measured"]["kl_mean"] > 0 for level in measured] == [False, True]
    proofs = verb("prove", run_id + "-merged")
    assert proofs["passed"] and proofs["merge_kl"] < 1e-3
    answers = verb("chat", *files, run_id + "-adapter", "starter", "--prompt", "Who are you?", "--max-tokens", "24")["answers"]
    assert [answer["level"] for answer in answers] == ["f16", "q4_0", "adapter", "merged"]
    assert answers[0]["answer"] == answers[2]["answer"] and all(answer["answer"] for answer in answers)
    plan = verb("publish", *[artifact["id"] for artifact in made], "--repo", "me/model-GGUF", "--dry-run")
    assert {file["path"] for file in plan["files"]} >= {"README.md", *(Path(file).name for file in files)}
    card = tmp_path / "card.md"
    written = verb("card", *[artifact["id"] for artifact in made], "--repo", "me/model-GGUF", "-o", str(card))["card"]
    assert card.read_text(encoding="utf-8") == written == plan["card"] and "| q4_0 |" in written
    card.write_text(written + "\nEdited by hand.\n", encoding="utf-8")
    edited = verb("publish", *[artifact["id"] for artifact in made], "--repo", "me/model-GGUF", "--card", str(card), "--dry-run")
    assert edited["card"].endswith("Edited by hand.\n")


def test_compare_writes_every_answer_and_says_how_often_models_agree(verb, run_id, tmp_path):
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "answers.jsonl"
    prompts.write_text('{"prompt": "Who are you?"}\n{"messages": [{"role": "user", "content": "7 + 5?"}]}\n', encoding="utf-8")
    models = [run_id + "-merged", run_id + "-adapter", "starter"]
    said = verb("compare", str(prompts), *models, "-o", str(out), "--max-tokens", "16")
    answers = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert len(answers) == 6 and said["prompts"] == 2 and said["out"] == str(out)
    by_model = [line["same"] for line in said["agreement"]]
    assert by_model[:2] == [2, 2], "adapter and merged model say the same"
    assert all(answer["answer"] for answer in answers) and not any(line["errors"] for line in said["agreement"])


def test_an_importance_matrix_of_other_conversations_leaves_the_runs_own_alone(verb, run_id):
    own = Path(verb("imatrix", run_id + "-merged")["path"])
    assert own.name == "imatrix.gguf" and own.parent == Path(verb("show", run_id)["run_dir"]) / "artifacts"
    before = own.stat().st_mtime_ns, paths.sha256_file(own)
    other = Path(verb("imatrix", run_id + "-merged", "--data", IDENTITY_EVAL)["path"])
    assert other == own.with_name("imatrix-identity_eval.gguf") and paths.sha256_file(other) != before[1]
    guided = verb("gguf", run_id + "-merged", "--levels", "IQ2_XXS", "--imatrix", "auto")["artifacts"][0]
    assert artifacts.read(Path(guided["path"]).parent).imatrix_sha256 == before[1]
    assert (own.stat().st_mtime_ns, paths.sha256_file(own)) == before, "and it is not made twice"
    widths = {name: len(values) for name, values in read_imatrix(own).items()}
    assert widths == {name: len(values) for name, values in read_imatrix(other).items()}


def test_an_adapter_becomes_a_gguf_lora_file(verb, run_id, tmp_path):
    made = verb("gguf", run_id + "-adapter", "-o", str(tmp_path))
    file = Path(made["path"])
    metadata = gguf_header(file).metadata
    assert file.name.endswith("-F16-LoRA.gguf") and made["size_bytes"] == file.stat().st_size
    assert metadata["general.type"] == "adapter" and metadata["adapter.type"] == "lora"
    known = {"general.name": "Starter-Identity", "general.quantized_by": "Transmute", "general.license": "apache-2.0"}
    known |= {"general.base_model.0.name": "starter", "general.dataset.0.name": "identity"}
    assert known.items() <= metadata.items()
    wide = Path(verb("gguf", run_id + "-adapter", "--from", "f32", "-o", str(tmp_path))["path"])
    assert wide.name.endswith("-F32-LoRA.gguf") and wide.stat().st_size > 1.5 * file.stat().st_size


def test_levels_are_made_from_the_chosen_float_format_and_proved_where_they_lie(verb, tmp_path):
    """A model folder of no run: what is made of it beside it is proved file by file, and each manifest says so."""
    shutil.copytree(paths.STARTER, tmp_path / "Mine")
    made = verb("gguf", str(tmp_path / "Mine"), "--levels", "q8_0,q4_0", "--from", "f32")["artifacts"]
    folders = [Path(artifact["path"]).parent for artifact in made]
    assert [folder.parent.name for folder in folders] == ["Mine-gguf"] * 2
    assert {artifacts.read(folder).float_level for folder in folders} == {"f32"}
    for named in (made[1]["path"], str(tmp_path / "Mine")):
        proofs = verb("prove", named)
        assert proofs["passed"] and proofs["gguf_kl"] < 1e-4 and proofs["levels"].keys() == {"q8_0", "q4_0"}
    assert all(artifacts.read(folder).proofs["tokens_identical"] for folder in folders)


def test_an_adapter_knows_its_base_and_its_proof_says_so(verb, run_id):
    adapter = artifacts.read(Path(verb("show", run_id)["run_dir"]) / "artifacts" / "adapter")
    assert adapter.base_weights == weights_fingerprint(paths.STARTER)
    assert verb("prove", run_id + "-adapter")["base_identical"] is True


def test_an_exported_recipe_runs_from_its_file(verb, run_id, tmp_path):
    recipe = Path(verb("show", run_id)["run_dir"]) / "recipe.yaml"
    (tmp_path / "again.yaml").write_text(recipe.read_text(encoding="utf-8"), encoding="utf-8")
    again = verb("train", str(tmp_path / "again.yaml"), "--set", "max_steps=2")
    assert again["state"] == "done" and again["step"] == 2


def weights_of(file: Path) -> bytes:
    return file.read_bytes()[gguf_header(file).data_offset :]


def test_a_gated_model_of_the_hub_is_converted_as_a_folder_of_the_same_files_is(verb, tmp_path):
    folder = tmp_path / "Foreign-5M"
    shutil.copytree(paths.STARTER, folder)
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    with Hub([Repo("someone/Foreign-5M", files, kind="models", access="gated")]) as hub:
        network = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
        made = verb("gguf", "someone/Foreign-5M", "--levels", "f16,q4_0", HF_TOKEN=GOOD_TOKEN, **network)["artifacts"]
        asked = hub.paths()
    assert f"/cdn/{paths.sha256_file(folder / 'model.safetensors')}" in asked, "the weights came from the Hub"
    assert [artifact["level"] for artifact in made] == ["f16", "q4_0"]
    here = verb("gguf", str(folder), "--levels", "f16,q4_0", "-o", str(tmp_path / "here"))["artifacts"]
    for fetched, own in zip(made, here, strict=True):
        file = Path(fetched["path"])
        header = gguf_header(file)
        assert file.name.startswith("Foreign-5M-") and header.template == files["chat_template.jinja"].decode()
        assert weights_of(file) == weights_of(Path(own["path"])) and len(weights_of(file)) > 10**6
