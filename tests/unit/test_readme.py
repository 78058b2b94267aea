"""The README is what the code says, and its front matter is what a Space needs."""

from __future__ import annotations

import re

import pytest
import yaml

from core import docs
from core.paths import PROJECT

TEXT = (PROJECT / "README.md").read_text(encoding="utf-8")
FRONT = yaml.safe_load(TEXT.split("---\n")[1])
LEAST_SCOPES = ["contribute-repos", "read-repos", "gated-repos", "read-memberships", "write-discussions", "jobs"]


def test_the_generated_tables_are_current() -> None:
    assert docs.render(TEXT) == TEXT, "run `make docs`"


def test_a_space_starts_from_the_front_matter() -> None:
    assert (FRONT["sdk"], FRONT["app_file"], FRONT["python_version"], FRONT["license"]) == ("gradio", "app.py", "3.12", "apache-2.0")
    assert (PROJECT / FRONT["app_file"]).is_file()
    assert FRONT["startup_duration_timeout"] == "1h"
    assert len(FRONT["short_description"]) <= 60
    pins = (PROJECT / "requirements.txt").read_text(encoding="utf-8")
    assert f"gradio[oauth]=={FRONT['sdk_version']}\n" in pins


def test_the_login_asks_for_the_least_scopes() -> None:
    assert FRONT["hf_oauth"] is True
    assert FRONT["hf_oauth_scopes"] == LEAST_SCOPES


def test_the_suggested_hardware_exists() -> None:
    from core.training.hardware import flavours

    assert FRONT["suggested_hardware"] in {flavour.name for flavour in flavours() if flavour.space_usd_per_h is not None}


def test_every_debian_package_has_its_reason() -> None:
    packages = [line for line in (PROJECT / "packages.txt").read_text(encoding="utf-8").splitlines() if line]
    assert re.findall(r"^\| ([\w.+-]+) \| \w", TEXT.split("## Debian packages")[1].split("## ")[0], re.MULTILINE)[1:] == packages


def test_every_make_target_named_exists() -> None:
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"`?make ([a-z-]+)", TEXT)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("name", docs.BLOCKS)
def test_every_generated_table_has_rows(name: str) -> None:
    assert docs.BLOCKS[name]().count("\n") >= 8


def test_bounds_are_said_as_the_schema_has_them() -> None:
    assert docs.bounds({"exclusiveMinimum": 0, "maximum": 1}) == "> 0, <= 1"
    assert docs.bounds({"minimum": 0.5, "maximum": 2**20}) == ">= 0.5, <= 1,048,576"
    assert docs.bounds({"enum": ["a", "b"]}) == "a, b"
    assert docs.bounds({"type": "boolean"}) == "true, false"
    assert docs.bounds({"type": "string"}) == ""
