"""What the benchmarks have measured, as sentences for the README: read from their result files, so that no figure is copied by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from core import paths
from core.units import duration, size

RESULTS = paths.PROJECT / "benchmarks" / "results"
Figure = tuple[str, str, str]  # what was measured, what came out, what stands beside it


def measured_table() -> str:
    """One row per figure, in the order of the road; a benchmark without a result file has none."""
    lines = ["| what | here | beside it | result |", "|---|---|---|---|"]
    for name, read in FIGURES.items():
        if (RESULTS / f"{name}.json").is_file():
            link = f"[{name}.json](benchmarks/results/{name}.json)"
            lines += [f"| {what} | {here} | {beside} | {link} |" for what, here, beside in read(paths.read_json(RESULTS / f"{name}.json"))]
    return "\n".join(lines) + "\n"


def _demo(found: dict[str, Any]) -> Iterator[Figure]:
    last = found["runs"][-1]
    learnt = f"{last['recall_after']:.0%} of held-out questions about its name right, where none was"
    kept = f"old questions {last['old_accuracy_after']:.0%} right, {last['old_accuracy_before']:.0%} before"
    yield f"`make demo` after its set-up, median of {len(found['runs'])}", f"{duration(found['median_total_s'])}; {learnt}; {kept}", ""


def _start(found: dict[str, Any]) -> Iterator[Figure]:
    pages = found["first_page_s"]
    yield "first page of a Space, no network", f"{duration(max(pages.values()))}", ""
    imports = found["worker_imports_s"]
    yield (
        "imports of a worker that uses no DeepSpeed",
        f"{duration(imports['hidden'])}; {found['deepspeed_costs_s']:+.2f} s in pairs",
        f"not installed {duration(imports['absent'])}",
    )


def _dataset(found: dict[str, Any]) -> Iterator[Figure]:
    for volume, kinds in found.get("validation", {}).items():
        for suffix, ways in kinds.items():
            ours, check, script, loaded = (ways[way] for way in ("ours", "fastchat", "fastchat-script", "load_dataset"))
            yield (
                f"checking {volume} of conversations ({suffix}), one core",
                f"{duration(ours['wall_s'])}, {size(ours['peak_bytes'])}",
                f"FastChat's scripts {script['times_our_wall']:.1f} times as long, {size(script['peak_bytes'])}, "
                f"without writing what they keep {check['times_our_wall']:.1f}; "
                f"`load_dataset` {loaded['times_our_wall']:.1f} times, {size(loaded['peak_bytes'])}",
            )
    for name, ways in found.get("rows", {}).items():
        if name == "file_bytes":
            continue
        ours, trl, plain = ways["rows-built"], ways["rows-trl"], ways["rows-fastchat plain"]
        yield (
            f"tokens and labels, {name} vocabulary, to a file",
            f"{ours['rows_per_cpu_s']:,.0f} rows per CPU second",
            f"FastChat's `preprocess` {plain['rows_per_cpu_s']:,.0f}, TRL {trl['rows_per_cpu_s']:,.0f}",
        )
    if reopened := found.get("reopened"):
        ways = ", ".join(f"{size(each['file_bytes'])} in {1000 * each['reopen_s']:.1f} ms" for each in reopened.values())
        yield "built rows opened again, the last one read", ways, ""


def _parsing(found: dict[str, Any]) -> Iterator[Figure]:
    suite, strings = found["suite"], found["strings"]
    unchanged = sum(each["unchanged"] for each in strings["formats"].values())
    yield (
        f"{suite['files']} files of JSONTestSuite in three places, {strings['strings']} naughty strings in four formats",
        f"{len(suite['against'])} against the suite, every row accounted for; {unchanged:,} strings unchanged",
        "",
    )


def _estimate(found: dict[str, Any]) -> Iterator[Figure]:
    where = f"one {found['machine']['gpu'].removeprefix('NVIDIA ')}" if "gpu" in found["machine"] else "a CPU"
    if summary := found.get("summary"):
        yield (
            f"peak memory foretold, {summary['pairs']} recipes on {where}: median error",
            f"{summary['median_error']:.1%}, at worst {summary['worst_error']:.1%}",
            f"`accelerate estimate-memory` {summary['accelerate_median_error']:.0%}, LLaMA-Factory's table {summary['table_median_error']:.0%}",
        )
    if pairs := found.get("probed", {}).get("pairs"):
        after, before = (", ".join(f"{pair[name]:+.1%}" for pair in pairs) for name in ("error", "error_before"))
        runs = f"{len(pairs)} whole run{'' if len(pairs) == 1 else 's'}"
        yield f"the same of {runs} after a probe of 20 steps: off by", after, f"before it {before}"


def _train(found: dict[str, Any]) -> Iterator[Figure]:
    for model, speed in found.get("speed", {}).items():
        arms = speed["arms"]
        ours = ", ".join(
            f"{name} {arms[arm]['tokens_per_cpu_s']:,.0f} and {size(arms[arm]['peak_bytes'])}"
            for arm, name in (("ours-bf16", "bf16"), ("ours", "float32"))
        )
        yield (
            f"training {model} parameters on a CPU, answers only: tokens per CPU second, peak memory",
            ours,
            f"in bf16, which is TRL's default: {_trl(arms, 'tokens_per_cpu_s')}",
        )
        first = speed["equality"]
        yield (
            f"the same {model}: first loss in float32, evaluation loss in the end",
            f"{first['ours']:.5f}, {arms['ours']['eval_loss']:.4f}",
            f"TRL {first['trl']:.5f}, tuned TRL in as many steps {arms['trl-tuned']['eval_loss']:.4f}",
        )
    if "start" in found:
        seconds = found["start"]["seconds"]
        yield "start to first optimizer step, cold", duration(seconds["ours"]), f"`accelerate launch` with TRL {duration(seconds['trl'])}"


def _trl(arms: dict[str, Any], speed: str) -> str:
    said = (
        f"{name} {arms[arm][speed]:,.0f} and {size(arms[arm]['peak_bytes'])}"
        for arm, name in (("trl", "TRL's defaults"), ("trl-tuned", "tuned"))
    )
    return "; ".join(said)


def _train_gpu(found: dict[str, Any]) -> Iterator[Figure]:
    for name, result in found["results"].items():
        of = found | result  # a file of one GPU and one number of runs says so once
        gpu, arms = str(of["gpu"]).removeprefix("NVIDIA ").partition(" ")[0], of["arms"]
        share = arms["ours"]["flop_utilisation"]
        used = f", {share:.0%} of the GPU's arithmetic" if share else ""
        yield (
            f"{name} on one {gpu}, packed to 2,048, {of['runs']} run{'' if of['runs'] == 1 else 's'}",
            f"{arms['ours']['tokens_per_s']:,.0f} tokens/s, {size(arms['ours']['peak_bytes'])}{used}",
            _trl(arms, "tokens_per_s"),
        )


def _faults(found: dict[str, Any]) -> Iterator[Figure]:
    random, real = found["test_kills_at_a_random_moment"], found["test_kills_of_the_real_trainer_lose_nothing"]
    points = found["test_kills_at_the_twelve_points_of_a_save"]
    kills = random["kills at a random moment"] + points["kills at a named point"]
    yield (
        f"{kills} kills of a small trainer, {real['kills']} of the real one",
        f"no run lost, no resume stuck, largest difference of a loss {real['largest difference of a loss']}",
        "",
    )


def _merge(found: dict[str, Any]) -> Iterator[Figure]:
    for name in ("276M", "1B"):
        if name in found:
            ours, peft = found[name]["ours"], found[name]["peft"]
            yield (
                f"merging an adapter of {name} parameters",
                f"{duration(ours['wall_s'])}, {size(ours['peak_above_imports_bytes'])} above imports",
                f"PEFT {duration(peft['wall_s'])}, {size(peft['peak_above_imports_bytes'])}",
            )


def _convert(found: dict[str, Any]) -> Iterator[Figure]:
    for name, row in found["rows"].items():
        what = "converting to GGUF" if name == "convert" else f"quantising to {name}"
        other = "the converter by hand" if name == "convert" else "`llama-quantize`"
        yield f"{what}, {found['size'].upper()} parameters", duration(row["ours_s"]), f"{other} {duration(row['theirs_s'])}"


def _chat(found: dict[str, Any]) -> Iterator[Figure]:
    first, page = found["first_token"], found["page"]
    yield f"chat with a q4_0 of {found['size'].upper()} parameters", f"{found['speed']:.2f} of the speed of `llama-bench`", ""
    yield (
        "first token behind 1,000 tokens that were read before",
        duration(first["kept_s"]),
        f"reading them again {duration(first['again_s'])}",
    )
    yield "256 tokens on the page, beside the engine alone", f"{page['added']:+.1%}", ""


def _measure(found: dict[str, Any]) -> Iterator[Figure]:
    worst = found["worst"]
    yield "perplexity and KL of levels, off llama.cpp's own", f"at most {worst['perplexity']:.1g} and {worst['kl']:.1g} of it", ""


def _hostile(found: dict[str, Any]) -> Iterator[Figure]:
    yield f"{found['files']:,} broken or hostile GGUF files", f"the app lives after {found['app_alive']:,}", ""


def _refresh(found: dict[str, Any]) -> Iterator[Figure]:
    yield (
        f"a refresh of the page at {found['points']:,} points",
        f"{found['cpu_ms']['one new point']:.0f} ms, {size(found['payload_bytes']['plots'])}",
        f"reading the log again {found['cpu_ms']['reading the log again']:,.0f} ms",
    )


def _load(found: dict[str, Any]) -> Iterator[Figure]:
    said = ", ".join(f"{name} {duration(found[name]['p95_s'])}" for name in ("page", "poll", "queue"))
    slower = found["training"]["slowdown"]
    yield f"{found['users']} users on {found['machine']['cores']} cores beside a training, p95", f"{said}; training {slower:.1%} slower", ""


def _crash(found: dict[str, Any]) -> Iterator[Figure]:
    slowest = max(each["slowest_s"] for each in found["page"].values())
    broken = f"{found['broken_answers']} of {found['answers']:,} answers broken"
    yield (
        f"{found['deaths']} deaths of the model that {found['users']} people chat with: slowest page",
        f"{duration(slowest)}; {broken}",
        "",
    )


FIGURES: dict[str, Callable[[dict[str, Any]], Iterator[Figure]]] = {
    "demo": _demo,
    "start": _start,
    "dataset": _dataset,
    "parsing": _parsing,
    "estimate": _estimate,
    "estimate_gpu": _estimate,
    "train": _train,
    "train_gpu": _train_gpu,
    "faults": _faults,
    "merge": _merge,
    "convert": _convert,
    "measure": _measure,
    "chat": _chat,
    "hostile": _hostile,
    "refresh": _refresh,
    "load": _load,
    "crash": _crash,
}
