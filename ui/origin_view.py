"""Where a dataset came from and how it was read, or what it was made from and what became of every row."""

from __future__ import annotations

from typing import Any

import gradio as gr

from core.data import clean as cleaning
from core.data.dataset import Dataset, open_dataset
from core.data.layouts import TITLES
from core.errors import UserError
from ui import clean_view
from ui.view import count, text

DROPPED_ROWS = 10  # on a page
KINDS = {"upload": "uploaded", "path": "from this machine", "pasted": "pasted", "example": "an example", "hub": "from the Hub"}


def shown(dataset: Dataset) -> dict[str, Any]:
    """The part of the tab, by the names of its outputs."""
    made_by, parent = dataset.manifest.made_by, parent_of(dataset)
    is_cleaned = bool(made_by) and made_by["verb"] == "clean"
    found = cleaning.account(dataset) if is_cleaned else None
    return {
        "origin": line(dataset, parent),
        "open_parent": gr.Button(f"Open {parent.name}" if parent else "", visible=bool(parent)),
        "map_columns": gr.Button(visible=has_columns(dataset)),
        "lineage": gr.Column(visible=bool(found)),
        "account_done": clean_view.done(found) if found else "",
        "dropped": gr.Accordion(
            f"Look at {'the row that was' if found.num_dropped == 1 else f'the {found.num_dropped:,} rows that were'} dropped, take rows back",
            open=False,
            visible=found.num_dropped > 0,
        )
        if found
        else gr.skip(),
        "dropped_code": gr.Radio(clean_view.dropped_codes(found), value="") if found else gr.skip(),
    }


def has_columns(dataset: Dataset) -> bool:
    """Whether a person may want to say what its columns mean: an imported table, or JSON in another layout than turns under a known key."""
    manifest = dataset.manifest
    is_json = dataset.source.suffix in (".json", ".jsonl")
    return manifest.parent is None and not (is_json and manifest.format in ("vicuna", "messages"))


def parent_of(dataset: Dataset) -> Dataset | None:
    """What the dataset was made from, where that is still there."""
    try:
        return open_dataset(dataset.manifest.parent or "")
    except UserError:
        return None


def line(dataset: Dataset, parent: Dataset | None) -> str:
    """One or two sentences on where it came from and how it was read."""
    manifest = dataset.manifest
    if manifest.made_by:
        from_what = f"<b>{text(parent.name)}</b>" if parent else "a dataset that is not here any more"
        return f'<p class="quiet origin">Made from {from_what} by {VERBS.get(manifest.made_by["verb"], manifest.made_by["verb"])}.</p>'
    if not manifest.why:
        return ""  # imported by an earlier version, which did not say
    origin = manifest.origin
    name = " ".join(filter(None, (origin.hub.repo_id, origin.hub.config, origin.hub.split))) if origin.hub else origin.file
    at = f", commit {origin.commit[:8]}" if origin.commit else ""
    how = f"Read as {TITLES[manifest.format]}: {manifest.why}"
    return f'<p class="quiet origin"><b>{text(name)}</b>, {KINDS[origin.kind]}{text(at)}. {text(how)}</p>'


VERBS = {"clean": "cleaning", "split": "splitting"}


def dropped_page(dataset: Dataset, code: str, page: int) -> dict[str, Any]:
    """One page (from 1) of the rows that were dropped, as checkboxes."""
    found = cleaning.account(dataset)
    total = next((effect.num_dropped for effect in found.effects if effect.code == code), found.num_dropped)
    last = max(1, -(-total // DROPPED_ROWS))
    page = max(1, min(page, last))
    first = (page - 1) * DROPPED_ROWS
    rows = list(cleaning.dropped(dataset, first, DROPPED_ROWS, code))
    said = f"Rows {first + 1:,} to {first + len(rows):,} of {total:,} dropped" if total > DROPPED_ROWS else f"{count(total, 'row')} dropped"
    return {
        "dropped_rows": gr.CheckboxGroup([(clean_view.dropped_label(row), str(row.row)) for row in rows], value=[]),
        "dropped_page": page,
        "dropped_said": f'<p class="quiet" role="status">{said}</p>',
        "dropped_pager": gr.Row(visible=last > 1),
        "dropped_earlier": gr.Button(interactive=page > 1),
        "dropped_later": gr.Button(interactive=page < last),
        "take_back": gr.Button(interactive=False),
    }
