"""The form, generated from `Recipe`: one field per knob, with its title, unit, help and bounds; nothing here names a knob's text twice."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import gradio as gr
from pydantic import ValidationError

from core import paths
from core.data.dataset import list_datasets
from core.export import artifacts
from core.export.levels import OFFERED, Level
from core.training.recipe import Recipe, knobs
from ui.access import Caller
from ui.view import text

# Knobs that mean something under some methods only.
ONLY_UNDER: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("lora_r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora", "use_dora"), ("qlora", "lora")),
    **dict.fromkeys(("double_quant", "quant_storage"), ("qlora",)),
    **dict.fromkeys(("trainable_layers", "train_head", "train_norms"), ("sft",)),
}
EXAMPLES = "examples/"  # how the page names a file that ships with Transmute
HAS_CHOICES = ("base_model", "dataset", "eval_dataset", "levels")
MANY_LINES = {"sample_prompts": (3, 8), "accelerate_yaml": (3, 30), "deepspeed_json": (3, 30)}  # at first, and at most
TRIMMED = ("base_model", "base_revision", "dataset", "eval_dataset")
NUMBER_PROBLEMS = {"int_type", "float_type", "int_parsing", "float_parsing", "finite_number"}


@dataclass
class Form:
    """The components: one per knob by its name, beneath some of them a place for an error, and the groups by their name."""

    fields: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, gr.HTML] = field(default_factory=dict)
    groups: dict[str, gr.Accordion] = field(default_factory=dict)
    columns: dict[str, gr.Column] = field(default_factory=dict)  # around each field

    @property
    def named(self) -> dict[str, Any]:
        """Every component as a named output: ``seed``, ``seed?`` for its error, ``Memory:`` for its group, ``lora_r column``."""
        return {
            **self.fields,
            **{f"{name}?": slot for name, slot in self.errors.items()},
            **{f"{name}:": group for name, group in self.groups.items()},
            **{f"{name} column": self.columns[name] for name in ONLY_UNDER},
        }


def rows() -> dict[str, dict[str, Any]]:
    """The knobs by name: title, default, help, group, unit, short."""
    return {row["name"]: row for row in knobs()}


def short_names() -> list[str]:
    """The knobs of the short form, in the order in which a person decides; the method has its own chooser."""
    first = ["base_model", "dataset", "name"]
    others = [name for name, row in rows().items() if row["short"] and name not in (*first, "method")]
    return [*first, *others]


def group_names() -> list[str]:
    """The closed groups, in the recipe's order."""
    return list(dict.fromkeys(row["group"] for row in rows().values() if not row["short"]))


def in_group(group: str) -> list[str]:
    return [name for name, row in rows().items() if row["group"] == group and not row["short"]]


def add(form: Form, names: Iterable[str], values: dict[str, Any]) -> None:
    """Put the fields of these knobs onto the page, three in a row where there is room."""
    with gr.Row(elem_classes=["fields"], equal_height=False):
        for name in names:
            wide = ["wide"] if name in ("levels", "accelerate_yaml", "deepspeed_json") else []
            with gr.Column(min_width=250, elem_classes=["knob", *wide], visible=is_meant(name, values["method"])) as form.columns[name]:
                form.fields[name] = component(name, values[name])
                if is_free(name):
                    form.errors[name] = gr.HTML("", container=False, padding=False, elem_classes=["field-error"])


def is_meant(name: str, method: str) -> bool:
    """Whether the knob means something under this method."""
    return method in ONLY_UNDER.get(name, (method,))


def is_free(name: str) -> bool:
    """Whether a person can put something wrong into the knob's field: no, where it is a choice."""
    kind = Recipe.model_fields[name].annotation
    return kind is not bool and get_origin(kind) is not Literal and name != "levels"


def component(name: str, value: Any) -> Any:
    """The component that a knob's type asks for."""
    row, kind = rows()[name], Recipe.model_fields[name].annotation
    said = {"label": label(row), "info": row["help"], "elem_id": f"knob-{name}"}
    if name in HAS_CHOICES:
        return gr.Dropdown(choices(name), value=value, multiselect=name == "levels", allow_custom_value=name != "levels", **said)
    if get_origin(kind) is Literal:
        return gr.Dropdown(list(get_args(kind)), value=value, **said)
    if kind is bool:
        return gr.Checkbox(value=value, **said)
    if kind in (int, float):
        return gr.Number(value=value, precision=0 if kind is int else None, **said)
    lines, most = MANY_LINES.get(name, (1, 1))
    return gr.Textbox(value=value, lines=lines, max_lines=most, **said)


def label(row: dict[str, Any]) -> str:
    """``Maximum length (tokens)``; no unit where the title says it already."""
    is_said = not row["unit"] or row["unit"] in row["title"].lower()
    return row["title"] if is_said else f"{row['title']} ({row['unit']})"


def choices(name: str, caller: Caller | None = None) -> list[tuple[str, str]]:
    """What a field with choices offers. What was made or imported here is the owner's to see."""
    owner = caller is not None and caller.role == "owner"
    if name == "levels":
        return [(_level(known), known.name) for known in OFFERED]
    if name == "base_model":
        made = [artifact for artifact in artifacts.everywhere() if artifact.kind == "merged"] if owner else []
        return [(known["title"], known["id"]) for known in offered_models()] + [(f"{made_.name}, trained here", made_.id) for made_ in made]
    files = [("Identity, example", EXAMPLES + "identity.json"), ("Identity questions kept apart, example", EXAMPLES + "identity_eval.json")]
    imported = [(f"{found.name}, {found.manifest.num_valid:,} conversations", found.id) for found in list_datasets()] if owner else []
    return [*([("Set a share of the dataset aside", "")] if name == "eval_dataset" else []), *files, *imported]


def _level(known: Level) -> str:
    guided = ", with an importance matrix" if known.is_guided else ""
    return f"{known.plain_name}, {known.bits:g} bits per weight{guided}"


def offered_models() -> list[dict[str, Any]]:
    """The base models of ``spaces/models.toml`` with their shapes."""
    return tomllib.loads((paths.SPACES / "models.toml").read_text(encoding="utf-8"))["models"]


def to_values(recipe: Recipe) -> dict[str, Any]:
    """A recipe as the form shows it: no absolute path of a file that ships with Transmute, no None."""
    values = recipe.model_dump(mode="json")
    values["base_revision"] = values["base_revision"] or ""
    for name in ("dataset", "eval_dataset"):
        values[name] = values[name].replace(f"{paths.EXAMPLES}/", EXAMPLES)
    return values


def example_file(given: str) -> Path | None:
    """The file of an example that ships with Transmute, by the name that the page has for it; None for everything else."""
    file = paths.EXAMPLES / given.removeprefix(EXAMPLES)
    return file if given.startswith(EXAMPLES) and file.parent == paths.EXAMPLES and file.is_file() else None


def to_recipe(values: dict[str, Any]) -> dict[str, Any]:
    """What stands in the form as a recipe's plain values, not yet checked: what is of another type is left for the check to name."""
    plain = {name: value.strip() if name in TRIMMED and isinstance(value, str) else value for name, value in values.items()}
    plain["base_revision"] = plain.get("base_revision") or None
    for name in ("dataset", "eval_dataset"):
        given = plain.setdefault(name, "") or ""
        file = example_file(given) if isinstance(given, str) else None
        plain[name] = str(file) if file else given
    plain["base_model"] = plain.get("base_model") or ""
    plain["levels"] = plain.get("levels") or ()
    return plain


def problems(values: dict[str, Any]) -> dict[str, str]:
    """What is wrong with each knob, in words for its field; empty when the values make a recipe."""
    try:
        Recipe.model_validate(to_recipe(values))
    except ValidationError as error:
        return {str(problem["loc"][0]): _in_words(problem) for problem in error.errors() if problem["loc"]}
    return {}


def _in_words(problem: Any) -> str:
    context, kind = problem.get("ctx") or {}, problem["type"]
    bounds = {
        "greater_than": "more than {gt}",
        "greater_than_equal": "at least {ge}",
        "less_than": "less than {lt}",
        "less_than_equal": "at most {le}",
    }
    if kind in bounds:
        numbers = {name: plain(number) for name, number in context.items()}
        return f"Must be {bounds[kind].format(**numbers)}."
    if kind in NUMBER_PROBLEMS or problem["input"] is None:
        return "Needs a number."
    if kind == "string_pattern_mismatch":
        return "Letters, digits, dot, dash and underscore only; begins with a letter or digit; at most 60."
    if kind == "string_too_short":
        return "Needs a value."
    return f"{problem['msg']}."


def plain(number: float) -> str:
    """``0.00002``, ``1,048,576``, ``1``: as a person types it, never ``2e-05``."""
    return f"{number:,}" if isinstance(number, int) or number >= 1000 else f"{number:.12f}".rstrip("0").rstrip(".")


def error_line(sentence: str) -> str:
    return f'<p role="alert">{text(sentence)}</p>' if sentence else ""


def differing(values: dict[str, Any], preset: dict[str, Any]) -> dict[str, list[str]]:
    """By group, the titles of the knobs that are not as the preset has them."""
    found: dict[str, list[str]] = {}
    for name, row in rows().items():
        if name in values and not row["short"] and not _same(values[name], preset[name]):
            found.setdefault(row["group"], []).append(row["title"])
    return found


def wrong_titles(wrong: Iterable[str], group: str) -> list[str]:
    """The titles of the knobs of a group that have something wrong in their field."""
    return [rows()[name]["title"] for name in in_group(group) if name in wrong]


def _same(value: Any, other: Any) -> bool:
    if isinstance(value, (list, tuple)) or isinstance(other, (list, tuple)):
        return list(value or ()) == list(other or ())
    return (value or "") == (other or "") if isinstance(other, str) else value == other


def group_title(group: str, titles: list[str], wrong: list[str] | None = None) -> str:
    """``Optimisation: weight decay and seed differ from the preset``; what is wrong in a closed group comes first."""
    if wrong:
        return f"{group}: correct {' and '.join(title.lower() if title.istitle() else title for title in wrong)}"
    if not titles:
        return group
    shown = [title[0].lower() + title[1:] if title.split()[0][1:].islower() else title for title in titles]
    if len(shown) > 3:
        return f"{group}: {len(shown)} values differ from the preset"
    listed = " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
    return f"{group}: {listed} {'differs' if len(shown) == 1 else 'differ'} from the preset"
