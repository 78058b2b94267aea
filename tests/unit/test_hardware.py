"""Hardware is read without torch, and what can be rented is what the Hub offers."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from core.paths import PROJECT
from core.process import child_environment
from core.training import hardware
from core.training.hardware import Gpu, Hardware, TorchBuild

SMI = """0, GPU-aa11, 15360, 7.5, Tesla T4
1, GPU-bb22, 23028, 8.6, NVIDIA A10G
"""
T4, A10G = hardware.parse_smi(SMI)


def test_the_answer_of_nvidia_smi_becomes_gpus() -> None:
    assert A10G == Gpu("NVIDIA A10G", 23028 * 2**20, (8, 6), 1, "GPU-bb22")
    assert hardware.parse_smi("No devices were found\n") == ()
    assert hardware.parse_smi("0, GPU-x, [N/A], [N/A], Odd\n") == ()


def test_bf16_needs_ampere_on_every_gpu() -> None:
    assert (T4.has_bf16, A10G.has_bf16, Gpu("NVIDIA H200", 1, (9, 0)).has_bf16) == (False, True, True)
    torch = TorchBuild("2.13.0", "12.8")
    assert Hardware(8, 2**34, (A10G, A10G), torch).has_bf16
    assert not Hardware(8, 2**34, (A10G, T4), torch).has_bf16
    assert not Hardware(8, 2**34, (), torch).has_bf16


@pytest.mark.parametrize(
    ("flags", "has_bf16"),
    [
        (["fpu sse2 avx2", "fpu sse2 avx2"], False),
        (["avx2 avx512f avx512_bf16", "avx2 avx512f avx512_bf16"], True),
        (["avx512f amx_tile amx_bf16"], True),
        (["avx512_bf16", "avx2"], False),
        ([], False),
    ],
)
def test_bf16_of_a_cpu_is_read_off_the_flags_of_all_its_cores(flags: list[str], has_bf16: bool) -> None:
    cpuinfo = "".join(
        f"processor\t: {core}\nmodel name\t: avx512_bf16 by name only\nflags\t\t: {found}\n\n" for core, found in enumerate(flags)
    )
    assert hardware.cpu_has_bf16(cpuinfo) is has_bf16


def test_hardware_that_was_kept_before_there_was_bf16_on_a_cpu_has_none() -> None:
    kept = dataclasses.asdict(Hardware(8, 2**34, (A10G,), TorchBuild("2.13.0", "12.8"), cpu_has_bf16=True))
    assert Hardware.from_dict(kept).cpu_has_bf16
    del kept["cpu_has_bf16"]
    assert not Hardware.from_dict(kept).cpu_has_bf16


@pytest.mark.parametrize(
    ("selection", "names"),
    [
        (None, ["Tesla T4", "NVIDIA A10G"]),
        ("", []),
        ("-1", []),
        ("1", ["NVIDIA A10G"]),
        ("1,0", ["NVIDIA A10G", "Tesla T4"]),
        ("GPU-bb", ["NVIDIA A10G"]),
        ("0,7,1", ["Tesla T4"]),
    ],
)
def test_cuda_visible_devices_selects_as_cuda_does(selection: str | None, names: list[str]) -> None:
    assert [gpu.name for gpu in hardware.visible((T4, A10G), selection)] == names


def test_a_container_limit_wins_over_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text("1073741824\n")
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    monkeypatch.setattr(hardware, "CGROUP", tmp_path)
    assert (hardware.cpu_count(), hardware.ram_bytes()) == (1, 2**30)
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert hardware.ram_bytes() > 2**30


def test_detection_needs_no_torch_and_names_its_build() -> None:
    """Importing torch takes seconds; what is read here takes none."""
    program = "import sys; from core.training import hardware; hardware.detect(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=PROJECT, env=child_environment(), check=False).returncode == 0
    found = hardware.detect()
    assert found.cpu_count >= 1
    assert found.ram_bytes > 2**28
    assert found.torch.version.startswith("2.")


def test_flavours_are_those_of_the_hub_client() -> None:
    from huggingface_hub import JobHardware, SpaceHardware

    known = {flavour.value for flavour in (*SpaceHardware, *JobHardware)}
    listed = {flavour.name: flavour for flavour in hardware.flavours()}
    assert set(listed) == known - {"zero-a10g"}  # ZeroGPU is shared and not rented
    for flavour in listed.values():
        assert flavour.job_usd_per_h is not None
        assert flavour.has_bf16 == (bool(flavour.gpus) and float(flavour.compute_capability) >= 8)
        assert (flavour.vram_bytes > 0) == (flavour.gpus > 0)
    assert listed["a10g-largex4"].vram_bytes == 96 * 10**9
    date, sources = hardware.prices_read()
    assert date.count("-") == 2
    assert sources and all(source.startswith("https://") for source in sources)
