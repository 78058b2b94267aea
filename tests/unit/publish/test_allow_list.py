"""A token that can be recognised lies all over a run's folder; what is pushed is the allow-list and nothing of the token (reliability rule R25)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core import paths
from core.publish.preflight import preflight
from core.publish.push import push
from tests.hub.repos import GOOD_TOKEN
from tests.hub.server import Hub
from tests.unit.publish.test_preflight import make
from tests.unit.publish.test_push import hub  # noqa: F401 - a fixture

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
CANARY = "hf_" + "CANARYcanary0123456789abcd"
RUN_ID, REPO = "261123-191203-4f2a", "someone/x"
ALLOWED = {"README.md", "transmute.json", "config.json", "model.safetensors", "tokenizer.json", "tokenizer.model", "chat_template.jinja"}


def test_what_is_pushed_is_the_allow_list_and_holds_no_token(hub: Hub, workspace: Path) -> None:  # noqa: F811
    run_dir = paths.runs_dir() / RUN_ID
    files = {name: "{}" for name in ALLOWED if name.endswith(".json") and name != "transmute.json"}
    files |= {"model.safetensors": "weights", "tokenizer.model": "pieces", "chat_template.jinja": "{{ messages }}"}
    model = make(run_dir / "artifacts", "merged", files, run_id=RUN_ID, base_model="org/base")
    planted = {
        "worker.log": f"Authorization: Bearer {CANARY}",
        "launch.json": json.dumps({"environment": {"HF_TOKEN": CANARY}}),
        "recipe.yaml": f"name: x\nsample_prompts: {CANARY}\n",
        "checkpoints/checkpoint-1/optimizer.pt": CANARY,
        "artifacts/merged/training_args.bin": CANARY,
        "artifacts/merged/optimizer.pt": CANARY,
        "artifacts/merged/optimizer.safetensors": CANARY,
        "artifacts/merged/events.jsonl": CANARY,
        "artifacts/merged/generation_config.json": json.dumps({"token": CANARY}),
        "artifacts/merged/README.md": f"my token is {CANARY}",
        "artifacts/merged/.cache/token.txt": CANARY,
    }
    for name, text in planted.items():
        (run_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (run_dir / name).write_text(text, encoding="utf-8")
    push(preflight([model], REPO), GOOD_TOKEN)
    pushed = hub.repos[("models", REPO)].files
    assert set(pushed) == ALLOWED
    everything = [*pushed.values(), *hub.objects.values()]
    assert [content for content in everything if CANARY.encode() in content or GOOD_TOKEN.encode() in content] == []
    assert b"[secret]" in pushed["transmute.json"], "the recipe goes along, without what somebody wrote into it by mistake"
