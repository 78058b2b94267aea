"""How answers are written: also one that repeats what JSON's writer refuses, as half a character, which a browser may send (rule R20)."""

from __future__ import annotations

from typing import Any

import gradio.routes
import orjson


class _Writer:
    """orjson as Gradio knows it, but for values that it refuses: a stream would break off there, and the page wait for the rest."""

    def __getattr__(self, name: str) -> Any:
        return getattr(orjson, name)

    @staticmethod
    def dumps(value: Any, default: Any = None, option: int | None = None) -> bytes:
        try:
            return orjson.dumps(value, default, option)
        except TypeError:
            return orjson.dumps(writable(value), default, option)


def write_all() -> None:
    """From now on Gradio writes every answer, with `writable` values."""
    gradio.routes.orjson = _Writer()


def writable(value: Any) -> Any:
    """`value` with a question mark for each half of a character in it, and numbers of more than 64 bits as text, however deep they lie."""
    match value:
        case str():
            return value.encode("utf-8", "replace").decode("utf-8")
        case int() if not -(2**63) <= value < 2**64:
            return str(value)
        case dict():
            return {writable(name): writable(each) for name, each in value.items()}
        case list() | tuple():
            return [writable(each) for each in value]
        case _:
            return value
