"""Jinja's sandbox with a budget: a template from elsewhere can neither hold the process up nor fill its memory (rule R19).

Jinja keeps a template away from Python's insides and stops ``range`` at 100,000, but nested loops, macros that call themselves twice, and
strings that double at every turn are all allowed to it. Here every turn of a loop, every call and every filter looks at the clock, and what
makes long strings is measured before it is made.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from typing import Any

from jinja2 import nodes
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter

from core.data import bounds
from core.data.bounds import LARGEST, LONGEST, MOST, WIDEST, bound, tick, weigh

TICK = "__tick__"
# Chat templates have no use for these, and what they make cannot be told beforehand.
UNWANTED_FILTERS = ("pprint", "urlize", "wordwrap", "xmlattr")
UNWANTED_METHODS = ("encode", "translate", "to_bytes")


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of a chat template. Compile its trees with `limited`, and render inside `budget`."""

    intercepted_binops = frozenset(("*", "**", "%", "+"))

    def __init__(self, **options: Any) -> None:
        super().__init__(finalize=_finalized, **options)
        names: Any = self.globals
        names[TICK] = tick
        del names["lipsum"]
        self.filters = {name: measured(function) for name, function in self.filters.items() if name not in UNWANTED_FILTERS}

    @staticmethod
    def concat(pieces: Iterable[str]) -> str:  # type: ignore[override]
        """All that a template, a macro or a block writes."""
        texts = list(pieces)
        bound(sum(map(len, texts)))
        return "".join(texts)

    def limited(self, tree: nodes.Template) -> nodes.Template:
        """`tree`, whose loops look at the clock at every turn and whose ``~`` is measured like ``+``."""
        for loop in list(tree.find_all(nodes.For)):
            call = nodes.Call(nodes.Name(TICK, "load"), [], [], None, None)
            turn = nodes.Output([call])
            turn.set_lineno(loop.lineno)
            loop.body.insert(0, turn)
        for node in list(tree.find_all(nodes.Node)):
            for name, value in node.iter_fields():
                if isinstance(value, nodes.Concat):
                    setattr(node, name, _joined(value))
                elif isinstance(value, list):
                    value[:] = [_joined(part) if isinstance(part, nodes.Concat) else part for part in value]
        tree.set_environment(self)
        return tree

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return super().is_safe_attribute(obj, attr, value) and not (attr in UNWANTED_METHODS and isinstance(obj, str | bytes | int))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        formatted = super().wrap_str_format(value)
        if formatted is None:
            return None

        def measured_format(*args: Any, **kwargs: Any) -> str:
            is_map = value.__name__ == "format_map" and len(args) == 1
            _Formatter(self).vformat(str(value.__self__), () if is_map else args, args[0] if is_map else kwargs)
            return formatted(*args, **kwargs)

        return measured_format

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        tick()
        if operator == "*" and isinstance(left, int) and not isinstance(right, int | float):
            left, right = right, left
        if operator == "*" and isinstance(left, str | list | tuple) and isinstance(right, int):
            bound(len(left) * right, LONGEST if isinstance(left, str) else MOST)
        elif operator == "+" and isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
            bound(len(left) + len(right), LONGEST if isinstance(left, str) else MOST)
        elif operator == "*" and isinstance(left, int) and isinstance(right, int):
            bound(left.bit_length() + right.bit_length(), LARGEST)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            bound(left.bit_length() * abs(right), LARGEST)
        elif operator == "%" and isinstance(left, str):
            bounds.bound_percent(left, right)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, obj: Any, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        tick()
        owner = getattr(obj, "__self__", None)
        if isinstance(owner, str):
            args = bounds.bound_method(owner, obj.__name__, args, kwargs)
        return super().call(context, obj, *args, **kwargs)


class _Formatter(SandboxedFormatter):
    """Formats as ``str.format`` does, and measures what comes of it."""

    made = 0

    def format_field(self, value: Any, format_spec: str) -> str:
        tick()
        bound(sum(int(number) for number in re.findall(r"\d+", format_spec[:WIDEST])), WIDEST)
        weigh(value)
        text = super().format_field(value, format_spec)
        self.made += len(text)
        bound(self.made)
        return text

    def convert_field(self, value: Any, conversion: Any) -> Any:
        weigh(value)
        return super().convert_field(value, conversion)


def _joined(concat: nodes.Concat) -> nodes.Expr:
    """``a ~ b`` as ``a|string + b|string``."""
    texts: list[nodes.Expr] = [nodes.Filter(part, "string", [], [], None, None) for part in concat.nodes]
    joined = functools.reduce(nodes.Add, texts)
    joined.set_lineno(concat.lineno, override=True)
    return joined


def measured(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that looks at the clock and at what it is given."""
    own = 1 if hasattr(function, "jinja_pass_arg") else 0  # Jinja's environment or context stands first

    @functools.wraps(function)
    def filtered(*args: Any, **kwargs: Any) -> Any:
        tick()
        if len(args) <= own:
            return function(*args, **kwargs)
        value = args[own]
        if function.__name__ == "do_join":
            value = bounds.bound_join(args[0], value, *args[own + 1 :], **kwargs)
        bounds.bound_filter(function.__name__, value, args[own + 1 :], kwargs)
        return function(*args[:own], value, *args[own + 1 :], **kwargs)

    return filtered


def _finalized(value: Any) -> Any:
    """What an expression writes, on its way to being made a text."""
    if not isinstance(value, str):
        weigh(value)
    return value
