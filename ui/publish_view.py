"""How a planned publication looks: what would be sent, what would not and why, what speaks against it, and the card."""

from __future__ import annotations

import base64
import re
from collections import Counter
from typing import Any

from ui import feedback
from ui.view import count, empty, sentence, size, table, text

NOTHING_YET = empty(
    "Nothing prepared yet.", "Choose what to publish and name the repository. Preparing shows every file and the card; it sends nothing."
)
NO_MODELS = empty("No model to publish yet.", "Train one first; a run leaves its models here when it is done.")


def overview(plan: dict[str, Any]) -> str:
    """``3 files, 21.3 MB, would go to me/Starter-Identity-GGUF.``"""
    number, problems = len(plan["files"]), len(plan["problems"])
    lead = f"{count(number, 'file')}, {size(plan['total_bytes'])}, would go to {plan['repo_id']}."
    if problems:
        return sentence(f"{count(problems, 'problem')} must be mended before this can be published.", lead)
    return sentence(lead, "Nothing was sent: this is what a publication would hold.")


def evidence(plan: dict[str, Any]) -> str:
    """Problems, notes, proofs, the files, and what is left out."""
    problems = "".join(feedback.said(feedback.for_page(problem)) for problem in plan["problems"])
    notes = "".join(f"<li>{text(feedback.for_page(note))}</li>" for note in plan["notes"])
    rows = [[text(file["path"]), text(size(file["size_bytes"]))] for file in plan["files"]]
    refused = Counter((item["path"], item["reason"]) for item in plan["refused"])
    left_out = [[text(path) + (f" (in {number} models)" if number > 1 else ""), text(reason)] for (path, reason), number in refused.items()]
    parts = [problems, f'<ul class="notes" aria-label="Worth knowing">{notes}</ul>' if notes else "", _proofs(plan["proofs"])]
    parts.append('<h2 class="part">Files</h2>' + table(("File", "Size"), rows, "Files that would be sent", numeric=(1,)))
    if plan["curve"]:
        picture = base64.b64encode(plan["curve"].encode()).decode()
        parts.append(f'<img class="curve" alt="Loss by optimizer step" src="data:image/svg+xml;base64,{picture}">')
    if left_out:
        parts.append('<h2 class="part">Left out</h2>' + table(("File", "Why"), left_out, "Files that are left out"))
    return f'<div class="plan">{"".join(parts)}</div>'


def _proofs(proofs: dict[str, Any]) -> str:
    if not proofs:
        return ""  # of a dataset
    if not proofs["sentences"]:
        return '<h2 class="part">Proofs</h2><p class="quiet">Nothing was proved about these models.</p>'
    items = "".join(f"<li>{text(said)}</li>" for said in proofs["sentences"])
    return f'<h2 class="part">Proofs</h2><ul class="notes">{items}</ul>'


def rendered(card: str) -> str:
    """The card's Markdown without its front matter, and without the picture, which lies in the repository and is shown beside the files."""
    _, _, rest = card.partition("---\n")
    _, found, body = rest.partition("\n---\n")
    return re.sub(r"!\[[^\]]*\]\(loss\.svg\)", "", body if found else card).strip()
