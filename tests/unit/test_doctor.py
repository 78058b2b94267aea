"""The doctor names what is wrong with its remedy, and never shows a token."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from core import doctor
from core.training import hardware
from core.training.hardware import Gpu, Hardware, TorchBuild

T4 = Gpu("Tesla T4", 16 * 10**9, (7, 5))
A100 = Gpu("NVIDIA A100", 80 * 10**9, (8, 0))
CUDA, CPU = TorchBuild("2.13.0", "12.8"), TorchBuild("2.13.0+cpu", None)


def machine(*gpus: Gpu, torch: TorchBuild = CUDA) -> Hardware:
    return Hardware(8, 32 * 10**9, gpus, torch)


def test_every_check_has_an_answer_and_every_trouble_a_remedy(workspace: Path) -> None:
    found = doctor.checks()
    assert len({check.name for check in found}) == len(found) == 12
    for check in found:
        assert check.state in ("ok", "warn", "fail")
        assert check.found
        assert check.remedy or check.state == "ok", check.name


def test_packages_are_compared_with_their_pins(tmp_path: Path) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(
        "# a comment\n\npydantic>=2  # why\ntorch==0; python_version < '3'\npydantic[email]==1.0 --config-settings=x=y\n"
    )
    check = doctor.packages(requirements)
    assert (check.state, "pinned ==1.0" in check.found) == ("warn", True)
    requirements.write_text("no-such-package-here==1\n")
    check = doctor.packages(requirements)
    assert (check.state, "no-such-package-here" in check.found) == ("fail", True)


def test_a_gpu_that_this_torch_cannot_use_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "installed_gpus", lambda: (A100,))
    check = doctor.gpus(machine(torch=CPU))
    assert check.state == "warn"
    assert "NVIDIA A100 cannot be used" in check.found


def test_bf16_and_flash_attention_need_ampere() -> None:
    assert doctor.bf16(machine(A100)).state == "ok"
    assert doctor.bf16(machine(A100, T4)).state == "warn"
    assert "Tesla T4" in doctor.bf16(machine(T4)).found
    assert "sdpa" in doctor.flash_attention(machine(T4)).found


def test_storage_that_a_restart_loses_is_said(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.persistence(workspace).state == "ok"
    monkeypatch.setenv("SPACE_ID", "someone/transmute")
    check = doctor.persistence(workspace)
    assert (check.state, "Storage Bucket" in check.remedy) == ("warn", True)
    monkeypatch.setattr(os.path, "ismount", lambda path: path == "/data")
    monkeypatch.setattr(doctor, "write_problem", lambda home: "")
    assert doctor.persistence(Path("/data/transmute")).state == "ok"


def test_a_workspace_that_cannot_be_written_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    check = doctor.persistence(tmp_path / "file" / "home")
    assert check.state == "fail"
    assert "TRANSMUTE_HOME" in check.remedy


def test_a_login_is_seen_and_its_token_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    token = "hf_" + "CANARY" * 6
    monkeypatch.setenv("HF_TOKEN", token)
    check = doctor.hub_login()
    assert "a token is there" in check.found
    assert token not in str(check)


def test_little_disk_is_told_before_it_hurts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"bytes": 10**9}
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: type("Usage", (), {"free": free["bytes"]}))
    assert doctor.disk(tmp_path / "not" / "yet").state == "fail"
    free["bytes"] = 10 * 10**9
    assert doctor.disk(tmp_path).state == "warn"
    free["bytes"] = 100 * 10**9
    assert doctor.disk(tmp_path).state == "ok"


def test_the_pins_of_this_project_are_readable() -> None:
    assert doctor.packages(hardware.SPACES.parent / "requirements.txt").state in ("ok", "warn")
