"""Hugging Face model folder in, GGUF file out, by llama.cpp's own converter.

The converter is part of the source distribution of llama-cpp-python and not of its wheel, so the distribution is downloaded once, checked
against a pinned hash, and the 2 MB that matter are kept in the workspace. `LLAMA_CPP_DIR` names a llama.cpp checkout to use instead.
"""

from __future__ import annotations

import fcntl
import math
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core import paths
from core.errors import UserError
from core.export.adapter import Adapter, adapter_config, rank, read_adapter, scaling, unstreamed
from core.export.artifacts import ADAPTER_WEIGHTS
from core.export.tensors import model_tensors
from core.process import call_child, child_environment, patience_s

VERSION = "0.3.36"  # the llama-cpp-python of requirements.txt
SOURCE_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"  # as PyPI states it, 2026-11-23
SCRIPT = "convert_hf_to_gguf.py"
KEPT = (SCRIPT, "convert_lora_to_gguf.py", "LICENSE", "conversion/", "gguf-py/gguf/")
# What pip needs to reach the person's own index; only pip gets it.
PIP_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR")
DTYPES = ("f16", "bf16", "f32")


def converter_dir() -> Path:
    """The folder that holds ``convert_hf_to_gguf.py``; downloaded on the first call.

    Raises:
        UserError: `LLAMA_CPP_DIR` holds no converter, or the download failed (code NET).
    """
    if configured := os.environ.get("LLAMA_CPP_DIR"):
        folder = Path(configured).expanduser().absolute()
        if (folder / SCRIPT).is_file():
            return folder
        raise UserError(f"There is no {SCRIPT} in {folder}.", "LLAMA_CPP_DIR", "Point it at a llama.cpp checkout, or unset it.")
    return fetch_converter()


def is_fetched() -> bool:
    return bool(os.environ.get("LLAMA_CPP_DIR")) or (_cached() / SCRIPT).is_file()


def fetch_converter() -> Path:
    """The converter in the workspace's cache; nothing is downloaded when it is there already."""
    folder = _cached()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(folder.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / SCRIPT).is_file():
            with tempfile.TemporaryDirectory(dir=folder.parent) as download, paths.building(folder) as partial:
                _extract(download_source(Path(download)), partial)
    return folder


def _cached() -> Path:
    return paths.cache_dir() / f"llama.cpp-{VERSION}"


def download_source(folder: Path) -> Path:
    """The pinned source distribution (77 MB) as a .tar.gz in `folder`, its hash checked before and after anything reads it."""
    requirement = folder / "requirement.txt"
    requirement.write_text(f"llama-cpp-python=={VERSION} --hash=sha256:{SOURCE_SHA256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary=llama-cpp-python", "--require-hashes"]
    command += ["--disable-pip-version-check", "--quiet", f"--requirement={requirement}", f"--dest={folder}"]
    kept = {name: value for name, value in os.environ.items() if name in PIP_VARIABLES or name.startswith("PIP_")}
    result = subprocess.run(command, env=child_environment(kept), stdin=subprocess.DEVNULL, capture_output=True, text=True)
    archives = list(folder.glob("llama_cpp_python-*.tar.gz"))
    if result.returncode or len(archives) != 1:
        said = (result.stderr.strip() or "no reason given").splitlines()[-1]
        raise UserError(
            f"llama.cpp's converter could not be downloaded: {said}",
            f"pip download llama-cpp-python=={VERSION}",
            "Connect to the internet once and run `make setup`, or set LLAMA_CPP_DIR to a llama.cpp checkout.",
            code="NET",
        )
    if paths.sha256_file(archives[0]) != SOURCE_SHA256:
        raise UserError(
            "The downloaded converter is not the pinned one.", archives[0].name, "Check the package index that pip uses.", code="HASH"
        )
    return archives[0]


def _extract(archive: Path, folder: Path) -> None:
    """Write the wanted regular files only; links, devices and paths that climb out are never written."""
    with tarfile.open(archive) as tar:
        for member in tar:
            _, _, name = member.name.partition("/vendor/llama.cpp/")
            if member.isfile() and name.startswith(KEPT) and ".." not in name.split("/"):
                source = tar.extractfile(member)
                assert source
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(source.read())
    assert (folder / SCRIPT).is_file(), "the pinned source distribution has the converter"


def convert(
    model_dir: Path,
    out_file: Path,
    *,
    dtype: str = "f16",
    name: str | None = None,
    metadata: dict[str, Any] | None = None,
    log: Path | None = None,
    on_event: Callable[[dict[str, Any]], None] | None = None,
) -> tuple[str, str]:
    """Write `model_dir` (config, safetensors, tokenizer, chat template) as the GGUF file `out_file`; returns its number format, and why that.

    Args:
        dtype: ``f16``, ``bf16``, ``f32``, or ``auto``: f16 where it holds the weights, else what they are stored in.
        name: the model's name in the metadata; the folder's name otherwise.
        metadata: see `core.export.about.gguf_metadata`.
        on_event: gets ``{"event": "progress", "done", "total", "doing"}`` in bytes.

    Raises:
        UserError: the architecture or the tokenizer is unknown to llama.cpp, files are missing, weights are NaN or do not fit into f16
            that was asked for (code F16), or the converter ended (code CRASH).
    """
    assert dtype in (*DTYPES, "auto")
    if not (model_dir / "config.json").is_file():
        raise UserError(
            f"{paths.model_name(model_dir)} holds no config.json.",
            str(model_dir),
            "Give a Hugging Face model folder; merge an adapter first.",
        )
    _refuse_lost_head(model_dir)
    payload = {
        "converter": str(converter_dir()),
        "model_dir": str(model_dir.absolute()),
        "out_file": str(out_file.absolute()),
        "dtype": dtype,
        "name": name or paths.model_name(model_dir).rpartition("/")[2],
        "metadata": metadata or {},
    }
    step, timeout_s = f"Converting {paths.model_name(model_dir)} to GGUF", patience_s(expected_bytes(model_dir, "f32"))
    made = call_child("core.export.convert_child", payload, step=step, log=log, on_event=on_event, timeout_s=timeout_s)
    return made["dtype"], made["why"]


def convert_adapter(
    adapter: Path,
    base: Path,
    out_file: Path,
    *,
    dtype: str = "auto",
    name: str,
    metadata: dict[str, Any],
    log: Path | None = None,
    on_event: Callable[[dict[str, Any]], None] | None = None,
) -> str:
    """Write a LoRA adapter as a GGUF file, which llama.cpp adds to a GGUF of the base when it loads (``--lora``); returns its number format.

    Args:
        base: the base model's folder, of which only the configuration is read.
        name: the adapter's name in the metadata.
        metadata: see `core.export.about.gguf_metadata`.

    Raises:
        UserError: an adapter that llama.cpp cannot express: another kind than LoRA, DoRA, several alphas, or weights saved whole.
    """
    config, read = adapter_config(adapter), read_adapter(adapter)
    reason = unstreamed(config) or _inexpressible(config, read)
    if reason:
        remedy = "Merge the adapter and convert the merged model."
        raise UserError(f"llama.cpp cannot express this adapter: {reason}.", adapter.name, remedy, code="ADAPTER")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "adapter"  # the converter makes metadata of the folder's name
        alpha = scaling(config, "") * rank(config, "")  # llama.cpp scales by alpha / r, whatever the adapter was trained with
        paths.write_json(folder / "adapter_config.json", config | {"lora_alpha": alpha})
        (folder / ADAPTER_WEIGHTS).symlink_to((adapter / ADAPTER_WEIGHTS).absolute())
        payload = {
            "converter": str(converter_dir()),
            "model_dir": str(base.absolute()),
            "out_file": str(out_file.absolute()),
            "dtype": dtype,
        }
        payload |= {"adapter": str(folder), "name": name, "metadata": metadata}
        step, timeout_s = f"Converting {name} to GGUF", patience_s((adapter / ADAPTER_WEIGHTS).stat().st_size)
        made = call_child("core.export.convert_child", payload, step=step, log=log, on_event=on_event, timeout_s=timeout_s)
    return made["dtype"]


def _inexpressible(config: dict[str, Any], adapter: Adapter) -> str | None:
    if config.get("alpha_pattern") or (config.get("use_rslora") and config.get("rank_pattern")):
        return "its layers are scaled differently"
    if any(update.magnitude for update in adapter.updates.values()):
        return "it uses DoRA"
    whole = [name for name, update in adapter.updates.items() if not update.a or update.added or update.rows]
    return f"it holds {whole[0]} whole" if whole else None


def _refuse_lost_head(model_dir: Path) -> None:
    """llama.cpp's Gemma has no output head of its own, and its converter leaves one out without a word."""
    config = paths.read_json(model_dir / "config.json")
    if str(config.get("model_type", "")).startswith("gemma") and config.get("tie_word_embeddings") is False:
        raise UserError(
            "This model's output head differs from its embedding, and llama.cpp has no such Gemma.",
            f"converting {paths.model_name(model_dir)}",
            "Train without lm_head and embed_tokens, or use the merged model through transformers.",
            code="HEAD",
        )


def expected_bytes(model_dir: Path, dtype: str) -> int:
    """How large the GGUF will be, but for the vocabulary and the few vectors that stay float32."""
    return num_parameters(model_dir) * (4 if dtype == "f32" else 2) + 2 * 2**20


def num_parameters(model_dir: Path) -> int:
    return sum(math.prod(stored.shape) for stored in model_tensors(model_dir).values())
