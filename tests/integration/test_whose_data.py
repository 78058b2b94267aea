"""Whose data it is, over HTTP: by no handler does a visitor of a Space read what the owner or another visitor has brought (issue 7, R23)."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from core.data.dataset import Dataset, import_dataset
from tests import listeners, space
from tests.hub.server import Hub
from tests.listeners import Listener, Visitor
from tests.page import App, free_port

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]
DATASET = "transmute-dataset_id"
OF_THE_OWNER, OF_A, OF_B = "sesame of the owner", "sesame of A", "sesame of B"
REFUSED = "There is no such dataset of yours here."
# These are given the id and open nothing by it for a visitor: lists are the owner's, the form only carries it, a reload begins anew.
OPEN_NOTHING = {
    "ui.dataset_handlers.list_models",
    "ui.dataset_split.list_others",
    "ui.train_handlers.restore",
    "ui.train_handlers.arrive",
    "ui.dataset_sources.reopen",
}


def rows(words: str, number: int = 23) -> str:
    """Conversations with `words` in every one, a row that cannot be trained, and one that is there twice."""

    def talk(ask: str) -> dict[str, Any]:
        return {"id": ask, "conversations": [{"from": "human", "value": ask}, {"from": "gpt", "value": f"It is {words}."}]}

    made = [talk(f"{words}, number {each}?") for each in range(number)]
    broken = {"id": words, "conversations": [{"from": "human", "value": words}, {"from": words, "value": words}]}
    return "".join(json.dumps(each) + "\n" for each in [*made, made[0], broken])


@dataclass
class Site:
    """The Space with the owner's dataset in it, and what its page listens to."""

    app: App
    found: list[Listener]
    owners: Dataset

    def listener(self, name: str) -> Listener:
        return next(each for each in self.found if each.name == name)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("whose") / "workspace"
    home.mkdir()
    file = home.parent / "private.jsonl"
    file.write_text(rows(OF_THE_OWNER), encoding="utf-8")
    before, os.environ["TRANSMUTE_HOME"] = os.environ["TRANSMUTE_HOME"], str(home)
    owners = import_dataset(file, name=OF_THE_OWNER)
    os.environ["TRANSMUTE_HOME"] = before
    with Hub() as hub:
        hub.people = space.people()
        variables = space.environment(hub.url)
        app = App(home, free_port(), more=variables)
        app.start()
        yield Site(app, listeners.of_page(variables), owners)
        app.kill()


class Person:
    """Somebody with a page of their own, who has pasted `words` and looks at them."""

    def __init__(self, site: Site, words: str, token: str = "") -> None:
        self.site, self.words = site, words
        self.visitor = Visitor(site.app.url, cookie=space.cookie(token) if token else "", session_hash=words.replace(" ", ""))
        self.handle = self.bring()

    def bring(self) -> str:
        """Import the words as anybody does; returns what the page keeps of the dataset."""
        take = self.site.listener("ui.dataset_sources.take_text")
        import_id = self.kept(take, self.visitor.call(take, data=[rows(self.words)]), "transmute-import")
        look = self.site.listener("ui.dataset_sources.look_after")
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            values = self.visitor.values(look, **{"import": import_id})
            if dataset_id := self.kept(look, self.visitor.call(look, data=values, to_end=True), DATASET):
                return dataset_id
            time.sleep(0.3)
        raise AssertionError("the import did not end")

    def kept(self, listener: Listener, answer: str, name: str) -> str:
        """What an answer gives the browser to keep under `name`."""
        completed = next(line for line in answer.splitlines() if "process_completed" in line)
        given = json.loads(completed.removeprefix("data: "))["output"]["data"]
        value = given[self.visitor.kept_outputs[listener.number].index(name)]
        return value if isinstance(value, str) else ""

    def ask(self, listener: Listener, dataset_id: str) -> str:
        form = {"preset": "demo", "values": {"dataset": dataset_id, "eval_dataset": dataset_id}, "carried": "", "place": ""}
        return self.visitor.call(listener, data=self.visitor.values(listener, dataset_id=dataset_id, form=form), to_end=True)

    def readers(self) -> list[Listener]:
        """Every listener that is given the id of the open dataset and is not the owner's alone."""
        return [each for each in self.site.found if each.role != "owner" and DATASET in self.visitor.kept_inputs[each.number]]

    def open_sections(self) -> None:
        """So that the page's state says that they are open, for the listeners that ask for it."""
        settle = self.site.listener("ui.dataset_rows.settle")
        self.visitor.call(settle)
        for name in ("ui.dataset_statistics.open_statistics", "ui.dataset_statistics.open_audit"):
            assert REFUSED not in self.ask(self.site.listener(name), self.handle)


@pytest.fixture(scope="module")
def a(site: Site) -> Person:
    return Person(site, OF_A)


def test_whoever_brought_data_reads_it_by_the_handle_that_the_page_keeps(a: Person) -> None:
    a.open_sections()
    refusing = [each.name for each in a.readers() if REFUSED in a.ask(each, a.handle)]
    assert refusing == []
    look_at = a.site.listener("ui.dataset_rows.look_at")
    assert OF_A in a.ask(look_at, a.handle)
    assert len(a.readers()) > 30, "the page hands the id of the open dataset to that many at least"


@pytest.mark.parametrize(("caller", "whose"), [("a stranger", "A"), ("other user", "the owner")])
def test_a_visitor_reads_nobody_elses_data_by_any_handler(caller: str, whose: str, site: Site, a: Person) -> None:
    """By the id, which is no secret; by one handler also with a handle's look, and with the proof of one's own data behind the other's id."""
    b = Person(site, f"{OF_B}, {caller}", space.TOKENS.get(caller, ""))
    b.open_sections()
    words = OF_THE_OWNER if whose == "the owner" else OF_A
    identifier = site.owners.id if whose == "the owner" else a.handle[: len(site.owners.id)]
    for listener in b.readers():
        answer = b.ask(listener, identifier)
        assert words not in answer and "23 conversations" not in answer, listener.name
        if listener.name not in OPEN_NOTHING:
            assert REFUSED in answer, (listener.name, "it neither refuses nor is it known to open nothing")
    for forged in (f"{identifier}-{'0' * 24}", f"{identifier}{b.handle[len(identifier) :]}"):
        assert REFUSED in b.ask(site.listener("ui.dataset_rows.look_at"), forged)


def test_the_owner_opens_everything_by_its_id(site: Site) -> None:
    owner = Visitor(site.app.url, cookie=space.cookie(space.TOKENS["owner"]))
    look_at = site.listener("ui.dataset_rows.look_at")
    answer = owner.call(look_at, data=owner.values(look_at, dataset_id=site.owners.id), to_end=True)
    assert OF_THE_OWNER in answer
