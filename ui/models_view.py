"""How the models of a run look: their levels as a table and as a plot, and what was proved about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core.events import Run
from core.export import ladder
from core.export.artifacts import Artifact
from core.export.gguf import FLOAT_LEVELS
from core.export.levels import Level
from core.publish.card import VERDICTS, proof_sentences
from ui import plots
from ui.view import chip, count, empty, meter, sentence, size, table, text

NO_MODELS = empty("No model yet.", "Every run that finishes leaves its models here: an adapter, a merged model and its quantised levels.")
OF_CONVERSATIONS = "conversations that were not trained on"
KINDS = {"adapter": "adapter", "merged": "merged model", "gguf": "GGUF"}
HEADS = (
    "Level",
    "Size",
    "Bits per weight",
    "Perplexity",
    "KL to f16",
    "KL, worst 1\N{NO-BREAK SPACE}%",
    "Same top token",
    "Tokens/s",
    "Prompt tokens/s",
    "Memory",
)
FORMATS = {
    "bits_per_weight": ".2f", "perplexity": ".3f", "kl_mean": ".5f", "kl_p99": ".4f", "top1_agreement": ".1%", "tokens_per_s": ",.0f",
    "prompt_tokens_per_s": ",.0f",
}  # fmt: skip


def overview(made: Sequence[Artifact]) -> str:
    """``Starter-Identity at 7 levels: q5_0 is the smallest that stays close to f16.``"""
    levels = [artifact for artifact in made if artifact.kind == "gguf"]
    others = " and ".join(KINDS[artifact.kind] for artifact in made if artifact.kind != "gguf")
    if not levels:
        return sentence(f"{made[0].name} is there as {others}.", "Quantise it below to run it with llama.cpp and to compare sizes.")
    lead = f"{made[0].name} is there at {count(len(levels), 'level')}."
    if close := ladder.smallest_close(levels):
        share = f"{close.measured['top1_agreement']:.1%}".replace("%", " %")
        lead = f"{made[0].name} is there at {count(len(levels), 'level')}; {close.level} is the smallest that stays close to f16."
        return sentence(lead, f"At {close.level} ({size(close.size_bytes)}) the likeliest token is f16's own at {share} of all places.")
    return sentence(lead, "How close each level stays to f16 has not been measured." if not any(map(ladder.is_measured, levels)) else "")


def label(artifact: Artifact) -> str:
    """``q4_0 · 2.7 MB``, as it stands in a list of one run's models."""
    return f"{artifact.level or KINDS[artifact.kind]} · {size(artifact.size_bytes)}"


def full_label(artifact: Artifact) -> str:
    """``Starter-Identity · q4_0``, as it stands in a list of everything."""
    return f"{artifact.name} · {artifact.level or KINDS[artifact.kind]}"


def level_table(made: Sequence[Artifact]) -> str:
    """One row per GGUF level, largest first; an empty cell was not measured, and what was measured on something else than most is marked."""
    levels = ladder.by_size([artifact for artifact in made if artifact.kind == "gguf"])
    if not levels:
        return ""
    beaten = ladder.dominated(levels)
    alike = ladder.comparable(levels)
    others = {level.id for level in levels if ladder.is_measured(level)} - {level.id for level in alike}
    rows = [_row(level, level.id in beaten, level.id in others) for level in levels]
    known = alike[0].measured if alike else {}
    tokens = known.get("num_tokens")
    of = "a text of one's own" if known.get("measured_on") == "text" else OF_CONVERSATIONS
    on = f" on {tokens:,} tokens of {of}" if isinstance(tokens, int) else ""
    beat = " Beaten: another level is no larger and closer to f16." if beaten else ""
    apart = " Not comparable: measured on another text than the rest, or against another file." if others else ""
    note = f'<p class="quiet">Measured on this machine{on}.{apart}{beat} {text(bought(levels))}</p>'
    return table(HEADS, rows, "Quantisation levels", numeric=range(1, 10)) + (note if any(map(ladder.is_measured, levels)) else "")


def level_bars(run: Run, wanted: Sequence[Level], made: Sequence[Artifact]) -> str:
    """A bar for each level that is still to be made, while a run makes them; those that are made stand in the table."""
    if run.is_terminal or run.stage != "gguf":
        return ""
    there = {artifact.level for artifact in made}
    now = run.progress
    rows: list[str] = []
    for level in (level for level in wanted if level.name not in there):
        share = now["done"] / now["total"] if now.get("id") == level.name and now.get("total") else 0.0
        label = f"{level.name} {share:.0%}".replace("%", " %")
        rows.append(f"<li><span>{text(level.name)}</span>{meter(share, label)}</li>")
    return f'<ul class="bars" aria-label="Levels to come">{"".join(rows)}</ul>' if rows else ""


def why_made_of(made: Sequence[Artifact]) -> str:
    """Which float format levels are quantised from when nobody chooses one, and why."""
    source = next((artifact for name in FLOAT_LEVELS for artifact in made if artifact.level == name), None)
    if source is None:
        return "By itself: f16 where it holds every weight, else what the weights are stored in."
    return f"By itself: {source.level}, {f'because {source.float_reason}' if source.float_reason else 'which is there'}."


def advice(level: Artifact | None) -> str:
    """The level to take with its reasons, or that none fits."""
    if level is None:
        return '<p class="quiet" role="status">No measured level fits. Allow more, or quantise a smaller level below.</p>'
    lead, rest = ladder.advice(level)
    return f'<p role="status"><b>{text(lead)}</b> {text(rest)}</p>'


def bought(levels: Sequence[Artifact]) -> str:
    """``The importance matrix brings Q4_K_M 23 % closer to f16 (KL 0.0123 instead of 0.016).``; empty where nothing was made both ways."""
    said = [
        f"{gain.level} {abs(1 - gain.guided / gain.plain):.0%}".replace("%", " %")
        + f" {'closer to' if gain.guided < gain.plain else 'farther from'} f16 (KL {gain.guided:.3g} instead of {gain.plain:.3g})"
        for gain in ladder.gains(levels)
        if gain.plain > 0
    ]
    return f"The importance matrix brings {', '.join(said)}." if said else ""


def _row(level: Artifact, is_beaten: bool, is_apart: bool) -> list[str]:
    known: dict[str, Any] = level.measured
    cells = ["" if known.get(name) is None else text(format(known[name], form)).replace("%", " %") for name, form in FORMATS.items()]
    memory = size(known["resident_bytes"]) if known.get("resident_bytes") else ""
    name = f"<b>{text(level.level)}</b>" + (f" {chip('beaten')}" if is_beaten else "") + (f" {chip('not comparable')}" if is_apart else "")
    return [name, text(size(level.size_bytes)), *cells, text(memory)]


def level_plot(made: Sequence[Artifact]) -> str:
    """Size against KL of the levels measured on the same text; empty with fewer than two."""
    levels = ladder.comparable([artifact for artifact in made if artifact.kind == "gguf"])
    if len(levels) < 2:
        return ""
    beaten = ladder.dominated(levels)
    points = [plots.Point(level.level or "", level.size_bytes, level.measured["kl_mean"], level.id in beaten) for level in levels]
    return plots.ladder(points, size, lambda value: f"{value:.3g}")


def proofs(made: Sequence[Artifact]) -> str:
    """What was proved, as sentences; says so when nothing was."""
    known = next((artifact.proofs for artifact in reversed(made) if artifact.proofs), None)
    head = '<h2 class="part">Proofs</h2>'
    if known is None:
        return f'{head}<p class="quiet">Nothing has been proved about these models yet; the last step of a run does it.</p>'
    items = "".join(f"<li>{text(said)}</li>" for said in proof_sentences(known) if said not in VERDICTS.values())
    passed = False if any(artifact.proofs.get("passed") is False for artifact in made) else known.get("passed")
    verdict = chip(*CHIPS[passed])
    return f'{head}<p>{verdict}</p><ul class="notes">{items}</ul>'


CHIPS = {True: ("every proof holds", "good"), False: ("a proof does not hold: do not publish", "error"), None: ("not proved", "warning")}
