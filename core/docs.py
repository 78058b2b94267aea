"""The README's generated tables, from verbs and recipe knobs to measured figures, written between markers. ``python -m core.docs`` renews them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

from core import paths
from core.figures import measured_table
from core.units import size

README = paths.PROJECT / "README.md"


def main() -> int:
    """Write the README anew where its tables are out of date; with ``--check`` only say so, with exit code 1."""
    text = README.read_text(encoding="utf-8")
    current = render(text)
    if current == text:
        return 0
    if "--check" in sys.argv[1:]:
        sys.stderr.write("README.md is out of date: run `make docs`.\n")
        return 1
    paths.write_text(README, current)
    return 0


def render(text: str) -> str:
    """`text` with every generated block renewed."""
    for name, table in BLOCKS.items():
        block = re.compile(rf"(<!-- begin: {name} -->\n).*?(<!-- end: {name} -->)", re.DOTALL)
        assert len(block.findall(text)) == 1, f"the README has one block {name}"
        text = block.sub(lambda match, table=table: match[1] + table() + match[2], text)
    return text


def cli_table() -> str:
    """One row per verb: how it is called and what it does."""
    from typer.main import get_command

    from core.cli.app import app

    verbs: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined] # typer's own copy of click has no public name
    lines = ["| verb | what it does | options |", "|---|---|---|"]
    for name, command in verbs.items():
        arguments = [_argument(parameter) for parameter in command.params if parameter.param_type_name == "argument"]
        options = [f"`{'`, `'.join(parameter.opts)}`" for parameter in command.params if parameter.param_type_name == "option"]
        summary = (command.help or "").strip().split("\n\n")[0].replace("\n", " ")
        call = _cell(" ".join([name, *arguments]))
        lines.append(f"| `{call}` | {_cell(summary)} | {' '.join(options)} |")
    return "\n".join(lines) + "\n"


def _argument(parameter: Any) -> str:
    name = (parameter.metavar or parameter.name.upper()) + ("..." if parameter.nargs == -1 else "")
    return name if parameter.required else f"[{name}]"


def knobs_table() -> str:
    """One row per knob of the recipe: default, bounds and help, in the order of the form."""
    from core.training.recipe import Recipe, knobs

    properties: dict[str, Any] = Recipe.model_json_schema()["properties"]
    lines = ["| knob | default | allowed | what it does |", "|---|---|---|---|"]
    for knob in knobs():
        default = "" if knob["default"] in (None, "", ()) else f"`{knob['default']}`"
        allowed = " ".join(word for word in (bounds(properties[knob["name"]]), knob["unit"]) if word)
        lines.append(f"| `{knob['name']}` | {default} | {_cell(allowed)} | {_cell(knob['help'])} |")
    return "\n".join(lines) + "\n"


def presets_table() -> str:
    """One row per preset: what it is, and the source that it equals value by value."""
    from core.training.presets import PRESETS
    from core.training.published import all_published

    sources = {name: found.source for name, found in all_published().items()}
    lines = ["| preset | what it is | source |", "|---|---|---|"]
    for name, make in PRESETS.items():
        what = (make.__doc__ or "").strip().partition("\n")[0]
        lines.append(f"| `{name}` | {_cell(what)} | {f'[read from]({sources[name]})' if name in sources else ''} |")
    return "\n".join(lines) + "\n"


def levels_table() -> str:
    """One row per level of the starter: its figures beside those of llama.cpp's own llama-perplexity, and those of its answers in chat."""
    rows = paths.read_json(paths.PROJECT / "benchmarks" / "results" / "measure.json")["rows"]
    has_chat = all("chat" in row for row in rows)
    heads = ["level", "perplexity", "llama.cpp's", "KL to f16", "llama.cpp's", "same top token", "llama.cpp's"]
    heads += ["size", "perplexity of answers", "their KL", "their top token"] if has_chat else []
    lines = [f"| {' | '.join(heads)} |", "|---" + "|---:" * (len(heads) - 1) + "|"]
    for row in rows:
        cells = [f"{row['perplexity']:,.2f}", f"{row['theirs_perplexity']:,.2f}", f"{row['kl']:.5f}", f"{row['theirs_kl']:.5f}"]
        cells += [f"{row['top1']:.1%}", f"{row['theirs_top1']:.1%}"]
        if has_chat:
            chat = row["chat"]
            cells += [size(row["size_bytes"]), f"{chat['perplexity']:.4f}", f"{chat['kl_mean']:.5f}", f"{chat['top1_agreement']:.1%}"]
        lines.append(f"| `{row['level']}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def bounds(schema: dict[str, Any]) -> str:
    """What a field's JSON schema allows: its choices, or ``>= 1, <= 1024``; empty when anything of its type goes."""
    if "enum" in schema:
        return ", ".join(str(choice) for choice in schema["enum"])
    signs = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
    said = [f"{sign} {_number(schema[key])}" for key, sign in signs.items() if key in schema]
    return ", ".join(said) or ("true, false" if schema.get("type") == "boolean" else "")


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def codes_table() -> str:
    from core.data.rules import rules_table

    return rules_table()


def repairs_table() -> str:
    """One row per repair of `clean`, in the order in which they are applied."""
    from core.data.repairs import REPAIRS

    lines = ["| repair | what it does | parameters |", "|---|---|---|"]
    for repair in REPAIRS.values():
        parameters = " ".join(f"`{parameter.name}={_default(parameter.default)}`" for parameter in repair.parameters)
        lines.append(f"| `{repair.code}` | {_cell(repair.help)} | {parameters} |")
    return "\n".join(lines) + "\n"


def _default(value: object) -> str:
    text = ";".join(value) if isinstance(value, tuple) else str(value)
    return text.replace("|", "\\|")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


BLOCKS: dict[str, Callable[[], str]] = {
    "cli": cli_table,
    "measured": measured_table,
    "levels": levels_table,
    "knobs": knobs_table,
    "presets": presets_table,
    "codes": codes_table,
    "repairs": repairs_table,
}

if __name__ == "__main__":
    sys.exit(main())
