"""Chat templates: rendered in a sandbox as transformers does it, and in one pass with a mark before every message where that is safe."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from core.errors import UserError

if TYPE_CHECKING:
    from jinja2 import Template, nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser

    from core.data.sandbox import Sandbox

MAX_TEMPLATE_BYTES = 1 << 17
LONGEST_REASON = 1000  # characters of what a template says as it refuses, or asks of the clock
MARK = "\0\x01\0"  # no fit conversation holds NUL
Message = dict[str, str]


@dataclass(frozen=True)
class ChatTemplate:
    """A compiled template.

    A template reads forward if what it writes for a message depends on that message and earlier ones only, and what asks for an answer
    is one constant text at the end. Then one rendering says where every message begins.
    """

    plain: Template
    marked: Template | None  # writes MARK before every message; None: the template does not read forward
    prompt: str  # what asks for the next answer, when it reads forward

    def render(self, messages: list[Message], bos_token: str | None, eos_token: str | None, asks: bool) -> str:
        """The text of `messages`.

        Raises:
            UserError: the template refuses them.
        """
        return _render(self.plain, messages, bos_token, eos_token, asks)

    def pieces(self, messages: list[Message], bos_token: str | None, eos_token: str | None) -> list[str] | None:
        """What is written before the first message, and for each one; None if one rendering cannot tell."""
        if self.marked is None:
            return None
        head, *pieces = _render(self.marked, messages, bos_token, eos_token, False).split(MARK)
        if pieces and len(pieces) == len(messages) - 1:  # the first message was the system's and is part of the head
            return [head, "", *pieces]
        return [head, *pieces] if len(pieces) == len(messages) else None


@lru_cache(maxsize=16)
def compile_template(template: str) -> ChatTemplate:
    """`template`, ready to render.

    Raises:
        UserError: it is empty, too long or no valid Jinja.
    """
    from jinja2 import TemplateError

    if not template.strip():
        raise _refusal("The model has no chat template.", "Choose a chat model, or give its tokenizer a template.")
    if len(template.encode("utf-8", "surrogatepass")) > MAX_TEMPLATE_BYTES:
        raise _refusal(f"The chat template is longer than {MAX_TEMPLATE_BYTES >> 10} KB.", "Choose another base model.")
    environment = _environment()
    try:
        plain = environment.from_string(environment.limited(environment.parse(template)))
        tree = environment.parse(template)
        prompt = _mark(tree)
        marked = None if prompt is None else environment.from_string(environment.limited(tree))
    except (TemplateError, RecursionError) as error:
        raise _refusal(f"The chat template is no valid Jinja: {error}", "Correct the template, or choose another base model.") from error
    return ChatTemplate(plain, marked, prompt or "")


def _refusal(problem: str, remedy: str) -> UserError:
    return UserError(problem, "the model's tokenizer", remedy, code="TEMPLATE")


def _render(compiled: Template, messages: list[Message], bos_token: str | None, eos_token: str | None, asks: bool) -> str:
    from jinja2 import TemplateError

    from core.data.bounds import budget

    try:
        with budget():
            return compiled.render(messages=messages, add_generation_prompt=asks, bos_token=bos_token or "", eos_token=eos_token or "")
    except (
        TemplateError,
        MemoryError,
        TypeError,
        ValueError,
        KeyError,
        IndexError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as error:
        raise UserError(
            f"The chat template refuses these turns: {str(error)[:LONGEST_REASON]}",
            "the model's chat template",
            "Correct the order of the turns, or choose a base model whose template takes them.",
            code="TEMPLATE",
        ) from error


# --- templates that read forward ------------------------------------------------------------------------------------------------------


def _mark(tree: nodes.Template) -> str | None:
    """Put MARK before every message if the template reads forward, and return what asks for an answer; else None."""
    from jinja2 import nodes

    loops = list(tree.find_all(nodes.For))
    others = (nodes.Macro, nodes.CallBlock, nodes.Block, nodes.AssignBlock, nodes.Break)
    if len(loops) != 1 or loops[0] not in tree.body or any(tree.find_all(others)):
        return None
    loop, at = loops[0], tree.body.index(loops[0])
    prompt = _constant_prompt(tree.body[at + 1 :])
    if prompt is None or loop.else_ or loop.test or loop.recursive or not _looks_back_only(tree, loop):
        return None
    if sum(name.name == "add_generation_prompt" for name in tree.find_all(nodes.Name)) != len(tree.body) - at - 1:
        return None
    loop.body.insert(0, nodes.Output([nodes.TemplateData(MARK)]))
    return prompt


def _constant_prompt(after: list[nodes.Node]) -> str | None:
    """The text written behind the messages when an answer is asked for, if that is all there is and it is constant."""
    from jinja2 import nodes

    if not after:
        return ""
    condition = after[0]
    if len(after) > 1 or not isinstance(condition, nodes.If) or condition.elif_ or condition.else_:
        return None
    if not isinstance(condition.test, nodes.Name) or condition.test.name != "add_generation_prompt":
        return None
    text = ""
    for output in condition.body:
        for piece in output.nodes if isinstance(output, nodes.Output) else [output]:
            if isinstance(piece, nodes.TemplateData):
                text += piece.data
            elif isinstance(piece, nodes.Const) and isinstance(piece.value, str):
                text += piece.value
            else:
                return None
    return text


def _looks_back_only(tree: nodes.Template, loop: nodes.For) -> bool:
    """Whether the messages are only looped over, tested for being there and asked for the first; and nothing asks what comes after."""
    from jinja2 import nodes

    def is_all(node: nodes.Node | None) -> bool:
        """The messages, or all but the first."""
        if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
            start = node.arg.start
            return (
                node.arg.stop is None
                and node.arg.step is None
                and isinstance(start, nodes.Const)
                and start.value == 1
                and is_all(node.node)
            )
        return isinstance(node, nodes.Name) and node.name in names

    names = {"messages"}
    for assignment in tree.find_all(nodes.Assign):
        if is_all(assignment.node) and isinstance(assignment.target, nodes.Name):
            names.add(assignment.target.name)
    allowed: set[int] = set()
    for node in [loop.iter, *(each.node for each in tree.find_all(nodes.Assign))]:
        if is_all(node):
            allowed |= {id(name) for name in [node, *node.find_all(nodes.Name)]}
    tests = [each.test for each in tree.find_all(nodes.If)] + [each.left for each in tree.find_all(nodes.And)]
    firsts = [each.node for each in tree.find_all(nodes.Getitem) if isinstance(each.arg, nodes.Const) and each.arg.value == 0]
    allowed |= {id(node) for node in [*tests, *firsts] if isinstance(node, nodes.Name) and node.name == "messages"}
    used = [name for name in tree.find_all(nodes.Name) if name.ctx == "load"]
    if any(name.name in names and id(name) not in allowed for name in used):
        return False
    own = [item for item in tree.find_all(nodes.Getattr) if isinstance(item.node, nodes.Name) and item.node.name == "loop"]
    return all(item.attr in ("index", "index0", "first") for item in own) and sum(name.name == "loop" for name in used) == len(own)


# --- the sandbox -----------------------------------------------------------------------------------------------------------------------


def _environment() -> Sandbox:
    """A sandbox set up as transformers does it."""
    from core.data.sandbox import Sandbox, measured

    environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=_extensions())
    environment.filters["tojson"] = measured(_to_json)
    names: Any = environment.globals
    names.update(raise_exception=_raise_exception, strftime_now=_strftime_now)
    return environment


def _extensions() -> list[type[Extension]]:
    """``break`` and ``continue``, and ``{% generation %}``, which only marks what stands in it: the marks are not needed here."""
    from jinja2.ext import Extension, loopcontrols

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012 (as jinja2 declares it)

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    return [loopcontrols, Generation]


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: Any) -> None:
    from jinja2.exceptions import TemplateError

    raise TemplateError(message[:LONGEST_REASON] if isinstance(message, str) else "it gives no reason in words")


def _strftime_now(pattern: str) -> str:
    from datetime import datetime

    return datetime.now().strftime(pattern[:LONGEST_REASON])
