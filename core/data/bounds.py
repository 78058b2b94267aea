"""What a chat template may make (rule R19): how long it may take, how much memory it may fill, and how long a text may become.

Whatever makes a long text out of short ones is measured here before it is made; `sandbox` asks.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from jinja2.sandbox import SecurityError
from jinja2.utils import Namespace

LIMIT_S = 2.0  # for one rendering
LIMIT_BYTES = 1 << 28  # by which the process may grow in it
LONGEST = 1 << 24  # characters of any string that an expression makes
MOST = 1 << 20  # items of any list, and characters of a string that is taken apart: each takes up to 80 bytes
LARGEST = 1 << 20  # bits of any number
WIDEST = 10_000  # the largest number that a filter or a method of a string may be given: widths, indents, repetitions
LOOK_EVERY = 1 << 22  # characters made between two looks at the memory
# Filters that make one text of their value, and never a list of its parts.
TEXTS = frozenset(
    "escape do_capitalize do_center do_forceescape do_format do_indent do_lower do_mark_safe do_replace do_trim do_truncate do_upper "
    "soft_str".split()
)
WHOLE = TEXTS | frozenset("len do_attr do_default do_first do_float do_int do_last do_reverse _to_json".split())
PADDING = ("center", "ljust", "rjust", "zfill")
SPLITTING = ("split", "rsplit", "splitlines")


@dataclass
class Budget:
    deadline_s: float
    made: int = 0  # characters since the last look at the memory
    bytes_before: int = 0  # what the process took up at the first look


_budget: ContextVar[Budget | None] = ContextVar("budget", default=None)


@contextmanager
def budget() -> Generator[None]:
    """What is rendered inside ends within `LIMIT_S` and `LIMIT_BYTES`, or with SecurityError."""
    before = _budget.set(Budget(time.monotonic() + LIMIT_S))
    try:
        yield
    finally:
        _budget.reset(before)


def _memory_bytes() -> int:
    import psutil

    return psutil.Process().memory_info().rss


def tick() -> str:
    now = _budget.get()
    if now:
        if time.monotonic() > now.deadline_s:
            raise SecurityError(f"it takes longer than {LIMIT_S:g} seconds")
        now.made += 1 << 15  # so that many small things are looked at too
        if now.made > LOOK_EVERY:
            _look(now)
    return ""


def bound_filter(name: str, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse a filter that would make too much of `value`."""
    if isinstance(value, str) and name not in WHOLE:
        bound(len(value), MOST)
    if name in TEXTS:
        for part in (value, *args, *kwargs.values()):
            weigh(part)
    if name not in ("do_int", "do_float", "do_default"):
        narrow(args, kwargs)
    if name == "do_replace":
        text, old, new = str(value), str(_given(0, "old", args, kwargs)), str(_given(1, "new", args, kwargs))
        bound(len(text) + text.count(old) * len(new))
    elif name == "do_indent":
        width = _given(0, "width", args, kwargs, 4)
        text = str(value)
        bound(len(text) + (text.count("\n") + 1) * (len(width) if isinstance(width, str) else int(width)))
    elif name == "do_format":
        bound_percent(str(value), kwargs or args)
    elif name == "do_sum" and not isinstance(_given(1, "start", args, kwargs, 0), int | float):
        raise _too_long()
    elif name == "_to_json":
        indent, separators = _given(1, "indent", args, kwargs, 0), _given(2, "separators", args, kwargs, ())
        width = len(indent) if isinstance(indent, str) else int(indent or 0)
        weigh(value, 6 + sum(len(part) for part in separators or ()), width)


def bound_join(eval_context: Any, value: Any, d: Any = "", attribute: Any = None) -> Any:
    """The items that the filter ``join`` is given, which together are not too long."""
    from jinja2.filters import make_attrgetter

    weigh(d)
    if isinstance(value, str):
        bound(len(value) * (1 + len(str(d))))
        return value
    items, length = list(value), 0
    get = make_attrgetter(eval_context.environment, attribute) if attribute else None
    for item in items:
        tick()
        length += weigh(get(item) if get else item) + len(str(d))
        bound(length)
    return items


def bound_method(owner: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """Refuse a method of a string that would make too much of it; returns its arguments."""
    if name in PADDING:
        narrow(args, kwargs)
    elif name == "expandtabs":
        bound(len(owner) + owner.count("\t") * abs(int(_given(0, "tabsize", args, kwargs, 8))))
    elif name == "replace" and len(args) > 1:
        bound(len(owner) + owner.count(args[0]) * len(args[1]))
    elif name in SPLITTING:
        separator = _given(0, "sep", args, kwargs) if name != "splitlines" else None
        bound(owner.count(separator) if isinstance(separator, str) and separator else len(owner), MOST)
    elif name == "join" and args:
        items = args[0] if isinstance(args[0], str) else list(args[0])
        bound(sum(len(item) for item in items if isinstance(item, str)) + len(owner) * len(items))
        return (items, *args[1:])
    return args


def bound_percent(text: str, values: Any) -> None:
    """Refuse ``text % values`` if it would be too long: by its widths and precisions, or by what is put in more than once."""
    conversions = re.findall(r"%(?:\([^)]*\))?([^%a-zA-Z]*)", text)
    if any("*" in conversion for conversion in conversions):
        raise _too_long()
    widths = [int(number[:9]) for conversion in conversions for number in re.findall(r"\d+", conversion)]
    bound(max(widths, default=0), WIDEST)
    times = len(conversions) if isinstance(values, Mapping) else 1
    bound(len(text) + sum(widths) + times * weigh(values))


def weigh(value: Any, around: int = 2, indent: int = 0) -> int:
    """About how many characters `value` has as a text, where every part has some `around` it and an `indent` for each level.

    What is in a list twice counts twice, and a list of a list of a list can so be much longer than what it takes up.

    Raises:
        SecurityError: it has too many.
    """
    if isinstance(value, str):
        return len(value)
    length, parts = 0, [(value, 1)]
    while parts:
        part, level = parts.pop()
        if isinstance(part, str):
            length += len(part)
        elif isinstance(part, int):
            length += part.bit_length() // 3
        elif isinstance(part, Mapping | Namespace | Collection):
            inner: Any = part
            if isinstance(part, Namespace):
                inner = getattr(part, "_Namespace__attrs")  # noqa: B009 - the name would be mangled in a class alone
            inside = [each for pair in inner.items() for each in pair] if isinstance(inner, Mapping) else list(inner)
            length += len(inside) * (around + indent * level)
            parts.extend((each, level + 1) for each in inside)
            tick()
        if length > LONGEST:
            raise _too_long()
    return length


def _given(at: int, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], default: Any = "") -> Any:
    return args[at] if len(args) > at else kwargs.get(name, default)


def narrow(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if any(isinstance(number, int) and abs(number) > WIDEST for number in (*args, *kwargs.values())):
        raise _too_long()


def bound(length: int, limit: int = LONGEST) -> None:
    """Refuse to make something of this length, or anything more when what was made takes up too much."""
    if length > limit:
        raise _too_long()
    now = _budget.get()
    if now:
        now.made += length
        if now.made > LOOK_EVERY:
            _look(now)


def _look(now: Budget) -> None:
    """Whether the memory has grown since the first look."""
    now.made, in_use_bytes = 0, _memory_bytes()
    now.bytes_before = now.bytes_before or in_use_bytes
    if in_use_bytes - now.bytes_before > LIMIT_BYTES:
        raise SecurityError("it takes up too much memory: what it makes is too long")


def _too_long() -> SecurityError:
    return SecurityError("it makes text that is too long")
