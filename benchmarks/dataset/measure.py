"""One measurement in a process of its own: ``python -m benchmarks.dataset.measure KIND PATH [VOCABULARY]`` prints one line of JSON.

Nothing is counted before everything that a kind needs is imported: neither time, nor memory.
"""

from __future__ import annotations

import gc
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Work = Callable[[], dict[str, Any]]
VICUNA = ("human", "gpt")


def main() -> None:
    kind, path, *rest = sys.argv[1:]
    work = KINDS[kind](Path(path), *map(Path, rest))
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before_bytes, cpu, wall = memory("VmRSS"), cpu_s(), time.perf_counter()
    found = work()
    found |= {"wall_s": time.perf_counter() - wall, "cpu_s": cpu_s() - cpu, "peak_bytes": memory("VmHWM") - before_bytes}
    print(json.dumps(found))


def memory(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def cpu_s() -> float:
    """CPU seconds of this process, its threads and its children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


# --- validation: how many rows, how many of them wrong ------------------------------------------------------------------------------


def ours(path: Path) -> Work:
    import numpy  # noqa: F401 (otherwise imported on the way)

    from core.data.validate import validate

    def work() -> dict[str, Any]:
        report = validate(path)
        return {"rows": report.num_rows, "bad": report.num_rejected}

    return work


def texts_only(content: Any) -> list[Any]:
    """The type rule, which no script of FastChat has."""
    return [each for each in content if type(each["id"]) is str and all(type(turn["value"]) is str for turn in each["conversations"])]


def fastchat(path: Path) -> Work:
    """FastChat's own check of roles and the type rule, in memory; it has no reader of JSONL, so each line is read as it reads a file."""
    from fastchat.data.split_long_conversation import filter_invalid_roles

    def work() -> dict[str, Any]:
        with path.open() as file:
            content = json.load(file) if path.suffix == ".json" else [json.loads(line) for line in file]
        return {"rows": len(content), "bad": len(content) - len(texts_only(filter_invalid_roles(content)))}

    return work


def fastchat_script(path: Path) -> Work:
    """The same as its scripts do it: they tell what was wrong by the file of the good rows that they write."""
    from fastchat.data.split_long_conversation import filter_invalid_roles

    def work() -> dict[str, Any]:
        with path.open() as file:
            content = json.load(file) if path.suffix == ".json" else [json.loads(line) for line in file]
        good = texts_only(filter_invalid_roles(content))
        with tempfile.TemporaryFile("w", dir=path.parent) as target:
            json.dump(good, target, indent=2, ensure_ascii=False)
        return {"rows": len(content), "bad": len(content) - len(good)}

    return work


def load_dataset(path: Path) -> Work:
    from datasets import disable_progress_bars
    from datasets import load_dataset as load

    disable_progress_bars()

    def work() -> dict[str, Any]:
        with tempfile.TemporaryDirectory(dir=path.parent) as cache:
            content = load("json", data_files=str(path), split="train", cache_dir=cache)
            bad = 0
            for each in content:
                turns = each["conversations"]
                is_good = type(each["id"]) is str and bool(turns) and len(turns) % 2 == 0
                bad += not is_good or any(
                    turn["from"] != VICUNA[number % 2] or type(turn["value"]) is not str for number, turn in enumerate(turns)
                )
            return {"rows": len(content), "bad": bad}

    return work


# --- token rows: how many, and how many tokens carry loss --------------------------------------------------------------------------


def rows_ours(path: Path, vocabulary: Path) -> Work:
    """Ids and labels in memory, from an encoder that has seen no word yet."""
    import numpy as np

    from core.data.encode import RowEncoder
    from core.data.rows import check_rows
    from core.data.tokenizer import load_tokenizer

    conversations = [checked.conversation for checked in check_rows(path)]
    tokenizer = load_tokenizer(vocabulary)

    def work() -> dict[str, Any]:
        encoder = RowEncoder(tokenizer, MAX_LENGTH)
        rows = [encoder.row(conversation) for conversation in conversations if conversation]
        assert not encoder.disagreed
        return {"rows": len(rows), "loss_tokens": sum(int(np.count_nonzero(row.labels != -100)) for row in rows), **counted(rows)}

    return work


def rows_exact(path: Path, vocabulary: Path) -> Work:
    """The same by the tokenizer alone: the reference that the fast way is held against."""
    from core.data.render import tokenize
    from core.data.rows import check_rows
    from core.data.tokenizer import load_tokenizer

    conversations = [checked.conversation for checked in check_rows(path)]
    tokenizer = load_tokenizer(vocabulary)

    def work() -> dict[str, Any]:
        rows = [tokenize(conversation, tokenizer, MAX_LENGTH) for conversation in conversations if conversation]
        return {"rows": len(rows), "loss_tokens": sum(row.num_loss_tokens for row in rows), **counted(rows)}

    return work


def counted(rows: list[Any]) -> dict[str, Any]:
    """A fingerprint of all ids and labels, to compare two ways by."""
    import zlib

    import numpy as np

    value = 0
    for row in rows:
        value = zlib.crc32(
            np.asarray(row.labels, dtype=np.int32).tobytes(), zlib.crc32(np.asarray(row.input_ids, dtype=np.int32).tobytes(), value)
        )
    return {"crc32": value}


def rows_built(path: Path, vocabulary: Path) -> Work:
    """The same into a file in the workspace, from the imported dataset."""
    import os

    home = tempfile.TemporaryDirectory(dir=path.parent)
    os.environ["TRANSMUTE_HOME"] = home.name
    from core.data.dataset import import_dataset
    from core.data.tokenizer import load_tokenizer
    from core.data.tokens import token_rows

    dataset, tokenizer = import_dataset(path), load_tokenizer(vocabulary)

    def work() -> dict[str, Any]:
        with home:
            rows = token_rows(dataset, tokenizer, MAX_LENGTH)
            return {"rows": len(rows), "loss_tokens": int(rows.num_loss_tokens.sum())}

    return work


def rows_reopened(path: Path, vocabulary: Path, size_bytes: Path) -> Work:
    """Rows that were built, opened again, and the last of them read. Their file holds the same rows over and over, to `size_bytes`."""
    import os

    import pyarrow as pa

    home = tempfile.TemporaryDirectory(dir=path.parent)
    os.environ["TRANSMUTE_HOME"] = home.name
    from core.data.dataset import import_dataset
    from core.data.tokenizer import load_tokenizer
    from core.data.tokens import built_rows, token_rows

    dataset, tokenizer = import_dataset(path), load_tokenizer(vocabulary)
    rows = token_rows(dataset, tokenizer, MAX_LENGTH)
    batches = pa.ipc.open_stream(rows.file.read_bytes()).read_all().to_batches()
    with pa.OSFile(str(rows.file), "wb") as sink, pa.ipc.new_stream(sink, batches[0].schema) as writer:
        while sink.tell() < int(size_bytes.name):
            for batch in batches:
                writer.write_batch(batch)
    file_bytes = rows.file.stat().st_size

    def work() -> dict[str, Any]:
        with home:
            began = time.perf_counter()
            again = built_rows(dataset, tokenizer, MAX_LENGTH)
            assert again and len(again[len(again) - 1].input_ids)
            return {"reopen_s": time.perf_counter() - began, "rows": len(again), "file_bytes": file_bytes}

    return work


def rows_fastchat(path: Path, vocabulary: Path, legacy: Path) -> Work:
    """FastChat's `preprocess` as its trainer calls it, once for all rows."""
    import torch
    from fastchat.train import train
    from transformers import AutoTokenizer

    torch.set_num_threads(1)
    sources = [record["conversations"] for record in map(json.loads, path.open(encoding="utf-8"))]
    tokenizer = AutoTokenizer.from_pretrained(vocabulary, model_max_length=MAX_LENGTH, padding_side="right")
    tokenizer.pad_token = tokenizer.unk_token or tokenizer.pad_token or tokenizer.eos_token
    tokenizer.legacy = legacy.name == "legacy"

    def work() -> dict[str, Any]:
        made = train.preprocess(sources, tokenizer)
        return {"rows": len(sources), "loss_tokens": int((made["labels"] != -100).sum())}

    return work


def rows_trl(path: Path, vocabulary: Path) -> Work:
    """TRL's own preparation, from a `datasets.Dataset` of messages to one of ids and masks; loss on the answers by generation marks."""
    from datasets import Dataset, disable_progress_bars
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    from core.paths import STARTER

    disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(vocabulary)
    answer = "{{- 'ASSISTANT: ' + message['content'] + '</s>' }}"
    marked = "{{- 'ASSISTANT:' }}{%- generation %}{{- ' ' + message['content'] + '</s>' }}{%- endgeneration %}"
    assert answer in tokenizer.chat_template
    tokenizer.chat_template = tokenizer.chat_template.replace(answer, marked)
    tokenizer.pad_token = tokenizer.unk_token or tokenizer.pad_token or tokenizer.eos_token
    names = {"human": "user", "gpt": "assistant"}
    talks = [
        {"messages": [{"role": names[turn["from"]], "content": turn["value"]} for turn in record["conversations"]]}
        for record in map(json.loads, path.open(encoding="utf-8"))
    ]
    home = tempfile.TemporaryDirectory(dir=path.parent)
    settings = SFTConfig(home.name, assistant_only_loss=True, max_length=MAX_LENGTH, use_cpu=True, report_to="none", bf16=False)
    model = AutoModelForCausalLM.from_pretrained(STARTER)
    trainer = SFTTrainer(model, settings, train_dataset=Dataset.from_list(talks[:2]), processing_class=tokenizer)
    data = Dataset.from_list(talks)

    def work() -> dict[str, Any]:
        with home:
            made = trainer._prepare_dataset(data, tokenizer, settings, False, None, "train")
            return {"rows": len(talks), "loss_tokens": sum(label != -100 for labels in made["labels"] for label in labels)}

    return work


MAX_LENGTH = 2048
KINDS: dict[str, Callable[..., Work]] = {
    "ours": ours,
    "fastchat": fastchat,
    "fastchat-script": fastchat_script,
    "load_dataset": load_dataset,
    "rows-ours": rows_ours,
    "rows-exact": rows_exact,
    "rows-built": rows_built,
    "rows-reopened": rows_reopened,
    "rows-fastchat": rows_fastchat,
    "rows-trl": rows_trl,
}

if __name__ == "__main__":
    main()
