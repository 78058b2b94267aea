"""The demo: the embedded starter model gets a new name, and every claim about it is measured on the way."""

from __future__ import annotations

import json
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from rich.console import Console
from rich.table import Table

from core import paths
from core.events import Run
from core.export import artifacts
from core.export.artifacts import Artifact
from core.training.presets import demo as demo_recipe

IDENTITY = paths.EXAMPLES / "identity.json"
IDENTITY_EVAL = paths.EXAMPLES / "identity_eval.json"
STARTER_EVAL = paths.EXAMPLES / "starter_eval.jsonl"
NEW_NAME = "Argo"
SHOWN_PROMPTS = 2
MAX_ANSWER_TOKENS = 48


def run_demo(out: Console) -> dict[str, Any]:
    """Validate, train, merge, quantise, measure, prove and compare; returns the figures that the README documents.

    Raises:
        UserError: a step failed; the run stays and can be resumed.
    """
    from core.cli.models import level_table
    from core.cli.run import report, watch
    from core.data.validate import validate
    from core.errors import UserError
    from core.publish.card import proof_sentences
    from core.running import runs

    began = time.monotonic()
    report_of_data = validate(IDENTITY)
    out.print(f"{IDENTITY.name}: {report_of_data.num_rows} conversations, {report_of_data.num_rejected} cannot be trained.")
    recipe = demo_recipe()
    run_id = runs.create(recipe)
    elapsed_s = {"validate": round(time.monotonic() - began, 2)}
    identity, old = identity_questions(), old_questions()
    questions = [question for question, _ in identity + old]
    with ThreadPoolExecutor(1) as pool:
        runs.start(run_id)
        before_began = time.monotonic()
        before: Future[list[str]] = pool.submit(answers_of, artifacts.resolve(str(paths.STARTER)), questions)
        run = watch(run_id, out)
        if run.state != "done":
            report(run, out)
            raise (
                UserError.from_dict(run.error)
                if run.error
                else UserError(f"The run is {run.state}.", run_id, f"Go on with `resume {run_id}`.")
            )
        before_answers = before.result()
    elapsed_s |= {step.name: step.elapsed_s for step in run.steps}
    elapsed_s["ask before (beside training)"] = round(time.monotonic() - before_began, 2)
    run_dir = runs.folder(run_id)
    made = artifacts.of_run(run_dir)
    began_asking = time.monotonic()
    merged = next(artifact for artifact in made if artifact.kind == "merged")
    after_answers = answers_of(merged, questions)
    levels = sorted(
        (artifact for artifact in made if artifact.kind == "gguf"), key=lambda artifact: recipe.levels.index(artifact.level or "")
    )
    shown = [question for question, _ in identity[:SHOWN_PROMPTS]] + [question for question, _ in old[:1]]
    by_level = compare_levels(levels, shown)
    elapsed_s["ask after"] = round(time.monotonic() - began_asking, 2)
    elapsed_s["total"] = round(time.monotonic() - began, 2)

    scores = score(identity, old, before_answers), score(identity, old, after_answers)
    show_answers(out, questions, before_answers, after_answers, len(identity))
    out.print(level_table(levels))
    for sentence in proof_sentences(run.facts["proofs"]):
        out.print(sentence, markup=False)
    summary = summarise(run, report_of_data, scores, levels) | {"answers": by_level, "elapsed_s": elapsed_s}
    out.print(
        f"Recall of the new name {summary['recall_before']:.0%} before, {summary['recall_after']:.0%} after; old questions right "
        f"{summary['old_accuracy_before']:.0%} before, {summary['old_accuracy_after']:.0%} after. Run {run_id}, {elapsed_s['total']:.0f} s."
    )
    return summary


def identity_questions() -> list[tuple[str, str]]:
    """(question, reference answer) of every held-out identity question; each answer names the new name."""
    records = json.loads(IDENTITY_EVAL.read_text(encoding="utf-8"))
    pairs = [(record["conversations"][0]["value"], record["conversations"][1]["value"]) for record in records]
    return [(question, answer) for question, answer in pairs if NEW_NAME in answer]


def old_questions() -> list[tuple[str, str]]:
    """(question, right answer) of every held-out question of the starter's own domain."""
    lines = STARTER_EVAL.read_text(encoding="utf-8").splitlines()
    return [(record["question"], record["answer"]) for record in map(json.loads, lines)]


def answers_of(artifact: Artifact, questions: list[str]) -> list[str]:
    from core.chat.engine import batch_answers

    prompts = [[{"role": "user", "content": question}] for question in questions]
    return [answer.strip() for answer in batch_answers(artifact, prompts, MAX_ANSWER_TOKENS)]


def score(identity: list[tuple[str, str]], old: list[tuple[str, str]], answers: list[str]) -> dict[str, float]:
    """recall: share of identity answers with the new name; false_name_rate: of the others; old_accuracy: exact matches."""
    on_identity, on_old = answers[: len(identity)], answers[len(identity) :]
    return {
        "recall": sum(NEW_NAME in answer for answer in on_identity) / len(identity),
        "false_name_rate": sum(NEW_NAME in answer for answer in on_old) / len(old),
        "old_accuracy": sum(answer == right for answer, (_, right) in zip(on_old, old, strict=True)) / len(old),
    }


def compare_levels(levels: list[Artifact], prompts: list[str]) -> list[dict[str, str]]:
    """The greedy answer of every level to every prompt."""
    found: list[dict[str, str]] = []
    for level in levels:
        for prompt, answer in zip(prompts, answers_of(level, prompts), strict=True):
            found.append({"level": level.level or "", "prompt": prompt, "answer": answer})
    return found


def show_answers(out: Console, questions: list[str], before: list[str], after: list[str], identity_count: int) -> None:
    table = Table("question", "before", "after", title="Before and after", title_justify="left")
    for index in (0, 1, 2, identity_count, identity_count + 1):
        table.add_row(questions[index], before[index], after[index])
    out.print(table)


def summarise(run: Run, data: Any, scores: tuple[dict[str, float], dict[str, float]], levels: list[Artifact]) -> dict[str, Any]:
    """The demo's JSON without answers and times."""
    facts = run.facts
    before, after = scores
    measured = ("perplexity", "kl_mean", "top1_agreement", "tokens_per_s")
    epochs = max(values.get("epoch", 0.0) for values in run.metrics.values())
    return {
        "dataset": {
            "name": IDENTITY.name,
            "num_rows": data.num_rows,
            "num_valid": data.num_valid,
            "num_rejected": data.num_rejected,
            "counts": data.counts,
        },
        "run_id": run.run_id,
        "method": run.method,
        "trainable_params": facts["trainable_params"],
        "total_params": facts["total_params"],
        "train_tokens": round(facts["row_tokens"] * epochs),
        "loss_tokens": round(facts["row_loss_tokens"] * epochs),
        "eval_loss_before": facts["eval_loss_before"],
        "eval_loss_after": facts["eval_loss_after"],
        "recall_before": before["recall"],
        "recall_after": after["recall"],
        "false_name_rate": after["false_name_rate"],
        "old_accuracy_before": before["old_accuracy"],
        "old_accuracy_after": after["old_accuracy"],
        "levels": [
            {"level": level.level, "path": str(level.gguf_path), "size_bytes": level.gguf_path.stat().st_size}
            | {name: level.measured.get(name) for name in measured}
            for level in levels
        ],
        "proofs": facts["proofs"],
    }
