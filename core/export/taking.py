"""A model that was not trained here becomes the merged model of a run, as it is: linked where the disk allows it, copied elsewhere."""

from __future__ import annotations

from pathlib import Path

from core import paths
from core.data.tokenizer import read_template
from core.export import artifacts
from core.export.artifacts import Artifact
from core.training.models import FETCHED, ModelRef

TEMPLATE = "chat_template.jinja"


def take(model: ModelRef, name: str, out: Path, run_id: str) -> Artifact:
    """Write the artifact `out`: the model's safetensors, configuration, tokenizer, template, card and licence, none of them changed.

    A chat template that stands in tokenizer_config.json only becomes a file of its own, as later versions of transformers keep it.

    Raises:
        UserError: somebody else writes there, or the disk has no room for a copy.
    """
    files = sorted({path for pattern in FETCHED for path in model.path.glob(pattern) if path.is_file() and path.name != artifacts.MANIFEST})
    if model.path.stat().st_dev != out.parent.stat().st_dev:
        paths.require_disk(out.parent, sum(path.stat().st_size for path in files), "Taking in a model")
    with artifacts.only_writer(out), paths.building(out) as partial:
        for file in files:
            paths.link_or_copy(file.resolve(), partial / file.name)  # the Hub's cache holds links to its blobs
        settings = partial / "tokenizer_config.json"
        template = read_template(partial, paths.read_json(settings) if settings.is_file() else {})
        if template and not (partial / TEMPLATE).is_file():
            paths.write_text(partial / TEMPLATE, template)
        artifact = Artifact(
            id=artifacts.artifact_id(run_id, "merged"),
            kind="merged",
            name=name,
            run_id=run_id,
            base_model=model.name,
            base_path=str(model.path),
            base_revision=model.revision,
        )
        made = artifacts.write(artifact, partial)
    return made.model_copy(update={"folder": out})
