"""Other people's handles, in every argument of every listener, by a visitor and by somebody who is logged in and not the owner (R10, R11, R23).

What they are given by mistake, find in a log or guess: the path of an upload, the id of a dataset, a run, a model, a conversation. They are
refused in words, and no answer holds a word of the owner's. What a visitor brought, and by which handlers another reads it not, stands in
test_whose_data.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from core import events
from core.chat import talks, votes
from core.chat.votes import Vote
from core.data.dataset import import_dataset
from core.running import runs
from core.training.presets import preset
from tests import listeners, space
from tests.hub.server import Hub
from tests.integration.test_client import MODEL, a_finished_run
from tests.integration.test_fuzz_http import CALLS_AT_ONCE, TOLD, Asked, ask_one
from tests.integration.test_whose_data import rows
from tests.listeners import Listener, Visitor
from tests.page import App, free_port, stop_runs

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900), pytest.mark.filterwarnings("ignore")]
WORDS = "sesame of the owner"
ONLY_OWNER, NO_UPLOAD, NO_DATA = "On this Space only its owner may do that", "That is no uploaded file", "no such dataset of yours here"
SAID = f"{ONLY_OWNER}|{NO_UPLOAD}|{NO_DATA}|Visitors chat with the starter"
STRANGERS = ["a visitor", "other user"]
ADDRESS = "8.8.4.4"  # of the visitor whose upload it is


@dataclass
class Owned:
    """The handles of what the owner has here, and of what a visitor has uploaded."""

    dataset: str
    run: str
    talk: str
    upload: str
    visitors_upload: str

    @property
    def ids(self) -> tuple[str, ...]:
        return self.dataset, self.run, self.talk, MODEL


@dataclass
class Site:
    app: App
    found: list[Listener]
    owned: Owned

    def listener(self, name: str) -> Listener:
        return next(each for each in self.found if each.name == name)

    def everything(self) -> dict[str, bytes]:
        """What lies in the workspace of the owner's, and the uploads."""
        kept = [file for folder in ("datasets", "runs", "chats") for file in (self.app.home / folder).rglob("*") if file.is_file()]
        files = [*kept, Path(self.owned.upload), Path(self.owned.visitors_upload)]
        return {str(file): file.read_bytes() for file in files if file.suffix not in (".lock", ".npz")}


def left_behind(home: Path) -> tuple[str, str, str]:
    """A dataset, a run and a conversation of the owner's, each full of the owner's words; their ids."""
    file = home.parent / "private.jsonl"
    file.write_text(rows(WORDS), encoding="utf-8")
    dataset = import_dataset(file, name="private")
    recipe = preset("demo").model_copy(update={"dataset": dataset.id, "eval_dataset": "", "sample_prompts": WORDS})
    run_id = runs.create(recipe)
    events.append(runs.folder(run_id), "samples", step=1, samples=[{"prompt": WORDS, "answer": WORDS}])
    events.append(runs.folder(run_id), "remark", text=WORDS)
    (runs.folder(run_id) / "worker.log").write_text(WORDS, encoding="utf-8")
    events.append(runs.folder(run_id), "finished", state="done")
    answer = {"id": "starter", "label": "merged", "text": WORDS, "mark": None, "same": False, "state": "done", "stop": "eos",
              "stats": {}, "notices": [], "error": None}  # fmt: skip
    talk = talks.save([{"prompt": WORDS, "answers": [answer]}], system=WORDS, models=("starter",))
    votes.cast(Vote(first="starter", second=MODEL, verdict="first", prompt=WORDS, answers=(WORDS, WORDS)))
    return dataset.id, run_id, talk


def upload(app: App, name: str, words: str, **headers: str) -> str:
    files = {"files": (name, rows(words).encode())}
    sent = httpx.post(f"{app.url}/gradio_api/upload", files=files, headers=headers, timeout=60, trust_env=False)
    assert sent.status_code == 200, sent.text
    return sent.json()[0]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("others")
    home = root / "workspace"
    (root / "uploads").mkdir()
    a_finished_run(home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRANSMUTE_HOME", str(home))
        ids = left_behind(home)
    with Hub() as hub:
        hub.people = space.people()
        variables = space.environment(hub.url) | {"GRADIO_TEMP_DIR": str(root / "uploads")}
        app = App(home, free_port(), more=variables)
        app.start()
        of_the_owner = upload(app, "owners.jsonl", WORDS, cookie=f"session={space.cookie(space.TOKENS['owner'])}")
        visitors = upload(app, "visitors.jsonl", f"{WORDS}, said a visitor", **{"x-forwarded-for": ADDRESS})
        yield Site(app, listeners.of_page(space.environment(hub.url)), Owned(*ids, of_the_owner, visitors))
        app.kill()
        stop_runs(home)


def stranger(site: Site, who: str, **more: Any) -> Visitor:
    token = space.TOKENS.get(who)
    return Visitor(site.app.url, cookie=space.cookie(token) if token else "", headers={"x-forwarded-for": "8.8.8.8"}, **more)


def ask_all(site: Site, who: str) -> list[Asked]:
    """From a few pages of this stranger's, which stay open: a new one for every call would take most of the time."""

    def at_page(number: int) -> list[Asked]:
        visitor = stranger(site, who, session_hash=f"{who}{number}".replace(" ", ""))
        wanted = everywhere(site, visitor, STRANGERS.index(who))[number::CALLS_AT_ONCE]
        return [ask_one(visitor, listener, data, to_end=True) for listener, data in wanted]

    with ThreadPoolExecutor(CALLS_AT_ONCE) as pool:
        return [each for asked in pool.map(at_page, range(CALLS_AT_ONCE)) for each in asked]


def data_of(path: str) -> dict[str, Any]:
    return {"path": path, "orig_name": Path(path).name, "meta": {"_type": "gradio.FileData"}}


def everywhere(site: Site, visitor: Visitor, turn: int) -> list[tuple[Listener, list[Any]]]:
    """The handles in all arguments at once, and in what the browser keeps, with the form and the choices that go with it.

    Of the former every second one, from `turn` on: what this one of the two strangers does not try, the other one does.
    """
    owned = site.owned
    plain: list[Any] = [*owned.ids, owned.upload, data_of(owned.upload), data_of(owned.visitors_upload), [owned.run, MODEL]]
    form = {"preset": "demo", "values": {"dataset": owned.dataset, "eval_dataset": owned.dataset}, "carried": "", "place": ""}
    kept = {"dataset_id": owned.dataset, "run_id": owned.run, "artifact_id": MODEL, "form": form, "repo_id": "someone/private",
            "chat_choice": [MODEL], "publish_choice": [MODEL], "probe_id": owned.run}  # fmt: skip
    wanted: list[tuple[Listener, list[Any]]] = []
    for number, listener in enumerate(site.found):
        width = len(visitor.values(listener))
        chosen = plain[(number + turn) % 2 :: 2]
        if listener.role == "owner":  # it is refused before it looks at them
            chosen = chosen[:1]
        wanted += [(listener, [value] * width) for value in chosen if width]
        wanted.append((listener, visitor.values(listener, **kept)))
    return wanted


@pytest.mark.parametrize("who", STRANGERS)
def test_no_answer_to_somebody_elses_handle_holds_a_word_of_the_owners(who: str, site: Site) -> None:
    before, asked = site.everything(), ask_all(site, who)
    assert len(asked) > 4 * len([each for each in site.found if each.role != "owner"]) > 400
    assert all(each.answer for each in asked)
    assert len([each for each in asked if re.search(SAID, each.answer)]) > 100, "in words; the others open nothing"
    told = [str(each) for each in asked if any(words in each.answer for words in (WORDS, *TOLD))]
    assert told == []
    after = site.everything()
    assert {name: after.get(name) for name in before} == before, "nothing of it was changed or removed"


def refused(site: Site) -> dict[str, tuple[list[Any], str]]:
    """By listener: what a stranger asks of it, and what it must say."""
    owned, only, no_upload, no_data = site.owned, ONLY_OWNER, NO_UPLOAD, NO_DATA
    return {
        "ui.dataset_sources.take_upload": ([data_of(owned.visitors_upload)], no_upload),
        "ui.dataset_handlers.validate_dataset": ([data_of(owned.upload)], no_upload),
        "ui.dataset_handlers.go_on": ([owned.dataset], no_data),
        "ui.train_handlers.start_run": ([{"name": "x", "base_model": "starter", "dataset": owned.dataset}], only),
        "ui.train_estimate.estimate": ([{"base_model": "starter", "dataset": owned.dataset}], only),
        "ui.runs_tab.stop_run": ([owned.run], only),
        "ui.run_details.pack_logs": ([owned.run], only),
        "ui.programs.publish": ([[MODEL], "someone/x", True, False, True], only),
        "ui.programs.measure": ([MODEL, ""], only),
        "ui.chat_talk.open_saved": ([owned.talk], f"{only}|is not in the list of choices"),
        "ui.chat_talk.remove": ([owned.talk], f"{only}|is not in the list of choices"),
        "ui.chat_tab.chat": ([[MODEL], "Who are you?", "", 0.0, 1.0, 20, 0], "Visitors chat with the starter model"),
    }


@pytest.mark.parametrize("who", STRANGERS)
def test_each_handle_is_refused_in_words_where_it_would_open_something(who: str, site: Site) -> None:
    visitor = stranger(site, who)
    for name, (data, said) in refused(site).items():
        answer = visitor.call(site.listener(name), data=data, to_end=True)
        assert re.search(said, answer), (name, answer[-1500:])


def test_to_the_owner_the_same_handles_say_the_words(site: Site) -> None:
    """So that their absence above means something."""
    owner = Visitor(site.app.url, cookie=space.cookie(space.TOKENS["owner"]))
    owned = site.owned
    for name, kept in (
        ("ui.dataset_rows.look_at", {"dataset_id": owned.dataset}),
        ("ui.runs_tab.look", {"run_id": owned.run}),
        ("ui.chat_talk.list_saved", {}),
    ):
        listener = site.listener(name)
        assert WORDS in owner.call(listener, data=owner.values(listener, **kept), to_end=True), name
    checked = owner.call(site.listener("ui.dataset_handlers.validate_dataset"), data=[data_of(owned.visitors_upload)])
    assert re.search(r'"num_valid": ?\d', checked), checked
