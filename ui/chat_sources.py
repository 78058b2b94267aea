"""What can be chosen on the Chat tab: the workspace's models, and what a person has added by name since the app was started.

Visitors are offered the starter and nothing else: what was trained here is its owner's.
"""

from __future__ import annotations

from core.chat import hub, sources
from core.chat.memory import needed, shortage
from core.chat.sources import Source
from core.errors import UserError
from core.export import artifacts
from ui import chat_pool, feedback, picks
from ui.access import Caller
from ui.models_view import KINDS
from ui.view import size, text

MAX_ADDED = 50
STARTER = "starter"
STARTER_CHOICE = ("Embedded starter", STARTER)
_added: dict[str, Source] = {}  # by id; named by the owner, gone with the process


def everything(caller: Caller) -> list[tuple[str, str]]:
    """(label, id) of all that `caller` can ask; an adapter is there twice, on and off."""
    if not caller.may("owner"):
        return [STARTER_CHOICE]
    choices: list[tuple[str, str]] = []
    for label, identifier in picks.everything():
        choices.append((label, identifier))
        if label.endswith(KINDS["adapter"]) or f" · {KINDS['adapter']} · " in label:
            choices.append((f"{label} off", identifier + sources.BASE))
    for identifier, source in _added.items():
        choices.append((f"{source.name} · {source.level}", identifier))
        if _has_switch(source):
            choices.append((f"{source.name} · {source.level} off", identifier + sources.BASE))
    return [*choices, STARTER_CHOICE]


def _has_switch(source: Source) -> bool:
    return source.artifact is not None and source.artifact.kind == "adapter" and source.with_adapter


def find(ids: list[str], caller: Caller) -> list[Source]:
    """The sources that exist of `ids` and may be asked, each once, in order."""
    if not caller.may("owner"):
        return [starter()] if STARTER in ids else []
    there = {artifact.id: artifact for artifact in artifacts.everywhere()}
    found: list[Source] = []
    for identifier in dict.fromkeys(ids):
        plain = identifier.removesuffix(sources.BASE)
        if identifier == STARTER:
            found.append(starter())
        elif identifier in _added:
            found.append(_added[identifier])
        elif plain in _added and _has_switch(_added[plain]):
            artifact = _added[plain].artifact
            assert artifact
            found.append(sources.of_artifact(artifact, with_adapter=False))
        elif plain in there and (plain == identifier or there[plain].kind == "adapter"):
            found.append(sources.of_artifact(there[plain], with_adapter=plain == identifier))
    return found


def starter() -> Source:
    """The model that ships with Transmute."""
    known = artifacts.resolve(STARTER)
    return sources.of_artifact(known.model_copy(update={"id": STARTER, "name": "Starter"}))


def add(reference: str, key: str, caller: Caller) -> Source:
    """Make a Hub model (fetched with the caller's token), a local path or an endpoint known to the chat.

    Raises:
        UserError: paths and endpoints are for the person at this machine; there is no such thing; or several, see `files_of`.
    """
    reference = reference.strip()
    is_hub = hub.is_reference(reference.removesuffix(sources.BASE)) and not reference.startswith((".", "/"))
    if not caller.is_local and not is_hub:
        remedy = "Name a model on the Hub, as USER/NAME."
        raise UserError("Paths and endpoints can be named only at the machine itself.", "the model to add", remedy, code="ACCESS")
    if len(_added) >= MAX_ADDED:
        raise UserError(f"{MAX_ADDED} models have been added.", "the model to add", "Start the app anew to begin afresh.")
    source = sources.resolve(reference, caller.token, allow_paths=caller.is_local)
    if key:
        chat_pool.keys[source.id] = key
    _added[source.id] = source
    return source


def files_of(several: hub.SeveralFilesError) -> list[tuple[str, str]]:
    """(label, reference) of the GGUF files of a repository, of which one has to be chosen."""
    return [(f"{file.level or file.name} · {size(file.size_bytes)}", file.reference) for file in several.files]


def memory_line(found: list[Source], context_length: int | None) -> str:
    """How much memory the chosen models take, of the machine and of its GPUs, beside what is free; a warning when they do not fit."""
    if not any(source.artifact for source in found):
        return ""
    fresh = [source for source in found if source.artifact and source.engine_id not in chat_pool.loaded()]
    if not fresh:
        return '<p class="quiet">Loaded already.</p>'
    at = chat_pool.room_for(found)
    need = needed(fresh, at, context_length)
    if short := shortage(need, at):
        return feedback.said(short, "", chat_pool.SMALLER, tone="warning")
    on_gpu = f" and {size(need.gpu)} of {size(sum(at.gpus))} free GPU memory" if need.gpu else ""
    return f'<p class="quiet">{text(f"Loading them takes about {size(need.main)} of {size(at.main)} free memory{on_gpu}.")}</p>'
