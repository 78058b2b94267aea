"""Where a job runs, what it may cost, how long it may take, and what travels."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from huggingface_hub import Volume
from huggingface_hub.errors import HfHubHTTPError

from core import paths
from core.data.dataset import take_data
from core.errors import UserError
from core.hubclient import api
from core.jobs import bundle, client, installed, limit, target
from core.running import runs
from core.training import models, prepare
from core.training.hardware import flavours
from core.training.presets import preset
from tests.hub.faults import Fault
from tests.hub.repos import GOOD_TOKEN
from tests.hub.server import Hub
from tests.unit.jobs.conftest import RUN_ID


def test_every_flavour_with_a_price_for_jobs_is_offered_and_has_its_gpus():
    assert {each.name for each in target.offered()} == {each.name for each in flavours() if each.job_usd_per_h is not None}
    machine = target.hardware("a10g-largex4")
    assert len(machine.gpus) == 4 and machine.has_bf16 and machine.torch.cuda
    assert not target.hardware("t4-small").has_bf16 and target.hardware("cpu-basic").gpus == ()


@pytest.mark.parametrize("on", ["", "jobs", "jobs:", "jobs:nothing", "space:l4x1", "jobs:zero-a10g", "jobs:l4x1 --rm"])
def test_any_other_place_is_refused_with_what_there_is(on: str):
    with pytest.raises(UserError):
        target.parse(on)


@pytest.mark.parametrize(("text", "length_s"), [("90m", 5400), ("6h", 21600), ("1.5h", 5400), ("2d", 172800), ("60", 60)])
def test_a_time_limit_is_read(text: str, length_s: int):
    assert target.seconds(text) == length_s


@pytest.mark.parametrize("text", ["", "0", "59", "-1h", "1w", "soon", "h", "1e9h"])
def test_no_time_limit_is_refused(text: str):
    with pytest.raises(UserError):
        target.seconds(text)


def test_the_image_is_the_one_asked_for_or_this_space_or_a_public_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("SPACE_ID", raising=False)
    assert target.image_for("cpu-basic") == target.CPU_IMAGE and target.image_for("l4x1") == target.GPU_IMAGE
    monkeypatch.setenv("SPACE_ID", "someone/space")
    assert target.image_for("l4x1") == "hf.co/spaces/someone/space"
    assert target.image_for("l4x1", "python:3.12") == "python:3.12"
    with pytest.raises(UserError):
        target.image_for("l4x1", "--privileged")


def test_the_price_is_the_hubs_own_and_that_of_our_list_for_what_it_does_not_name(hub: Hub):
    assert target.price_now("l4x1", GOOD_TOKEN) == pytest.approx(0.8, abs=0.01)
    assert target.price_now("h200", GOOD_TOKEN) == target.flavour("h200").job_usd_per_h
    hub.faults.append(Fault("GET /api/jobs/hardware", "status", 503, times=100))
    with pytest.raises(UserError):
        target.price_now("l4x1", GOOD_TOKEN)


def test_a_job_gets_three_times_what_it_is_expected_to_take_and_an_hour_at_least(run_dir: Path):
    model = models.resolve("starter")
    recipe = preset("demo")
    dataset = take_data(recipe.dataset)
    tokenizer = prepare.tokenizer_of(recipe, model)
    machine = target.hardware("cpu-basic")
    short = limit.timeout_s(recipe, model, dataset, tokenizer, machine)
    long = limit.timeout_s(recipe.model_copy(update={"max_steps": 0, "num_train_epochs": 500.0}), model, dataset, tokenizer, machine)
    faster = limit.timeout_s(
        recipe.model_copy(update={"max_steps": 0, "num_train_epochs": 500.0}), model, dataset, tokenizer, target.hardware("l4x1")
    )
    assert limit.LEAST_S <= short < faster < long
    evaluates = recipe.model_copy(update={"max_steps": 0, "num_train_epochs": 500.0, "eval_steps": 1, "eval_fraction": 0.0})
    without = evaluates.model_copy(update={"eval_dataset": ""})
    assert evaluates.eval_dataset and not without.eval_fraction
    assert limit.timeout_s(evaluates, model, dataset, tokenizer, machine) > limit.timeout_s(without, model, dataset, tokenizer, machine)


def test_the_bundle_is_the_same_for_the_same_contents_and_holds_only_what_is_allowed(run_dir: Path):
    (run_dir / "artifacts").mkdir()
    (run_dir / "artifacts" / "secret.json").write_text("{}")
    first = paths.sha256_file(bundle.write(run_dir))
    assert paths.sha256_file(bundle.write(run_dir)) == first
    with tarfile.open(run_dir / bundle.NAME) as tar:
        names = tar.getnames()
        assert all(member.isfile() and member.mtime == 0 and member.uid == 0 for member in tar.getmembers())
    assert {name.partition("/")[0] for name in names} == {"core", "spaces", "examples", "job", "requirements.txt"}
    assert {"core/jobs/remote.py", "core/worker.py", "job/recipe.yaml", "examples/starter/model.safetensors"} <= set(names)
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".bin", ".pt")) or "secret" in name]


def test_the_recipe_travels_with_data_by_id(run_dir: Path):
    recipe = bundle.travelling(run_dir)
    assert recipe.dataset.startswith("ds-") and recipe.eval_dataset.startswith("ds-") and recipe.base_model == "starter"


def test_the_command_is_a_list_without_a_token_and_the_bootstrap_is_python(run_dir: Path):
    command = client.command("someone/repo", "a" * 40, "b" * 64, RUN_ID)
    assert command[:2] == ["python", "-c"] and command[3:] == ["someone/repo", "a" * 40, "b" * 64, RUN_ID]
    compile(command[2], "bootstrap", "exec")
    job = target.of_run(run_dir)
    assert GOOD_TOKEN not in str(client.environment(job)) and not any("TOKEN" in name for name in client.environment(job))


def test_what_an_image_lacks_is_named(tmp_path: Path):
    assert installed.missing(paths.PROJECT / "requirements.txt") == []
    (tmp_path / "requirements.txt").write_text("pydantic==0.0.1\nno-such-package[extra]==1.0 --config-settings=a=b\n# note\n")
    assert installed.missing(tmp_path / "requirements.txt") == ["pydantic==0.0.1", "no-such-package==1.0"]


def test_a_run_whose_follower_is_gone_says_that_the_job_goes_on(run_dir: Path):
    run = runs.load(RUN_ID)
    assert run.state == "interrupted" and run.error and run.error["code"] == "UNATTENDED" and "resume" in run.error["remedy"]


def test_a_job_with_volumes_is_refused_by_the_hub_of_the_tests_which_mounts_none(hub: Hub):
    volume = Volume(type="bucket", source="someone/data", mount_path="/data")
    with pytest.raises(HfHubHTTPError, match="Volumes are not mounted") as refused:
        api(GOOD_TOKEN).run_job(image="python:3.12", command=["true"], volumes=[volume], namespace="someone")
    assert refused.value.response.status_code == 400 and hub.jobs == []
