"""Jinja's sandbox with a budget: a template from elsewhere can neither hold the process up nor fill its memory (rule R19).

Jinja keeps a template away from Python's insides and stops ``range`` at 100,000, but nested loops, macros that call themselves twice, and
strings that double at every turn are all allowed to it. Here every turn of a loop, every call and every filter looks at the clock, and what
makes long strings is measured before it is made.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from jinja2 import nodes
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

LIMIT_S = 2.0  # for one rendering
LONGEST = 1 << 24  # characters of any string or items of any list that an expression makes
WIDEST = 10_000  # the largest number that a filter or a method of a string may be given: widths, indents, repetitions
TICK = "__tick__"
_deadline: ContextVar[float] = ContextVar("deadline", default=float("inf"))


@contextmanager
def budget() -> Generator[None]:
    """What is rendered inside ends within `LIMIT_S`, or with SecurityError."""
    before = _deadline.set(time.monotonic() + LIMIT_S)
    try:
        yield
    finally:
        _deadline.reset(before)


def tick() -> str:
    if time.monotonic() > _deadline.get():
        raise SecurityError(f"it takes longer than {LIMIT_S:g} seconds")
    return ""


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of a chat template. Compile its trees with `limited`, and render inside `budget`."""

    intercepted_binops = frozenset(("*", "**", "%", "+"))

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        names: Any = self.globals
        names[TICK] = tick
        self.filters = {name: _measured(function) for name, function in self.filters.items()}

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

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        tick()
        if operator == "*" and isinstance(left, int) and not isinstance(right, int | float):
            left, right = right, left
        if operator == "*" and isinstance(left, str | list | tuple) and isinstance(right, int):
            _bound(len(left) * right)
        elif operator == "+" and isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
            _bound(len(left) + len(right))
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _bound(left.bit_length() * abs(right))
        elif operator == "%" and isinstance(left, str):
            widths = re.findall(r"%[^%a-zA-Z]*?(\d+|\*)", left)
            _bound(LONGEST + 1 if any(width == "*" or int(width) > WIDEST for width in widths) else 0)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, obj: Any, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        tick()
        owner = getattr(obj, "__self__", None)
        if isinstance(owner, str):
            _narrow(args, kwargs)
            if obj.__name__ == "replace" and len(args) > 1:
                _bound(len(owner) + owner.count(args[0]) * len(args[1]))
        return super().call(context, obj, *args, **kwargs)


def _joined(concat: nodes.Concat) -> nodes.Expr:
    """``a ~ b`` as ``a|string + b|string``."""
    texts: list[nodes.Expr] = [nodes.Filter(part, "string", [], [], None, None) for part in concat.nodes]
    joined = functools.reduce(nodes.Add, texts)
    joined.set_lineno(concat.lineno, override=True)
    return joined


def _measured(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that looks at the clock and at the numbers it is given."""

    @functools.wraps(function)
    def filtered(*args: Any, **kwargs: Any) -> Any:
        tick()
        if function.__name__ not in ("do_round", "do_int", "do_float", "do_default"):
            _narrow(args, kwargs)
        if function.__name__ == "do_replace":
            text, old, new = (str(part) for part in args[1:4])  # the first is the evaluation context
            _bound(len(text) + text.count(old) * len(new))
        return function(*args, **kwargs)

    return filtered


def _narrow(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if any(isinstance(number, int) and abs(number) > WIDEST for number in (*args, *kwargs.values())):
        raise SecurityError("it makes text that is too long")


def _bound(length: int) -> None:
    if length > LONGEST:
        raise SecurityError("it makes text that is too long")
