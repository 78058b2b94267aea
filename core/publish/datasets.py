"""Datasets for the Hub: the conversations as Parquet or JSONL, and a card made of what is known about them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from core import paths
from core.conversation import Conversation
from core.data import clean, writer
from core.data.dataset import BATCH_ROWS, ROWS, Dataset, open_dataset
from core.data.origin import Origin
from core.data.statistics import TextStatistics, text_statistics
from core.errors import UserError
from core.export import artifacts
from core.publish.card import environment
from core.publish.facts import facts_of, hub_id, languages_of
from core.publish.preflight import CARD, LEAKY, Plan, PlannedFile, preflight, repo_problems, size_notes, size_problems
from core.redact import tokens

Form = Literal["parquet", "jsonl"]
SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"), (10**8, "10M<n<100M"))
NAMED_ROWS = 20
LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")


def prepare(sources: Sequence[str], repo_id: str, license: str = "", form: Form = "parquet", languages: Sequence[str] = ()) -> Plan:
    """The plan to publish artifacts or datasets, named by their ids (artifacts also by a path).

    Args:
        license: of datasets; that of a model is its base's.
        languages: for the card, as the Hub writes them (``en``, ``zh``); empty, what the data's script says.

    Raises:
        UserError: nothing is named, something is not there, models and datasets are mixed, or a language is none.
    """
    if wrong := [each for each in languages if not LANGUAGE.fullmatch(each)]:
        raise UserError(f"{wrong[0]!r} is no language as the Hub writes them.", "language", "Write its code of ISO 639: en, de, zh.")
    datasets = [source for source in sources if source.startswith("ds-") and not Path(source).exists()]
    if not datasets:
        made = [artifacts.resolve(source) for source in sources]
        return preflight(made, repo_id, replace(facts_of(made), languages=tuple(languages)) if made and languages else None)
    if len(datasets) < len(sources):
        raise UserError("Models and datasets belong in repositories of their own.", "publish", "Publish them one after the other.")
    return preflight_datasets([open_dataset(source) for source in datasets], repo_id, license, form, languages)


def preflight_datasets(
    datasets: Sequence[Dataset], repo_id: str, license: str = "", form: Form = "parquet", languages: Sequence[str] = ()
) -> Plan:
    """The plan to publish `datasets` as one dataset repository, each as a split: ``train``, or ``validation`` for what a split kept apart."""
    splits = [split_of(dataset) for dataset in datasets]
    problems = repo_problems(repo_id)
    problems += [f"{count} of these datasets are the {split} split; publish one." for split, count in Counter(splits).items() if count > 1]
    files: list[PlannedFile] = []
    leaky: list[str] = []
    for dataset, split in dict(zip(datasets, splits, strict=True)).items():
        local, secret_rows = written(dataset, form)
        files.append(PlannedFile(f"{split}.{form}", local.stat().st_size, local))
        if secret_rows:
            leaky.append(f"{dataset.name} {LEAKY} ({_named(secret_rows)} of its source); take it out there.")
        if not len(dataset):
            problems.append(f"{dataset.name} has no conversations.")
    card = dataset_card(datasets, repo_id, license, form, languages)
    files.append(PlannedFile(CARD, len(card.encode()), text=card))
    notes = () if license else ("The licence of these conversations is not known here; add it to the card before sending.",)
    sources = tuple(dataset.id for dataset in datasets)
    problems += size_problems(files)
    return Plan(
        repo_id,
        repo_id,
        files=tuple(files),
        problems=(*problems, *leaky),
        token_problems=tuple(leaky),
        notes=(*notes, *size_notes(files)),
        repo_type="dataset",
        sources=sources,
    )


def _named(rows: Sequence[int]) -> str:
    """Rows (0-based) as a person counts them: the first of them, and how many there are."""
    named = ", ".join(str(row + 1) for row in rows[:NAMED_ROWS])
    more = f" and {len(rows) - NAMED_ROWS:,} more, {len(rows):,} in all," if len(rows) > NAMED_ROWS else ""
    return f"row{'s' if len(rows) > 1 else ''} {named}{more}"


def written(dataset: Dataset, form: Form) -> tuple[Path, list[int]]:
    """The file of the conversations in Vicuna's form, written once, and the source's rows (0-based) that hold what looks like a token."""
    file = paths.cache_dir() / "publish" / f"{dataset.id}.{form}"
    secret_rows: list[int] = []
    conversations = _watched(dataset.numbered(), secret_rows)
    if file.is_file():
        for _ in conversations:  # what counts as a secret depends on the day; the file does not
            pass
    else:
        paths.require_disk(file.parent, (dataset.folder / ROWS).stat().st_size, "The file to publish")
        writer.write(conversations, file)
    return file, secret_rows


def _watched(rows: Iterator[tuple[Conversation, int]], secret_rows: list[int]) -> Iterator[Conversation]:
    """The conversations; the rows of those with a token are added to `secret_rows`."""
    while batch := list(islice(rows, BATCH_ROWS)):
        if _has_secret(conversation for conversation, _ in batch):
            secret_rows += [row for conversation, row in batch if _has_secret([conversation])]
        yield from (conversation for conversation, _ in batch)


def _has_secret(conversations: Iterable[Conversation]) -> bool:
    text = "\n".join(part for each in conversations for part in (each.id, *(turn.content for turn in each.turns)))
    return bool(tokens(text))


def split_of(dataset: Dataset) -> str:
    """``validation`` for what a split kept apart to evaluate on, else ``train``."""
    return "validation" if (dataset.manifest.made_by or {}).get("side") == "eval" else "train"


def dataset_card(
    datasets: Sequence[Dataset], repo_id: str, license: str = "", form: Form = "parquet", languages: Sequence[str] = ()
) -> str:
    """README.md of the dataset repository."""
    from huggingface_hub import DatasetCardData

    statistics = [text_statistics(dataset) for dataset in datasets]
    rows = [_row(dataset, known, form) for dataset, known in zip(datasets, statistics, strict=True)]
    num_conversations = sum(known.num_conversations for known in statistics)
    scripts = sum((Counter(known.conversations_by_script) for known in statistics), Counter[str]())
    chain = list(lineage(datasets[0]))
    from_hub = [each.manifest.origin.hub.repo_id for each in chain if each.manifest.origin.hub]
    data = DatasetCardData(
        language=list(languages or languages_of(scripts)) or None,
        license=license or None,
        pretty_name=datasets[0].name,
        size_categories=[size_category(num_conversations)],
        source_datasets=from_hub or None,
        task_categories=["text-generation"],
        tags=["transmute", "conversational"],
        configs=[{"config_name": "default", "data_files": [{"split": row["split"], "path": row["file"]} for row in rows]}],
    )
    body = (
        environment()
        .from_string((paths.SPACES / "dataset_card.md.j2").read_text(encoding="utf-8"))
        .render(
            repo_id=repo_id,
            name=datasets[0].name,
            num_conversations=num_conversations,
            splits=rows,
            scripts=", ".join(f"{script} {count:,}" for script, count in scripts.most_common()),
            lineage=[said for each in chain for said in _made(each)],
            accounts=[account for each in chain for account in _accounts(each)],
            license=license,
        )
    )
    return f"---\n{data.to_yaml()}\n---\n\n{body}"


def _row(dataset: Dataset, known: TextStatistics, form: Form) -> dict[str, Any]:
    split = split_of(dataset)
    num_turns = sum(turns * count for turns, count in known.turns.items())
    fields = known.model_dump(include={"num_conversations", "num_characters", "num_with_system"})
    return fields | {"split": split, "file": f"{split}.{form}", "num_turns": num_turns}


def size_category(num_rows: int) -> str:
    """The Hub's word for a number of rows."""
    return next((name for limit, name in SIZES if num_rows < limit), "100M<n<1B")


def lineage(dataset: Dataset) -> Iterator[Dataset]:
    """The dataset, what it was made from, and so on, as far as it is in this workspace."""
    each: Dataset | None = dataset
    while each is not None:
        yield each
        parent = each.manifest.parent
        try:
            each = open_dataset(parent) if parent else None
        except UserError:
            return  # deleted since


def _made(dataset: Dataset) -> Iterator[str]:
    """How this one was made, as a sentence."""
    made_by = dataset.manifest.made_by or {}
    match made_by.get("verb"):
        case "clean":
            account = clean.account(dataset)
            yield (
                f"Cleaned: {account.num_in:,} rows came in, {account.num_kept:,} stayed as they were, {account.num_changed:,} were changed, "
                f"{account.num_dropped:,} dropped and {account.num_made:,} made by splitting."
            )
        case "split":
            share, seed = made_by["eval_fraction"], made_by["seed"]
            yield f"Split: {share:.0%} were set aside to evaluate on (seed {seed}); conversations that are alike stay on one side."
        case _:
            yield _origin(dataset.manifest.origin)
            if dataset.manifest.num_rejected:
                yield f"Of {dataset.manifest.num_rows:,} rows, {dataset.manifest.num_rejected:,} that cannot be trained on were left out."


def _origin(origin: Origin) -> str:
    if origin.hub and hub_id(origin.hub.repo_id):
        parts = [origin.hub.config, origin.hub.split, origin.commit and f"commit {origin.commit[:10]}"]
        within = ", ".join(part for part in parts if part)
        link = f"[{origin.hub.repo_id}](https://huggingface.co/datasets/{origin.hub.repo_id})"
        return f"Imported from {link}{f' ({within})' if within else ''}."
    return f"Imported from the file {Path(origin.file).name}." if origin.file else "Written by hand."


def _accounts(dataset: Dataset) -> Iterator[dict[str, Any]]:
    """The repairs of a cleaning that did something."""
    if (dataset.manifest.made_by or {}).get("verb") == "clean":
        effects = [effect for effect in clean.account(dataset).effects if effect.num_changed or effect.num_dropped or effect.num_made]
        if effects:
            yield {"title": f"What the cleaning of {dataset.name} did:", "effects": effects}
