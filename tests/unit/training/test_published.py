"""A preset has every value of its source; the table of values is the one the page shows."""

from __future__ import annotations

import json
import re

import pytest
from typer.testing import CliRunner

from core.cli.app import app
from core.errors import UserError
from core.training.presets import PRESETS, preset
from core.training.published import all_published, published
from core.training.recipe import Recipe

OURS = {"demo", "last-layers-sft"}
# What recipes of 2023 say about themselves, which no preset may leave unsaid.
ESSENTIAL = {
    "base_model",
    "method",
    "num_train_epochs",
    "micro_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "weight_decay",
    "warmup_steps",
}
ESSENTIAL |= {"lr_scheduler_type", "dtype", "max_length"}


def test_every_preset_but_our_own_names_its_source() -> None:
    assert set(all_published()) == set(PRESETS) - OURS
    assert published("demo") is None


@pytest.mark.parametrize("name", sorted(all_published()))
def test_a_preset_equals_its_source_value_by_value(name: str) -> None:
    source, chosen = all_published()[name], preset(name)
    for flag in source.flags:
        assert flag.knob or flag.note, f"{flag.flag} went nowhere"
        if flag.knob:
            assert getattr(chosen, flag.knob) == flag.ours, flag.flag
            assert type(flag.ours) is type(getattr(chosen, flag.knob)), flag.flag
    knobs = {flag.knob for flag in source.flags}
    assert knobs - {""} <= set(Recipe.model_fields)
    missing = {"base_model"} if name == "autotrain-sft" else set[str]()  # its command leaves the model to the reader
    assert ESSENTIAL - knobs == missing
    if chosen.is_adapter:
        assert {"lora_r", "lora_alpha", "lora_dropout", "target_modules"} <= knobs


@pytest.mark.parametrize("name", sorted(all_published()))
def test_every_option_of_the_old_command_is_accounted_for(name: str) -> None:
    source = all_published()[name]
    option = re.compile(r"--[a-z0-9_-]+")
    paths_and_ports = {"--train", "--output_dir", "--data_path", "--master_port", "--project_name"}
    named = set(option.findall(" ".join(flag.flag for flag in source.flags)))
    assert set(option.findall(source.command)) - paths_and_ports - named == set()


@pytest.mark.parametrize("name", sorted(all_published()))
def test_the_numbers_written_there_are_the_numbers_here(name: str) -> None:
    """`ours` could be mistyped together with the preset; the value as it was written is a second witness."""
    for flag in all_published()[name].flags:
        if isinstance(flag.ours, float | int) and not isinstance(flag.ours, bool) and re.fullmatch(r"[\d.e-]+", flag.value):
            assert float(flag.ours) == max(0.0, float(flag.value)), flag.flag


def test_the_command_line_lists_the_presets_and_shows_where_one_comes_from() -> None:
    listed = CliRunner().invoke(app, ["presets", "--json"])
    assert [each["name"] for each in json.loads(listed.stdout.splitlines()[-1])["presets"]] == list(PRESETS)
    one = CliRunner().invoke(app, ["presets", "mlabonne-qlora"])
    source = published("mlabonne-qlora")
    assert source and all(flag.flag in one.stdout for flag in source.flags) and all(sentence in one.stdout for sentence in source.differs)
    own = CliRunner().invoke(app, ["presets", "demo", "--json"])
    assert json.loads(own.stdout.splitlines()[-1])["published"] is None
    with pytest.raises(UserError):
        CliRunner().invoke(app, ["presets", "nobody"], catch_exceptions=False)
