"""Verbs about talking to models: chat, compare, serve."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from core.cli.output import Json, console, finish
from core.errors import UserError

KEY_VARIABLE, SERVE_VARIABLE = "TRANSMUTE_ENDPOINT_KEY", "TRANSMUTE_SERVE_KEY"
Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="ARTIFACT",
        help="Artifact ids (ADAPTER@base switches the adapter off), model folders, .gguf files, Hub ids (USER/NAME:LEVEL for a GGUF file), or http://HOST:PORT/v1#MODEL.",
    ),
]
System = Annotated[str | None, typer.Option(help="A system message; default: the template's own.")]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same answer.")]
Temperature = Annotated[float, typer.Option(min=0, max=5, help="0 always takes the likeliest token.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="Tokens per answer at most.")]


def chat(
    sources: Sources,
    prompt: Annotated[str | None, typer.Option(help="What to ask; without it, a conversation on the terminal.")] = None,
    system: System = None,
    seed: Seed = 0,
    temperature: Temperature = 0.0,
    top_p: Annotated[float, typer.Option(min=0.0001, max=1, help="Keep the likeliest tokens that make up this share.")] = 1.0,
    top_k: Annotated[int, typer.Option(min=0, help="Keep this many of the likeliest tokens; 0 keeps all.")] = 0,
    min_p: Annotated[float, typer.Option(min=0, max=1, help="Drop tokens below this share of the likeliest one's probability.")] = 0.0,
    repeat_penalty: Annotated[float, typer.Option(min=0.5, max=2, help="Makes recent tokens less likely; 1 changes nothing.")] = 1.0,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; may be given several times.")] = None,
    max_tokens: MaxTokens = 256,
    context: Annotated[int | None, typer.Option(min=16, help="Context length in tokens; default: the model's, up to 4,096.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Go on with the prompt as it is, without a template.")] = False,
    json: Json = False,
) -> None:
    """Ask one or several models the same question, side by side; without --prompt, talk with them."""
    from core.chat import memory
    from core.chat.engine import Sampling
    from core.chat.together import Question
    from core.cli import panes, talk

    if prompt is None and not (sys.stdin.isatty() and not json):
        raise UserError("There is nothing to ask.", "--prompt", "Give --prompt; a conversation needs a terminal.")
    found = _resolve(sources)
    sampling = Sampling(
        temperature=temperature, seed=seed, max_tokens=max_tokens, top_p=top_p, top_k=top_k, min_p=min_p, repeat_penalty=repeat_penalty,
        stop=tuple(stop or ()),
    )  # fmt: skip
    out = console(json)
    at = memory.room()
    if short := memory.shortage(memory.needed(found, at, context), at):
        out.print(f"{short} It may end half way: choose fewer models, smaller levels or a shorter --context.", style="yellow", markup=False)
    with ExitStack() as stack:
        opened: dict[str, Any] = {}
        for source in found:
            if source.engine_id not in opened:
                opened[source.engine_id] = source.open(context_length=context, key=os.environ.get(KEY_VARIABLE, ""))
                stack.callback(opened[source.engine_id].close)
        engines = [opened[source.engine_id] for source in found]
        if prompt is None:
            talk.loop(talk.Talk(out, found, engines, sampling, system or ""))
            raise typer.Exit
        asked: Any = prompt if raw else [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": prompt}]
        questions = [Question(engine, asked, source.with_adapter) for source, engine in zip(found, engines, strict=True)]
        shown = panes.answered(out, found, questions, sampling)
    finish(json, {"answers": [pane.described(prompt) for pane in shown]}, 1 if any(pane.error for pane in shown) else 0)


def _resolve(references: list[str]) -> list[Any]:
    from huggingface_hub import get_token

    from core.chat import sources

    found = [sources.resolve(reference, get_token()) for reference in references]
    return list({source.id: source for source in found}.values())


def compare(
    prompts: Annotated[Path, typer.Argument(metavar="PROMPTS", help='JSONL, one {"prompt": ...} or {"messages": [...]} a line.')],
    sources: Sources,
    out: Annotated[Path, typer.Option("-o", "--out", help="Where to write the answers.")] = Path("answers.jsonl"),
    seed: Seed = 0,
    temperature: Temperature = 0.0,
    max_tokens: MaxTokens = 256,
    json: Json = False,
) -> None:
    """Write every model's answer to every prompt as JSONL, and show how often the models agree with the first one.

    Ctrl-C ends it and keeps the answers that are there.
    """
    import orjson

    from core.chat import compare as comparing
    from core.chat.engine import Sampling
    from core.paths import replacing

    questions = comparing.read_prompts(prompts)
    found = _resolve(sources)
    sampling = Sampling(temperature=temperature, seed=seed, max_tokens=max_tokens)
    screen = console(json)
    records: list[dict[str, Any]] = []
    total = len(found) * len(questions)
    with replacing(out.absolute()) as partial, partial.open("wb") as file, screen.status("Asking") as status:
        try:
            for record in comparing.answers(found, questions, sampling, key=os.environ.get(KEY_VARIABLE, "")):
                file.write(orjson.dumps(record) + b"\n")
                records.append(record)
                status.update(f"{len(records):,} of {total:,} answers")
        except KeyboardInterrupt:
            screen.print(f"Ended after {len(records):,} of {total:,} answers, which are kept.", markup=False)
    lines = comparing.agreement(found, records)
    table = Table("model", "same answer", "same beginning", "tokens/s", "failed", box=None, pad_edge=False)
    for source, line in zip(found, lines, strict=True):
        speed = "" if line.tokens_per_s is None else f"{line.tokens_per_s:,.0f}"
        table.add_row(
            f"{source.name} {source.level}", f"{line.same} of {line.answers}", f"{line.shared:.1%}", speed, str(line.errors or "")
        )
    screen.print(table)
    screen.print(f"{len(records):,} answers written to {out}", markup=False)
    failed = len(records) < total or any(line.errors for line in lines)
    finish(json, {"out": str(out), "prompts": len(questions), "agreement": [vars(line) for line in lines]}, 1 if failed else 0)


def serve(
    source: Annotated[str, typer.Argument(metavar="ARTIFACT", help="An artifact id, a .gguf file, or USER/NAME:LEVEL on the Hub.")],
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Which port.")] = 8000,
    host: Annotated[str, typer.Option(help=f"Where to listen; anything but this machine needs a key in {SERVE_VARIABLE}.")] = "127.0.0.1",
    context: Annotated[int, typer.Option(min=16, help="Context length in tokens, at most what the model was trained for.")] = 4096,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: the library's.")] = None,
) -> None:
    """Serve a GGUF file as an OpenAI-compatible endpoint, with llama-cpp-python's own server."""
    from core.chat import serve as serving

    (found,) = _resolve([source])
    if found.artifact is None:
        raise UserError(f"{source} is an endpoint already.", source, "Name an artifact or a .gguf file.")
    artifact = found.artifact
    process = serving.start(
        artifact, host=host, port=port, key=os.environ.get(SERVE_VARIABLE) or None, context_length=context, threads=threads
    )
    console(False).print(f"{artifact.name} at http://{host}:{port}/v1 (Ctrl-C ends it)", markup=False)
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise typer.Exit from None
    if code:
        remedy = "Choose another port with --port; the lines above have the server's reason."
        raise UserError(f"The server ended (exit code {code}).", f"{host}:{port}", remedy, code="CRASH")


VERBS = {"chat": chat, "compare": compare, "serve": serve}
