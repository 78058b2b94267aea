"""What the Dataset tab shows, as HTML: the sentence, the findings, a conversation as bubbles, and its tokens by what training does."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from core.conversation import Conversation
from core.data.render import IGNORED, Sample
from core.data.rules import RULES, Issue, Severity
from core.data.tokenizer import ChatTokenizer
from core.data.validate import Report
from ui.view import chip, count, empty, percent, sentence, table, text

TONES: dict[Severity, str] = {"error": "error", "warning": "warning", "note": "plain"}
WORDS: dict[Severity, str] = {"error": "cannot be trained", "warning": "worth a look", "note": "good to know"}
ROLES = {"system": "System", "user": "User", "assistant": "Assistant"}
PAGE_ROWS = 25
LONGEST_SHOWN = 6000  # characters of a rejected row

NOTHING = empty(
    "Choose the conversations your model will learn from.",
    "Take an example with one click, or drop a Vicuna JSON or JSONL file. Every row is checked before anything is trained.",
)
LEGEND = (
    '<ul class="legend"><li><mark class="learned">learned</mark> the model is trained to write this</li>'
    '<li><span class="read">read only</span> context, carries no loss</li>'
    '<li><del class="cut">cut off</del> beyond the maximum length</li></ul>'
)


def lead(name: str, report: Report, counted: int, cut: int, max_length: int) -> str:
    """The first sentence. Of the first `counted` conversations `cut` lose part of an answer at `max_length` tokens."""
    said = count(report.num_rows, "conversation")
    said += f", {report.num_rejected:,} cannot be trained" if report.num_rejected else ", all of them can be trained"
    more = []
    if cut:
        who = f"{cut:,} more" if counted == report.num_valid else f"Of the first {counted:,}, {cut:,}"
        more.append(f"{who} {'loses' if cut == 1 else 'lose'} part of an answer at {max_length:,} tokens.")
    warned = sum(number for code, number in report.counts.items() if RULES[code].severity == "warning")
    if warned:
        more.append(f"{count(warned, 'finding')} {'is' if warned == 1 else 'are'} worth a look.")
    if not report.counts:
        more.append("Nothing was found wrong.")
    return sentence(f"{name}: {said}.", " ".join(more))


def why_not(report: Report) -> str:
    """Why nothing can be trained on this, or nothing."""
    return "" if report.num_valid else "No conversation in this file can be trained. The findings say how to mend it."


def codes(report: Report) -> list[tuple[str, str]]:
    """The choices of the filter: each code with its count, errors first."""
    order = ["error", "warning", "note"]
    ordered = sorted(report.counts, key=lambda code: (order.index(RULES[code].severity), -report.counts[code]))
    total = sum(report.counts.values())
    return [(f"All {total:,}", ""), *((f"{RULES[code].title} {report.counts[code]:,}", code) for code in ordered)]


def findings(report: Report, code: str, page: int) -> str:
    """A page of the findings (of one code, or of all), each with a button that opens its row."""
    if not report.issues:
        return '<p class="quiet">No findings: every row can be read and trained.</p>'
    chosen = [issue for issue in report.issues if not code or issue.code == code]
    shown = chosen[page * PAGE_ROWS : (page + 1) * PAGE_ROWS]
    found = sum(report.counts.values()) if not code else report.counts.get(code, 0)
    first = page * PAGE_ROWS + 1
    where = f"Findings {first:,} to {first + len(shown) - 1:,} of {found:,}" if len(chosen) > PAGE_ROWS else count(found, "finding")
    if found > len(chosen):
        where += f"; the first {len(chosen):,} are listed"
    return f'<p class="quiet" role="status">{where}</p>' + table(
        ("Row", "Line", "Finding", "What to do"), (_finding(issue) for issue in shown), "Findings", numeric=(1,)
    )


def num_pages(report: Report, code: str) -> int:
    chosen = sum(1 for issue in report.issues if not code or issue.code == code)
    return max(1, -(-chosen // PAGE_ROWS))


def _finding(issue: Issue) -> tuple[str, ...]:
    row = "file"
    if issue.row is not None:
        label = f"Open row {issue.row}"
        row = f'<button type="button" class="jump" data-row="{issue.row}" aria-label="{label}">{issue.row:,}</button>'
    turn = f", turn {issue.turn}" if issue.turn is not None else ""
    head = f"{chip(RULES[issue.code].title, TONES[issue.severity])} <span class='quiet'>{WORDS[issue.severity]}{turn}</span>"
    return row, f"{issue.line:,}", f"{head}<p>{text(issue.problem)}</p>", f"<p>{text(issue.remedy)}</p>"


def bubbles(conversation: Conversation) -> str:
    """The conversation as people know it from a chat."""
    turns = "".join(
        f'<li class="turn {turn.role}"><span class="role">{ROLES[turn.role]}</span><div>{text(turn.content)}</div></li>'
        for turn in conversation.turns
    )
    return f'<ol class="bubbles" aria-label="Conversation {text(conversation.id)}">{turns}</ol>'


def rejected(raw: str, codes: Iterable[str], row: int) -> str:
    """A row that cannot be trained: why, and its bytes as they stand in the file."""
    chips = " ".join(chip(RULES[code].title, TONES[RULES[code].severity]) for code in dict.fromkeys(codes))
    cut = raw[:LONGEST_SHOWN] + ("…" if len(raw) > LONGEST_SHOWN else "")
    return f'<p class="quiet">Row {row} cannot be trained: {chips}</p><pre class="raw" tabindex="0">{text(cut)}</pre>'


def tokens(sample: Sample, tokenizer: ChatTokenizer) -> str:
    """The exact text the model sees, token by token, each by what training does with it."""
    learned = sample.num_loss_tokens
    total, kept = sample.full_length, len(sample.input_ids)
    parts = [f"{count(total, 'token')}: {learned:,} learned, {kept - learned:,} read only"]
    parts += [f"{total - kept:,} cut off"] if total > kept else []
    share = f" ({percent(learned / kept)} carry loss)" if kept else ""
    body = "".join(_stretch(kind, pieces) for kind, pieces in _stretches(sample, tokenizer))
    if total > kept and kept:
        body += f'<del class="cut">{text(sample.text[sample.offsets[-1][1] :])}</del>'
    return f'<p class="quiet">{", ".join(parts)}{share}</p>{LEGEND}<div class="tokens" tabindex="0" role="region" aria-label="Text with tokens">{body}</div>'


def _stretches(sample: Sample, tokenizer: ChatTokenizer) -> list[tuple[str, list[str]]]:
    """Neighbouring tokens of one kind together, each as the text it stands for. Tokens that share one character are shown as one."""
    pieces: list[tuple[str, str]] = []
    done = 0
    for token_id, label, (start, end) in zip(sample.input_ids, sample.labels, sample.offsets, strict=True):
        kind = "read" if label == IGNORED else "learned"
        if start == end:
            pieces.append((kind, f'<i class="special" title="token {token_id}">{text(tokenizer.tokenizer.id_to_token(token_id))}</i>'))
        elif end > done:
            pieces.append((kind, f'<i title="token {token_id}">{text(sample.text[max(start, done) : end])}</i>'))
            done = end
    return [(kind, [piece for _, piece in group]) for kind, group in groupby(pieces, key=lambda pair: pair[0])]


def _stretch(kind: str, pieces: list[str]) -> str:
    tag = "mark" if kind == "learned" else "span"
    return f'<{tag} class="{kind}">{"".join(pieces)}</{tag}>'


def lengths(found: list[int], max_length: int, of_all: int) -> str:
    """How long the conversations are, in tokens, against the maximum length: a small bar chart that is also said in words."""
    if not found:
        return ""
    ordered = sorted(found)
    top = max(ordered[-1], 1)
    width = max(1, -(-top // 28))
    bins = [0] * (top // width + 1)
    for length in ordered:
        bins[length // width] += 1
    highest = max(bins)
    bars = "".join(
        f'<span class="{"none" if not number else "over" if index * width >= max_length else "within"}" style="height:{100 * number / highest:.1f}%" '
        f'title="{index * width:,} to {(index + 1) * width - 1:,} tokens: {number:,}"></span>'
        for index, number in enumerate(bins)
    )
    median, p95 = ordered[len(ordered) // 2], ordered[int(0.95 * (len(ordered) - 1))]
    over = sum(length > max_length for length in ordered)
    said = f"Median {median:,} tokens, 95 of 100 within {p95:,}, longest {top:,}. "
    said += f"{over:,} are longer than {max_length:,}." if over else f"All fit into {max_length:,}."
    if len(found) < of_all:
        said += f" Counted on the first {len(found):,} of {of_all:,}."
    axis = f'<div class="axis"><span>0</span><span>{top:,} tokens</span></div>'
    return f'<figure class="lengths"><div class="bars" role="img" aria-label="{text(said)}">{bars}</div>{axis}<figcaption>{said}</figcaption></figure>'
