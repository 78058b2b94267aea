"""The part of the Publish tab that sends: who sees it, the edited card, progress by bytes, and what was published before."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr

from core.data.dataset import open_dataset
from core.errors import UserError
from core.export import artifacts
from core.hubclient import Stopped
from core.publish.datasets import prepare
from core.publish.ledger import ledger, remember
from core.publish.preflight import Plan
from core.publish.push import Difference, Pushed, compare, not_logged_in, push, with_card
from core.publish.standing import require, standing
from core.publish.waiting import all_waiting, waiting
from core.running import live, runs
from ui import background, feedback
from ui.access import Caller, allowed, on_space
from ui.view import count, meter, size, table, text

SHOWN_BEFORE = 8
STOP = "Stop sending"
KINDS = {"created": "made", "committed": "sent", "pull_request": "pull request opened", "failed": "not sent"}
MOST_SHOWN = 500
_going: dict[str, threading.Event] = {}  # by address; set, it ends the publication
_lock = threading.Lock()
_shown: dict[tuple[str, str, tuple[str, ...]], Difference] = {}  # what each caller saw last, by address and sources


def known(picked: list[str]) -> list[str]:
    """The ids chosen, which are of this workspace: the page takes no path.

    Raises:
        UserError: one of them is gone.
    """
    there = {artifact.id for artifact in artifacts.everywhere()}
    for identifier in picked:
        if identifier.startswith("ds-"):
            open_dataset(identifier)
        elif identifier not in there:
            raise UserError(f"{identifier} is not there any more.", "what to publish", "Choose from the list again.")
    return picked


def planned(picked: list[str], repo_id: str, form: str | None, license: str | None = "", languages: str | None = "") -> Plan:
    """The plan for what is chosen. A field that was never shown gives None."""
    codes = re.findall(r"[^\s,;]+", languages or "")
    return prepare(known(picked or []), repo_id.strip(), (license or "").strip(), "jsonl" if form == "jsonl" else "parquet", codes)


def token_for(pasted: str | None, caller: Caller) -> str | None:
    """The token to publish with. On a Space there is no field to paste one into, and Gradio gives None for it."""
    return (pasted or "").strip() or caller.token


def scope_of(token: str | None, caller: Caller) -> str:
    """What `token` was allowed to do, as far as it is the caller's login; of a pasted one nobody says."""
    return caller.scope if token == caller.token else ""


@allowed("owner")
def send(
    picked: list[str],
    repo_id: str,
    form: str | None,
    card: str,
    private: bool,
    as_pull_request: bool,
    despite_proofs: bool,
    despite_tokens: bool,
    pasted: str | None,
    caller: Caller,
) -> Iterator[tuple[Any, ...]]:
    """Send what was prepared. It goes on when the page is closed; the list below then says how it ended."""
    plan, token = with_card(planned(picked, repo_id, form), card), token_for(pasted, caller)
    if unseen := _unseen(plan, token, caller):
        yield unseen, *(gr.skip(),) * 3  # the pasted token stays for the second click
        return
    options = {"private": private, "pull_request": as_pull_request, "despite_proofs": despite_proofs, "despite_tokens": despite_tokens}
    for shown in _delivered(plan, token, scope_of(token, caller), options):
        yield *shown, ""  # the pasted token leaves the page with the first answer


@allowed("owner")
def send_waiting(run_id: str, caller: Caller) -> Iterator[tuple[Any, ...]]:
    """Send what a run was meant to publish when it is done, private and with the card as the facts write it."""
    found = waiting(runs.load(run_id or ""))
    if found is None:
        raise UserError("Nothing of this run waits to be published.", run_id or "", "Choose it above to publish it elsewhere.")
    plan = prepare(found.sources, found.repo_id)
    if unseen := _unseen(plan, caller.token, caller):
        yield unseen, *(gr.skip(),) * 4
        return
    for shown in _delivered(plan, caller.token, caller.scope, {"private": True}):
        yield *shown, *waits()


def _unseen(plan: Plan, token: str | None, caller: Caller) -> str:
    """What `plan` would change in a repository that exists, where `caller` has not seen that yet; empty when it can be sent."""
    key = (caller.key, plan.address, plan.sources)
    seen, said, found = _shown.get(key), asked(plan, token, caller), _shown.get(key)
    if found is None or found == seen or not found.exists or not (found.new or found.changed):
        return ""
    return feedback.said("Nothing was sent yet.", remedy="Look at what would change there, then press Send again.", tone="warning") + said


def waits() -> tuple[Any, Any]:
    """What waits to be published now: the choice, and its button."""
    found = all_waiting(live.all_runs())
    choices = [(f"{each.name} to {each.repo_id}", each.run_id) for each in found]
    return gr.Dropdown(choices, value=choices[0][1] if choices else None, visible=bool(choices)), gr.Button(visible=bool(choices))


def _delivered(plan: Plan, token: str | None, scope: str, options: dict[str, bool]) -> Iterator[tuple[Any, Any, Any]]:
    """The outcome as it comes, the list of publications at the end, and the button that stops it."""

    def work(tell: Any) -> Pushed:
        with only_one(plan.address) as is_stopped, remembered(plan):
            require(plan, token, scope)
            return push(plan, token, on_progress=tell, should_stop=is_stopped.is_set, **options)

    try:
        for now in background.watch(work):
            yield (result(now.result), before(), stop_button()) if now.is_finished else (progress(now), gr.skip(), stop_button())
    except Exception:
        yield "", before(), stop_button()
        raise


@contextmanager
def remembered(plan: Plan) -> Iterator[None]:
    """Whatever ends a publication early stands in the list of publications: the page may have been closed long before."""
    try:
        yield
    except Stopped:
        remember(plan.address, "failed", why="It was stopped.", sources=list(plan.sources))
        kept = "Send it again: what arrived at the Hub is kept there, and nobody sees it."
        raise UserError("The publication was stopped.", plan.repo_id, kept, "STOPPED") from None
    except Exception as error:
        remember(plan.address, "failed", why=feedback.as_user_error(error).problem, sources=list(plan.sources))
        raise


@contextmanager
def only_one(repo_id: str) -> Iterator[threading.Event]:
    """Two publications to one repository at a time would overtake each other: the second is refused. The event ends this one."""
    is_stopped = threading.Event()
    with _lock:
        if repo_id in _going:
            raise UserError(f"{repo_id} is being sent to already.", repo_id, "Wait until that has ended.")
        _going[repo_id] = is_stopped
    try:
        yield is_stopped
    finally:
        with _lock:
            _going.pop(repo_id)


@allowed("owner")
def stop(caller: Caller) -> Any:
    """End every publication that goes on, also one that was begun on a page that is closed now."""
    with _lock:
        for is_stopped in _going.values():
            is_stopped.set()
    return gr.Button("Stopping ...", interactive=False)


def stop_button() -> Any:
    """Seen while something is being sent."""
    with _lock:
        asked = [each.is_set() for each in _going.values()]
    is_stopping = bool(asked) and all(asked)
    return gr.Button("Stopping ..." if is_stopping else STOP, visible=bool(asked), interactive=not is_stopping)


@allowed("owner")
def look(picked: list[str], repo_id: str, form: str | None, card: str, pasted: str | None, caller: Caller) -> str:
    """What the repository holds already against what would be sent, the card as it was edited, and whether this login may send it."""
    plan = with_card(planned(picked, repo_id, form), card)
    token = token_for(pasted, caller)
    if not token:
        raise not_logged_in(repo_id)
    return asked(plan, token, caller)


def asked(plan: Plan, token: str | None, caller: Caller) -> str:
    """What the Hub says before anything is sent; without a login or a network, that it was not asked."""
    if not token:
        return feedback.said("Sign in, or paste a token, to see what the repository holds and whether you may write there.", tone="warning")
    try:
        found = standing(plan.repo_id, token, plan.repo_type, plan.base_model, scope_of(token, caller), plan.total_bytes)
        if found.problems:
            return "".join(feedback.said(problem) for problem in found.problems)
        changes = compare(plan, token)
        _shown[caller.key, plan.address, plan.sources] = changes
        while len(_shown) > MOST_SHOWN:  # the oldest go; who saw one of those sees it again
            _shown.pop(next(iter(_shown)), None)
        return "".join(feedback.said(note, tone="warning") for note in found.notes) + difference(changes, plan.address)
    except UserError as error:
        return feedback.card(error)


def difference(found: Difference, address: str) -> str:
    if not found.exists:
        return feedback.said(f"{address} does not exist yet and will be made.", tone="good")
    who = "It was made here." if found.is_ours else "It was not made here, so a pull request will be opened and its owner decides."
    rows = [[text(said), text(len(names)), text(", ".join(names[:6]) + (" ..." if len(names) > 6 else ""))] for said, names in found.groups]
    return feedback.said(f"{address} exists. {who}", tone="warning" if found.by_pull_request else "good") + table(
        ("Files", "", "Names"), rows, "Files of the repository against those that would be sent", numeric=(1,)
    )


def progress(work: background.Work) -> str:
    share = work.done / work.total if work.total else 0.0
    label = f"Sent {size(work.done)} of {size(work.total)}" if work.total else "Comparing with the Hub"
    return f'{meter(share, label)}<p class="quiet" role="status">{text(label)}</p>'


def result(pushed: Pushed) -> str:
    """The link and the commit."""
    link = _link(pushed.pull_request or pushed.url)
    if not pushed.commit:
        return f'<div class="message good" role="status"><p class="what">Everything is there already: {link}</p></div>'
    done = "A pull request waits for the owner" if pushed.pull_request else f"Published {count(len(pushed.sent), 'file')}"
    more = f"{size(pushed.sent_bytes)}, commit {pushed.commit[:10]}"
    return f'<div class="message good" role="status"><p class="what">{text(done)}: {link}</p><p class="where">{text(more)}</p></div>'


def _link(url: str) -> str:
    return (
        f'<a href="{text(url)}" target="_blank" rel="noopener">{text(url)}</a>'
        if url.startswith(("https://", "http://127.0.0.1"))
        else text(url)
    )


def before() -> str:
    """What was published from this workspace, the newest first."""
    entries = list(ledger())[-SHOWN_BEFORE:][::-1]
    if not entries:
        return ""
    rows = [
        [
            f"{text(entry['repo_id'])}<br><span class='quiet'>{text(time.strftime('%d %b %H:%M', time.localtime(entry['t'])))}</span>",
            text(": ".join(filter(None, (KINDS.get(entry["kind"], entry["kind"]), entry.get("why"))))),
        ]
        for entry in entries
    ]
    return '<h2 class="part">Published from here</h2>' + table(("Repository", "What"), rows, "What was published from here")


def may_paste() -> bool:
    """A token is pasted on one's own machine only; on a Space the login gives it."""
    return not on_space()
