"""The Models tab: what a run has made, how good each level is, and more levels as a run that goes on by itself."""

from __future__ import annotations

from typing import Any

import gradio as gr

from core.events import Run
from core.export import artifacts
from core.export.artifacts import Artifact
from core.export.gguf import FLOAT_LEVELS
from core.export.levels import LEVELS, level, parse_levels
from core.export.sizes import known_sizes
from core.running import care, live, runs
from core.running.steps import wanted_levels
from ui import feedback, first_run, models_ladder, models_take, models_view, picks, run_view
from ui.access import Caller, allowed
from ui.opening import opening, said
from ui.shell import CHAT, MODELS, PUBLISH, Shell, listen_api
from ui.view import count, size

GROUPS = {
    "article": "The article's levels", "k": "K-quants", "iq": "IQ, for few bits", "other": "What llama.cpp has besides", "float": "Float",
}  # fmt: skip
GUIDED_INFO = (
    "Made of the conversations that the run was trained on: it says which weights matter, which levels of few bits need and most gain by. "
    "The files stand beside the plain ones, and the table says what it buys."
)
NONE_CHOSEN = "Choose at least one model below."


def build(shell: Shell) -> None:
    top = opening(MODELS, "Chat with these", models_view.NO_MODELS)
    first_run.offer(shell, MODELS)
    slot = feedback.slot()
    with gr.Row(visible=False, elem_classes=["split", "watch"]) as body:
        with gr.Column(scale=1, min_width=280, elem_classes=["side"]):
            chosen = gr.Radio([], label="Run", elem_classes=["pick"])
            with gr.Column(elem_classes=["last"]):
                picked = gr.CheckboxGroup([], label="Chosen models", elem_classes=["ticks"], elem_id="models-picked")
                publish = gr.Button("Publish these", interactive=False, elem_id="models-publish")
        with gr.Column(scale=3, min_width=320):
            table = gr.HTML("", container=False, padding=False)
            plot = gr.HTML("", container=False, padding=False)
            measuring = models_ladder.build(shell, chosen)
            proofs = gr.HTML("", container=False, padding=False)
            gr.HTML('<h2 class="part">More levels</h2>', container=False, padding=False)
            going = gr.HTML("", container=False, padding=False, elem_id="models-going")
            with gr.Column(elem_id="models-more"):
                more = {group: gr.CheckboxGroup([], label=title, visible=False, elem_classes=["ticks"]) for group, title in GROUPS.items()}
            made_of = gr.Radio(
                [("By itself", ""), *FLOAT_LEVELS], value="", label="Made from", elem_classes=["chips"], elem_id="models-from"
            )
            is_guided = gr.Checkbox(label="With an importance matrix", elem_id="models-guided", info=GUIDED_INFO)
            quantise = gr.Button("Quantise", interactive=False, elem_id="models-quantise")
    models_take.build(shell)
    seen = gr.State("")
    live_slot = feedback.slot()
    shown = [*top.outputs, body, chosen, picked, publish, table, plot, proofs, going, made_of, *more.values(), quantise, *measuring, seen]
    shell.listen(
        [shell.timers[MODELS].tick, shell.demo.load, shell.tab[MODELS].select, shell.run_id.change],
        look,
        inputs=[shell.run_id, picked, is_guided, seen],
        inputs_kwargs=more,
        outputs=shown,
        slot=live_slot,
        queue=False,
    )
    shell.listen(chosen.input, choose, inputs=chosen, outputs=shell.run_id, slot=slot, queue=False)
    shell.listen(picked.change, name_action, inputs=picked, outputs=[top.action, top.reason, publish], slot=slot, queue=False)
    ticked: dict[str, Any] = {"inputs_kwargs": more, "slot": slot}
    shell.listen([group.change for group in more.values()], name_quantise, inputs=chosen, outputs=quantise, queue=False, **ticked)
    shell.listen(is_guided.input, offer_levels, inputs=[chosen, is_guided], outputs=[*more.values(), quantise], queue=False, **ticked)
    shell.listen(quantise.click, quantise_more, inputs=[chosen, made_of], **ticked)
    shell.listen(top.action.click, to_chat, inputs=picked, outputs=[shell.artifact_id, shell.tabs], slot=slot, queue=False)
    shell.listen(publish.click, to_publish, inputs=picked, outputs=[shell.artifact_id, shell.tabs], slot=slot, queue=False)
    listen_api(list_artifacts, "list_artifacts")


@allowed("public")
def look(run_id: str, picked: list[str], is_guided: bool, seen: str, caller: Caller, **more: list[str]) -> tuple[Any, ...]:
    """What changed since `seen`: new runs, new levels, new figures, or the work that goes on."""
    found = picks.runs_with_models()
    if not found:
        return (*said(models_view.NO_MODELS, "There is no model yet."), gr.Row(visible=False), *(gr.skip(),) * (12 + len(GROUPS)), "")
    run_id = next((run.run_id for run in found if run.run_id == run_id), found[0].run_id)
    watched, made = live.watch(run_id), picks.of_run(run_id)
    listed = tuple((run.run_id, run.name) for run in found)
    figures = tuple(
        (artifact.id, len(artifact.measured), artifact.measured.get("eval_sha256"), artifact.proofs.get("passed")) for artifact in made
    )
    offered = picks.join(picks.first_choice(made))
    measured = models_ladder.measuring_version(run_id) if caller.may("owner") else ""
    now = [str(hash((run_id, listed, figures))), watched.version, offered, measured]
    old = seen.split("|") if seen else [""] * 4
    if picks.join(picked) == old[2]:
        picked = []  # our own choice, which nobody has touched: choose anew from what is there now
    evidence = _evidence(found, run_id, made, picked) if now[0] != old[0] else (gr.skip(),) * 10
    work = _work(watched, made, _ticked(more), is_guided) if now[:3] != old[:3] else (gr.skip(),) * (3 + len(GROUPS))
    measuring = models_ladder.measuring(run_id) if measured != old[3] else (gr.skip(),) * 3
    return (*evidence, *work, *measuring, "|".join(now))


def _evidence(found: list[Run], run_id: str, made: list[Artifact], picked: list[str]) -> tuple[Any, ...]:
    choices = picks.choices_of(made)
    kept = picks.known(picked, choices) or picks.first_choice(made)
    action, reason, publish = name_action_of(kept)
    return (
        models_view.overview(made), action, reason, gr.Row(visible=True),
        gr.Radio([(f"{run.name}\n{run_view.method(run)} · {run.run_id}", run.run_id) for run in found], value=run_id),
        gr.CheckboxGroup(choices, value=kept), publish,
        models_view.level_table(made), models_view.level_plot(made), models_view.proofs(made),
    )  # fmt: skip


def _work(watched: live.Live, made: list[Artifact], more: list[str], is_guided: bool) -> tuple[Any, ...]:
    run = watched.run
    going = run_view.progress(watched) + (run_view.error_of(run) if run.more_levels else "")
    if not run.is_terminal:
        going += models_view.level_bars(run, wanted_levels(runs.recipe_of(run.run_id), run), made)
    return going, gr.Radio(info=models_view.why_made_of(made)), *_offered(run, made, more, is_guided)


def _ticked(more: dict[str, list[str]]) -> list[str]:
    """The levels ticked in any group."""
    return [name for group in GROUPS for name in more.get(group, [])]


def _offered(run: Run, made: list[Artifact], more: list[str], is_guided: bool) -> tuple[Any, ...]:
    """The levels that can be made by group, those of `more` ticked, and the button that makes them."""
    missing = _missing(made, is_guided)
    names = [name for _, name in missing]
    kept = [name for name in more if name in names]
    if not kept and not is_guided and not any(artifact.kind == "gguf" for artifact in made):
        kept = [name for name in names if level(name).group == "article"]
    by_group = {group: [choice for choice in missing if level(choice[1]).group == group] for group in GROUPS}
    boxes = [
        gr.CheckboxGroup(choices, value=[name for _, name in choices if name in kept], visible=bool(choices))
        for choices in by_group.values()
    ]
    return *boxes, _quantise_button(run, kept)


def _missing(made: list[Artifact], is_guided: bool) -> list[tuple[str, str]]:
    """The levels that can be made and are not there, each with its size: to the byte where a dry run has found it."""
    there = {artifact.level for artifact in made}
    merged = next((artifact for artifact in made if artifact.kind == "merged"), None)
    weights = 0 if merged is None else sum(file.size_bytes for file in merged.files if file.name.endswith(".safetensors")) / 2
    source = next((artifact for artifact in made if artifact.level in FLOAT_LEVELS), None)
    exact = known_sizes(source) if source else {}
    offered = [known.guided if is_guided else known for known in LEVELS]
    return [
        (
            f"{known.plain_name} · {size(exact[known.name]) if known.name in exact else f'about {size(weights * known.bits / 8)}'}",
            known.name,
        )
        for known in offered
        if known.is_guided == is_guided and known.name not in there and (not exact or known.name in exact or known.group == "float")
    ]


def _quantise_button(run: Run, names: list[str]) -> gr.Button:
    if not run.is_terminal:
        return gr.Button("Quantise when the run is through", interactive=False)
    return gr.Button(f"Quantise {count(len(names), 'level')}" if names else "Choose levels to quantise", interactive=bool(names))


def name_action_of(picked: list[str]) -> tuple[Any, Any, Any]:
    """Chat button, its reason, publish button, for what is picked."""
    too_many = len(picked) > picks.MAX_SIDE_BY_SIDE
    why_not = NONE_CHOSEN if not picked else f"At most {picks.MAX_SIDE_BY_SIDE} side by side; {len(picked)} are chosen." if too_many else ""
    _, action, reason = said("", why_not, f"Chat with {count(len(picked), 'model')}" if picked else "Chat with these")
    return action, reason, gr.Button(f"Publish {count(len(picked), 'model')}" if picked else "Publish these", interactive=bool(picked))


@allowed("public")
def name_action(picked: list[str]) -> tuple[Any, Any, Any]:
    return name_action_of(picked)


@allowed("public")
def name_quantise(run_id: str, **more: list[str]) -> gr.Button:
    return _quantise_button(live.watch(run_id).run, _ticked(more))


@allowed("public")
def offer_levels(run_id: str, is_guided: bool, **more: list[str]) -> tuple[Any, ...]:
    """The same levels with an importance matrix, or without."""
    twins = [known.guided.name if is_guided else known.plain_name for known in parse_levels(_ticked(more))]
    return _offered(live.watch(run_id).run, picks.of_run(run_id), twins, is_guided)


@allowed("owner")
def quantise_more(run_id: str, made_of: str, **more: list[str]) -> tuple[()]:
    care.add_levels(run_id, _ticked(more), made_of or None)
    return ()


@allowed("public")
def choose(run_id: str) -> str:
    return run_id


@allowed("public")
def to_chat(picked: list[str]) -> tuple[str, gr.Tabs]:
    return picks.join(picked), gr.Tabs(selected=CHAT)


@allowed("public")
def to_publish(picked: list[str]) -> tuple[str, gr.Tabs]:
    return picks.join(picked), gr.Tabs(selected=PUBLISH)


@allowed("public")
def list_artifacts() -> list[dict[str, Any]]:
    """Every model of the workspace: id, run, kind, level, name, size in bytes, measured figures and proofs."""
    fields = {"id", "run_id", "kind", "level", "name", "base_model", "measured", "proofs"}
    return [artifact.model_dump(mode="json", include=fields) | {"size_bytes": artifact.size_bytes} for artifact in artifacts.everywhere()]
