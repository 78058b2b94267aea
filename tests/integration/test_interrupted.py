"""Merging, converting and quantising that is killed, cancelled or asked for twice: no half file under a final name, a sentence, and a next try that works."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from core import paths
from core.errors import UserError
from core.export import artifacts
from core.export.gguf import WORKSHOP, make_gguf
from core.export.header import gguf_header
from core.export.merge import merge_adapter
from core.paths import STARTER
from core.process import child_environment
from tests.integration.test_gguf import ADAPTER

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
CONVERTER, QUANTISER, MERGER = (f"core.export.{name}_child" for name in ("convert", "quantise", "merge"))
LAYERS = 80  # so that there is time to be interrupted in


@pytest.fixture(scope="module")
def long(tmp_path_factory, converter):
    """The starter with many more layers than it has, and so as large as a model that takes a while."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("models") / "Long"
    shutil.copytree(STARTER, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tensors = load_file(STARTER / "model.safetensors")
    layer = {name: weight for name, weight in tensors.items() if ".layers.0." in name}
    for number in range(config["num_hidden_layers"], LAYERS):
        tensors |= {name.replace(".layers.0.", f".layers.{number}."): weight.clone() for name, weight in layer.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": LAYERS}), encoding="utf-8")
    return artifacts.resolve(str(folder))


@pytest.fixture(scope="module")
def converted(long, tmp_path_factory):
    """A folder with the float file in it."""
    root = tmp_path_factory.mktemp("converted")
    make_gguf(long, ["f16"], root)
    return root


@pytest.fixture
def out(converted, tmp_path):
    """A folder of one's own with the float file in it."""
    shutil.copytree(converted, tmp_path / "out", copy_function=os.link)
    return tmp_path / "out"


def children(module):
    return [child for child in psutil.Process().children(recursive=True) if module in child.cmdline()]


def at_work(module, then):
    """An `on_event` that calls `then` with the child at the first sign that it writes."""
    seen = []

    def on_event(event):
        if not seen and event.get("doing", "writing") == "writing":
            seen.append(event)
            then(children(module)[0])

    return on_event


def kill(child):
    child.send_signal(signal.SIGKILL)


class CancelError(Exception):
    """Somebody pressed Cancel."""


def cancel(_child):
    raise CancelError


def left(folder):
    return {path.name for path in folder.iterdir()}


def is_whole(artifact):
    header = gguf_header(artifact.gguf_path)
    return len(header.tensors) > 9 * LAYERS and paths.sha256_file(artifact.gguf_path) == artifact.files[0].sha256


def test_a_converter_that_is_killed_leaves_no_file_says_so_and_the_next_try_works(long, converted, tmp_path):
    with pytest.raises(UserError, match=r"Converting Long to GGUF ended unexpectedly \(SIGKILL\)") as crash:
        make_gguf(long, ["f16"], tmp_path / "out", on_event=at_work(CONVERTER, kill))
    assert crash.value.code == "CRASH" and crash.value.remedy and not left(tmp_path / "out")
    again = make_gguf(long, ["f16"], tmp_path / "out")[0]
    assert is_whole(again) and again.files == artifacts.read(converted / "gguf-f16").files and left(tmp_path / "out") == {"gguf-f16"}


def test_a_quantiser_that_is_killed_loses_its_level_only_and_the_next_try_makes_it(long, out):
    with pytest.raises(UserError, match=r"Quantising to Q4_K_M ended unexpectedly \(SIGKILL\)") as crash:
        make_gguf(long, ["Q4_K_M", "q8_0"], out, on_event=at_work(QUANTISER, kill))
    assert crash.value.code == "CRASH" and left(out) == {"gguf-f16", "gguf-q8-0"}
    assert all(map(is_whole, make_gguf(long, ["Q4_K_M", "q8_0"], out)))
    assert left(out) == {"gguf-f16", "gguf-q8-0", "gguf-q4-k-m"}


def test_a_merge_that_is_killed_leaves_nothing_says_so_and_the_next_try_gives_what_an_undisturbed_one_gives(long, tmp_path):
    subprocess.run([sys.executable, "-c", ADAPTER, str(long.folder), str(tmp_path / "adapter")], check=True, capture_output=True)
    adapter = artifacts.resolve(str(tmp_path / "adapter"))
    with pytest.raises(UserError, match=r"Merging ended unexpectedly \(SIGKILL\)") as crash:
        merge_adapter(adapter, tmp_path / "merged", on_event=at_work(MERGER, kill))
    assert crash.value.code == "CRASH" and left(tmp_path) == {"adapter"}
    again, undisturbed = (merge_adapter(adapter, tmp_path / name) for name in ("merged", "other"))
    assert again.files == undisturbed.files


def test_cancelling_ends_the_converter_and_removes_what_it_had_written(long, tmp_path):
    with pytest.raises(CancelError):
        make_gguf(long, ["f16"], tmp_path / "out", on_event=at_work(CONVERTER, cancel))
    assert not left(tmp_path / "out") and not children(CONVERTER)


def test_cancelling_ends_the_quantiser_and_removes_what_it_had_written(long, out):
    with pytest.raises(CancelError):
        make_gguf(long, ["Q4_K_M", "q4_0"], out, on_event=at_work(QUANTISER, cancel))
    assert left(out) == {"gguf-f16"} and not children(QUANTISER)


def test_who_asks_for_the_same_while_it_is_made_is_told_and_has_it_afterwards(long, out):
    refused = []

    def ask_too(_child):
        with pytest.raises(UserError, match="being written by somebody else") as refusal:
            make_gguf(long, ["Q4_K_M"], out)
        refused.append(refusal.value.code)

    first = make_gguf(long, ["Q4_K_M"], out, on_event=at_work(QUANTISER, ask_too))
    assert refused == ["BUSY"] and is_whole(first[0]) and make_gguf(long, ["Q4_K_M"], out) == first


def test_a_verb_that_is_killed_takes_its_child_along_and_the_next_one_clears_up(long, out, tmp_path):
    command = [sys.executable, "-m", "core", "gguf", str(long.folder), "--levels", "Q4_K_M", "-o", str(out), "--json"]
    env = child_environment({"TRANSMUTE_HOME": str(tmp_path / "home")})
    verb = subprocess.Popen(command, cwd=paths.PROJECT, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    while not any(file.stat().st_size for file in out.glob(f"{WORKSHOP}*/*.gguf")):
        assert verb.poll() is None, "it ended before it wrote anything"
        time.sleep(0.01)
    quantisers = children(QUANTISER)
    verb.kill()
    verb.communicate()
    assert quantisers and not psutil.wait_procs(quantisers, timeout=30)[1], "the child died with its parent"
    assert [name for name in left(out) if not name.startswith(WORKSHOP)] == ["gguf-f16"]
    again = subprocess.run(command, cwd=paths.PROJECT, env=env, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert left(out) == {"gguf-f16", "gguf-q4-k-m"} and is_whole(artifacts.read(Path(out) / "gguf-q4-k-m"))
