"""Several machines of one's own: the page shows the command of each, and starts its own part of the training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from core.cli.app import app
from core.training.launch import Node
from ui import train_data, train_handlers, train_machines
from ui.access import Caller

OWNER = Caller("this machine", "owner", is_local=True)


def chosen(kept: dict[str, Any] | None = None, **asked: Any) -> dict[str, Any]:
    """What the page shows when so much is asked of several machines."""
    kept = kept or train_handlers.fresh()
    values = train_machines.FRESH | asked
    return train_handlers.choose_machines.__wrapped__(*values.values(), kept, caller=OWNER, **kept["values"])


def commands(shown: dict[str, Any]) -> list[str]:
    found = [shown[f"machine {number}"] for number in range(train_machines.MOST)]
    assert all(bool(line.value) is line.visible for line in found)
    return [line.value for line in found if line.visible]


def test_each_machine_has_its_command_which_differs_in_the_rank_alone(workspace: Path) -> None:
    shown = chosen(nodes=3, rank=1, address="10.0.0.5", port=29501)
    lines = commands(shown)
    assert lines == [f"python -m core train recipe.yaml --nodes 3 --address 10.0.0.5 --port 29501 --rank {rank}" for rank in range(3)]
    assert lines[1] in shown["command"] and "--machine_rank 1" in shown["command"] and "--main_process_ip 10.0.0.5" in shown["command"]
    assert shown["machines:"].visible and "this one is 1" in shown["machines:"].label and "recipe.yaml" in shown["machines said"]
    again = train_handlers.restore.__wrapped__("", shown["kept"], caller=OWNER)
    assert {name: again[f"machines {name}"] for name in train_machines.FRESH} == {
        "nodes": 3, "rank": 1, "address": "10.0.0.5", "port": 29501,
    }  # fmt: skip
    assert commands(again) == lines


def test_the_command_line_takes_what_the_page_shows(workspace: Path, tmp_path: Path) -> None:
    """As far as a machine can be asked without the others: the recipe that it names does not exist."""
    words = commands(chosen(nodes=2, address="first.local"))[1].split()
    assert words[:3] == ["python", "-m", "core"]
    words[4] = str(tmp_path / "recipe.yaml")
    answer = CliRunner().invoke(app, words[3:])
    assert answer.exit_code and str(tmp_path / "recipe.yaml") in str(answer.exception)


def test_one_machine_has_no_command_and_a_rented_one_no_group(workspace: Path) -> None:
    shown = chosen()
    assert commands(shown) == [] and shown["machines:"].visible and shown["machines:"].label == train_machines.TITLE
    assert not chosen(train_handlers.fresh() | {"place": "jobs:l4x1"}, nodes=2, address="a")["machines:"].visible


@pytest.mark.parametrize(("asked", "problem"), [
    ({"nodes": 2}, "is no address"), ({"nodes": 2, "address": "$(id)"}, "is no address"), ({"nodes": 9, "address": "a"}, "9 machines"),
    ({"nodes": 2, "address": "a", "rank": 2}, "no machine 2"), ({"nodes": 2, "address": "a", "port": 0}, "is no port"),
])  # fmt: skip
def test_what_cannot_be_is_the_reason_beside_the_button(workspace: Path, asked: dict[str, Any], problem: str) -> None:
    shown = chosen(**asked)
    assert any(problem in str(part) for part in shown.values()) and commands(shown) == []
    assert not any(problem in str(part) for part in chosen().values())


def test_starting_here_starts_the_part_of_this_machine(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Node | None] = []
    monkeypatch.setattr(train_data.runs, "create", lambda *_, node, **__: begun.append(node) or "run-1")
    monkeypatch.setattr(train_data.runs, "start", lambda *_: None)
    kept = chosen(nodes=2, rank=1, address="10.0.0.5")["kept"]
    list(train_handlers.start.__wrapped__(kept, caller=OWNER, **kept["values"]))
    alone = train_handlers.fresh()
    list(train_handlers.start.__wrapped__(alone, caller=OWNER, **alone["values"]))
    assert begun == [Node(2, 1, "10.0.0.5"), None]


@pytest.mark.parametrize("kept", [None, [], {"nodes": "x", "rank": None, "address": 7, "port": True}, {"nodes": float("nan")}])
def test_whatever_the_browser_kept_is_read(kept: Any) -> None:
    found = train_machines.known(kept)
    assert found.keys() == train_machines.FRESH.keys() and isinstance(found["nodes"], int) and isinstance(found["address"], str)
